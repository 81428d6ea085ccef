"""Top-1 accuracy: how good the model itself is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..baselines.base import Interpretable
from .base import Evidence, Metric, Scores, nan_where, status_of


@dataclass(frozen=True)
class Accuracy(Metric):
    """Top-1 accuracy `[argmax f(x) = y]` of the model, without any explanation; higher is better, in [0, 1].

    Variants: `""`, and `interpreter` for a model that has one: the accuracy `[argmax g(x) = y]` of the interpreter g.

    A sample is invalid when one of its logits is NaN. Does not apply where samples have several labels: `f1` does.

    Example:
        >>> Accuracy().facts("").higher_is_better
        True
    """

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"label"})
    reference: ClassVar[str] = ""

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        scores = {"": _scores(evidence.logits, evidence.targets("label"))}
        if isinstance(evidence.model, Interpretable):
            scores["interpreter"] = _scores(evidence.interpretation.logits, evidence.targets("label"))
        return scores


def _scores(logits: Tensor, labels: Tensor) -> Scores:
    invalid = logits.isnan().any(dim=1)
    return Scores(
        nan_where(logits.argmax(dim=1) == labels, invalid), status_of(len(logits), logits.device, invalid=invalid)
    )
