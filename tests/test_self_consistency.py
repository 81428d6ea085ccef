"""Masked self-consistency: the cosine and the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interpeval.bench.evidence import ModelEvidence
from interpeval.datasets.philox import derived_keys
from interpeval.metrics.base import Inputs, Scores, Status
from interpeval.metrics.monte_carlo import repeat_draws
from interpeval.metrics.self_consistency import SelfConsistency, masked_cosine
from interpeval.metrics.warps import WarpFamily, affine_matrices, warp
from reference import self_consistency as slow
from small_subject import FromImage, Grad, Pictures, SmallNet, see

GREY = FromImage(lambda inputs: inputs.sum(dim=1, keepdim=True))
ONES = FromImage(lambda inputs: torch.ones_like(inputs[:, :1]))


@dataclass(frozen=True)
class Fixed(WarpFamily):
    """One known warp for each draw: degrees, and shares of the side in x and y."""

    warps: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    mirror: bool = False

    def matrices(self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]) -> Tensor:
        """Look the warps up."""
        del seed, stream
        chosen = torch.tensor(self.warps, dtype=torch.float64)[torch.as_tensor(draws).expand_as(keys)]
        flip = torch.full((len(keys),), self.mirror)
        return affine_matrices(chosen[:, 0], chosen[:, 1:], size=size, flip=flip)


EXACT = Fixed(warps=((90.0, 0.0, 0.0), (-90.0, 0.25, 0.0), (0.0, 0.25, -0.125), (180.0, 0.0, 0.125)))  # side 9


def score(metric: SelfConsistency, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


# --- masked_cosine ------------------------------------------------------------------------------------------------


def test_masked_cosine_of_known_maps() -> None:
    a = torch.tensor([[[3.0, 4.0, 9.0]], [[1.0, 0.0, 9.0]], [[2.0, 1.0, 9.0]], [[2.0, 1.0, 9.0]]])
    b = torch.tensor([[[4.0, 3.0, -9.0]], [[0.0, 5.0, 9.0]], [[-4.0, -2.0, 9.0]], [[1.0, 0.5, -9.0]]])
    mask = torch.tensor([True, True, False]).expand(4, 1, 3)
    assert masked_cosine(a, b, mask).tolist() == pytest.approx([0.96, 0.0, -1.0, 1.0], abs=1e-15)


@given(seed=st.integers(0, 1000), share=st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=30)
def test_masked_cosine_is_its_definition(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, 5, generator=generator) < share
    expected = [slow.masked_cosine(*each) for each in zip(a.numpy(), b.numpy(), mask.numpy(), strict=True)]
    np.testing.assert_allclose(masked_cosine(a, b, mask), expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tiny", "huge"), [(torch.float32, 1e-37, 1e38), (torch.float64, 1e-300, 1e300)])
def test_masked_cosine_does_not_depend_on_positive_scale(dtype: torch.dtype, tiny: float, huge: float) -> None:
    """Naively, squares of 1e-37 vanish in float32 and squares of 1e300 overflow."""
    a, b = torch.rand(2, 1, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(0)) - 0.3
    mask = torch.ones(1, 6, 6, dtype=torch.bool)
    for first, second in [(tiny, tiny), (tiny, huge), (huge, huge)]:
        torch.testing.assert_close(
            masked_cosine(a * first, b * second, mask), masked_cosine(a, b, mask), atol=1e-6, rtol=0
        )


def test_a_zero_map_and_an_empty_mask_give_0_and_nan_stays_in_its_row() -> None:
    a = torch.ones(5, 2, 2)
    a[0] = 0
    a[2, 0, 0] = torch.nan
    a[3, 0, 0] = torch.inf
    a[4, 1, 1] = torch.nan  # outside the mask
    mask = torch.tensor([[True, True], [True, False]]).repeat(5, 1, 1)
    mask[1] = False
    np.testing.assert_allclose(masked_cosine(a, torch.ones(5, 2, 2), mask), [0, 0, np.nan, np.nan, 1], atol=1e-15)


def test_masked_cosine_refuses_maps_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="`a`, `b` and `mask` must have one shape"):
        masked_cosine(torch.ones(1, 2, 2), torch.ones(1, 2, 3), torch.ones(1, 2, 2, dtype=torch.bool))


# --- exact answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["black", "mean", 0.7])
def test_an_explainer_that_returns_the_image_is_consistent_inside_and_not_outside(fill: str | float) -> None:
    scores = score(SelfConsistency(transform=EXACT, n_draws=4, fill=fill), GREY)  # type: ignore[arg-type]
    assert bool((scores["masked"].values > 1 - 1e-9).all())
    if fill != "mean":  # which is 0 in the model's space, as the surroundings of a moved map
        assert bool((scores["unmasked"].values < 0.999).all())


def test_the_image_explainer_is_consistent_on_oblong_images_too() -> None:
    transform = Fixed(warps=((180.0, 0.0, 0.0), (0.0, 0.25, 0.5), (180.0, -0.5, 0.0)))
    scores = score(SelfConsistency(transform=transform, n_draws=3), GREY, dataset=Pictures(size=(7, 9)))
    assert bool((scores["masked"].values > 1 - 1e-9).all())


def test_a_constant_explainer_scores_1_masked_and_the_square_root_of_the_share_left_unmasked() -> None:
    scores = score(SelfConsistency(transform=Fixed(warps=((0.0, 0.25, 0.0),)), n_draws=1), ONES)
    assert scores["masked"].values.tolist() == pytest.approx([1.0] * 5)
    assert scores["unmasked"].values.tolist() == pytest.approx([sqrt(7 / 9)] * 5)  # 2 of 9 columns came from outside


def test_a_fixed_pattern_is_not_consistent() -> None:
    pattern = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    stuck = FromImage(lambda inputs: pattern.expand(len(inputs), -1, -1, -1))
    assert bool((score(SelfConsistency(), stuck)["masked"].values.abs() < 0.5).all())


class Brighter(nn.Module):
    """Predicts which half is brighter: mirroring changes its mind."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sums of the left and of the right half."""
        half = inputs.shape[-1] // 2
        return torch.stack((inputs[..., :half].sum(dim=(1, 2, 3)), inputs[..., -half:].sum(dim=(1, 2, 3))), dim=1)


class SignOfClass:
    """The image, positive for class 0 and negative for class 1."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, H, W)`."""
        del model
        return inputs.sum(dim=1, keepdim=True) * (1 - 2 * targets.view(-1, 1, 1, 1))


@pytest.mark.parametrize(("target", "expected"), [("predicted", -1.0), ("original", 1.0), ("label", 1.0)])
def test_the_target_rule_decides_whose_class_is_explained(target: str, expected: float) -> None:
    batch = Pictures(count=4).take(range(4))
    batch = replace(batch, labels=torch.tensor([0, 1, 0, 1]))
    metric = SelfConsistency(transform=Fixed(mirror=True), n_draws=1, target=target)  # type: ignore[arg-type]
    scores = score(metric, SignOfClass(), batch=batch, model=Brighter())
    assert scores["masked"].values.tolist() == pytest.approx([expected] * 4)


# --- the definition, slowly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 9), (7, 10)])
@pytest.mark.parametrize("fill", ["black", "mean"])
def test_the_score_is_its_definition(size: tuple[int, int], fill: str) -> None:
    metric = SelfConsistency(transform=WarpFamily(), n_draws=3, fill=fill)  # type: ignore[arg-type]
    model, explainer, dataset = SmallNet(), Grad(), Pictures(size=size)
    evidence = see(explainer, model=model, dataset=dataset, seed=4)
    scores, batch = metric.score(evidence), evidence.batch
    maps = evidence.heatmaps("predicted")
    outside = dataset.normalization.normalize(torch.zeros(3, 1, 1)) if fill == "black" else torch.zeros(3, 1, 1)
    for row in range(len(batch)):
        key = batch.keys[row : row + 1]
        matrices = torch.cat([metric.transform.matrices(4, metric.name, key, draw, size=size) for draw in range(3)])
        moved = warp(batch.images[row].expand(3, -1, -1, -1), matrices, fill=outside)
        explained = explainer.attribute(model, moved, model(moved).argmax(dim=1)).sum(dim=1)
        masked, unmasked = slow.draws(maps[row].double().numpy(), list(explained.double().numpy()), matrices.numpy())
        for variant, draws in (("masked", masked), ("unmasked", unmasked)):
            variance = scores[variant].variance
            assert variance is not None
            assert float(scores[variant].values[row]) == pytest.approx(np.mean(draws), abs=1e-5)
            assert float(variance[row]) == pytest.approx(np.var(draws, ddof=1) / 3, abs=1e-5)


# --- what does not matter, and what does --------------------------------------------------------------------------


def values(**options: object) -> Tensor:
    return score(SelfConsistency(n_draws=3), Grad(), **options)["masked"].values


def test_batch_size_order_and_micro_batch_do_not_change_a_score() -> None:
    dataset = Pictures(count=7)
    whole = values(dataset=dataset, micro_batch=64)
    for size in (1, 5):
        torch.testing.assert_close(values(dataset=dataset, micro_batch=size), whole, atol=1e-5, rtol=0)
    order = [4, 0, 6]
    torch.testing.assert_close(values(batch=dataset.take(order)), whole[order], atol=1e-5, rtol=0)
    # The same test notices a change: the draws belong to the id, not to the position.
    stolen = replace(dataset.take(order), ids=dataset.take([0, 1, 2]).ids)
    assert not torch.allclose(values(batch=stolen), whole[order], atol=1e-3)
    assert not torch.allclose(values(dataset=dataset, seed=1), whole, atol=1e-3)


def test_more_draws_keep_the_first_ones() -> None:
    """Draws are numbered: the mean of four is made of the mean of the first three and one more."""
    three, four = (score(SelfConsistency(n_draws=n), GREY)["unmasked"].values for n in (3, 4))
    fourth = 4 * four - 3 * three
    metric = SelfConsistency(n_draws=1, transform=OnlyDraw(number=3))
    torch.testing.assert_close(score(metric, GREY)["unmasked"].values, fourth)


@dataclass(frozen=True)
class OnlyDraw(WarpFamily):
    """The default family, but always one numbered draw of it."""

    number: int = 0

    def matrices(self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]) -> Tensor:
        """Draw that number."""
        del draws
        return super().matrices(seed, stream, keys, self.number, size=size)


class Masks:
    """Returns the masks it is handed."""

    needs = frozenset({"masks"})

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, masks: Tensor) -> Tensor:
        """Return the masks as `(B, 1, H, W)`."""
        del model, inputs, targets
        return masks[:, None].float()


def test_masks_move_with_the_images() -> None:
    assert score(SelfConsistency(transform=EXACT, n_draws=4), Masks())["masked"].values.tolist() == [1.0] * 5


class Tampered:
    """Evidence that keeps the keys of what it is asked to explain, and multiplies the map of one row by a factor."""

    def __init__(self, evidence: ModelEvidence, row: int, factor: float) -> None:
        """Start with nothing asked."""
        self.evidence, self.row, self.factor = evidence, row, factor
        self.keys: list[int] = []

    def __getattr__(self, name: str) -> Any:
        """Return what the evidence has."""
        return getattr(self.evidence, name)

    def explain(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """Explain, with one map spoilt."""

        def watched(rows: Tensor) -> Inputs:
            inputs = build(rows)
            self.keys += inputs.keys.tolist()
            return inputs

        for rows, maps in self.evidence.explain(count, watched):
            yield rows, maps * torch.where(rows == self.row, self.factor, 1.0).view(-1, 1, 1)


def test_every_moved_copy_has_a_key_of_its_own() -> None:
    evidence = Tampered(see(GREY), 0, 1.0)
    SelfConsistency(n_draws=3).score(evidence)
    keys, draws = repeat_draws(evidence.batch.keys, 3)
    assert evidence.keys == derived_keys(keys, "self_consistency", draws).tolist()
    assert len(set(evidence.keys)) == 15


# --- samples that go wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_invalid_map_makes_only_its_sample_invalid(bad: float) -> None:
    metric = SelfConsistency(n_draws=4)
    sound, scores = score(metric, GREY), metric.score(Tampered(see(GREY), 2 * 4 + 1, bad))
    for variant in ("masked", "unmasked"):
        assert scores[variant].status.tolist() == [0, 0, Status.INVALID, 0, 0]
        np.testing.assert_allclose(scores[variant].values[[0, 1, 3, 4]], sound[variant].values[[0, 1, 3, 4]])


def test_a_silent_draw_scores_0_and_marks_its_sample() -> None:
    metric = SelfConsistency(transform=EXACT, n_draws=4)
    scores = metric.score(Tampered(see(GREY), 2 * 4 + 1, 0.0))["masked"]
    assert scores.values.tolist() == pytest.approx([1, 1, 0.75, 1, 1])
    assert scores.status.tolist() == [0, 0, Status.DEGENERATE, 0, 0]


def test_a_map_that_is_silent_inside_the_valid_region_is_degenerate_only_there() -> None:
    """Everything the explainer marks leaves the image, and what it marks on the moved image came from outside."""

    def left_column(inputs: Tensor) -> Tensor:
        maps = torch.zeros_like(inputs[:, :1])
        maps[..., 0] = 1
        return maps

    metric = SelfConsistency(transform=Fixed(warps=((0.0, 0.25, 0.0),)), n_draws=1)
    scores = score(metric, FromImage(left_column))
    assert scores["masked"].values.tolist() == [0.0] * 5
    assert scores["masked"].status.tolist() == [Status.DEGENERATE] * 5


def test_an_empty_valid_region_is_left_out_of_the_masked_mean() -> None:
    away = (0.0, 2.0, 0.0)
    metric = SelfConsistency(transform=Fixed(warps=((90.0, 0.0, 0.0), away)), n_draws=2)
    scores = score(metric, GREY)
    assert scores["masked"].values.tolist() == pytest.approx([1.0] * 5)
    assert scores["masked"].status.tolist() == [Status.OK] * 5
    assert scores["unmasked"].values.tolist() == pytest.approx([0.5] * 5)
    only_away = score(replace(metric, transform=Fixed(warps=(away, away))), GREY)
    assert only_away["masked"].status.tolist() == [Status.NO_TRUTH] * 5
    assert only_away["unmasked"].status.tolist() == [Status.DEGENERATE] * 5


def test_one_draw_has_no_variance() -> None:
    assert score(SelfConsistency(n_draws=1), GREY)["masked"].variance is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_draws": 0}, "`n_draws` must be at least 1, was 0"),
        ({"target": "best"}, "`target` must be .* was 'best'"),
        ({"fill": "blur"}, "`fill` must be .* was 'blur'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfConsistency(**options)  # type: ignore[arg-type]
