"""Conciseness: how many attributes does an interpreter need to say why?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ..baselines.relevance import Scale, check_scale, relevance
from .base import Evidence, Metric, Scores, nan_where, status_of


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
        check_scale(self.scale)

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
