"""Cost: passes and time that an explanation takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base import Evidence, Metric, Scores, status_of


@dataclass(frozen=True)
class ExplanationCost(Metric):
    """Cost of explaining the predicted class of one image; lower is better, from 0.

    Variants: `"forward"` and `"backward"`, passes of the model per explanation, counted; `"seconds"`, wall time per
    explanation, measured. All samples of a batch carry the mean of their batch.

    Example:
        >>> ExplanationCost().facts("forward").higher_is_better
        False
    """

    name: ClassVar[str] = "cost"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = ""

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score the batch: variants `"forward"`, `"backward"`, `"seconds"`."""
        size, device = len(evidence.batch), evidence.batch.images.device
        return {
            variant: Scores(torch.full((size,), value, dtype=torch.float64, device=device), status_of(size, device))
            for variant, value in evidence.cost()._asdict().items()
        }
