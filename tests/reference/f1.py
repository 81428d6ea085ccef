"""F1 from METRICS §8, by counting decisions one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


def f1(predicted: Bools, labels: Bools) -> float:
    """`2 P R / (P + R)` with precision P and recall R; 0 without a true positive, NaN where nothing is decided."""
    true = false = missed = 0
    for said, there in zip(predicted.ravel(), labels.ravel(), strict=True):
        true += said and there
        false += said and not there
        missed += there and not said
    if true == false == missed == 0:
        return float("nan")
    if true == 0:
        return 0.0
    precision, recall = true / (true + false), true / (true + missed)
    return 2 * precision * recall / (precision + recall)


def f1_per_class(predicted: Bools, labels: Bools) -> list[float]:
    """F1 of each column."""
    return [f1(predicted[:, c], labels[:, c]) for c in range(labels.shape[1])]
