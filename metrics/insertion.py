"""Insertion: how fast the probability of a class comes when the most relevant pixels are shown first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Evidence, Metric, Scores, TargetRule
from .deletion import curve_scores, probability_curve
from .localisation import check_choice
from .mask_k_pixels import FILLS, FRACTIONS, MaskFill, check_fractions, fill_images, pixel_order, pixel_rank
from .monte_carlo import check_fill


@dataclass(frozen=True)
class Insertion(Metric):
    """Insertion: area under the probability of the explained class while its most relevant pixels come first (RISE).

    As `Deletion`, the other way round: at fraction 0 the image is `fill` all over, and at fraction q the `round(q·H·W)`
    most relevant pixels are those of the image. Variants: the curve `"probability"` over `fractions` and the
    `"area"` under it. Higher is better, in [0, 1]. A constant map is ordered at random and not marked.

    Departs from RISE as `Deletion` does, and in the blur: RISE's is a Gaussian of 5 pixels cut to a kernel of 11 at
    224×224, the one of mask-k-pixels is 10 pixels wide at that size, and whole.

    Attributes:
        fractions: shares of the pixels to show, ascending from 0, at most 1.
        fill: what the image is before: `"black"`, `"mean"`, a pixel value, `"blur"` (of the image itself) or
            `"noise"` (`fill_images` of mask-k-pixels).
        target: whose explanation orders the pixels and whose probability is measured, `"predicted"` or `"label"`.

    Example:
        >>> Insertion().fill
        'blur'
    """

    name: ClassVar[str] = "insertion"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018"

    fractions: tuple[float, ...] = FRACTIONS
    fill: MaskFill = "blur"
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        object.__setattr__(self, "fractions", tuple(self.fractions))  # a list, from the command line or a suite
        check_fractions(self.fractions)
        check_fill(self.fill, FILLS)
        check_choice("target", self.target, ("predicted", "label"))

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: the curve and the area under it."""
        batch, maps = evidence.batch, evidence.heatmaps(self.target)
        fills = fill_images(self.fill, evidence.normalization, batch, seed=evidence.seed)
        curve = probability_curve(
            evidence,
            fills.expand_as(batch.images),
            batch.images,
            pixel_rank(pixel_order(maps, order="most", seed=evidence.seed, ids=batch.keys)),
            fractions=self.fractions,
            targets=evidence.targets(self.target),
        )
        return curve_scores(curve, maps, self.fractions)
