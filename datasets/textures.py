"""Ten classes of texture, drawn by arithmetic alone, so that all machines agree to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PERIODS = (8.0, 14.0)
"""Least and greatest length in pixels after which a texture repeats itself."""


def _saw(positions: Floats) -> Floats:
    """Rise from 0 to 1 from every whole number to the next."""
    return positions - np.floor(positions)


def _tent(positions: Floats) -> Floats:
    """Fall from 1 at every whole number to 0 halfway to the next, and rise again."""
    return np.abs(2 * _saw(positions) - 1)


def _rows(y: Floats, x: Floats) -> Floats:
    return _tent(y) + 0 * x


def _columns(y: Floats, x: Floats) -> Floats:
    return _tent(x) + 0 * y


def _rising(y: Floats, x: Floats) -> Floats:
    return _tent(0.7 * (x + y))


def _falling(y: Floats, x: Floats) -> Floats:
    return _tent(0.7 * (x - y))


def _checks(y: Floats, x: Floats) -> Floats:
    return (np.floor(1.4 * y) + np.floor(1.4 * x)) % 2


def _dots(y: Floats, x: Floats) -> Floats:
    return np.clip(1.5 - 12 * ((_saw(y) - 0.5) ** 2 + (_saw(x) - 0.5) ** 2), 0, 1)


def _rings(y: Floats, x: Floats) -> Floats:
    return _tent(np.sqrt(y**2 + x**2))


def _bricks(y: Floats, x: Floats) -> Floats:
    layer = np.floor(1.5 * y)
    return np.where((_saw(1.5 * y) < 0.25) | (_saw(0.75 * x + 0.5 * (layer % 2)) < 0.12), 1.0, 0.0)


def _zigzags(y: Floats, x: Floats) -> Floats:
    return _tent(y + _tent(x))


def _grid(y: Floats, x: Floats) -> Floats:
    return np.where((_saw(y) < 0.25) | (_saw(x) < 0.25), 1.0, 0.0)


TEXTURES: Mapping[str, Callable[[Floats, Floats], Floats]] = MappingProxyType(
    {
        "rows": _rows,
        "columns": _columns,
        "rising": _rising,
        "falling": _falling,
        "checks": _checks,
        "dots": _dots,
        "rings": _rings,
        "bricks": _bricks,
        "zigzags": _zigzags,
        "grid": _grid,
    }
)
"""What each class shows at places `y` `(n, H, 1)` and `x` `(n, 1, W)`, in periods from its middle: 0 to 1."""


def texture(kinds: Integers, draws: Floats, *, side: int) -> Floats:
    """Draw textures that repeat themselves after a random length, around a random place.

    Args:
        kinds: `(N,)` index into `TEXTURES`.
        draws: `(N, 3)` numbers in (0, 1): for the length, and for row and column of the place.
        side: height and width in pixels.

    Returns:
        `(N, side, side)` numbers from 0 to 1, how much of the second of two colours there is.

    Example:
        >>> rows, columns = texture(np.array([0, 1]), np.full((2, 3), 0.5), side=6)
        >>> bool((rows == columns.T).all())
        True
    """
    least, most = PERIODS
    period = (least + draws[:, 0] * (most - least))[:, None]
    pixel = np.arange(side, dtype=np.float64)
    y, x = ((pixel - side * draws[:, [axis]]) / period for axis in (1, 2))
    share = np.empty((len(kinds), side, side))
    for kind, draw in enumerate(TEXTURES.values()):
        chosen = kinds == kind
        share[chosen] = draw(y[chosen, :, None], x[chosen, None, :])
    return share
