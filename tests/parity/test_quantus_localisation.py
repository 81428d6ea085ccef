"""Localisation against Quantus, where the definitions coincide: maps without ties, non-negative, non-empty masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from interpeval.metrics.content_heatmap import content_heatmap
from interpeval.metrics.negative_quadrants_heatmap import negative_quadrants_heatmap
from interpeval.metrics.pointing_game import pointing_game
from interpeval.metrics.relevance_rank import relevance_rank
from interpeval.metrics.top_k import top_k

OPTIONS = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}


@pytest.fixture(scope="module")
def quantus() -> Iterator[ModuleType]:
    """Quantus, whose own warnings (invalid escapes, deprecations) are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("quantus", reason='quantus is not installed: pip install -e ".[dev]"')


def maps_and_masks(size: tuple[int, int] = (24, 24)) -> tuple[Tensor, Tensor]:
    """Non-negative maps of distinct values, and boxes, about half of which hold the maximum."""
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.stack(
        [torch.randperm(size[0] * size[1], generator=generator).view(size) for _ in range(60)]
    ).double()
    mask = torch.zeros(60, *size, dtype=torch.bool)
    for row, (y, x, h, w) in enumerate(torch.randint(0, 12, (60, 4), generator=generator).tolist()):
        mask[row, y : y + h + 6, x : x + w + 6] = True
    return heatmap / heatmap.numel(), mask


def ask(metric: object, heatmap: Tensor, **truth: object) -> list[float]:
    """Call a Quantus metric on maps alone; it asks for a model, images and labels, but does not look at them here."""
    images, labels = np.zeros((len(heatmap), 1, *heatmap.shape[1:])), np.zeros(len(heatmap), dtype=int)
    scores = metric(  # type: ignore[operator]
        model=torch.nn.Identity(), x_batch=images, y_batch=labels, a_batch=heatmap[:, None].numpy(), **truth
    )
    return [float(score) for score in scores]


def test_pointing_game_on_the_mask(quantus: ModuleType) -> None:
    heatmap, mask = maps_and_masks()
    theirs = ask(quantus.PointingGame(**OPTIONS), heatmap, s_batch=mask[:, None].numpy())
    assert pointing_game(heatmap, mask, tolerance=1.0).tolist() == theirs
    assert 5 < sum(theirs) < 55
    assert pointing_game(heatmap, mask, tolerance=4.0).tolist() != theirs


def test_content_heatmap_is_relevance_mass_accuracy_of_non_negative_maps(quantus: ModuleType) -> None:
    heatmap, mask = maps_and_masks()
    metric = quantus.RelevanceMassAccuracy(**OPTIONS)
    theirs = ask(metric, heatmap, s_batch=mask[:, None].numpy())
    np.testing.assert_allclose(content_heatmap(heatmap, mask).numpy(), theirs, rtol=1e-12)
    signed = heatmap - heatmap.mean(dim=(1, 2), keepdim=True) * 0.9
    theirs = ask(metric, signed, s_batch=mask[:, None].numpy())
    assert not np.allclose(content_heatmap(signed, mask).numpy(), theirs, rtol=0.1)  # they divide signed sums


@pytest.mark.parametrize("k", [1, 57, 300])
def test_top_k_is_top_k_intersection(quantus: ModuleType, k: int) -> None:
    """Of signed maps: both rank values, not magnitudes."""
    heatmap, mask = maps_and_masks()
    heatmap = heatmap - heatmap.mean(dim=(1, 2), keepdim=True)
    theirs = ask(quantus.TopKIntersection(k=k, **OPTIONS), heatmap, s_batch=mask[:, None].numpy())
    np.testing.assert_allclose(top_k(heatmap, mask, k=k).numpy(), theirs, rtol=1e-12)
    assert not np.allclose(top_k(-heatmap, mask, k=k).numpy(), theirs)


def test_relevance_rank_is_relevance_rank_accuracy(quantus: ModuleType) -> None:
    heatmap, mask = maps_and_masks()
    heatmap = heatmap - heatmap.mean(dim=(1, 2), keepdim=True)
    theirs = ask(quantus.RelevanceRankAccuracy(**OPTIONS), heatmap, s_batch=mask[:, None].numpy())
    np.testing.assert_allclose(relevance_rank(heatmap, mask).numpy(), theirs, rtol=1e-12)
    assert not np.allclose(relevance_rank(-heatmap, mask).numpy(), theirs)


def test_of_equal_values_they_take_whatever_their_sort_puts_first(quantus: ModuleType) -> None:
    """Turning a map of equal values, but for one, and its mask by 180° changes their score; ours is chance."""
    mask = torch.zeros(40, 24, 24, dtype=torch.bool)
    mask[:, :6] = True  # a quarter of the pixels
    heatmap, metric = torch.full((40, 24, 24), 0.5), quantus.TopKIntersection(k=100, **OPTIONS)
    heatmap[:, 12, 12] = 0.6  # they refuse a map that is constant throughout
    turned = (mask, mask.flip(1, 2))
    theirs = [np.mean(ask(metric, heatmap, s_batch=each[:, None].numpy())) for each in turned]
    ours = [top_k(heatmap, each, k=100).mean().item() for each in turned]
    assert abs(theirs[0] - theirs[1]) > 0.1
    assert ours == pytest.approx([0.25, 0.25], abs=4 * (0.25 * 0.75 / 100 / 40) ** 0.5)


@pytest.mark.parametrize("size", [(24, 24), (13, 19)])
def test_negative_quadrants_heatmap_is_what_focus_leaves(quantus: ModuleType, size: tuple[int, int]) -> None:
    """Focus is the positive share in the cells named 1. Signed maps, and odd sides, where the first half is shorter."""
    heatmap, _ = maps_and_masks(size)
    heatmap = heatmap - heatmap.mean(dim=(1, 2), keepdim=True)
    cell = torch.arange(60) % 4
    positions = [tuple(row) for row in torch.nn.functional.one_hot(cell, 4).tolist()]
    theirs = ask(quantus.Focus(**OPTIONS), heatmap, custom_batch=positions)
    np.testing.assert_allclose(1 - negative_quadrants_heatmap(heatmap, cell).numpy(), theirs, rtol=1e-6)
    assert not np.allclose(1 - negative_quadrants_heatmap(heatmap, 3 - cell).numpy(), theirs, rtol=0.01)
