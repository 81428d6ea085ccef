"""Every texture is what its name says, repeats itself, and is told apart from the others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from interpeval.datasets.textures import PERIODS, TEXTURES, texture

SIDE = 56
NAMES = list(TEXTURES)


def shown(name: str, *, length: float = 0.5, row: float = 0.5, column: float = 0.5) -> NDArray[np.float64]:
    kinds = np.array([NAMES.index(name)])
    return texture(kinds, np.array([[length, row, column]]), side=SIDE)[0]


def slow(name: str, y: float, x: float) -> float:
    """The textures once more, pixel by pixel, in periods from their middle."""

    def tent(t: float) -> float:  # 1 at whole numbers, 0 between them
        return 1 - 2 * min(t % 1, 1 - t % 1)

    return {
        "rows": lambda: tent(y),
        "columns": lambda: tent(x),
        "rising": lambda: tent(0.7 * (x + y)),
        "falling": lambda: tent(0.7 * (x - y)),
        "checks": lambda: float((1.4 * y // 1 + 1.4 * x // 1) % 2),
        "dots": lambda: min(max(1.5 - 12 * ((y % 1 - 0.5) ** 2 + (x % 1 - 0.5) ** 2), 0.0), 1.0),
        "rings": lambda: tent(float(np.hypot(y, x))),
        "bricks": lambda: float(1.5 * y % 1 < 0.25 or (0.75 * x + (1.5 * y // 1 % 2) / 2) % 1 < 0.12),
        "zigzags": lambda: tent(y + tent(x)),
        "grid": lambda: float(y % 1 < 0.25 or x % 1 < 0.25),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_a_texture_is_its_definition(name: str) -> None:
    length, row, column = 0.3, 0.21, 0.83
    period = PERIODS[0] + length * (PERIODS[1] - PERIODS[0])
    expected = [
        [slow(name, (y - SIDE * row) / period, (x - SIDE * column) / period) for x in range(SIDE)] for y in range(SIDE)
    ]
    np.testing.assert_allclose(shown(name, length=length, row=row, column=column), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "step"), [("rows", (0, 1)), ("columns", (1, 0)), ("rising", (1, -1)), ("falling", (1, 1))]
)
def test_stripes_run_the_way_they_are_called(name: str, step: tuple[int, int]) -> None:
    """Rising ones go up to the right: rows are counted downwards."""
    image = shown(name)
    down, right = step
    start, end = max(0, -right), SIDE - max(0, right)
    moved = image[down:, start + right : end + right]
    np.testing.assert_allclose(moved, image[: SIDE - down, start:end], atol=1e-9)
    assert image.max() - image.min() > 0.9


def test_textures_repeat_after_their_length_in_pixels() -> None:
    """A length draw near 0 means 8 pixels; rings are the one texture that does not repeat itself in both directions."""
    for name in set(NAMES) - {"rising", "falling", "checks", "bricks", "rings"}:
        image = shown(name, length=0.0)
        np.testing.assert_allclose(image[8:, 8:], image[:-8, :-8], atol=1e-9)
        assert not np.allclose(image[5:, 5:], image[:-5, :-5], atol=0.1)


def test_textures_of_a_batch_are_those_of_each() -> None:
    draws = np.random.default_rng(0).random((20, 3))
    kinds = np.arange(20) % 10
    together = texture(kinds, draws, side=SIDE)
    assert 0 <= together.min() < together.max() <= 1
    for row in range(20):
        assert np.array_equal(texture(kinds[[row]], draws[[row]], side=SIDE)[0], together[row])
