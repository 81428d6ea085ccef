"""Stochastic pointing game: how often does a pixel drawn from the heatmap lie near the object?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..datasets.philox import sample_keys, uniform
from .base import nan_where
from .content_heatmap import distribution, positive_share, silent_maps
from .localisation import (
    LocalisationMetric,
    Measured,
    check_maps,
    check_tolerance,
    empty_masks,
    near_mask,
    tolerance_in_pixels,
)

_STREAM = "stochastic_pointing_game"


def stochastic_pointing_game(
    heatmap: Tensor,
    mask: Tensor,
    *,
    tolerance: float = 15.0,
    n_draws: int | None = None,
    seed: int = 0,
    ids: Sequence[str] | Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Measure how often a pixel drawn from the heatmap lies closer than `tolerance` pixels to the mask.

    Pixels are drawn with replacement from `p = max(h, 0) / Σ max(h, 0)`. By default the expectation is returned in
    closed form, `Σ p·[dist(·, M) < tolerance]`, which has no Monte Carlo error.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool, true on the object.
        tolerance: distance in pixels of these maps, absolute; 1 means "on the mask".
        n_draws: draw that many pixels instead (100 in the publication).
        seed: seed of the draws.
        ids: `B` sample names or keys that the draws depend on; positions in the batch if not given.

    Returns:
        `(B,)` float64 in [0, 1], higher is better; chance is the share of pixels near the mask. 0 where a map has no
        positive part; NaN where the mask is empty or the heatmap holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `mask` not bool.
        ValueError: shapes do not fit, or an option is out of range.

    Example:
        >>> heatmap = torch.tensor([[[1.0, 2.0, -9.0, 1.0]]])
        >>> mask = torch.tensor([[[True, False, False, False]]])
        >>> stochastic_pointing_game(heatmap, mask, tolerance=2.0)
        tensor([0.7500], dtype=torch.float64)
    """
    check_maps(heatmap, mask)
    _check_draws(n_draws)
    if n_draws is None:
        # Some maps at a time, so that their dilated masks are still in the processor's cache when they are used.
        parts = zip(heatmap.split(256), mask.split(256), strict=True)
        share = torch.cat([positive_share(maps, near_mask(area, tolerance)) for maps, area in parts])
    else:
        keys = sample_keys(range(len(heatmap)) if ids is None else ids, heatmap.device)
        if len(keys) != len(heatmap):
            raise ValueError(f"`ids` must name each of the {len(heatmap)} samples, had {len(keys)}")
        share = _drawn_share(
            distribution(heatmap), near_mask(mask, tolerance), uniform(seed, _STREAM, keys, 0, n_draws)
        )
    return nan_where(share, empty_masks(mask))


@dataclass(frozen=True)
class StochasticPointingGame(LocalisationMetric):
    """Stochastic pointing game: share of pixels drawn from the heatmap's positive part that lie near the object.

    Higher is better, in [0, 1]; chance is the mean area of the dilated masks (the control `uniform` measures it). An
    empty mask is no truth; a map without a positive part scores 0 and is degenerate.

    Departs from the publication by returning the expectation of its 100 draws, unless `n_draws` asks for draws. The
    variance of drawn values is `s(1 - s) / n_draws`, s being the expectation.

    Attributes:
        tolerance: pixels; `None` means 15 at 224×224, scaled with the shorter side of the image; a number is
            absolute.
        n_draws: pixels drawn per sample; `None` for the closed form.

    The other attributes are those of every `LocalisationMetric`.

    Example:
        >>> StochasticPointingGame(n_draws=100).n_draws
        100
    """

    name: ClassVar[str] = "stochastic_pointing_game"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})
    reference: ClassVar[str] = "Pillai & Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021"

    tolerance: float | None = None
    n_draws: int | None = None

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        _check_draws(self.n_draws)
        if self.tolerance is not None:
            check_tolerance(self.tolerance)

    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Compute the expectation, or draw pixels, whose variance the expectation tells."""
        tolerance, silent = tolerance_in_pixels(self.tolerance, mask), silent_maps(heatmap)
        expected = stochastic_pointing_game(heatmap, mask, tolerance=tolerance)
        if self.n_draws is None:
            return Measured(expected, silent)
        drawn = stochastic_pointing_game(heatmap, mask, tolerance=tolerance, n_draws=self.n_draws, seed=seed, ids=keys)
        return Measured(drawn, silent, expected * (1 - expected) / self.n_draws)


def _check_draws(n_draws: int | None) -> None:
    if n_draws is not None and n_draws < 1:
        raise ValueError(f"`n_draws` must be at least 1, or None for the closed form, was {n_draws}")


def _drawn_share(probability: Tensor, near: Tensor, numbers: Tensor) -> Tensor:
    """Share of the pixels, drawn by `(B, n)` numbers in (0, 1), that are near; NaN and 0 for NaN and zero maps."""
    cumulative = probability.flatten(1).cumsum(dim=1)
    total = cumulative[:, -1:]
    # The first pixel at which the cumulative sum exceeds the number: never one of probability 0.
    drawn = torch.searchsorted(cumulative, numbers * total, right=True).clamp(max=cumulative.shape[1] - 1)
    share = near.flatten(1).gather(1, drawn).double().mean(dim=1)
    return torch.where(total[:, 0] > 0, share, total[:, 0])
