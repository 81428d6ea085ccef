"""Conciseness: how many attributes does an interpreter need to say why?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from .base import Evidence, Metric, Scores, nan_where, status_of

Scale = Literal["max_abs", "signed_max"]


def relevance(activations: Tensor, weights: Tensor, target: Tensor, *, scale: Scale = "max_abs") -> Tensor:
    """Weigh each attribute's share in the logit of a class: `r_j = α_j / max_i |α_i|`, `α_j = φ_j w_{j,target}`.

    A bias of the logit is no part of it.

    Args:
        activations: `(B, J)` activations φ of the attributes.
        weights: `(J, K)` weights w by which they enter the logits.
        target: `(B,)` int64 classes; FLINT's is the class that the interpreter predicts.
        scale: what α is divided by: `"max_abs"`, the largest magnitude (the papers' text, and default);
            `"signed_max"`, the magnitude of the largest α (their code: equal unless the largest magnitude is that of
            a negative α; 1 if the largest α is 0).

    Returns:
        `(B, J)` float64, under `"max_abs"` in [-1, 1]; 0 throughout where every α is 0; NaN throughout where one is
        not finite.

    Raises:
        ValueError: shapes do not fit or `scale` is unknown.

    Example:
        >>> activations, weights = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[4.0], [-4.0], [4.0]])
        >>> relevance(activations, weights, torch.tensor([0]))
        tensor([[ 0.5000, -1.0000,  0.2500]], dtype=torch.float64)
        >>> relevance(activations, weights, torch.tensor([0]), scale="signed_max")
        tensor([[ 1.0000, -2.0000,  0.5000]], dtype=torch.float64)
    """
    _check_scale(scale)
    if activations.ndim != 2 or weights.ndim != 2 or activations.shape[1] != len(weights):
        raise ValueError(
            "`activations` must be (B, J) and `weights` (J, K), "
            f"were {tuple(activations.shape)} and {tuple(weights.shape)}"
        )
    alpha = activations.double() * weights.double().T[target]
    largest = (alpha.abs() if scale == "max_abs" else alpha).amax(dim=1, keepdim=True).abs()
    shares = alpha / torch.where(largest == 0, 1, largest)
    return nan_where(shares, ~alpha.isfinite().all(dim=1))


def conciseness(relevance: Tensor, tau: float, *, absolute: bool = False) -> Tensor:
    """Count the attributes that matter: those of a relevance above `1 / tau`.

    Args:
        relevance: `(B, J)` floating point, as `relevance` gives it.
        tau: positive; the larger, the more attributes count.
        absolute: compare the magnitude, so that what speaks against the class counts too.

    Returns:
        `(B,)` float64 in [0, J], lower is better; NaN where a relevance is NaN. No attribute matters where all
        relevances are 0; `Conciseness` does not let a silent interpreter gain by that.

    Raises:
        ValueError: `relevance` is not `(B, J)`, or `tau` not positive.

    Example:
        >>> conciseness(torch.tensor([[1.0, 0.5, -0.8, 0.51]]), 2.0)  # 0.5 itself is not above
        tensor([2.], dtype=torch.float64)
        >>> conciseness(torch.tensor([[1.0, 0.5, -0.8, 0.51]]), 2.0, absolute=True)
        tensor([3.], dtype=torch.float64)
    """
    if relevance.ndim != 2:
        raise ValueError(f"`relevance` must be (B, J), was {tuple(relevance.shape)}")
    if not tau > 0:
        raise ValueError(f"`tau` must be positive, was {tau}")
    compared = relevance.abs() if absolute else relevance
    return nan_where((compared > 1 / tau).sum(dim=1), relevance.isnan().any(dim=1))


def global_relevance(relevance: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Average relevances over the samples of each class: `r_{j,c}`, the mean over those with class c.

    FLINT's classes are those that the interpreter predicts. Samples with a NaN are left out.

    Args:
        relevance: `(B, J)`, as `relevance` gives it.
        classes: `(B,)` int64.
        n_classes: number of classes K.

    Returns:
        `(K, J)` float64; NaN for a class without a sample.

    Raises:
        ValueError: shapes do not fit, or a class is not in 0 … K - 1.

    Example:
        >>> global_relevance(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), torch.tensor([1, 1]), 2)
        tensor([[   nan,    nan],
                [0.7500, 0.5000]], dtype=torch.float64)
    """
    if relevance.ndim != 2 or classes.shape != relevance.shape[:1]:
        raise ValueError(
            f"`relevance` must be (B, J) and `classes` (B,), were {tuple(relevance.shape)} and {tuple(classes.shape)}"
        )
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < n_classes:
        raise ValueError(f"`classes` must be between 0 and {n_classes - 1}, were {classes.unique().tolist()}")
    known = ~relevance.isnan().any(dim=1)
    total = relevance.new_zeros((n_classes, relevance.shape[1]), dtype=torch.float64)
    total.index_add_(0, classes[known], relevance[known].double())
    return total / torch.bincount(classes[known], minlength=n_classes)[:, None]


@dataclass(frozen=True)
class Conciseness(Metric):
    """Conciseness: number of attributes that an interpreter's decision rests on; lower is better, from 0.

    For a model with an interpreter g made of attributes φ (FLINT): the number of attributes whose relevance for
    `argmax g`, `r_j = α_j / max_i |α_i|` with `α_j = φ_j w_j`, is above 1/τ.

    Variants: `"curve"`, over `taus`; `"area"`, the mean over the range of τ (trapezoid), which stands for the curve
    where one number is wanted.

    Where every α is 0 nothing is singled out: the sample counts all J attributes and is degenerate. A sample is
    invalid when a logit of g or an α is not finite. By the definition, a sample whose weightiest attribute speaks
    against the class may count 0.

    Departs from the code published with FLINT, which compares with `max_i α_i`, by following the paper's text
    (`scale="signed_max"` is the code); its demonstration takes magnitudes (`absolute`).

    Attributes:
        taus: two or more, ascending.
        absolute: compare magnitudes.
        scale: what relevances are relative to (`relevance`).

    Example:
        >>> Conciseness(absolute=True).facts("area").higher_is_better
        False
    """

    name: ClassVar[str] = "conciseness"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"interpreter"})
    reference: ClassVar[str] = (
        "Parekh, Mozharovskyi, d'Alché-Buc, A Framework to Learn with Interpretation, NeurIPS 2021"
    )

    taus: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
    absolute: bool = False
    scale: Scale = "max_abs"

    def __post_init__(self) -> None:
        """Check the configuration."""
        object.__setattr__(self, "taus", tuple(self.taus))  # a list, from the command line or a suite
        ascending = all(low < high for low, high in pairwise(self.taus))
        if len(self.taus) < 2 or not ascending or not self.taus[0] > 0:
            raise ValueError(f"`taus` must be two or more positive numbers, ascending, was {self.taus}")
        _check_scale(self.scale)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: the curve over τ and its mean."""
        logits, activations, weights = evidence.interpretation
        shares = relevance(activations, weights, logits.argmax(dim=1), scale=self.scale)
        counts = torch.stack([conciseness(shares, tau, absolute=self.absolute) for tau in self.taus], dim=1)
        silent = (shares == 0).all(dim=1)
        counts[silent] = shares.shape[1]
        invalid = counts.isnan().any(dim=1) | ~logits.isfinite().all(dim=1)
        status = status_of(len(counts), counts.device, degenerate=silent, invalid=invalid)
        axis = counts.new_tensor(self.taus)
        area = torch.trapezoid(counts, axis) / (axis[-1] - axis[0])
        return {
            "curve": Scores(nan_where(counts, invalid), status, steps=self.taus),
            "area": Scores(nan_where(area, invalid), status),
        }


def _check_scale(scale: str) -> None:
    if scale not in get_args(Scale):
        raise ValueError(f'`scale` must be "max_abs" or "signed_max", was {scale!r}')
