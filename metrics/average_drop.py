"""Average drop and increase: what becomes of a class's probability without the most relevant half of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Evidence, Facts, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of
from .deletion import class_probability, probability_curve
from .localisation import check_choice
from .mask_k_pixels import FILLS, MaskFill, Order, fill_images, pixel_order, pixel_rank
from .monte_carlo import check_fill


def drop(before: Tensor, after: Tensor) -> Tensor:
    """Compute the share of a probability that is lost: `max(0, p − p') / p`.

    Args:
        before: `(B,)` p, with the whole image.
        after: `(B,)` p', without the pixels in question.

    Returns:
        `(B,)` float64 in [0, 1]; 0 where p is 0 and nothing can be lost; NaN where a probability is.

    Example:
        >>> drop(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.125, 0.75, 0.5]))
        tensor([0.7500, 0.0000, 0.0000], dtype=torch.float64)
    """
    p, rest = before.double(), after.double()
    return (p - rest).clamp(min=0) / torch.where(p == 0, 1.0, p)


def increase(before: Tensor, after: Tensor) -> Tensor:
    """Tell whether a probability has grown: `[p' > p]`.

    Args:
        before: `(B,)` p, with the whole image.
        after: `(B,)` p', without the pixels in question.

    Returns:
        `(B,)` float64, 0 or 1; NaN where a probability is.

    Example:
        >>> increase(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.4, 0.5, 0.6]))
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    return nan_where((after > before).double(), before.isnan() | after.isnan())


@dataclass(frozen=True)
class AverageDrop(Metric):
    """Average drop and increase of a class's probability when the most relevant half of the pixels is removed (KMEx).

    With p the probability of the explained class and p' that of the image whose `round(share·H·W)` first pixels by
    the signed heatmap are replaced by `fill`, all channels together, the variants are

        drop = max(0, p − p') / p       in [0, 1]
        increase = [p' > p]             0 or 1

    With `remove="most"`, what is relevant is gone: a large drop and few increases are good. With `"least"` it is kept,
    as in Grad-CAM++, which has the names: a small drop and many increases are good. Ties are broken at random by
    (seed, sample); a constant map is ordered at random and not marked.

    Departs from the released code of KMEx, which sorts by the magnitude of a map (`absolute=True`) and fills from
    one random image for all samples, by the signed order of the other metrics and noise of each sample's own; and
    from Grad-CAM++, which multiplies the image by the map.

    Attributes:
        share: of the pixels to remove, above 0 and at most 1.
        remove: which go, the `"most"` or the `"least"` relevant.
        absolute: order pixels by the magnitude of the heatmap.
        fill: `"black"`, `"mean"`, a pixel value, `"blur"` or `"noise"` (`fill_images` of mask-k-pixels).
        target: whose explanation orders the pixels and whose probability is measured, `"predicted"` or `"label"`.

    Example:
        >>> [AverageDrop(remove="least").facts(variant).higher_is_better for variant in ("drop", "increase")]
        [False, True]
    """

    name: ClassVar[str] = "average_drop"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = (
        "Gautam et al., Prototypical Self-Explainable Models Without Re-training, TMLR 2024; "
        "Chattopadhyay et al., Grad-CAM++, WACV 2018"
    )

    share: float = 0.5
    remove: Order = "most"
    absolute: bool = False
    fill: MaskFill = "noise"
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, was {self.share}")
        check_choice("remove", self.remove, ("most", "least"))
        check_fill(self.fill, FILLS)
        check_choice("target", self.target, ("predicted", "label"))

    def facts(self, variant: str) -> Facts:
        """Removing what matters should lower the probability, removing what does not should not."""
        return Facts((variant == "drop") == (self.remove == "most"), self.range, self.chance)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: variants `"drop"` and `"increase"`."""
        maps, targets = evidence.heatmaps(self.target), evidence.targets(self.target)
        before = class_probability(evidence.logits, targets)
        after = self._without(evidence, maps, targets)
        invalid = invalid_maps(maps) | ~(before.isfinite() & after.isfinite())
        status = status_of(len(maps), maps.device, invalid=invalid)
        values = {"drop": drop(before, after), "increase": increase(before, after)}
        return {
            variant: Scores(nan_where(value, status >= Status.NO_TRUTH), status) for variant, value in values.items()
        }

    def _without(self, evidence: Evidence, maps: Tensor, targets: Tensor) -> Tensor:
        """`(B,)` probabilities once the pixels are gone."""
        batch, relevance = evidence.batch, maps.abs() if self.absolute else maps
        order = pixel_order(relevance, order=self.remove, seed=evidence.seed, ids=batch.keys)
        fills = fill_images(self.fill, evidence.normalization, batch, seed=evidence.seed)
        rank = pixel_rank(order)
        return probability_curve(evidence, batch.images, fills, rank, fractions=(self.share,), targets=targets)[:, 0]
