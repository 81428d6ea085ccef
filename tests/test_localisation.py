"""What the localisation metrics share: the neighbourhood of a mask, and checks of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.metrics.base import Status, invalid_maps
from interpeval.metrics.content_heatmap import ContentHeatmap, content_heatmap
from interpeval.metrics.localisation import (
    LocalisationMetric,
    at_resolution,
    empty_masks,
    mask_areas,
    near_mask,
    squared_reach,
    tolerance_in_pixels,
)
from interpeval.metrics.pointing_game import PointingGame, pointing_game
from interpeval.metrics.relevance_rank import RelevanceRank, relevance_rank
from interpeval.metrics.stochastic_pointing_game import StochasticPointingGame, stochastic_pointing_game
from interpeval.metrics.top_k import TopK, top_k
from known_maps import known_maps
from reference import pointing_game as slow
from reference import top_k as slow_top_k
from small_subject import FromImage, Pictures, see

top_5 = partial(top_k, k=5)
WITH_TOLERANCE = [pointing_game, stochastic_pointing_game]
RANKINGS = [relevance_rank, top_5]
FUNCTIONS = [*WITH_TOLERANCE, content_heatmap, *RANKINGS]
METRICS = [PointingGame(), StochasticPointingGame(), ContentHeatmap(), RelevanceRank(), TopK()]
TOLERANCES = [0.25, 1.0, 1.25, 1.5, 2.0, 2.25, 3.0, 3.75, 5.0, 7.0, 15 * 28 / 224, 15 * 64 / 224, 60.0]


def tolerating(call: Callable[..., Tensor], tolerance: float) -> dict[str, float]:
    return {"tolerance": tolerance} if call in WITH_TOLERANCE else {}


def one_pixel(size: int, y: int, x: int) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, y, x] = True
    return mask


@given(
    seed=st.integers(0, 1000), height=st.integers(1, 14), width=st.integers(1, 14), count=st.integers(1, 19),
    share=st.sampled_from([0.0, 0.02, 0.2, 1.0]), tolerance=st.sampled_from(TOLERANCES), inclusive=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_near_mask_is_its_definition(
    seed: int, height: int, width: int, count: int, share: float, tolerance: float, inclusive: bool
) -> None:
    """Any number of masks (eight share a byte), any shape, and discs larger than the image."""
    mask = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) < share
    expected = [slow.near_mask(each, tolerance, inclusive=inclusive) for each in mask.numpy()]
    np.testing.assert_array_equal(near_mask(mask, tolerance, inclusive=inclusive).numpy(), expected)


@pytest.mark.parametrize("offset", [(9, 12), (12, 9), (0, 15), (15, 0), (-9, 12), (-12, -9), (0, -15)])
def test_a_distance_of_exactly_the_tolerance_counts_only_if_inclusive(offset: tuple[int, int]) -> None:
    mask = one_pixel(40, 20, 20)
    y, x = 20 + offset[0], 20 + offset[1]
    assert not near_mask(mask, 15.0)[0, y, x]
    assert near_mask(mask, 15.0, inclusive=True)[0, y, x]
    assert near_mask(mask, float(np.nextafter(15.0, 16.0)))[0, y, x]
    assert not near_mask(mask, float(np.nextafter(15.0, 14.0)), inclusive=True)[0, y, x]


def test_the_neighbourhood_is_a_disc_not_a_square() -> None:
    """Gauss' circle problem: 709 pixels with `dy² + dx² <= 15²`, 12 of them with equality; a square would hold 841."""
    assert near_mask(one_pixel(40, 20, 20), 15.0, inclusive=True).sum() == 709
    assert near_mask(one_pixel(40, 20, 20), 15.0).sum() == 709 - 12


def test_tolerance_1_is_the_mask_itself_and_2_is_more() -> None:
    mask = torch.rand(9, 11, 13, generator=torch.Generator().manual_seed(1)) < 0.1
    assert torch.equal(near_mask(mask, 1.0), mask)
    assert near_mask(mask, 2.0).sum() > mask.sum()


def test_near_mask_of_a_transposed_view_is_the_transposed_result() -> None:
    mask = torch.rand(9, 11, 13, generator=torch.Generator().manual_seed(1)) < 0.02
    assert torch.equal(near_mask(mask.transpose(1, 2), 3.5), near_mask(mask, 3.5).transpose(1, 2))


def test_squared_reach_is_exact_for_fractional_tolerances() -> None:
    """2.5² = 6.25: 6 is below under both rules; √5 as a float64 is a little above the true root, so 5 is below it."""
    assert squared_reach(2.5, (99, 99)) == squared_reach(2.5, (99, 99), inclusive=True) == 6
    assert squared_reach(5**0.5, (99, 99)) == 5
    assert squared_reach(1e300, (3, 4)) == 25


@pytest.mark.parametrize(
    ("size", "expected"), [((224, 224), 15), ((448, 600), 30), ((28, 28), 1.875), ((300, 112), 7.5)]
)
def test_the_default_tolerance_scales_with_the_shorter_side(size: tuple[int, int], expected: float) -> None:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    assert tolerance_in_pixels(None, mask) == expected
    assert tolerance_in_pixels(15.0, mask) == 15.0


def test_empty_masks_are_found_and_others_measured() -> None:
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[1, 3, 4] = mask[1, 0, 1:4] = True
    assert empty_masks(mask).tolist() == [True, False, True]
    assert mask_areas(mask).tolist() == [0, 4, 0]
    assert mask_areas(mask.transpose(1, 2)).tolist() == [0, 4, 0]


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_tolerance_is_refused(tolerance: float) -> None:
    heatmap, mask = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    for call in WITH_TOLERANCE:
        with pytest.raises(ValueError, match="`tolerance` must be a positive finite number"):
            call(heatmap, mask, tolerance=tolerance)  # type: ignore[operator]
    for metric in (PointingGame, StochasticPointingGame):
        with pytest.raises(ValueError, match="`tolerance` must be a positive finite number"):
            metric(tolerance=tolerance)


@pytest.mark.parametrize("call", FUNCTIONS)
@pytest.mark.parametrize(
    ("heatmap", "mask", "error", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4).bool(), TypeError, "`heatmap`.*torch.uint8"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4).bool(), TypeError, "`heatmap`.*torch.bool"),
        (np.zeros((1, 4, 4)), torch.ones(1, 4, 4).bool(), TypeError, "`heatmap`.*ndarray"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4), TypeError, "`mask`.*torch.float32"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8), TypeError, "`mask`.*torch.uint8"),
        (torch.zeros(1, 4, 4), np.ones((1, 4, 4), dtype=bool), TypeError, "`mask`.*ndarray"),
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 5).bool(), ValueError, r"`mask`.*\(1, 4, 4\).*\(1, 4, 5\)"),
        (torch.zeros(2, 4, 4), torch.ones(1, 4, 4).bool(), ValueError, r"`mask`.*\(2, 4, 4\).*\(1, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4).bool(), ValueError, r"`heatmap` must be \(B, H, W\)"),
        (torch.zeros(4, 4), torch.ones(4, 4).bool(), ValueError, r"`heatmap` must be \(B, H, W\)"),
        (torch.zeros(1, 0, 4), torch.ones(1, 0, 4).bool(), ValueError, r"`heatmap` must be \(B, H, W\)"),
    ],
)
def test_wrong_inputs_are_named(
    call: Callable[..., Tensor], heatmap: Tensor, mask: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(heatmap, mask)


@pytest.mark.parametrize("call", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_type_scores_as_its_float64_copy(call: Callable[..., Tensor], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    heatmap = torch.randn(4, 20, 20, generator=generator).to(dtype)
    mask = torch.rand(4, 20, 20, generator=generator) < 0.1
    result = call(heatmap, mask, **tolerating(call, 2.0))
    expected = call(heatmap.double(), mask, **tolerating(call, 2.0))
    assert result.dtype == torch.float64
    assert torch.equal(result, expected)


@pytest.mark.parametrize("call", FUNCTIONS)
def test_a_batch_of_no_samples_has_no_scores(call: Callable[..., Tensor]) -> None:
    assert call(torch.zeros(0, 5, 5), torch.zeros(0, 5, 5, dtype=torch.bool)).tolist() == []


@pytest.mark.parametrize("call", FUNCTIONS)
def test_faulty_rows_leave_the_others_bit_for_bit_as_they_were(call: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(5)
    heatmap = torch.rand(12, 20, 20, generator=generator)
    mask = torch.rand(12, 20, 20, generator=generator) < 0.01
    mask[:, 7, 7] = True
    clean = call(heatmap, mask)
    heatmap[1, 3, 4], heatmap[4, 0, 0], heatmap[9, 19, 19] = torch.nan, torch.inf, -torch.inf
    mask[6] = False
    result = call(heatmap, mask)
    faulty = torch.tensor([1, 4, 6, 9])
    sound = torch.tensor([i for i in range(12) if i not in faulty])
    assert not clean.isnan().any()
    assert result[faulty].isnan().all()
    assert torch.equal(result[sound], clean[sound])


@pytest.mark.parametrize("call", FUNCTIONS)
def test_scores_depend_on_their_own_row_only(call: Callable[..., Tensor]) -> None:
    """Bit for bit, in any order and batch. Large maps: sums over 50 000 pixels are where torch's order may change."""
    generator = torch.Generator().manual_seed(6)
    heatmap = torch.randn(11, 200, 250, generator=generator)
    if call not in RANKINGS:  # which break ties by position where samples have no names: see test_largest_values.py
        heatmap[4] = 1.0
    mask = torch.rand(11, 200, 250, generator=generator) < 0.001
    whole = call(heatmap, mask)
    alone = torch.cat([call(heatmap[i : i + 1], mask[i : i + 1]) for i in range(11)])
    pairs = torch.cat([call(heatmap[i : i + 2], mask[i : i + 2]) for i in range(0, 11, 2)])
    assert torch.equal(whole, alone)
    assert torch.equal(whole, pairs)
    assert torch.equal(whole.flip(0), call(heatmap.flip(0), mask.flip(0)))
    assert not torch.equal(whole, call(heatmap, mask.flip(0)))  # a score that ignores its row would pass the above


@pytest.mark.parametrize("call", FUNCTIONS)
def test_scores_ignore_positive_scaling_but_not_the_sign(call: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(7)
    heatmap = torch.randn(5, 20, 20, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 20, 20, generator=generator) < 0.05
    options = tolerating(call, 2.0)
    for scale in (3.0, 1e-300, 1e300):
        torch.testing.assert_close(call(heatmap * scale, mask, **options), call(heatmap, mask, **options))
    assert not torch.allclose(call(-heatmap, mask, **options), call(heatmap, mask, **options))


@pytest.mark.parametrize("call", FUNCTIONS)
def test_scores_turn_with_map_and_mask(call: Callable[..., Tensor]) -> None:
    """Ties included, but for rankings, which break them at random: half of the maps have few distinct values."""
    generator = torch.Generator().manual_seed(8)
    heatmap = torch.randn(8, 30, 25, generator=generator)
    if call not in RANKINGS:
        heatmap[::2] = heatmap[::2].round()
    mask = torch.rand(8, 30, 25, generator=generator) < 0.03
    options = tolerating(call, 2.5)
    turned = call(heatmap.flip(1, 2), mask.flip(1, 2), **options)
    torch.testing.assert_close(turned, call(heatmap, mask, **options), atol=1e-12, rtol=0)
    assert not torch.allclose(call(heatmap.flip(1, 2), mask, **options), turned)


@pytest.mark.parametrize("call", FUNCTIONS)
@pytest.mark.parametrize("tolerance", [1.0, 3.5])
def test_the_mask_as_map_scores_1(call: Callable[..., Tensor], tolerance: float) -> None:
    mask = torch.rand(9, 30, 40, generator=torch.Generator().manual_seed(9)) < 0.1
    options = tolerating(call, tolerance)
    assert call(mask.float(), mask, **options).tolist() == [1.0] * 9


@pytest.mark.parametrize("call", [*WITH_TOLERANCE, content_heatmap])
@pytest.mark.parametrize("tolerance", [1.0, 3.5])
def test_a_constant_map_scores_the_area_near_the_mask(call: Callable[..., Tensor], tolerance: float) -> None:
    mask = torch.rand(9, 30, 40, generator=torch.Generator().manual_seed(9)) < 0.01
    region = mask if call is content_heatmap else near_mask(mask, tolerance)
    area = region.flatten(1).double().mean(dim=1)
    scores = call(torch.full((9, 30, 40), 0.3), mask, **tolerating(call, tolerance))
    torch.testing.assert_close(scores, area, atol=1e-12, rtol=0)


@pytest.mark.parametrize("call", RANKINGS)
@pytest.mark.parametrize("kind", ["constant", "random"])
def test_a_ranking_without_information_scores_the_area_of_the_mask(call: Callable[..., Tensor], kind: str) -> None:
    """Hypergeometric: k pixels of 80, 24 of them on the object; equal values score as random ones."""
    mask = torch.zeros(4000, 8, 10, dtype=torch.bool)
    mask[:, 2:5, 1:9] = True
    heatmap = torch.full((4000, 8, 10), -2.5)
    if kind == "random":
        heatmap.uniform_(generator=torch.Generator().manual_seed(1))
    scores = call(heatmap, mask).numpy()
    k = 5 if call is top_5 else 24
    variance = 0.3 * 0.7 * (80 - k) / (80 - 1) / k
    assert abs(scores.mean() - 0.3) < 4 * np.sqrt(variance / 4000)
    assert scores.var(ddof=1) == pytest.approx(variance, rel=5 * np.sqrt(2 / 4000))


# --- change of resolution -----------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 100), size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    wanted=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_a_change_of_resolution_is_its_definition(seed: int, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    heatmap = torch.randn(2, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [slow_top_k.at_resolution(each, *wanted) for each in heatmap.numpy()]
    np.testing.assert_allclose(at_resolution(heatmap, wanted).numpy(), expected, atol=1e-12)


def test_a_map_of_the_size_wanted_stays_as_it_is() -> None:
    heatmap = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert at_resolution(heatmap, (5, 7)) is heatmap


def test_a_faulty_map_changes_no_other_when_resized() -> None:
    heatmap = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    clean = at_resolution(heatmap, (9, 11))
    heatmap[1] = torch.nan
    result = at_resolution(heatmap, (9, 11))
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(ValueError, match="`size` must be positive"):
        at_resolution(torch.zeros(1, 2, 2), (0, 3))
    with pytest.raises(TypeError, match="`heatmap`"):
        at_resolution(torch.zeros(1, 2, 2).int(), (3, 3))


# --- what all metrics of the family can be told -------------------------------------------------------------------

PICTURES = Pictures(size=(28, 36), count=6)


def measure(metric: LocalisationMetric, heatmap: Tensor, mask: Tensor, ids: tuple[str, ...]) -> Tensor:
    """The function of a metric, as it scores one image."""
    tolerance = 15 * min(mask.shape[1:]) / 224
    if isinstance(metric, PointingGame):
        return pointing_game(heatmap, mask, tolerance=tolerance)
    if isinstance(metric, StochasticPointingGame):
        return stochastic_pointing_game(heatmap, mask, tolerance=tolerance)
    if isinstance(metric, ContentHeatmap):
        return content_heatmap(heatmap, mask)
    if isinstance(metric, TopK):
        return top_k(heatmap, mask, k=round(0.02 * mask[0].numel()), ids=ids)
    return relevance_rank(heatmap, mask, ids=ids)


@pytest.mark.parametrize("metric", METRICS)
def test_silent_samples_can_be_left_out_and_stay_counted(metric: LocalisationMetric) -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.rand(6, 28, 36, generator=torch.Generator().manual_seed(0))
    maps[0] = maps[1] = maps[2] = 0.0
    maps[2, 3, 3] = torch.nan
    batch.masks[1] = False
    evidence = see(known_maps(batch, maps), dataset=PICTURES, batch=batch)
    worst = metric.score(evidence)[""]
    skip = replace(metric, degenerate="skip").score(evidence)[""]
    codes = [Status.NO_TRUTH, Status.INVALID, Status.OK, Status.OK, Status.OK]
    assert worst.status.tolist() == [Status.DEGENERATE, *codes]
    assert skip.status.tolist() == [Status.SKIPPED, *codes]
    assert worst.values[0] == 0
    assert skip.values.isnan().tolist() == [True, True, True, False, False, False]
    assert torch.equal(skip.values[3:], worst.values[3:])


@pytest.mark.parametrize("metric", METRICS)
def test_at_the_original_resolution_each_map_meets_the_mask_of_its_image(metric: LocalisationMetric) -> None:
    """Images larger, smaller and of another shape than the input, and one of its very size."""
    batch = PICTURES.take(range(6))
    maps = torch.randn(6, 28, 36, generator=torch.Generator().manual_seed(0))
    maps[1] = 0.0
    sizes = [(56, 72), (40, 30), (14, 18), (28, 36), (31, 77), (50, 50)]
    originals = [torch.zeros(size, dtype=torch.bool) for size in sizes]
    for mask in originals:
        mask[3:9, 5:11] = True
    originals[4][:] = False
    batch = replace(batch, original_masks=tuple(originals))
    evidence = see(known_maps(batch, maps), dataset=PICTURES, batch=batch)
    scores = replace(metric, resolution="original").score(evidence)[""]
    assert scores.status.tolist() == [0, Status.DEGENERATE, 0, 0, Status.NO_TRUTH, 0]
    for row in (0, 2, 3, 5):
        resized = torch.from_numpy(slow_top_k.at_resolution(maps[row].double().numpy(), *sizes[row]))[None]
        expected = measure(metric, resized, originals[row][None], batch.ids[row : row + 1])
        assert scores.values[row].item() == pytest.approx(expected.item(), abs=1e-6)
    assert not torch.allclose(scores.values, metric.score(evidence)[""].values, equal_nan=True)


def test_drawn_scores_at_the_original_resolution_keep_their_variance() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    batch = replace(batch, original_masks=tuple(batch.masks))
    evidence = see(FromImage(lambda inputs: inputs[:, :1]), dataset=PICTURES, batch=batch)
    here = StochasticPointingGame(n_draws=9).score(evidence)[""]
    there = StochasticPointingGame(n_draws=9, resolution="original").score(evidence)[""]
    assert torch.equal(here.values, there.values)
    assert here.variance is not None
    assert there.variance is not None
    assert torch.equal(here.variance, there.variance)


@pytest.mark.parametrize("metric", METRICS)
def test_all_objects_can_be_the_truth(metric: LocalisationMetric) -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.randn(6, 28, 36, generator=torch.Generator().manual_seed(0))
    everything = batch.masks | batch.masks.flip(1, 2)
    seen = replace(batch, all_masks=everything)
    evidence = see(known_maps(batch, maps), dataset=PICTURES, batch=seen)
    expected = measure(metric, maps, everything, batch.ids)
    assert torch.equal(replace(metric, truth="all").score(evidence)[""].values, expected)
    item = metric.score(evidence)[""].values
    assert torch.equal(item, measure(metric, maps, batch.masks, batch.ids))
    assert not torch.equal(item, expected)
    alone = see(known_maps(batch, maps), dataset=PICTURES, batch=batch)  # no objects but the labels'
    assert torch.equal(replace(metric, truth="all").score(alone)[""].values, item)


@pytest.mark.parametrize("metric", METRICS)
def test_the_class_explained_is_the_one_asked_for(metric: LocalisationMetric) -> None:
    """The map shows the object for class 0 and its mirror image for others; without a target, class 0 is handed on."""
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    truth = batch.masks.float()

    class ForClass0:
        def attribute(self, model: object, inputs: Tensor, targets: Tensor) -> Tensor:
            mask = truth[:1].expand(len(inputs), -1, -1)
            return torch.where((targets == 0).view(-1, 1, 1), mask, mask.flip(1, 2))[:, None]

    evidence = see(ForClass0(), dataset=PICTURES)
    if isinstance(metric, TopK):
        metric = TopK(k=9)
    assert metric.score(evidence)[""].values.tolist() == [1, 0, 0, 1, 0, 0]
    assert replace(metric, target="none").score(evidence)[""].values.tolist() == [1] * 6
    predicted = (evidence.logits.argmax(dim=1) == 0).double().tolist()
    assert predicted not in ([1, 0, 0, 1, 0, 0], [1] * 6)
    assert replace(metric, target="predicted").score(evidence)[""].values.tolist() == predicted


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "loudest"}, '`target` must be "predicted" or "label" or "none", was \'loudest\''),
        ({"truth": "some"}, '`truth` must be "item" or "all", was \'some\''),
        ({"resolution": 224}, '`resolution` must be "input" or "original", was 224'),
        ({"degenerate": None}, '`degenerate` must be "worst" or "skip", was None'),
        ({"truth": "all", "resolution": "original"}, '`truth` must be "item" with `resolution="original"`'),
    ],
)
def test_unknown_options_are_refused(metric: LocalisationMetric, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(metric, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_refuse_samples_without_masks(metric: LocalisationMetric) -> None:
    batch = see(FromImage(lambda inputs: inputs[:, :1])).batch
    evidence = see(FromImage(lambda inputs: inputs[:, :1]), batch=replace(batch, masks=None))
    with pytest.raises(ValueError, match=r"`batch\.masks` must be given"):
        metric.score(evidence)
    with pytest.raises(ValueError, match=r"`batch\.original_masks` must be given"):
        replace(metric, resolution="original").score(see(FromImage(lambda inputs: inputs[:, :1])))


def test_maps_are_invalid_by_a_single_pixel_and_not_because_their_sum_is_too_large() -> None:
    maps = torch.full((6, 3, 4), 3e38)
    maps[1, 2, 3], maps[2, 0, 0], maps[3, 1, 1] = torch.nan, torch.inf, -torch.inf
    maps[4, 0, 0], maps[4, 0, 1] = torch.inf, -torch.inf
    maps[5] = 0
    assert invalid_maps(maps).tolist() == [False, True, True, True, True, False]
    assert invalid_maps(maps.half()).tolist() == [True, True, True, True, True, False]  # 3e38 is infinite there
    assert not invalid_maps(torch.full((2, 300, 300), 6e4, dtype=torch.float16)).any()
