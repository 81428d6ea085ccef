"""Evidence: attributions of made inputs, another model's view, and gradients at other images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from interpeval.bench.evidence import ModelEvidence
from interpeval.bench.passes import Passes
from interpeval.metrics.base import Inputs
from small_subject import Grad, Pictures, SmallNet, see

DATASET = Pictures(count=5)


def twice(evidence: ModelEvidence) -> Callable[[Tensor], Inputs]:
    """Each sample as it is, and with its sign turned: ten inputs for five samples."""

    def build(rows: Tensor) -> Inputs:
        batch, sample = evidence.batch, rows // 2
        sign = (1 - 2 * (rows % 2)).view(-1, 1, 1, 1)
        return Inputs(batch.images[sample] * sign, batch.labels[sample], batch.keys[sample], None)

    return build


def gathered(parts: object) -> tuple[Tensor, Tensor]:
    rows, found = zip(*parts, strict=True)  # type: ignore[call-overload]
    return torch.cat(rows), torch.cat(found)


class Failing(Grad):
    """Fails for the third sample as it is."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        bad = DATASET.take([2]).images
        if (inputs.detach() == bad).flatten(1).all(dim=1).any():
            raise ValueError("not this one")
        return super().attribute(model, inputs, targets)


class Never(Grad):
    """Fails always, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.asked += 1
        raise ValueError("no")


# --- attribute ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_attributions_of_made_inputs_are_the_explainers_with_all_channels(micro_batch: int) -> None:
    with see(Grad(), micro_batch=micro_batch) as evidence:
        evidence.attributions("label")
        before = evidence.spent().passes
        rows, found = gathered(evidence.attribute(10, twice(evidence)))
        passes = evidence.spent().passes - before
    inputs = twice(evidence)(rows)
    assert rows.tolist() == list(range(10))
    assert inputs.targets is not None
    expected = Grad().attribute(SmallNet(), inputs.images.clone(), inputs.targets)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert passes == Passes(10, 10)


def test_heatmaps_of_made_inputs_are_reduced_attributions() -> None:
    evidence = see(Grad())
    _, found = gathered(evidence.attribute(10, twice(evidence)))
    _, maps = gathered(evidence.explain(10, twice(evidence)))
    torch.testing.assert_close(maps, found.sum(dim=1))


@pytest.mark.parametrize("micro_batch", [1, 4, 64])
def test_a_made_input_that_fails_is_nan_and_laid_to_its_sample(micro_batch: int) -> None:
    evidence = see(Failing(), micro_batch=micro_batch)
    parts = list(evidence.attribute(10, twice(evidence)))
    failed = [int(row) for rows, found in parts for row, one in zip(rows, found, strict=True) if one.isnan().any()]
    assert failed == [4]
    assert [fault.ids for fault in evidence.faults] == [(DATASET.ids[2],)]


def test_an_explainer_that_always_fails_is_not_asked_about_made_inputs() -> None:
    explainer = Never()
    evidence = see(explainer)
    evidence.attributions("predicted")
    asked = explainer.asked
    _, found = gathered(evidence.attribute(10, twice(evidence)))
    assert bool(found.isnan().all())
    with evidence.through(SmallNet(kernel=1)) as other:
        _, found = gathered(other.attribute(10, twice(evidence)))
    assert bool(found.isnan().all())
    assert explainer.asked == asked


# --- through ------------------------------------------------------------------------------------------------------


def test_another_model_is_seen_as_if_it_were_the_one_under_test() -> None:
    model = SmallNet(kernel=1)
    evidence, alone = see(Grad(), seed=7), see(Grad(), model=model, seed=7)
    with evidence.through(model) as other:
        assert other.model is model
        assert other.seed == 7
        assert other.batch is evidence.batch
        assert torch.equal(other.logits, alone.logits)
        assert torch.equal(other.attributions("label"), alone.attributions("label"))
        assert not torch.allclose(other.logits, evidence.logits, atol=0.1)
    assert torch.equal(evidence.logits, see(Grad()).logits)


def test_passes_of_another_model_are_charged_to_the_evidence_and_to_no_explanation() -> None:
    with see(Grad()) as evidence:
        evidence.attributions("predicted")
        before, explaining = evidence.spent().passes, evidence.spent_explaining()
        with evidence.through(SmallNet(kernel=1)) as other:
            other.attributions("predicted")
        assert evidence.spent().passes - before == Passes(5 + 5, 5)
        assert evidence.spent_explaining() == explaining
        with evidence.through(SmallNet(kernel=1)) as other:
            other.attributions("label")
        assert evidence.spent().passes - before == Passes(5 + 5 + 5, 5 + 5)


def test_made_inputs_are_explained_by_another_model_without_explaining_its_samples_first() -> None:
    with see(Grad()) as evidence:
        evidence.attributions("predicted")
        before = evidence.spent().passes
        with evidence.through(SmallNet(kernel=1)) as other:
            list(other.explain(10, twice(evidence)))
        assert evidence.spent().passes - before == Passes(10, 10)


def test_faults_with_another_model_are_handed_over_even_when_the_metric_fails() -> None:
    evidence = see(Failing())
    with pytest.raises(KeyError), evidence.through(SmallNet(kernel=1)) as other:  # noqa: PT012  # two steps are the point
        other.attributions("label")
        raise KeyError
    assert [(fault.kind, fault.message, fault.ids) for fault in evidence.faults] == [
        ("exception", "ValueError: not this one", (DATASET.ids[2],))
    ]


def test_both_models_are_left_without_hooks() -> None:
    first, second = SmallNet(), SmallNet(kernel=1)
    with see(Grad(), model=first) as evidence, evidence.through(second) as other:
        other.attributions("label")
    for model in (first, second):
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


# --- differentiate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_gradients_are_taken_at_the_images_asked_for(micro_batch: int) -> None:
    with see(Grad(), micro_batch=micro_batch) as evidence:
        points = evidence.batch.images.flip(3) * 0.5
        kept = points.clone()
        gradient = evidence.differentiate(lambda logits, rows: logits[:, 0] * (rows + 1), at=points)
        here = evidence.differentiate(lambda logits, rows: logits[:, 0] * (rows + 1))
        assert evidence.spent().passes == Passes(10, 10)
    inputs = points.clone().requires_grad_()
    (expected,) = torch.autograd.grad((SmallNet()(inputs)[:, 0] * torch.arange(1, 6)).sum(), inputs)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(here, expected, atol=1e-3)
    assert torch.equal(points, kept)
    assert not points.requires_grad
