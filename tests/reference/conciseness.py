"""Relevance and conciseness of one sample, and global relevance, from METRICS §5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def alphas(activations: Floats, weights: Floats, target: int) -> list[float]:
    """`α_j = φ_j w_{j,target}`."""
    return [float(activations[j]) * float(weights[j, target]) for j in range(len(activations))]


def relevance(activations: Floats, weights: Floats, target: int) -> list[float]:
    """`α_j / max_i |α_i|`."""
    alpha = alphas(activations, weights, target)
    largest = max(abs(a) for a in alpha)
    return [a / largest if largest else 0.0 for a in alpha]


def conciseness(relevances: list[float], tau: float, *, absolute: bool = False) -> int:
    """How many are above 1/τ."""
    return sum(1 for r in relevances if (abs(r) if absolute else r) > 1 / tau)


def published_count(alpha: list[float], tau: float, *, absolute: bool = False) -> int:
    """What the released code counts: the script (signed), or the demonstration (absolute)."""
    shown = [abs(a) for a in alpha] if absolute else alpha
    return sum(1 for a in shown if a > max(shown) / tau)


def global_relevance(relevances: list[list[float]], classes: list[int], c: int) -> list[float]:
    """Mean over the samples of class c; NaN without any."""
    mine = [r for r, own in zip(relevances, classes, strict=True) if own == c]
    return [sum(r[j] for r in mine) / len(mine) if mine else float("nan") for j in range(len(relevances[0]))]
