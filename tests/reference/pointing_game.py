"""The pointing game family for one sample, written from METRICS §3: loops over all pixels, no geometry shared."""

from __future__ import annotations

from math import hypot

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def is_near(mask: Bools, y: int, x: int, tolerance: float, *, inclusive: bool = False) -> bool:
    """Whether any pixel of the mask lies close enough to (y, x)."""
    distances = [hypot(y - i, x - j) for i, j in np.argwhere(mask)]
    return any(d <= tolerance if inclusive else d < tolerance for d in distances)


def near_mask(mask: Bools, tolerance: float, *, inclusive: bool = False) -> Bools:
    """Which pixels lie close enough to the mask."""
    return np.array([[is_near(mask, y, x, tolerance, inclusive=inclusive) for x in range(mask.shape[1])]
                     for y in range(mask.shape[0])])  # fmt: skip


def pointing_game(heatmap: Floats, mask: Bools, tolerance: float, *, inclusive: bool = False, ties: str) -> float:
    """Hit or miss of the maximum; of several, their share, the first, or any."""
    best = max(heatmap[y, x] for y in range(heatmap.shape[0]) for x in range(heatmap.shape[1]))
    hits = [
        is_near(mask, y, x, tolerance, inclusive=inclusive)
        for y in range(heatmap.shape[0])
        for x in range(heatmap.shape[1])
        if heatmap[y, x] == best
    ]
    return {"expected": sum(hits) / len(hits), "first": float(hits[0]), "any": float(any(hits))}[ties]


def share_in(heatmap: Floats, region: Bools) -> float:
    """Share of the positive mass in a region; 0 without any mass."""
    inside = total = 0.0
    for y in range(heatmap.shape[0]):
        for x in range(heatmap.shape[1]):
            total += max(heatmap[y, x], 0.0)
            inside += max(heatmap[y, x], 0.0) * region[y, x]
    return inside / total if total else 0.0


def stochastic_pointing_game(heatmap: Floats, mask: Bools, tolerance: float) -> float:
    """Expected share of drawn pixels that lie close enough to the mask."""
    return share_in(heatmap, near_mask(mask, tolerance))


def drawn_pixel(heatmap: Floats, number: float) -> tuple[int, int]:
    """The pixel that a uniform number draws from the positive part, by walking through it in row-major order."""
    total = sum(max(value, 0.0) for value in heatmap.flat)
    walked = 0.0
    for y in range(heatmap.shape[0]):
        for x in range(heatmap.shape[1]):
            walked += max(heatmap[y, x], 0.0)
            if walked > number * total:
                return y, x
    raise ValueError("the number must be below 1")


def negative_quadrants_heatmap(heatmap: Floats, cell: int) -> float:
    """Share of the positive mass in the three other cells; 1 without any mass."""
    height, width = heatmap.shape
    other = np.array(
        [[(y >= height // 2) * 2 + (x >= width // 2) != cell for x in range(width)] for y in range(height)]
    )
    return share_in(heatmap, other) if (heatmap > 0).any() else 1.0
