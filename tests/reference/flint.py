"""FLINT's loss and its pictures of attributes, from METHODS B.2 to B.4, in float64 and with loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def entropy(values: list[float]) -> float:
    """Of the softmax."""
    return -sum(p * math.log(p) for p in softmax(values))


def cross_entropy(logits: list[list[float]], labels: list[int]) -> float:
    return -sum(math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)) / len(labels)


def output_fidelity(predictor: list[list[float]], interpreter: list[list[float]]) -> float:
    total = 0.0
    for f, g in zip(predictor, interpreter, strict=True):
        for p, q in zip(softmax(f), softmax(g), strict=True):
            total -= p * math.log(q)
    return total / len(predictor)


def diversity(activations: list[list[float]], spread: float) -> float:
    magnitudes = [[abs(value) for value in row] for row in activations]
    each = sum(entropy(row) for row in magnitudes) / len(magnitudes)
    average = [sum(row[j] for row in magnitudes) / len(magnitudes) for j in range(len(magnitudes[0]))]
    return each - spread * entropy(average)


def mean_magnitude(activations: list[list[float]]) -> float:
    """Over samples and attributes."""
    return sum(abs(value) for row in activations for value in row) / (len(activations) * len(activations[0]))


def mean_square(first: Floats, second: Floats) -> float:
    differences = [(a - b) ** 2 for a, b in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True)]
    return sum(differences) / len(differences)


def gradient_of_penalties(image: Floats, low: float, high: float, bound: float, variation: float) -> Floats:
    """Of `bound · Bo + variation · TV` for one `(H, W)` image."""
    height, width = image.shape
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if not low <= image[i, j] <= high:
                result[i, j] += bound * np.sign(image[i, j]) / (height * width)
            if i + 1 < height:
                slope = variation * np.sign(image[i + 1, j] - image[i, j]) / ((height - 1) * width)
                result[i + 1, j] += slope
                result[i, j] -= slope
            if j + 1 < width:
                slope = variation * np.sign(image[i, j + 1] - image[i, j]) / (height * (width - 1))
                result[i, j + 1] += slope
                result[i, j] -= slope
    return result


def maximise(
    gradient: Callable[[Floats], Floats], image: Floats, factor: float, n_stages: int, n_iterations: int, rate: float
) -> Floats:
    """AM+PI for one `(H, W)` image, with the published weights; Adam is written out."""
    x = factor * image
    for stage in range(n_stages):
        first, second = np.zeros_like(x), np.zeros_like(x)
        for step in range(1, n_iterations + 1):
            slope = gradient_of_penalties(x, 0.0, 1.0, 10.0, 6.0) - 2.0 * gradient(x)
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope**2
            mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
            x = x - rate / 2**stage * mean / (np.sqrt(square) + 1e-8)
    return x
