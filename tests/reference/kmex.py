"""KMEx's prediction, class scores and diversity (METHODS E.3), in float64 and with loops."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from reference.protovae import similarities

Array = NDArray[np.float64]


def predicted(latent: Array, prototypes: Array, per_class: int) -> int:
    """Class of the nearest prototype."""
    distances = [sum((z - p) ** 2 for z, p in zip(latent, prototype, strict=True)) for prototype in prototypes]
    return distances.index(min(distances)) // per_class


def class_scores(latent: Array, prototypes: Array, per_class: int) -> list[float]:
    """Sum over the class's prototypes of the softmax of the similarities."""
    parts = [math.exp(s) for s in similarities(latent, prototypes)]
    return [sum(parts[k : k + per_class]) / sum(parts) for k in range(0, len(parts), per_class)]


def diversity(prototypes: Array) -> float:
    """Mean normalised entropy of the softmax of each prototype's similarities to all."""
    found = []
    for prototype in prototypes:
        parts = [math.exp(s) for s in similarities(prototype, prototypes)]
        shares = [part / sum(parts) for part in parts]
        found.append(-sum(share * math.log(share) for share in shares) / math.log(len(prototypes)))
    return sum(found) / len(found)
