"""What Monte Carlo metrics share: what surrounds and replaces pixels, and how draws are paired and averaged."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..datasets.base import Normalization

Fill = Literal["black", "mean"] | float


def fill_value(fill: Fill, normalization: Normalization, images: Tensor) -> Tensor:
    """Express a fill in the model's input space.

    Args:
        fill: `"black"`, pixel value 0; `"mean"`, the mean of the normalisation, which is 0 in the model's space; or
            a number, a pixel value (0 black, 1 white) that every channel takes.
        normalization: how pixel values became model inputs.
        images: `(B, C, H, W)`, for the number of channels, type and device.

    Returns:
        `(C, 1, 1)`.

    Raises:
        ValueError: `fill` is none of these.

    Example:
        >>> fill_value("black", Normalization((0.5,), (0.25,)), torch.zeros(1, 1, 2, 2)).item()
        -2.0
    """
    check_fill(fill)
    blank = images.new_zeros((images.shape[1], 1, 1))
    if fill == "mean":
        return blank
    return normalization.normalize(blank if isinstance(fill, str) else blank + fill)


def check_fill(fill: object, words: tuple[str, ...] = ("black", "mean")) -> None:
    """Raise a ValueError unless `fill` is one of `words` or a finite number."""
    number = isinstance(fill, (int, float)) and abs(fill) < float("inf")
    if not number and fill not in words:
        choices = ", ".join(f'"{word}"' for word in words)
        raise ValueError(f"`fill` must be {choices} or a finite pixel value (0 black, 1 white), was {fill!r}")


def repeat_draws(keys: Tensor, n_draws: int) -> tuple[Tensor, Tensor]:
    """Pair every sample with every draw, sample by sample.

    Args:
        keys: `(B,)` int64 sample keys.
        n_draws: number of Monte Carlo repetitions.

    Returns:
        keys and draws, `(B * n_draws,)` int64 each; row `b * n_draws + d` is draw `d` of sample `b`.

    Example:
        >>> repeat_draws(torch.tensor([7, 9]), 2)
        (tensor([7, 7, 9, 9]), tensor([0, 1, 0, 1]))
    """
    return keys.repeat_interleave(n_draws), torch.arange(n_draws, device=keys.device).repeat(len(keys))


def mean_over_draws(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Average the draws of each sample, and estimate the variance of that average.

    The variance is the sample variance over the draws (divisor D - 1) divided by their number D. A draw that is NaN
    is left out.

    Args:
        values: `(B, D, ...)` float64.

    Returns:
        the mean, `(B, ...)`, NaN where every draw is; and its variance, `(B, ...)`, NaN where fewer than two draws
        are left, or `None` with one draw, from which no variance can be estimated.

    Example:
        >>> mean_over_draws(torch.tensor([[1.0, 3.0]]))
        (tensor([2.]), tensor([1.]))
    """
    mean = values.nanmean(dim=1)
    if values.shape[1] == 1:
        return mean, None
    count = values.isfinite().sum(dim=1)
    squares = (values - mean.unsqueeze(1)).square().nansum(dim=1)
    return mean, torch.where(count > 1, squares / (count * (count - 1)), torch.nan)
