"""F1: how good the model itself is where classes are rare, or samples have several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Evidence, Metric, Scores, nan_where, status_of


def f1_counts(predicted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count what F1 is made of: `2 TP` and `2 TP + FP + FN`, for every sample and class.

    Added up over samples (and classes), the first divided by the second is F1.

    Args:
        predicted: `(B, K)` bool, which classes are predicted.
        labels: `(B, K)` bool, which classes are there.

    Returns:
        Two `(B, K)` float64 tensors with values in {0, 2} and {0, 1, 2}.

    Raises:
        TypeError: an argument is not bool; `torch.nn.functional.one_hot(classes, K).bool()` makes it so.
        ValueError: the shapes differ or are not `(B, K)`.

    Example:
        >>> hits, all_ = f1_counts(torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]]))
        >>> hits.tolist(), all_.tolist()
        ([[2.0, 0.0, 0.0]], [[2.0, 1.0, 0.0]])
    """
    if predicted.dtype != torch.bool or labels.dtype != torch.bool:
        raise TypeError(f"`predicted` and `labels` must be bool, were {predicted.dtype} and {labels.dtype}")
    if predicted.ndim != 2 or predicted.shape != labels.shape:
        raise ValueError(
            f"`predicted` and `labels` must both be (B, K), were {tuple(predicted.shape)} and {tuple(labels.shape)}"
        )
    return 2 * (predicted & labels).double(), predicted.double() + labels.double()


def f1_per_class(predicted: Tensor, labels: Tensor) -> Tensor:
    """Compute F1 of each class, `2 TP / (2 TP + FP + FN)`.

    Args:
        predicted: `(B, K)` bool, which classes are predicted.
        labels: `(B, K)` bool, which classes are there.

    Returns:
        `(K,)` float64 in [0, 1], higher is better; 0 where no prediction of the class is right; NaN for a class that
        is neither there nor predicted, about which the samples say nothing.

    Raises:
        TypeError, ValueError: as `f1_counts`.

    Example:
        >>> predicted = torch.tensor([[True, False, True, False], [True, False, False, False]])
        >>> labels = torch.tensor([[True, True, False, False], [False, False, False, False]])
        >>> f1_per_class(predicted, labels)
        tensor([0.6667, 0.0000, 0.0000,    nan], dtype=torch.float64)
    """
    hits, all_ = f1_counts(predicted, labels)
    return hits.sum(dim=0) / all_.sum(dim=0)


def f1_overall(predicted: Tensor, labels: Tensor) -> Tensor:
    """Compute F1 of all decisions together, `2 ΣTP / (2 ΣTP + ΣFP + ΣFN)`, sums over samples and classes.

    Args:
        predicted: `(B, K)` bool, which classes are predicted.
        labels: `(B, K)` bool, which classes are there.

    Returns:
        `()` float64 in [0, 1], higher is better; NaN where nothing is there and nothing predicted. Where every sample
        has one label and one prediction, it is the accuracy.

    Raises:
        TypeError, ValueError: as `f1_counts`.

    Example:
        >>> f1_overall(torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]]))
        tensor(0.6667, dtype=torch.float64)
    """
    hits, all_ = f1_counts(predicted, labels)
    return hits.sum() / all_.sum()


@dataclass(frozen=True)
class F1(Metric):
    """F1 of the model's predictions, `2 TP / (2 TP + FP + FN)`, without any explanation; higher is better, in [0, 1].

    Where samples have several labels, the predicted classes are those with a logit above 0; where they have one, it
    is the class of the largest logit.

    Variants: `"per_class"`, the mean of the F1 of the classes that are there or predicted (macro F1, a class without
    any right prediction counting 0); `"overall"`, F1 of all decisions together (micro F1; with one label per sample
    it is the accuracy).

    F1 is no mean over samples. What is kept of each are the counts that it is made of (`f1_counts`): the numerators
    of all classes, then the denominators, K of each for `"per_class"` and one of each for `"overall"`. The
    aggregation `"ratios"` divides their sums, in every resample of the samples anew.

    Departs from implementations that count a class which is neither there nor predicted as 0, and so depend on how
    many classes a dataset declares. A sample is invalid when a logit is NaN.

    Example:
        >>> F1().aggregations
        ('ratios',)
    """

    name: ClassVar[str] = "f1"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"classes"})
    reference: ClassVar[str] = "van Rijsbergen, Information Retrieval, 2nd edition, 1979"
    aggregations: ClassVar[tuple[str, ...]] = ("ratios",)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Count for every sample of the batch."""
        logits, labels = evidence.logits, evidence.batch.labels
        several = labels.ndim == 2
        if several and labels.shape != logits.shape:
            raise ValueError(f"`Batch.labels` must be {tuple(logits.shape)} or (B,), was {tuple(labels.shape)}")
        hits, all_ = f1_counts(
            logits > 0 if several else _one_of(logits.argmax(dim=1), logits.shape[1]),
            labels.bool() if several else _one_of(labels, logits.shape[1]),
        )
        invalid = logits.isnan().any(dim=1)
        status = status_of(len(logits), logits.device, invalid=invalid)
        counts = {
            "per_class": torch.cat([hits, all_], dim=1),
            "overall": torch.stack([hits.sum(dim=1), all_.sum(dim=1)], dim=1),
        }
        return {
            variant: Scores(nan_where(values, invalid), status, steps=tuple(map(float, range(values.shape[1]))))
            for variant, values in counts.items()
        }


def _one_of(classes: Tensor, n_classes: int) -> Tensor:
    """`(B, K)` bool, true at the class of each sample."""
    return F.one_hot(classes, n_classes).bool()
