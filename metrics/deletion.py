"""Deletion: how fast the probability of a class goes when the most relevant pixels are taken away first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Evidence, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of
from .localisation import check_choice
from .mask_k_pixels import FILLS, FRACTIONS, MaskFill, check_fractions, fill_images, pixel_order, pixel_rank
from .monte_carlo import check_fill
from .progressive_masking import mask_pixels


def class_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the probability of a class, `exp(z_t) / Σ exp(z_j)`, in float64.

    Args:
        logits: `(B, K)`.
        target: `(B,)` int64 class indices.

    Returns:
        `(B,)` float64 in [0, 1]; NaN where a logit is NaN or positive infinite.

    Example:
        >>> class_probability(torch.tensor([[0.0, 0.0], [800.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return logits.double().softmax(dim=1).gather(1, target[:, None])[:, 0]


def probability_curve(
    evidence: Evidence, start: Tensor, end: Tensor, rank: Tensor, *, fractions: Sequence[float], targets: Tensor
) -> Tensor:
    """Measure the probability of a class while images turn into others, pixel by pixel.

    At fraction q the first `round(q·H·W)` pixels (half to even) are those of `end`, all channels together.

    Args:
        evidence: whose model is asked.
        start: `(B, C, H, W)` images at fraction 0.
        end: images at fraction 1, broadcastable to `start`.
        rank: `(B, H*W)` position of each pixel in the order of replacement (`pixel_rank`).
        fractions: S of them, in [0, 1].
        targets: `(B,)` int64 classes.

    Returns:
        `(B, S)` float64.
    """
    pixels, steps, rank = rank.shape[1], len(fractions), rank.int()
    counts = torch.tensor([round(share * pixels) for share in fractions], device=rank.device)
    end = end.expand_as(start)

    def build(rows: Tensor) -> Tensor:
        sample, step = rows // steps, rows % steps
        return mask_pixels(start[sample], rank[sample], counts[step], fill=end[sample])

    curve = torch.zeros(len(start) * steps, dtype=torch.float64, device=rank.device)
    for rows, logits in evidence.predict(len(curve), build):
        curve[rows] = class_probability(logits, targets[rows // steps])
    return curve.view(-1, steps)


def curve_scores(curve: Tensor, maps: Tensor, fractions: tuple[float, ...]) -> dict[str, Scores]:
    """Return `(B, S)` probabilities as the variant `"probability"`, and the area under them as `"area"`."""
    invalid = invalid_maps(maps) | ~curve.isfinite().all(dim=1)
    status = status_of(len(maps), maps.device, invalid=invalid)
    missing = status >= Status.NO_TRUTH
    area = torch.trapezoid(curve, curve.new_tensor(fractions))
    return {
        "probability": Scores(nan_where(curve, missing), status, steps=fractions),
        "area": Scores(nan_where(area, missing), status),
    }


@dataclass(frozen=True)
class Deletion(Metric):
    """Deletion: area under the probability of the explained class while its most relevant pixels go first (RISE).

    The pixels are ordered by the signed heatmap, largest first, ties at random by (seed, sample). At fraction q the
    first `round(q·H·W)` of them are replaced by `fill`, all channels together. Variants: the curve `"probability"`
    over `fractions`, from the image as it is, and `"area"` under it (trapezoid over the fraction). Lower is better,
    in [0, 1]. A constant map is ordered at random and not marked.

    Departs from RISE, which replaces one row's worth of pixels a step (224 of 50176), by the twentieths of
    mask-k-pixels (`fractions`). RISE's fill, zeros in the model's input space, is `"mean"`, the default.

    Attributes:
        fractions: shares of the pixels to replace, ascending from 0, at most 1.
        fill: `"black"`, `"mean"`, a pixel value, `"blur"` or `"noise"` (`fill_images` of mask-k-pixels).
        target: whose explanation orders the pixels and whose probability is measured, `"predicted"` or `"label"`.

    Example:
        >>> Deletion(fractions=(0.0, 0.5, 1.0)).fill
        'mean'
    """

    name: ClassVar[str] = "deletion"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018"

    fractions: tuple[float, ...] = FRACTIONS
    fill: MaskFill = "mean"
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
        curve = probability_curve(
            evidence,
            batch.images,
            fill_images(self.fill, evidence.normalization, batch, seed=evidence.seed),
            pixel_rank(pixel_order(maps, order="most", seed=evidence.seed, ids=batch.keys)),
            fractions=self.fractions,
            targets=evidence.targets(self.target),
        )
        return curve_scores(curve, maps, self.fractions)
