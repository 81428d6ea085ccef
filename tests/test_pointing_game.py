"""Pointing game: hits, ties, tolerance and the metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpeval.metrics.base import Status
from interpeval.metrics.localisation import near_mask
from interpeval.metrics.pointing_game import PointingGame, Ties, pointing_game
from known_maps import known_maps
from reference import pointing_game as slow
from small_subject import FromImage, Pictures, see


def peaks(size: tuple[int, int], *places: tuple[int, int]) -> Tensor:
    """A map of noise below 1 with maxima of 1."""
    heatmap = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)) * 0.9
    for y, x in places:
        heatmap[0, y, x] = 1.0
    return heatmap


def box(size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, rows, columns] = True
    return mask


MASK = box((50, 60), slice(20, 31), slice(30, 41))  # corners (20, 30), (20, 40), (30, 30), (30, 40)


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ((25, 35), 1), ((20, 30), 1),  # inside, on the corner
        ((25, 54), 1), ((25, 55), 0),  # 14 and 15 to the right
        ((6, 35), 1), ((5, 35), 0),  # 14 and 15 above
        ((39, 52), 0), ((39, 51), 1), ((38, 52), 1),  # (9, 12), (9, 11) and (8, 12) from the corner
        ((8, 21), 0), ((9, 21), 1),  # (12, 9) and (11, 9)
        ((44, 15), 0), ((41, 20), 1),  # (14, 15): within the square, not the disc; (11, 10)
    ],
)  # fmt: skip
def test_a_maximum_closer_than_15_pixels_hits(place: tuple[int, int], hit: int) -> None:
    assert pointing_game(peaks((50, 60), place), MASK).item() == hit


@pytest.mark.parametrize("place", [(39, 52), (25, 55), (5, 35), (8, 21), (25, 15), (45, 35)])
def test_a_maximum_at_exactly_15_pixels_hits_only_if_inclusive(place: tuple[int, int]) -> None:
    assert pointing_game(peaks((50, 60), place), MASK).item() == 0
    assert pointing_game(peaks((50, 60), place), MASK, inclusive=True).item() == 1


@pytest.mark.parametrize("corner", [(0, 0), (0, 8), (6, 0), (6, 8)])
def test_a_window_that_leaves_the_image_does_not_come_back_in_on_the_other_side(corner: tuple[int, int]) -> None:
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[0] = False
    mask[0, 6 - corner[0], 8 - corner[1]] = True  # the opposite corner, at distance 10
    assert pointing_game(peaks((7, 9), corner), mask, tolerance=4.0).item() == 0
    assert pointing_game(peaks((7, 9), corner), mask, tolerance=10.0).item() == 0
    assert pointing_game(peaks((7, 9), corner), mask, tolerance=10.0, inclusive=True).item() == 1


@pytest.mark.parametrize(
    ("places", "expected", "first", "any_"),
    [
        ([(25, 35), (0, 0), (0, 1), (49, 0)], 0.25, 0, 1),
        ([(20, 35), (49, 0)], 0.5, 1, 1),
        ([(25, 0), (25, 35), (25, 40)], 2 / 3, 0, 1),  # first within a row: the left one
        ([(0, 0), (49, 59)], 0.0, 0, 0),
    ],
)
def test_tie_rules(places: list[tuple[int, int]], expected: float, first: int, any_: int) -> None:
    heatmap = peaks((50, 60), *places)
    assert pointing_game(heatmap, MASK, tolerance=3.0).item() == pytest.approx(expected, abs=1e-15)
    assert pointing_game(heatmap, MASK, tolerance=3.0, ties="first").item() == first
    assert pointing_game(heatmap, MASK, tolerance=3.0, ties="any").item() == any_


@given(
    seed=st.integers(0, 1000), height=st.integers(1, 14), width=st.integers(1, 14),
    levels=st.sampled_from([1, 2, 5, 999]),
    tolerance=st.sampled_from([1.0, 1.5, 2.0, 3.75, 5.0, 60.0]), inclusive=st.booleans(),
    ties=st.sampled_from(["expected", "first", "any"]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_pointing_game_is_its_definition(
    seed: int, height: int, width: int, levels: int, tolerance: float, inclusive: bool, ties: Ties
) -> None:
    """Few levels make many ties, also of negative maps: both ways of looking are taken, windows and dilation."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(-levels, 1, (5, height, width), generator=generator).double()
    mask = torch.rand(5, height, width, generator=generator) < 0.1
    mask[:, -1, -1] = True
    result = pointing_game(heatmap, mask, tolerance=tolerance, inclusive=inclusive, ties=ties)
    expected = [
        slow.pointing_game(h, m, tolerance, inclusive=inclusive, ties=ties)
        for h, m in zip(heatmap.numpy(), mask.numpy(), strict=True)
    ]
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-15)


def test_windows_and_dilation_agree_at_full_size() -> None:
    """One maximum per map is looked up through its window; a constant map among them makes all be looked up at once."""
    generator = torch.Generator().manual_seed(2)
    heatmap = torch.rand(6, 224, 160, generator=generator)
    mask = torch.rand(6, 224, 160, generator=generator) < 0.0007
    by_window = pointing_game(heatmap, mask)
    constant, full = torch.ones(1, 224, 160), torch.ones(1, 224, 160, dtype=torch.bool)
    by_dilation = pointing_game(torch.cat((heatmap, constant)), torch.cat((mask, full)))
    assert by_dilation.tolist() == [*by_window.tolist(), 1.0]
    assert 0 < by_window.sum() < 6


def test_a_smaller_tolerance_never_hits_more() -> None:
    generator = torch.Generator().manual_seed(3)
    heatmap = torch.randint(0, 50, (40, 20, 20), generator=generator).float()
    mask = torch.rand(40, 20, 20, generator=generator) < 0.01
    mask[:, 10, 10] = True
    by_tolerance = torch.stack([pointing_game(heatmap, mask, tolerance=t) for t in (1.0, 2.0, 3.5, 6.0, 30.0)])
    assert (by_tolerance.diff(dim=0) >= 0).all()
    assert by_tolerance[0].mean() < by_tolerance[1].mean() < by_tolerance[-1].mean() == 1


def test_an_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`ties` must be.*'last'"):
        pointing_game(torch.zeros(1, 2, 2), torch.ones(1, 2, 2).bool(), ties="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`ties` must be.*'last'"):
        PointingGame(ties="last")  # type: ignore[arg-type]


# --- the metric ----------------------------------------------------------------------------------------------------

PICTURES = Pictures(size=(28, 36), count=6)
TRUTH = PICTURES.take(range(6)).masks


def test_the_metric_marks_silent_constant_and_faulty_maps_and_empty_masks() -> None:
    assert TRUTH is not None
    maps = torch.rand(6, 28, 36, generator=torch.Generator().manual_seed(0))
    maps[0] = 0.0
    maps[1] = 2.5
    maps[2, 5, 5] = torch.nan
    maps[4] = -TRUTH[4].float() - 1  # negative throughout, but not constant: it points away from the object
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    batch.masks[3] = False
    evidence = see(known_maps(batch, maps), dataset=PICTURES, batch=batch)
    scores = PointingGame(tolerance=1.0).score(evidence)[""]
    assert scores.status.tolist() == [
        Status.DEGENERATE, Status.OK, Status.INVALID, Status.NO_TRUTH, Status.OK, Status.OK,
    ]  # fmt: skip
    area = TRUTH[1].double().mean().item()
    assert scores.values[[0, 1, 4]].tolist() == pytest.approx([0.0, area, 0.0], abs=1e-15)
    assert scores.values.isnan().tolist() == [False, False, True, True, False, False]
    assert scores.variance is None


def test_an_empty_mask_or_a_fault_outranks_a_silent_map() -> None:
    batch = PICTURES.take(range(2))
    assert batch.masks is not None
    batch.masks[0] = False
    maps = torch.zeros(2, 28, 36)
    maps[1, 0, 0] = torch.inf
    evidence = see(known_maps(batch, maps), dataset=PICTURES, batch=batch)
    assert PointingGame().score(evidence)[""].status.tolist() == [Status.NO_TRUTH, Status.INVALID]


def test_the_metric_scales_its_tolerance_with_the_shorter_side() -> None:
    """28 rows: 15 · 28 / 224 = 1.875, so a diagonal neighbour of the object (√2) is near and a distance of 2 is not."""
    maps = torch.zeros(6, 28, 36)
    for row, (y, x) in enumerate([(1, 2), (0, 4), (1, 4), (4, 7), (6, 6), (6, 7)]):  # the object: rows 2–5, columns 3–5
        maps[row, y, x] = 1.0
    explainer = known_maps(PICTURES.take(range(6)), maps)
    hits = PointingGame().score(see(explainer, dataset=PICTURES))[""].values.tolist()
    assert hits == [1, 0, 1, 0, 1, 0]
    assert PointingGame(tolerance=2.0, inclusive=True).score(see(explainer, dataset=PICTURES))[""].values.tolist() == [
        1, 1, 1, 1, 1, 0,
    ]  # fmt: skip


def test_the_metric_passes_its_tie_rule_on() -> None:
    maps = torch.zeros(6, 28, 36)
    maps[:, 20, 20] = maps[:, 3, 4] = 1.0
    explainer = known_maps(PICTURES.take(range(6)), maps)
    for ties, value in (("expected", 0.5), ("first", 1.0), ("any", 1.0)):
        metric = PointingGame(ties=ties)  # type: ignore[arg-type]
        assert metric.score(see(explainer, dataset=PICTURES))[""].values.tolist() == [value] * 6


def test_the_metric_explains_the_class_it_is_told_to() -> None:
    """The explainer points at the object for class 0 alone: labels are 0, 1, 2, 0, 1, 2."""
    place = torch.zeros(1, 1, 28, 36)
    place[..., 3, 4] = 1.0

    class ForClass0:
        def attribute(self, model: object, inputs: Tensor, targets: Tensor) -> Tensor:
            return torch.where((targets == 0).view(-1, 1, 1, 1), place, place.flip(2, 3))

    evidence = see(ForClass0(), dataset=PICTURES)
    assert PointingGame().score(evidence)[""].values.tolist() == [1, 0, 0, 1, 0, 0]
    predicted = (evidence.logits.argmax(dim=1) == 0).double()
    assert PointingGame(target="predicted").score(evidence)[""].values.tolist() == predicted.tolist()
    assert predicted.tolist() != [1, 0, 0, 1, 0, 0]


def test_a_constant_explainer_scores_the_area_near_the_objects_and_is_not_degenerate() -> None:
    assert TRUTH is not None
    scores = PointingGame().score(see(FromImage(lambda inputs: torch.ones_like(inputs[:, :1])), dataset=PICTURES))[""]
    assert scores.status.tolist() == [Status.OK] * 6
    area = near_mask(TRUTH, 1.875).flatten(1).double().mean(dim=1)
    assert scores.values.tolist() == pytest.approx(area.tolist(), abs=1e-15)
