"""Pointing game: does the maximum of the heatmap lie on the object?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import invalid_maps, nan_where
from .localisation import (
    LocalisationMetric,
    Measured,
    check_choice,
    check_maps,
    check_tolerance,
    empty_masks,
    near_mask,
    squared_reach,
    tolerance_in_pixels,
    zero_maps,
)

Ties = Literal["expected", "first", "any"]


def pointing_game(
    heatmap: Tensor, mask: Tensor, *, tolerance: float = 15.0, inclusive: bool = False, ties: Ties = "expected"
) -> Tensor:
    """Score a hit where the maximum of the heatmap lies closer than `tolerance` pixels to the mask.

    The distance is Euclidean and compared exactly, strictly below by default. Maxima are of the *signed* map.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool, true on the object.
        tolerance: distance in pixels of these maps, absolute; 1 means "on the mask".
        inclusive: count a distance of exactly `tolerance` as a hit.
        ties: what several equal maxima score: `"expected"`, the share of them that hits; `"first"`, the first in
            row-major order alone; `"any"`, whether one of them hits.

    Returns:
        `(B,)` float64 in [0, 1], higher is better; chance is the share of pixels near the mask, which is also what
        a constant map scores under `"expected"`. NaN where the mask is empty or the heatmap holds NaN or an
        infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `mask` not bool.
        ValueError: shapes do not fit, or an option is out of range.

    Example:
        >>> heatmap = torch.tensor([[[0.0, 2.0, 0.0, 2.0]]])
        >>> mask = torch.tensor([[[True, False, False, False]]])
        >>> pointing_game(heatmap, mask, tolerance=2.0)  # of the two maxima, one is near
        tensor([0.5000], dtype=torch.float64)
    """
    check_maps(heatmap, mask)
    check_choice("ties", ties, get_args(Ties))
    # Some maps at a time, because a constant map has as many maxima, and they as many coordinates, as it has pixels.
    parts = [
        nan_where(
            _hit_share(maps, area, tolerance, inclusive=inclusive, first=ties == "first"),
            invalid_maps(maps) | empty_masks(area),
        )
        for maps, area in zip(heatmap.split(32), mask.split(32), strict=True)
    ]
    share = torch.cat(parts)
    return share.ceil() if ties == "any" else share


@dataclass(frozen=True)
class PointingGame(LocalisationMetric):
    """Pointing game: share of the samples whose strongest pixel lies near the object.

    Higher is better, in [0, 1]; chance is the mean area of the dilated masks (the control `uniform` measures it).
    An empty mask is no truth. A map that is 0 throughout points nowhere: it scores 0 and is degenerate. A constant
    map of any other value points everywhere: it scores the share of pixels near the mask, and is not degenerate.

    Departs from Zhang et al., who score boxes of all classes of an image, by taking whatever mask the dataset gives
    for the sample's class, and from implementations that take the first of several maxima (`ties`). Their code maps
    heatmaps to the image's own size first (`resolution`).

    Attributes:
        tolerance: pixels; `None` means 15 at 224×224, scaled with the shorter side of the image; a number is
            absolute.
        inclusive: count a distance of exactly `tolerance` as a hit.
        ties: what several equal maxima score (`pointing_game`).

    The other attributes are those of every `LocalisationMetric`.

    Example:
        >>> PointingGame(tolerance=1.0, target="none", truth="all").tolerance
        1.0
    """

    name: ClassVar[str] = "pointing_game"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})
    reference: ClassVar[str] = "Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 126, 2018"
    aggregations: ClassVar[tuple[str, ...]] = ("items", "classes")

    tolerance: float | None = None
    inclusive: bool = False
    ties: Ties = "expected"

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        check_choice("ties", self.ties, get_args(Ties))
        if self.tolerance is not None:
            check_tolerance(self.tolerance)

    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Play the game on some maps; nothing is drawn."""
        del seed, keys
        tolerance = tolerance_in_pixels(self.tolerance, mask)
        values = pointing_game(heatmap, mask, tolerance=tolerance, inclusive=self.inclusive, ties=self.ties)
        return Measured(values, zero_maps(heatmap))


def _hit_share(heatmap: Tensor, mask: Tensor, tolerance: float, *, inclusive: bool, first: bool) -> Tensor:
    """`(B,)` float64: share of the maxima, or of the first one, that lie near the mask; NaN without a maximum."""
    count, height, width = heatmap.shape
    sample, y, x = _maxima(heatmap)
    if first:
        leading = torch.ones_like(sample, dtype=torch.bool)
        leading[1:] = sample[1:] != sample[:-1]
        sample, y, x = sample[leading], y[leading], x[leading]
    disc = _disc(squared_reach(tolerance, (height, width), inclusive=inclusive), heatmap.device)
    # Usually there is one maximum, and a look around it costs far less than dilating the mask. Where the maxima are
    # so many that their windows hold an eighth of all pixels, dilating is the cheaper of the two.
    if len(sample) * disc.numel() <= count * height * width // 8:
        hit = _touches(mask, sample, y, x, disc)
    else:
        hit = near_mask(mask, tolerance, inclusive=inclusive)[sample, y, x]
    return torch.bincount(sample[hit], minlength=count).double() / torch.bincount(sample, minlength=count)


def _maxima(heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, rows and columns of all maxima, in row-major order; none where a map holds NaN."""
    in_row = heatmap.amax(dim=2)
    peak = in_row.amax(dim=1)
    sample, y = (in_row == peak[:, None]).nonzero().unbind(dim=1)  # only these few rows are looked at again
    line, x = (heatmap[sample, y] == peak[sample, None]).nonzero().unbind(dim=1)
    return sample[line], y[line], x


def _disc(reach: int, device: torch.device) -> Tensor:
    """`(n, n)` bool: the offsets with `dy² + dx² <= reach`, the one in the middle being 0."""
    radius = math.isqrt(reach)
    squares = torch.arange(-radius, radius + 1, device=device).square()
    return squares[:, None] + squares <= reach


def _touches(mask: Tensor, sample: Tensor, y: Tensor, x: Tensor, disc: Tensor) -> Tensor:
    """`(M,)` bool: whether the disc around each of M pixels meets its sample's mask."""
    size = len(disc)
    padded = F.pad(mask, [size // 2] * 4)
    windows = padded.unfold(1, size, 1).unfold(2, size, 1)[sample, y, x]
    return (windows & disc).view(torch.uint8).flatten(1).amax(dim=1) > 0
