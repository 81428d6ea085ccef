"""Content heatmap: how much of the heatmap's positive mass lies on the object?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import invalid_maps, nan_where
from .localisation import LocalisationMetric, Measured, check_heatmap, check_maps, empty_masks

# Maps that are worked on at a time, in the same memory: it then stays in the processor's cache, which is several times
# faster, while calls are few.
_BLOCK = 8


def distribution(heatmap: Tensor) -> Tensor:
    """Turn a heatmap into a distribution over pixels: `p = max(h, 0) / Σ max(h, 0)`.

    Computed in float64 so that neither tiny nor huge maps underflow or overflow.

    Args:
        heatmap: `(B, H, W)` floating point.

    Returns:
        `(B, H, W)` float64, each map summing to 1; 0 throughout where a map has no positive part; NaN throughout
        where it holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point.
        ValueError: `heatmap` is not `(B, H, W)`.

    Example:
        >>> distribution(torch.tensor([[[3.0, -5.0, 1.0]]]))
        tensor([[[0.7500, 0.0000, 0.2500]]], dtype=torch.float64)
    """
    check_heatmap(heatmap)
    positive = _positive(heatmap, torch.empty_like(heatmap, dtype=torch.float64))
    total = _total(positive).view(-1, 1, 1)
    return nan_where(positive / torch.where(total == 0, 1, total), invalid_maps(heatmap))


def positive_share(heatmap: Tensor, region: Tensor) -> Tensor:
    """Measure the share of a heatmap's positive mass that lies in a region: `Σ p·region`, p its `distribution`.

    Args:
        heatmap: `(B, H, W)` floating point.
        region: `(B, H, W)` bool.

    Returns:
        `(B,)` float64 in [0, 1], exactly 1 where all of the mass lies inside; 0 where a map has no positive part; NaN
        where it holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `region` not bool.
        ValueError: shapes do not fit.

    Example:
        >>> positive_share(torch.tensor([[[3.0, -5.0, 1.0]]]), torch.tensor([[[True, True, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    check_maps(heatmap, region)
    maps = heatmap.detach()
    memory = maps.new_empty((min(_BLOCK, len(maps)), *maps.shape[1:]), dtype=torch.float64)
    rows, lowest = memory.new_empty(2, *maps.shape[:2]), maps.new_empty(len(maps))
    for start in range(0, len(maps), _BLOCK):
        part = slice(start, start + _BLOCK)
        positive = _positive(maps[part], memory[: len(maps[part])])
        torch.sum(positive, dim=2, out=rows[0, part])
        # Sums of the same terms in the same order: the part cannot come out larger than the whole. The region is taken
        # as bytes because converting bool to float64 takes three times as long.
        torch.sum(positive.mul_(region[part].view(torch.uint8)), dim=2, out=rows[1, part])
        torch.amin(maps[part], dim=(1, 2), out=lowest[part])
    total, inside = rows.sum(dim=2)
    sound = total.isfinite() & lowest.isfinite()  # only -inf is not seen in the total
    return nan_where(inside / torch.where(total == 0, 1, total), ~sound)


def content_heatmap(heatmap: Tensor, mask: Tensor) -> Tensor:
    """Measure the share of the heatmap's positive mass that lies on the object: `Σ p·M`, `p = max(h, 0)/Σ max(h, 0)`.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool, true on the object.

    Returns:
        `(B,)` float64 in [0, 1], higher is better; chance is the share of pixels on the object. 0 where a map has no
        positive part; NaN where the mask is empty or the heatmap holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `mask` not bool.
        ValueError: shapes do not fit.

    Example:
        >>> content_heatmap(torch.tensor([[[3.0, -5.0, 1.0]]]), torch.tensor([[[True, True, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    return nan_where(positive_share(heatmap, mask), empty_masks(mask))


def silent_maps(heatmap: Tensor) -> Tensor:
    """`(B,)` bool: which `(B, H, W)` heatmaps have no positive part; of no meaning where a map holds NaN."""
    return heatmap.flatten(1).amax(dim=1) <= 0


@dataclass(frozen=True)
class ContentHeatmap(LocalisationMetric):
    """Content heatmap: share of the heatmap's positive mass that lies on the object (also called relevance mass).

    Higher is better, in [0, 1]; chance is the mean area of the masks (the control `uniform` measures it). An empty
    mask is no truth; a map without a positive part scores 0 and is degenerate.

    Departs from the authors' code, which skips maps that sum to 0 (`degenerate="skip"`), and from relevance mass
    accuracy (Arras et al., 2022), which divides signed sums and so leaves [0, 1].

    The attributes are those of every `LocalisationMetric`.

    Example:
        >>> ContentHeatmap(degenerate="skip").degenerate
        'skip'
    """

    name: ClassVar[str] = "content_heatmap"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})
    reference: ClassVar[str] = "Pillai & Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021"

    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Measure the share of the mass on the object; nothing is drawn."""
        del seed, keys
        return Measured(content_heatmap(heatmap, mask), silent_maps(heatmap))


def _positive(heatmap: Tensor, memory: Tensor) -> Tensor:
    """Write the positive part to float64 `memory`, such that sums of it neither underflow nor overflow."""
    memory.copy_(heatmap)
    if heatmap.dtype == torch.float64:  # sums of any other type cannot, in float64
        exponent = torch.frexp(heatmap.amax(dim=(1, 2), keepdim=True)).exponent.clamp(-1000, 1000)
        memory.mul_(torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent))  # exact
    return memory.clamp_(min=0)


def _total(maps: Tensor) -> Tensor:
    """`(B,)` sums, row by row: a sum over both sides at once is rounded differently when B is 1."""
    return maps.sum(dim=2).sum(dim=1)
