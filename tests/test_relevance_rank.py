"""Relevance rank: known shares, its identity with top-k, and the metric."""

from __future__ import annotations

import pytest
import torch

from interpeval.baselines.truth import Truth
from interpeval.metrics.base import Status
from interpeval.metrics.relevance_rank import RelevanceRank, relevance_rank
from interpeval.metrics.top_k import top_k
from known_maps import known_maps
from small_subject import Pictures, see


@pytest.mark.parametrize(
    ("mask", "share"),
    [
        ([[1, 0, 0], [0, 0, 0]], 1.0),
        ([[0, 1, 0], [0, 0, 0]], 0.0),
        ([[1, 0, 1], [0, 0, 0]], 0.5),
        ([[1, 0, 1], [0, 0, 1]], 2 / 3),
        ([[0, 0, 0], [1, 1, 1]], 0.0),
        ([[1, 1, 1], [1, 1, 0]], 1.0),
        ([[1, 1, 1], [1, 0, 1]], 0.8),
        ([[1, 1, 1], [1, 1, 1]], 1.0),
    ],
)
def test_known_shares(mask: list[list[int]], share: float) -> None:
    """Signed values: -9 is the smallest, not the largest."""
    heatmap = torch.tensor([[[5.0, 4.0, 3.0], [-1.0, -2.0, -9.0]]])
    assert relevance_rank(heatmap, torch.tensor([mask]).bool()).item() == share


def test_it_is_top_k_with_as_many_pixels_as_the_object_has() -> None:
    """Ties included: half of the maps have few distinct values."""
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.randn(20, 15, 17, generator=generator)
    heatmap[::2] = heatmap[::2].round()
    mask = torch.rand(20, 15, 17, generator=generator) < torch.linspace(0.05, 0.95, 20).view(-1, 1, 1)
    ids = [f"sample {i}" for i in range(20)]
    ranks = relevance_rank(heatmap, mask, seed=4, ids=ids)
    areas = mask.flatten(1).sum(dim=1).tolist()
    for row, area in enumerate(areas):
        one = slice(row, row + 1)
        assert torch.equal(ranks[one], top_k(heatmap[one], mask[one], k=area, seed=4, ids=ids[one]))
    assert not torch.equal(ranks, top_k(heatmap, mask, k=areas[0], seed=4, ids=ids))


def test_it_is_1_exactly_where_the_object_outshines_everything_else() -> None:
    generator = torch.Generator().manual_seed(1)
    heatmap = torch.rand(9, 15, 17, generator=generator)
    mask = torch.rand(9, 15, 17, generator=generator) < 0.3
    lifted = heatmap + mask
    assert relevance_rank(lifted, mask).tolist() == [1.0] * 9
    pixel = mask[0].nonzero()[0]
    lifted[0, pixel[0], pixel[1]] = -1.0
    area = int(mask[0].sum())
    assert relevance_rank(lifted, mask).tolist() == [(area - 1) / area] + [1.0] * 8


# --- the metric ----------------------------------------------------------------------------------------------------

PICTURES = Pictures(size=(28, 36), count=6)


def test_the_truth_scores_1_and_its_complement_0() -> None:
    class Lies(Truth):
        def attribute(self, *args: object, **kwargs: object) -> torch.Tensor:
            return 1 - super().attribute(*args, **kwargs)  # type: ignore[arg-type]

    assert RelevanceRank().score(see(Truth(), dataset=PICTURES))[""].values.tolist() == [1.0] * 6
    assert RelevanceRank().score(see(Lies(), dataset=PICTURES))[""].values.tolist() == [0.0] * 6


def test_ties_are_broken_by_the_run_s_seed_and_the_sample_s_name() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    maps = torch.zeros(6, 28, 36)
    maps[:, :4, :6] = 1.0
    for seed in (0, 3):
        scores = RelevanceRank().score(see(known_maps(batch, maps), dataset=PICTURES, seed=seed))[""]
        assert torch.equal(scores.values, relevance_rank(maps, batch.masks, seed=seed, ids=batch.ids))
    assert len(set(scores.values.tolist())) > 1


def test_the_metric_marks_silent_and_faulty_maps_and_empty_masks_but_not_constant_ones() -> None:
    batch = PICTURES.take(range(6))
    assert batch.masks is not None
    batch.masks[1] = True
    maps = torch.rand(6, 28, 36, generator=torch.Generator().manual_seed(0))
    maps[0], maps[1], maps[2, 5, 5] = 0.0, -2.5, torch.nan
    maps[4] = -1 - batch.masks[4].float()
    batch.masks[3] = False
    scores = RelevanceRank().score(see(known_maps(batch, maps), dataset=PICTURES, batch=batch))[""]
    assert scores.status.tolist() == [
        Status.DEGENERATE, Status.OK, Status.INVALID, Status.NO_TRUTH, Status.OK, Status.OK,
    ]  # fmt: skip
    assert scores.values[[0, 1, 4]].tolist() == [0.0, 1.0, 0.0]
