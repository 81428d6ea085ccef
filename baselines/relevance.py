"""How much each attribute of an interpreter has to do with a class."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

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
    check_scale(scale)
    if activations.ndim != 2 or weights.ndim != 2 or activations.shape[1] != len(weights):
        raise ValueError(
            "`activations` must be (B, J) and `weights` (J, K), "
            f"were {tuple(activations.shape)} and {tuple(weights.shape)}"
        )
    alpha = activations.double() * weights.double().T[target]
    largest = (alpha.abs() if scale == "max_abs" else alpha).amax(dim=1, keepdim=True).abs()
    shares = alpha / torch.where(largest == 0, 1, largest)
    return torch.where(alpha.isfinite().all(dim=1, keepdim=True), shares, torch.nan)


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


def check_scale(scale: str) -> None:
    """Refuse a word that `relevance` does not know.

    Example:
        >>> check_scale("sum")
        Traceback (most recent call last):
        ValueError: `scale` must be "max_abs" or "signed_max", was 'sum'
    """
    if scale not in get_args(Scale):
        raise ValueError(f'`scale` must be "max_abs" or "signed_max", was {scale!r}')
