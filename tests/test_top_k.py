"""Top-k: known shares, identities with its relatives, the number of pixels, and the metric."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpeval.baselines.truth import Truth
from interpeval.metrics.base import Status
from interpeval.metrics.pointing_game import pointing_game
from interpeval.metrics.top_k import TopK, default_k, top_k
from known_maps import known_maps
from small_subject import Pictures, see


def case(count: int = 12, size: tuple[int, int] = (20, 26)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(count, *size, generator=generator) < 0.2
    return torch.randn(count, *size, generator=generator), mask


@pytest.mark.parametrize(("k", "share"), [(1, 1.0), (2, 0.5), (3, 2 / 3), (4, 0.5), (5, 0.6), (6, 0.5)])
def test_known_shares(k: int, share: float) -> None:
    """Signed values: -9 is the smallest, not the second largest."""
    heatmap = torch.tensor([[[5.0, 4.0, 3.0], [-1.0, -2.0, -9.0]]])
    mask = torch.tensor([[[True, False, True], [False, True, False]]])
    assert top_k(heatmap, mask, k=k).item() == share


@pytest.mark.parametrize(("k", "share"), [(2, 1.0), (6, 4 / 6)])
def test_values_that_tie_beside_the_cut_leave_nothing_to_chance(k: int, share: float) -> None:
    heatmap = torch.tensor([[[7.0, 7.0, 2.0, 2.0, 2.0, 2.0, 1.0]]]).expand(50, -1, -1)
    mask = torch.tensor([[[True, True, True, False, False, True, True]]]).expand(50, -1, -1)
    assert top_k(heatmap, mask, k=k).tolist() == [share] * 50
    assert len(set(top_k(heatmap, mask, k=4).tolist())) > 1  # of four tied values two are chosen


def test_one_pixel_is_the_pointing_game_on_the_mask() -> None:
    heatmap, mask = case(60)
    hits = pointing_game(heatmap, mask, tolerance=1.0)
    assert 0 < hits.sum() < 60
    assert torch.equal(top_k(heatmap, mask, k=1), hits)


def test_all_pixels_score_the_area_of_the_mask() -> None:
    heatmap, mask = case()
    assert torch.equal(top_k(heatmap, mask, k=520), mask.flatten(1).double().mean(dim=1))


def test_k_is_1000_unless_told_otherwise() -> None:
    heatmap, mask = case(3, (40, 50))
    assert torch.equal(top_k(heatmap, mask), top_k(heatmap, mask, k=1000))
    assert not torch.equal(top_k(heatmap, mask), top_k(heatmap, mask, k=999))


@pytest.mark.parametrize("k", [0, -1, 521])
def test_an_impossible_number_of_pixels_is_refused(k: int) -> None:
    heatmap, mask = case()
    with pytest.raises(ValueError, match=f"`k` must be from 1 to the 520 pixels of a map, was {k}"):
        top_k(heatmap, mask, k=k)


@pytest.mark.parametrize(
    ("size", "k"),
    [((224, 224), 1000), ((225, 224), 1008), ((224, 448), 2007), ((28, 36), 20), ((5, 5), 1), ((1, 1), 1)],
)
def test_the_default_is_1000_at_224_pixels_and_2_percent_elsewhere(size: tuple[int, int], k: int) -> None:
    """1008 and 20.16 round down, 2007.04 too; 0.5 and 0.02 would be none at all."""
    assert default_k(*size) == k


# --- the metric ----------------------------------------------------------------------------------------------------

PICTURES = Pictures(size=(28, 36), count=6)  # 2 % are 20.16 pixels; the object has 12


def test_the_metric_takes_2_percent_or_what_it_is_told() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.randn(6, 28, 36, generator=torch.Generator().manual_seed(0)) + 2 * batch.masks
    evidence = see(known_maps(batch, maps), dataset=PICTURES)
    assert torch.equal(TopK().score(evidence)[""].values, top_k(maps, batch.masks, k=20))
    assert torch.equal(TopK(k=7).score(evidence)[""].values, top_k(maps, batch.masks, k=7))
    assert not torch.equal(top_k(maps, batch.masks, k=20), top_k(maps, batch.masks, k=7))


def test_the_truth_fills_as_many_of_the_pixels_as_it_has() -> None:
    """12 of 20 are the object's, and the rest are drawn among ties elsewhere."""
    assert TopK().score(see(Truth(), dataset=PICTURES))[""].values.tolist() == [12 / 20] * 6
    assert TopK(k=12).score(see(Truth(), dataset=PICTURES))[""].values.tolist() == [1.0] * 6


def test_ties_are_broken_by_the_run_s_seed_and_the_sample_s_name() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.zeros(6, 28, 36)
    maps[:, :10] = 1.0
    for seed in (0, 3):
        scores = TopK(k=100).score(see(known_maps(batch, maps), dataset=PICTURES, seed=seed))[""]
        assert torch.equal(scores.values, top_k(maps, batch.masks, k=100, seed=seed, ids=batch.ids))
    assert len(set(scores.values.tolist())) > 1


def test_the_metric_marks_silent_and_faulty_maps_and_empty_masks_but_not_constant_ones() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.rand(6, 28, 36, generator=torch.Generator().manual_seed(0))
    maps[0], maps[1], maps[2, 5, 5] = 0.0, 2.5, -torch.inf
    maps[4] = -1 - batch.masks[4].float()  # negative throughout, and lowest on the object
    batch.masks[3] = False
    scores = TopK(k=500).score(see(known_maps(batch, maps), dataset=PICTURES, batch=batch))[""]
    assert scores.status.tolist() == [
        Status.DEGENERATE, Status.OK, Status.INVALID, Status.NO_TRUTH, Status.OK, Status.OK,
    ]  # fmt: skip
    assert scores.values[[0, 4]].tolist() == [0.0, 0.0]
    assert scores.values[1] > 0


@pytest.mark.parametrize("k", [0, -3])
def test_the_metric_refuses_an_impossible_number_at_once_and_too_large_a_one_when_it_sees_the_maps(k: int) -> None:
    with pytest.raises(ValueError, match=f"`k` must be at least 1.*was {k}"):
        TopK(k=k)
    with pytest.raises(ValueError, match="`k` must be from 1 to the 1008 pixels"):
        TopK(k=1009).score(see(Truth(), dataset=PICTURES))
