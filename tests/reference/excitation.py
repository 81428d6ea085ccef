"""Excitation backpropagation, unit by unit."""

from __future__ import annotations

import numpy as np


def matrix_of(linear, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a linear map, from what it makes of each unit vector; `linear` takes and returns arrays."""
    columns = []
    for i in range(int(np.prod(shape))):
        unit = np.zeros(int(np.prod(shape)))
        unit[i] = 1.0
        columns.append(linear(unit.reshape(shape)).ravel())
    return np.stack(columns, axis=1)


def choose(p: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the inputs `x` of a layer with a `(units, inputs)` matrix get of the probabilities of its units."""
    below = np.zeros(x.size)
    for j in range(len(weights)):
        excited = [x.ravel()[i] * max(weights[j, i], 0.0) for i in range(x.size)]
        for i in range(x.size):
            if sum(excited) > 0:
                below[i] += p.ravel()[j] * excited[i] / sum(excited)
    return below.reshape(x.shape)


def divide(p: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What two branches get of the probabilities of their sum."""
    shares = np.zeros(p.size), np.zeros(p.size)
    for i in range(p.size):
        values = max(left.ravel()[i], 0.0), max(right.ravel()[i], 0.0)
        for share, value in zip(shares, values, strict=True):
            share[i] = p.ravel()[i] * value / sum(values) if sum(values) > 0 else 0.0
    return shares[0].reshape(p.shape), shares[1].reshape(p.shape)


def pooled_maximum(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What the `(C, H, W)` inputs of a 2×2 max-pooling get: the largest of each window gets all."""
    below = np.zeros_like(x)
    for k, r, c in np.ndindex(p.shape):
        window = x[k, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2]
        row, column = np.unravel_index(window.argmax(), window.shape)
        below[k, 2 * r + row, 2 * c + column] += p[k, r, c]
    return below
