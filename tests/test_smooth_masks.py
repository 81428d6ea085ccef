"""`SmoothMasks`: the definition pixel by pixel, and that it prefers no place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from interpeval.baselines.smooth_masks import SmoothMasks


def restated(grid, size, step, sigma):
    """The definition, pixel by pixel; beyond the border the grid is mirrored at the border."""
    reach, (rows, columns) = math.ceil(sigma / step) + 1, grid.shape
    mask = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            values = []
            for i in range(y // step - reach, y // step + reach + 1):
                for j in range(x // step - reach, x // step + reach + 1):
                    centre = [k * step + (step - 1) / 2 for k in (i, j)]
                    distance = math.hypot(y - centre[0], x - centre[1])
                    folded = [k % (2 * n) for k, n in ((i, rows), (j, columns))]
                    inside = [min(k, 2 * n - 1 - k) for k, n in zip(folded, (rows, columns), strict=True)]
                    values.append(math.exp(-2 * max(0, distance / sigma - 0.5) ** 2) * grid[tuple(inside)])
            shares = np.exp(20 * np.array(values))
            mask[y, x] = (shares * values).sum() / shares.sum()
    return mask


@pytest.mark.parametrize(("size", "step", "sigma"), [((9, 7), 2, 3.0), ((8, 8), 3, 2.0), ((5, 6), 1, 2.5)])
def test_masks_are_the_definition_pixel_by_pixel(size, step, sigma):
    masks_of = SmoothMasks(size, step=step, sigma=sigma, like=torch.zeros(1, dtype=torch.float64))
    grids = torch.rand(2, *masks_of.grid_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for grid, mask in zip(grids.numpy(), masks_of(grids).numpy(), strict=True):
        np.testing.assert_allclose(mask, restated(grid, size, step, sigma), atol=1e-12)


def test_a_single_point_makes_a_disc_that_fades():
    masks_of = SmoothMasks((63, 63), step=7, sigma=21.0, like=torch.zeros(1))
    grid = torch.zeros(1, 9, 9)
    grid[0, 4, 4] = 1  # at pixel (31, 31)
    mask = masks_of(grid)[0]
    assert float(mask[31, 31:42].min()) > 0.99  # half of sigma
    assert float(mask[31, 31 + 21]) < 0.7
    assert bool((mask[31, 31:].diff() < 1e-6).all())


def test_equal_points_make_a_mask_that_repeats_from_cell_to_cell_up_to_the_border():
    masks_of = SmoothMasks((28, 21), step=7, sigma=10.0, like=torch.zeros(1, dtype=torch.float64))
    mask = masks_of(torch.full((1, 4, 3), 0.7, dtype=torch.float64))[0]
    cell = mask[7:14, 7:14]
    torch.testing.assert_close(mask, cell.repeat(4, 3), rtol=0, atol=1e-12)
