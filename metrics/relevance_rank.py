"""Relevance rank: of as many strongest pixels as the object has, how many lie on it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import nan_where
from .largest_values import largest_inside
from .localisation import LocalisationMetric, Measured, check_maps, mask_areas, zero_maps


def relevance_rank(
    heatmap: Tensor, mask: Tensor, *, seed: int = 0, ids: Sequence[str] | Sequence[int] | Tensor | None = None
) -> Tensor:
    """Measure the share of the `|M|` largest signed values of the heatmap that lie on the object M.

    `|top_|M|(h) ∩ M| / |M|`: top-k with as many pixels as the object has, so that its precision and its recall are
    the same number. Equal values at the cut are taken as in `top_k`.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool, true on the object.
        seed: seed of the permutation that equal values are taken by.
        ids: `B` sample names or keys that it depends on; positions in the batch if not given.

    Returns:
        `(B,)` float64 in [0, 1], higher is better; 1 where every pixel of the object is stronger than every other.
        Chance, and what a constant map scores on average, is the share of pixels on the object. NaN where the mask
        is empty or the heatmap holds NaN or an infinite value.

    Raises:
        TypeError: `heatmap` is not floating point, or `mask` not bool.
        ValueError: shapes do not fit, or `ids` does not name every sample.

    Example:
        >>> import torch
        >>> heatmap = torch.tensor([[[5.0, -1.0, 4.0, 3.0]]])
        >>> relevance_rank(heatmap, torch.tensor([[[True, True, False, True]]]))
        tensor([0.6667], dtype=torch.float64)
    """
    check_maps(heatmap, mask)
    area = mask_areas(mask)
    return nan_where(largest_inside(heatmap, mask, area, seed=seed, ids=ids) / area.clamp(min=1), area == 0)


@dataclass(frozen=True)
class RelevanceRank(LocalisationMetric):
    """Relevance rank accuracy: share of the `|M|` strongest pixels that lie on the object M.

    Higher is better, in [0, 1]; chance is the mean area of the masks (the control `uniform` measures it). An empty
    mask is no truth. A map that is 0 throughout shows nothing: it scores 0 and is degenerate. Any other constant map
    scores chance.

    Departs from the publication by ranking signed values of one channel, where it pools the channels first, and from
    implementations that let the order in memory decide between equal values.

    The attributes are those of every `LocalisationMetric`.

    Example:
        >>> RelevanceRank(target="none", truth="all").truth
        'all'
    """

    name: ClassVar[str] = "relevance_rank"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})
    reference: ClassVar[str] = "Arras, Osman & Samek, CLEVR-XAI, Information Fusion 81, 2022"

    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Count the strongest pixels on the object; equal ones are chosen by `seed` and `keys`."""
        return Measured(relevance_rank(heatmap, mask, seed=seed, ids=keys), zero_maps(heatmap))
