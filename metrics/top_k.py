"""Top-k: how many of the strongest pixels lie on the object?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import nan_where
from .largest_values import largest_inside
from .localisation import LocalisationMetric, Measured, check_maps, empty_masks, zero_maps


def top_k(
    heatmap: Tensor,
    mask: Tensor,
    *,
    k: int = 1000,
    seed: int = 0,
    ids: Sequence[str] | Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Measure the share of the `k` largest signed values of the heatmap that lie on the object: `|top_k(h) ∩ M| / k`.

    Of equal values at the cut, those first in a permutation keyed by (seed, sample) are taken: the pixels are the
    first k of `pixel_order(heatmap, order="most")`.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool, true on the object.
        k: number of pixels; the publications take 1000 at 224×224.
        seed: seed of the permutation.
        ids: `B` sample names or keys that it depends on; positions in the batch if not given.

    Returns:
        `(B,)` float64 in [0, 1], higher is better, at most `|M| / k`; chance, and what a constant map scores on
        average, is the share of pixels on the object. NaN where the mask is empty or the heatmap holds NaN or an
        infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `mask` not bool.
        ValueError: shapes do not fit, or there are no `k` pixels.

    Example:
        >>> heatmap = torch.tensor([[[5.0, -1.0, 4.0, 3.0]]])
        >>> mask = torch.tensor([[[True, True, False, False]]])
        >>> top_k(heatmap, mask, k=2)
        tensor([0.5000], dtype=torch.float64)
    """
    check_maps(heatmap, mask)
    pixels = heatmap.shape[1] * heatmap.shape[2]
    if not 1 <= k <= pixels:
        raise ValueError(f"`k` must be from 1 to the {pixels} pixels of a map, was {k}")
    count = torch.full((len(heatmap),), k, dtype=torch.int64, device=heatmap.device)
    return nan_where(largest_inside(heatmap, mask, count, seed=seed, ids=ids) / k, empty_masks(mask))


@dataclass(frozen=True)
class TopK(LocalisationMetric):
    """Top-k intersection: share of the k strongest pixels that lie on the object.

    Higher is better, in [0, 1]; chance is the mean area of the masks (the control `uniform` measures it). An object
    of fewer than k pixels cannot score 1 (the control `truth` measures the ceiling). An empty mask is no truth. A map
    that is 0 throughout shows nothing: it scores 0 and is degenerate. Any other constant map scores chance.

    Departs from implementations that rank magnitudes, or that let the order in memory decide between equal values.

    Attributes:
        k: number of pixels, at most those of an image; `None` means 1000 at 224×224 and `round(0.02·H·W)`, at least
            1, at every other size (half to even).

    The other attributes are those of every `LocalisationMetric`.

    Example:
        >>> TopK(k=100).k
        100
    """

    name: ClassVar[str] = "top_k"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})
    reference: ClassVar[str] = "Theiner et al., Interpretable Semantic Photo Geolocation, WACV 2022"

    k: int | None = None

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        if self.k is not None and self.k < 1:
            raise ValueError(f"`k` must be at least 1, or None for 2 % of the pixels, was {self.k}")

    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Count the strongest pixels on the object; equal ones are chosen by `seed` and `keys`."""
        k = default_k(mask.shape[1], mask.shape[2]) if self.k is None else self.k
        return Measured(top_k(heatmap, mask, k=k, seed=seed, ids=keys), zero_maps(heatmap))


def default_k(height: int, width: int) -> int:
    """Return 1000 for 224×224, as published, and 2 % of the pixels, at least one, for every other size.

    Example:
        >>> default_k(224, 224), default_k(448, 448), default_k(4, 4)
        (1000, 4014, 1)
    """
    return 1000 if (height, width) == (224, 224) else max(1, round(0.02 * height * width))
