"""ProtoPNet's logits, loss, push and pruning (METHODS F.2), in float64 and with loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def distance(patch: Array, prototype: Array) -> float:
    """Squared Euclidean distance."""
    return sum((z - p) ** 2 for z, p in zip(patch, prototype, strict=True))


def similarity(d: float) -> float:
    """Similarity of a squared distance."""
    return math.log((d + 1) / (d + 1e-4))


def smallest(patches: Array, prototype: Array) -> tuple[float, tuple[int, int]]:
    """The smallest distance from a patch of `(D, h, w)`, and its place."""
    places = list(np.ndindex(*patches.shape[1:]))
    found = [distance(patches[:, row, column], prototype) for row, column in places]
    best = found.index(min(found))
    return found[best], places[best]


def logits(patches: Array, prototypes: Array, classifier: Array) -> list[float]:
    """The logits of one image."""
    s = [similarity(smallest(patches, prototype)[0]) for prototype in prototypes]
    return [sum(weight * value for weight, value in zip(row, s, strict=True)) for row in classifier]


def loss(patches: Array, labels: Sequence[int], prototypes: Array, classifier: Array, per_class: int) -> float:
    """The loss of a batch of `(B, D, h, w)` patches."""
    cross_entropy = cluster = separation = 0.0
    for one, label in zip(patches, labels, strict=True):
        row = logits(one, prototypes, classifier)
        cross_entropy += math.log(sum(math.exp(value) for value in row)) - row[label]
        nearest = [smallest(one, prototype)[0] for prototype in prototypes]
        cluster += min(d for j, d in enumerate(nearest) if j // per_class == label)
        separation += min(d for j, d in enumerate(nearest) if j // per_class != label)
    size = len(labels)
    off_class = sum(abs(w) for k, row in enumerate(classifier) for j, w in enumerate(row) if j // per_class != k)
    return cross_entropy / size + 0.8 * cluster / size - 0.08 * separation / size + 1e-4 * off_class


def pushed(
    patches: Array, labels: Sequence[int], prototypes: Array, per_class: int
) -> list[tuple[int, tuple[int, int]]]:
    """For each prototype the image of its class, and the place in it, of the nearest patch."""
    found = []
    for j, prototype in enumerate(prototypes):
        candidates = [
            (*smallest(one, prototype), image)
            for image, (one, label) in enumerate(zip(patches, labels, strict=True))
            if label == j // per_class
        ]
        _, place, image = min(candidates, key=lambda candidate: candidate[0])
        found.append((image, place))
    return found


def kept(
    patches: Array, labels: Sequence[int], prototypes: Array, per_class: int, nearest: int, least: int
) -> list[bool]:
    """Which prototypes have at least `least` images of their class among the `nearest`."""
    found = []
    for j, prototype in enumerate(prototypes):
        order = sorted(range(len(patches)), key=lambda image: smallest(patches[image], prototype)[0])
        found.append(sum(labels[image] == j // per_class for image in order[:nearest]) >= least)
    return found
