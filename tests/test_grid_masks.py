"""`draw_masks`: what the masks are, how they are distributed, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from interpeval.baselines.grid_masks import draw_masks, scored_masks
from interpeval.datasets.philox import uniform
from reference.grid_masks import mask_of, n_shifts, second_moment

RULES = ["rise", "torchray", "relax"]


def draw(rule, *, n=400, size=(11, 8), cells=3, p=0.4, key=5, stream="test", dtype=torch.float64):
    """Some masks of one sample."""
    return draw_masks(
        torch.tensor(key), n, size, stream=stream, enlargement=rule, n_cells=cells, p=p, dtype=dtype
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("size", "cells"), [((11, 8), 3), ((8, 8), 4), ((5, 9), 1), ((32, 30), 7)])
def test_masks_are_the_grid_enlarged_whole_and_cut_at_the_shift(rule, size, cells):
    masks = draw(rule, n=6, size=size, cells=cells)
    shares = uniform(0, "test", torch.tensor([5] * 6), torch.arange(6), cells**2 + 2).numpy()
    for index, mask in enumerate(masks.enlarged(slice(0, 6)).numpy()):
        grid = (shares[index, : cells**2] < 0.4).reshape(cells, cells).astype(float)
        top, left = (
            int(share * n_shifts(side, cells, rule)) for share, side in zip(shares[index, -2:], size, strict=True)
        )
        np.testing.assert_allclose(mask, mask_of(grid, top, left, size, rule), atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_mean_and_covariance_of_the_pixels_are_those_of_independent_cells(rule):
    n, p = 20000, 0.4
    flat = draw(rule, n=n, p=p, size=(6, 5)).enlarged(slice(0, n)).flatten(1)
    exact = torch.tensor(second_moment((6, 5), 3, p, rule))
    products = flat[:, :, None] * flat[:, None]
    errors = (products.mean(dim=0) - exact) / (products.std(dim=0) / n**0.5)
    assert float(errors.abs().max()) < 4.5
    assert float(((flat.mean(dim=0) - p) / (flat.std(dim=0) / n**0.5)).abs().max()) < 4
    other = torch.tensor(second_moment((6, 5), 3, p, RULES[RULES.index(rule) - 1]))
    assert float(((products.mean(dim=0) - other) / (products.std(dim=0) / n**0.5)).abs().max()) > 4.5


@pytest.mark.parametrize("rule", RULES)
def test_every_shift_along_both_axes_is_as_likely(rule):
    masks = draw(rule, n=7200)
    for shifts, side in ((masks.top, 11), (masks.left, 8)):
        counts = torch.bincount(shifts, minlength=n_shifts(side, 3, rule))
        assert len(counts) == n_shifts(side, 3, rule)
        assert chisquare(counts.numpy()).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack((masks.top, masks.left)).double())[0, 1])) < 4 / 7200**0.5


def test_relax_moves_by_six_pixels_at_most_and_rise_by_a_cell():
    assert int(draw("relax", n=4000, size=(224, 224), cells=7, dtype=torch.float32).top.max()) == 6
    assert int(draw("rise", n=4000, size=(224, 224), cells=7, dtype=torch.float32).top.max()) == 31


def test_a_mask_depends_on_key_stream_and_number_and_on_nothing_else():
    few, many = draw("rise", n=3), draw("rise", n=50)
    assert torch.equal(few.enlarged(slice(0, 3)), many.enlarged(slice(0, 3)))
    assert torch.equal(many.enlarged(slice(7, 9)), many.enlarged(slice(0, 50))[7:9])
    for other in (draw("rise", n=3, key=6), draw("rise", n=3, stream="other")):
        assert not torch.equal(other.grids, few.grids)


def test_masks_come_in_portions_with_the_scores_of_what_they_leave():
    masks, image = draw("rise", n=5), torch.randn(2, 11, 8, dtype=torch.float64)
    portions = list(scored_masks(masks, image, lambda some: some.sum(dim=(1, 2, 3)), batch_size=2))
    assert [len(scores) for scores, _ in portions] == [2, 2, 1]
    flat = torch.cat([part for _, part in portions])
    assert torch.equal(flat, masks.enlarged(slice(0, 5)).flatten(1))
    expected = flat @ image.sum(dim=0).flatten()
    torch.testing.assert_close(torch.cat([scores for scores, _ in portions]), expected)


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"`p` must be in \(0, 1\], was 0"):
        draw("rise", p=0)
    with pytest.raises(ValueError, match="`enlargement` must be one of"):
        draw("nearest")
    with pytest.raises(ValueError, match="`n_cells` must be below 4 for an image of 2 pixels, was 5"):
        draw("relax", size=(2, 9), cells=5)
