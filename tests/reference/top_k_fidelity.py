"""Fidelity and top-k fidelity of one sample, from METRICS §5; ties by going through all orders of the tied classes."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def argmax(values: Floats) -> int:
    """The first of the largest."""
    best = 0
    for place, value in enumerate(values):
        if value > values[best]:
            best = place
    return best


def fidelity(predictor: Floats, interpreter: Floats) -> float:
    """Whether both predict the same class."""
    return float(argmax(predictor) == argmax(interpreter))


def top_k_fidelity(predictor: Floats, interpreter: Floats, k: int) -> float:
    """Mean over all orders of the classes that are descending under g of whether f's class is among the first k."""
    wanted = argmax(predictor)
    hits = [
        wanted in order[:k]
        for order in permutations(range(len(interpreter)))
        if all(interpreter[a] >= interpreter[b] for a, b in pairwise(order))
    ]
    return sum(hits) / len(hits)


def rank(logits: Floats, wanted: int) -> float:
    """Mean position, from 1, of a class in all descending orders."""
    places = [
        order.index(wanted) + 1
        for order in permutations(range(len(logits)))
        if all(logits[a] >= logits[b] for a, b in pairwise(order))
    ]
    return sum(places) / len(places)
