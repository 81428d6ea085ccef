"""Warps pixel by pixel, in float64, from the definition."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, floor, radians, sin, tan

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Place = Callable[[int, int], tuple[float, float]]


def place_of_matrix(matrix: Floats, size: tuple[int, int]) -> Place:
    """Where an output pixel (row, column) is read from, by a matrix in coordinates of [-1, 1]."""
    height, width = size

    def place(row: int, column: int) -> tuple[float, float]:
        x, y = 2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1
        u = matrix[0][0] * x + matrix[0][1] * y + matrix[0][2]
        v = matrix[1][0] * x + matrix[1][1] * y + matrix[1][2]
        return (v + 1) / 2 * (height - 1), (u + 1) / 2 * (width - 1)

    return place


def place_in_pixels(
    size: tuple[int, int],
    angle: float,
    shift: tuple[float, float],
    scale: float = 1.0,
    shear: float = 0.0,
    flip: bool = False,
) -> Place:
    """The same from the parameters, in pixels from the centre: mirror and shrink, then shear, turn, shift."""
    height, width = size
    t = radians(angle)

    def place(row: int, column: int) -> tuple[float, float]:
        x, y = (column - (width - 1) / 2) / scale, (row - (height - 1) / 2) / scale
        x = -x if flip else x
        x = x + tan(radians(shear)) * y
        u, v = cos(t) * x - sin(t) * y, sin(t) * x + cos(t) * y
        u, v = u + shift[0] * (width - 1), v + shift[1] * (height - 1)
        return v + (height - 1) / 2, u + (width - 1) / 2

    return place


def warp(image: Floats, place: Place, fill: Floats) -> Floats:
    """Warp one `(C, H, W)` image bilinearly; outside of it every channel has its `fill`."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = place(row, column)
                for i in (floor(y), floor(y) + 1):
                    for j in (floor(x), floor(x) + 1):
                        inside = 0 <= i < height and 0 <= j < width
                        value = image[channel, i, j] if inside else fill[channel]
                        result[channel, row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * value
    return result


def valid_region(place: Place, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a warped image of ones, surrounded by zeros, stays above 0.999."""
    return warp(np.ones((1, *size)), place, np.zeros(1))[0] > 0.999
