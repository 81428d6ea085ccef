"""The masks of RISE, TorchRay's RISE and RELAX, one at a time and with other people's interpolation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates


def n_shifts(side: int, n_cells: int, enlargement: str) -> int:
    """At how many places along an axis a window may be cut."""
    return 2 * (n_cells // 2) + 1 if enlargement == "relax" else math.ceil(side / n_cells)


def mask_of(grid: np.ndarray, top: int, left: int, size: tuple[int, int], enlargement: str) -> np.ndarray:
    """One mask, enlarged whole and then cut."""
    cells = len(grid)
    if enlargement == "relax":
        enlarged = F.interpolate(torch.tensor(grid)[None, None], size=size, mode="bilinear", align_corners=False)
        frame = cells // 2
        whole = F.pad(enlarged, (frame,) * 4, mode="reflect")[0, 0].numpy()
    else:
        axes = []
        for side in size:
            cell = math.ceil(side / cells)
            length = (cells + 1) * cell if enlargement == "rise" else side + cell
            pixels_per_cell = length / cells if enlargement == "rise" else math.ceil(length / cells)
            axes.append([(pixel + 0.5) / pixels_per_cell - 0.5 for pixel in range(length)])
        whole = map_coordinates(grid, np.meshgrid(*axes, indexing="ij"), order=1, mode="mirror")
    return whole[top : top + size[0], left : left + size[1]]


def second_moment(size: tuple[int, int], n_cells: int, p: float, enlargement: str) -> np.ndarray:
    """`E[m_i m_j]` of all pairs of pixels: every cell's share in a mask, averaged over all shifts.

    A mask is the sum of its kept cells' shares, which add up to 1 in every pixel; cells are independent.
    """
    total = np.zeros((size[0] * size[1],) * 2)
    shifts = [range(n_shifts(side, n_cells, enlargement)) for side in size]
    for top, left in itertools.product(*shifts):
        for cell in range(n_cells**2):
            grid = np.zeros(n_cells**2)
            grid[cell] = 1
            share = mask_of(grid.reshape(n_cells, n_cells), top, left, size, enlargement).ravel()
            total += np.outer(share, share)
    return p**2 + p * (1 - p) * total / (len(shifts[0]) * len(shifts[1]))
