"""What an explanation costs."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from torch import Tensor, nn

from interpeval.metrics.base import Cost
from interpeval.metrics.cost import ExplanationCost
from small_subject import Grad, Pictures, see


def test_every_sample_carries_the_cost_of_its_batch() -> None:
    evidence = SimpleNamespace(batch=Pictures().take([0, 1]), cost=lambda: Cost(3.0, 1.5, 0.25))
    scores = ExplanationCost().score(evidence)  # type: ignore[arg-type]
    assert {name: each.values.tolist() for name, each in scores.items()} == {
        "forward": [3.0, 3.0],
        "backward": [1.5, 1.5],
        "seconds": [0.25, 0.25],
    }


def test_a_gradient_costs_one_pass_each_way() -> None:
    with see(Grad()) as evidence:
        evidence.targets("predicted")
        scores = ExplanationCost().score(evidence)
    assert scores["forward"].values.tolist() == [1.0] * 5
    assert scores["backward"].values.tolist() == [1.0] * 5


def test_seconds_are_those_that_the_explainer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the explainer moves: two calls of 6 seconds for 5 samples, three at a time."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Takes6Seconds(Grad):
        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clock[0] += 6
            return super().attribute(model, inputs, targets)

    with see(Takes6Seconds(), micro_batch=3) as evidence:
        scores = ExplanationCost().score(evidence)
    assert scores["seconds"].values.tolist() == [12 / 5] * 5
