"""Completeness: attributions that add up, and some that do not."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.integrated_gradients import IntegratedGradients
from interpeval.baselines.own import Own
from interpeval.baselines.site import Site
from interpeval.bench import evaluate
from interpeval.bench.evidence import ModelEvidence
from interpeval.datasets.digits import Digits
from interpeval.metrics.base import Status
from interpeval.metrics.completeness import Completeness, completeness
from small_subject import Pictures, SmallNet, see


class Linear(nn.Module):
    """Affine in the input, with a bias that attributions must not hold."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(scale * torch.randn(243, 3, generator=generator))
        self.bias = nn.Parameter(torch.tensor([5.0, -7.0, 11.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)`."""
        return inputs.flatten(1) @ self.weight + self.bias


class Summing:
    """Spread a known multiple of the target's logit over the pixels."""

    sums_to: ClassVar[str] = "logit"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, H, W)`: all of it in two pixels."""
        logit = model(inputs).detach().gather(1, targets[:, None])[:, 0]
        maps = torch.zeros_like(inputs[:, :1])
        maps[:, 0, 0, 0], maps[:, 0, 3, 4] = 3 * self.factor * logit, -2 * self.factor * logit
        return maps


def test_the_formula_on_cases_worked_by_hand() -> None:
    maps = torch.tensor([[[5.0, -1.0]], [[5.0, -1.0]], [[0.5, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    expected = torch.tensor([4.0, -8.0, 0.25, 0.5, -100.0])
    assert completeness(maps, expected).tolist() == [0, 1.5, 0.25, 0.5, 1]


def test_sums_are_taken_in_double_precision() -> None:
    """A hundred thousand small numbers beside a large one, which float32 would swallow."""
    maps = torch.full((1, 100_001), 1e-3)
    maps[0, 0] = 1e5
    assert completeness(maps, torch.tensor([1e5 + 100], dtype=torch.float64)).item() == pytest.approx(0, abs=1e-7)


def test_integrated_gradients_of_an_affine_model_are_complete() -> None:
    for explainer in (IntegratedGradients(n_steps=2), IntegratedGradients(n_steps=2, reference_input=-1.5)):
        for target in ("predicted", "label"):
            values = Completeness(target=target).score(see(explainer, model=Linear()))[""].values
            assert bool((values < 1e-6).all())


def test_a_sum_that_leaves_the_reference_input_out_is_off_by_its_logit() -> None:
    """The same attributions, said to add up to the logit itself."""

    class Mistaken(IntegratedGradients):
        sums_to: ClassVar[str | None] = "logit"

    evidence = see(Mistaken(n_steps=2), model=Linear())
    logit, bias = evidence.logits.amax(dim=1), Linear().bias.detach()[evidence.logits.argmax(dim=1)]
    expected = (bias.abs() / logit.abs().clamp(min=1)).tolist()
    assert Completeness().score(evidence)[""].values.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_model_that_is_an_inner_product_explains_itself_completely() -> None:
    torch.manual_seed(0)
    dataset = Digits()
    evidence = ModelEvidence(
        model=Site((1, 28, 28), 10).eval(), explainer=Own(), dataset=dataset, batch=dataset.take(range(12))
    )
    assert bool(evidence.logits.abs().amax(dim=1).ge(10).all())  # there is something to add up to
    assert bool((Completeness().score(evidence)[""].values < 1e-6).all())


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -1.0])
def test_a_multiple_of_the_right_map_is_off_by_the_rest(factor: float, scale: float) -> None:
    """`|q Δ − Δ| / max(1, |Δ|)`, with Δ above and below 1."""
    model = SmallNet()
    model.head.weight.data *= scale
    model.head.bias.data *= scale
    evidence = see(Summing(factor), model=model)
    logit = evidence.logits.double().amax(dim=1).abs()
    assert bool((logit > 1).any()) == (scale == 1)
    expected = (abs(factor - 1) * logit / logit.clamp(min=1)).tolist()
    assert Completeness().score(evidence)[""].values.tolist() == pytest.approx(expected, abs=1e-6)


def test_an_attribution_that_is_not_finite_makes_only_its_sample_invalid() -> None:
    bad = Pictures().take([2]).images

    class Failing(Summing):
        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            maps = super().attribute(model, inputs, targets)
            maps[(inputs == bad).flatten(1).all(dim=1), 0, 5, 5] = torch.inf
            return maps

    scores = Completeness().score(see(Failing(2.0)))[""]
    whole = Completeness().score(see(Summing(2.0)))[""].values
    assert scores.status.tolist() == [0, 0, Status.INVALID, 0, 0]
    np.testing.assert_equal(scores.values.numpy()[[0, 1, 3, 4]], whole.numpy()[[0, 1, 3, 4]])


def test_nothing_depends_on_the_batch() -> None:
    pictures = Pictures(count=9)
    whole = Completeness().score(see(IntegratedGradients(n_steps=3), dataset=pictures))[""].values
    small = Completeness().score(see(IntegratedGradients(n_steps=3), dataset=pictures, micro_batch=2))[""].values
    assert torch.equal(whole, small)
    assert bool((whole > 1e-4).any())  # three steps are not exact for a network with kinks


def test_explainers_that_promise_no_sum_are_not_applicable() -> None:
    found = evaluate(SmallNet(), ["gradient", "integrated_gradients", Summing(1.0)], Pictures(), ["completeness"])
    rows = found.summary().set_index("explainer")
    assert rows.kind["integrated_gradients"] == rows.kind["Summing"] == "measured"
    others = rows.drop(["integrated_gradients", "Summing"])
    assert set(others.index) == {"gradient", "random", "uniform", "center", "edges", "truth"}
    assert set(others.kind) == {"not_applicable"}
    assert others.source["gradient"] == "it is not said what its attributions add up to"


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match='`target` must be "predicted" or "label", was \'none\''):
        Completeness(target="none")
    with pytest.raises(ValueError, match=r"`expected` must be \(2,\), one sum for each sample, was \(3,\)"):
        completeness(torch.zeros(2, 1, 4, 4), torch.zeros(3))
