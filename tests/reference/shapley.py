"""Shapley values of parts of an image, by their definition: all subsets of the other parts."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import torch


def shapley(model, image, target, labels, reference_input):
    """Return one value for each part of one `(C, H, W)` image, whose pixels `labels` number."""
    parts = sorted(set(labels.flatten().tolist()))
    values = []
    for part in parts:
        others = [other for other in parts if other != part]
        total = 0.0
        for size in range(len(others) + 1):
            for subset in combinations(others, size):
                weight = factorial(size) * factorial(len(others) - size) / factorial(len(parts))
                with_it = logit(model, image, target, labels, reference_input, {*subset, part})
                without = logit(model, image, target, labels, reference_input, set(subset))
                total += weight * (with_it - without)
        values.append(total)
    return values


def logit(model, image, target, labels, reference_input, shown):
    """Return the logit of the image that shows some parts and the reference input elsewhere."""
    partial = torch.full_like(image, reference_input)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            if int(labels[row, column]) in shown:
                partial[:, row, column] = image[:, row, column]
    with torch.no_grad():
        return float(model(partial[None])[0, target])
