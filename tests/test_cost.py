"""What an explanation costs."""

from __future__ import annotations

from types import SimpleNamespace

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
