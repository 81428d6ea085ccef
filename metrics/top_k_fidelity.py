"""Top-k fidelity: is what the model predicts among the first classes of its interpreter?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Evidence, Metric, Scores, nan_where, status_of
from .fidelity import check_logits, no_prediction


def top_k_fidelity(predictor_logits: Tensor, interpreter_logits: Tensor, k: int) -> Tensor:
    """Look for the class predicted by f among the k largest logits of g.

    Equal logits of g count as if they were ordered at random: the value is the expected one,
    `clamp((k − a) / e, 0, 1)` with a classes above that of f and e classes equal to it, itself included. A constant
    g so scores k / K.

    Args:
        predictor_logits: `(B, K)` logits of the predictor f.
        interpreter_logits: `(B, K)` logits of the interpreter g.
        k: how many classes of g count, 1 to K.

    Returns:
        `(B,)` float64 in [0, 1], 0 or 1 where g has no ties, higher is better; chance is k / K. NaN where a logit is
        NaN.

    Raises:
        ValueError: the shapes differ or are not `(B, K)`, or `k` is not in 1 … K.

    Example:
        >>> import torch
        >>> f, g = torch.tensor([[0.0, 9.0, 1.0]] * 2), torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
        >>> top_k_fidelity(f, g, 2)
        tensor([1.0000, 0.6667], dtype=torch.float64)
    """
    check_logits(predictor_logits, interpreter_logits)
    if not 1 <= k <= interpreter_logits.shape[1]:
        raise ValueError(f"`k` must be between 1 and the {interpreter_logits.shape[1]} classes, was {k}")
    above, level = above_and_level(interpreter_logits, predictor_logits.argmax(dim=1))
    return nan_where(((k - above) / level).clamp(0, 1), no_prediction(predictor_logits, interpreter_logits))


def above_and_level(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Count how many of `(B, K)` logits are above that of `(B,)` classes, and how many equal it, itself included.

    Example:
        >>> import torch
        >>> above_and_level(torch.tensor([[5.0, 2.0, 2.0, 1.0]]), torch.tensor([2]))
        (tensor([1.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    own = logits.gather(1, classes[:, None])
    return (logits > own).sum(dim=1).double(), (logits == own).sum(dim=1).double()


@dataclass(frozen=True)
class TopKFidelity(Metric):
    """Top-k fidelity: share of the samples whose predicted class is among the k first of the interpreter.

    For a model with a predictor f and an interpreter g (FLINT): is `argmax f` among the k largest logits of g? Higher
    is better, in [0, 1]; chance is k / K. For k = 1 it is `fidelity`, but for ties (`top_k_fidelity`).

    Variants: `"k=2"`, `"k=3"`, `"k=4"`, one for each of `ks`; those above the number of classes are left out.

    A sample is invalid when a logit of f or g is NaN.

    Attributes:
        ks: how many classes of g count.

    Example:
        >>> TopKFidelity(ks=(5,))
        TopKFidelity(ks=(5,))
    """

    name: ClassVar[str] = "top_k_fidelity"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"interpreter"})
    reference: ClassVar[str] = (
        "Parekh, Mozharovskyi, d'Alché-Buc, A Framework to Learn with Interpretation, NeurIPS 2021"
    )

    ks: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        """Check the configuration."""
        object.__setattr__(self, "ks", tuple(self.ks))  # a list, from the command line or a suite
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"`ks` must be one or more numbers of at least 1, was {self.ks}")

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch, for each k."""
        predictor, interpreter = evidence.logits, evidence.interpretation.logits
        ks = [k for k in self.ks if k <= interpreter.shape[1]]
        if not ks:
            raise ValueError(f"`ks` must hold a k of at most the {interpreter.shape[1]} classes, was {self.ks}")
        invalid = no_prediction(predictor, interpreter)
        status = status_of(len(invalid), invalid.device, invalid=invalid)
        return {f"k={k}": Scores(top_k_fidelity(predictor, interpreter, k), status) for k in ks}
