"""ProtoVAE's similarity, losses and start of its explanation (METHODS E.1, E.2), in float64 and with loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def similarities(latent: Array, prototypes: Array) -> list[float]:
    """Similarity of one `(L,)` latent to `(P, L)` prototypes."""
    found = []
    for prototype in prototypes:
        distance = math.sqrt(sum((z - p) ** 2 for z, p in zip(latent, prototype, strict=True)))
        found.append(math.log((distance + 1) / (distance + 1e-4)))
    return found


def losses(
    means: Array,
    log_variances: Array,
    latents: Array,
    decoded: Array,
    images: Array,
    labels: Sequence[int],
    prototypes: Array,
    classifier: Array,
    per_class: int,
) -> tuple[float, float, float, float]:
    """Cross-entropy, reconstruction, divergence and orthonormality; `decoded` in [-1, 1], `images` in [0, 1]."""
    size, classes = len(labels), len(prototypes) // per_class
    cross_entropy = divergence = 0.0
    for b, label in enumerate(labels):
        s = similarities(latents[b], prototypes)
        logits = [sum(classifier[k, j] * s[j] for j in range(len(s))) for k in range(classes)]
        cross_entropy += math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
        weighted = total = 0.0
        for j in range(len(prototypes)):
            if j // per_class == label:
                weighted += s[j] * gaussian_divergence(means[b], np.exp(log_variances[b] / 2), prototypes[j])
                total += s[j]
        divergence += weighted / total
    errors = [(d - (2 * x - 1)) ** 2 for d, x in zip(decoded.ravel(), images.ravel(), strict=True)]
    return cross_entropy / size, sum(errors) / len(errors), divergence / size, orthonormality(prototypes, per_class)


def gaussian_divergence(mean: Array, deviation: Array, centre: Array) -> float:
    """Mean over elements of KL(N(mean, deviation²) || N(centre, 1))."""
    found = [
        -math.log(sigma) + (sigma**2 + (mu - p) ** 2) / 2 - 1 / 2
        for mu, sigma, p in zip(mean, deviation, centre, strict=True)
    ]
    return sum(found) / len(found)


def orthonormality(prototypes: Array, per_class: int) -> float:
    """Mean over classes of the Frobenius norm of the Gram matrix of centred prototypes less the unit matrix."""
    norms = []
    for start in range(0, len(prototypes), per_class):
        own = prototypes[start : start + per_class]
        centred = [row - sum(own) / per_class for row in own]
        squares = 0.0
        for i, first in enumerate(centred):
            for j, second in enumerate(centred):
                squares += (sum(a * b for a, b in zip(first, second, strict=True)) - (i == j)) ** 2
        norms.append(math.sqrt(squares))
    return sum(norms) / len(norms)


def start_of_relevance(latent: Array, prototypes: Array, weights: Sequence[float]) -> Array:
    """Relevance of the elements of one latent, each prototype counting by its weight."""
    relevance = np.zeros_like(latent)
    for prototype, weight in zip(prototypes, weights, strict=True):
        closeness = [1 / ((z - p) ** 2 + 1e-4) for z, p in zip(latent, prototype, strict=True)]
        for place, value in enumerate(closeness):
            relevance[place] += weight * value / sum(closeness)
    return relevance
