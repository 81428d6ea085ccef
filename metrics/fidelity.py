"""Fidelity: does a model's interpreter predict what the model predicts?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Evidence, Metric, Scores, nan_where, status_of


def fidelity(predictor_logits: Tensor, interpreter_logits: Tensor) -> Tensor:
    """Compare the classes predicted by a predictor f and an interpreter g: `[argmax g = argmax f]`.

    Of several equal logits the first is the predicted one, as everywhere.

    Args:
        predictor_logits: `(B, K)` logits of f.
        interpreter_logits: `(B, K)` logits of g.

    Returns:
        `(B,)` float64, 1 or 0, higher is better; NaN where a logit is NaN.

    Raises:
        ValueError: the shapes differ or are not `(B, K)`.

    Example:
        >>> fidelity(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.1, 0.2], [0.1, 0.2]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    check_logits(predictor_logits, interpreter_logits)
    agree = predictor_logits.argmax(dim=1) == interpreter_logits.argmax(dim=1)
    return nan_where(agree, no_prediction(predictor_logits, interpreter_logits))


def check_logits(predictor_logits: Tensor, interpreter_logits: Tensor) -> None:
    """Refuse logits that are not of the same samples and classes.

    Example:
        >>> check_logits(torch.zeros(2, 3), torch.zeros(2, 4))
        Traceback (most recent call last):
        ValueError: `predictor_logits` and `interpreter_logits` must both be (B, K), were (2, 3) and (2, 4)
    """
    shapes = tuple(predictor_logits.shape), tuple(interpreter_logits.shape)
    if predictor_logits.ndim != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            f"`predictor_logits` and `interpreter_logits` must both be (B, K), were {shapes[0]} and {shapes[1]}"
        )


def no_prediction(*logits: Tensor) -> Tensor:
    """`(B,)` bool: for which samples one of several `(B, K)` logits is NaN.

    Example:
        >>> no_prediction(torch.tensor([[0.0], [torch.nan]]), torch.tensor([[0.0], [1.0]]))
        tensor([False,  True])
    """
    return torch.stack([part.isnan().any(dim=1) for part in logits]).any(dim=0)


@dataclass(frozen=True)
class Fidelity(Metric):
    """Fidelity: share of the samples for which the interpreter predicts the class that the model predicts.

    For a model with a predictor f and an interpreter g (FLINT), `[argmax g = argmax f]`; higher is better, in
    [0, 1]; an interpreter that does not look at the image scores the share of one predicted class.

    Variants: `""`, the fidelity; beside it, where samples have one label y, `"predictor_accuracy"`, `[argmax f = y]`,
    and `"interpreter_accuracy"`, `[argmax g = y]`, on the same samples: g can be faithful to a poor f.

    A sample is invalid when a logit of f or g is NaN.

    Example:
        >>> sorted(Fidelity().needs)
        ['interpreter']
    """

    name: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"interpreter"})
    reference: ClassVar[str] = (
        "Parekh, Mozharovskyi, d'Alché-Buc, A Framework to Learn with Interpretation, NeurIPS 2021"
    )

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        predictor, interpreter = evidence.logits, evidence.interpretation.logits
        invalid = no_prediction(predictor, interpreter)
        status = status_of(len(invalid), invalid.device, invalid=invalid)
        scores = {"": Scores(fidelity(predictor, interpreter), status)}
        labels = evidence.targets("label")
        if labels.ndim == 1:
            for word, logits in (("predictor", predictor), ("interpreter", interpreter)):
                correct = logits.argmax(dim=1) == labels
                scores[f"{word}_accuracy"] = Scores(nan_where(correct, invalid), status)
        return scores
