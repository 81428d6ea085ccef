"""Mask-k-pixels: how much of an image can go, least relevant pixels first, before the model fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..datasets.base import Batch, Normalization
from ..datasets.philox import permutation, sample_keys, uniform
from .base import Evidence, Facts, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of
from .monte_carlo import Fill, check_fill, fill_value, mean_over_draws, repeat_draws
from .progressive_masking import MovedMasks, mask_pixels
from .warps import WarpFamily, as_family

Order = Literal["least", "most"]
MaskFill = Fill | Literal["blur", "noise"]

FRACTIONS = tuple(step / 20 for step in range(21))
"""Every twentieth of the pixels, from none to all."""

FILLS = ("black", "mean", "blur", "noise")
"""What may stand for a fill beside a pixel value."""

_BLUR = 10 / 224  # standard deviation of the blur, as a share of the shorter side


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the log-odds of a class: `z_y − logsumexp over j ≠ y of z_j = log(p_y / (1 − p_y))`.

    Computed from the logits in float64, so that it is finite and exact to rounding however sure the model is.

    Args:
        logits: `(B, K)`, at least two classes.
        target: `(B,)` int64 class indices.

    Returns:
        `(B,)` float64, in nats, unbounded. An infinite logit gives the limit: `inf` where the target's is `inf` or
        all the others are `-inf`, `-inf` in the opposite cases; NaN where that is undecided (both sides infinite,
        alike) or a logit is NaN.

    Raises:
        ValueError: there are fewer than two classes.

    Example:
        >>> log_odds(torch.tensor([[1.0, 0.0], [400.0, -400.0]]), torch.tensor([0, 1]))
        tensor([   1., -800.], dtype=torch.float64)
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"`logits` must be (B, K) with K of at least 2, was {tuple(logits.shape)}; the odds of a class are those "
            "against the other classes"
        )
    wide, column = logits.double(), target[:, None]
    return wide.gather(1, column)[:, 0] - wide.scatter(1, column, -torch.inf).logsumexp(dim=1)


def pixel_order(
    heatmap: Tensor, *, order: Order = "least", seed: int = 0, ids: tuple[str, ...] | list[str] | Tensor | None = None
) -> Tensor:
    """Order the pixels of heatmaps by their signed value, ties at random.

    Equal values stand in the order of a random permutation keyed by (seed, sample): a constant map gives a random
    order, whatever the batch.

    Args:
        heatmap: `(B, H, W)`.
        order: `"least"`, ascending, or `"most"`, descending.
        seed: seed of the permutation.
        ids: names or int64 keys of the samples; without, their positions in the batch.

    Returns:
        `(B, H*W)` int64, row-major pixel indices, the first to be masked first. NaN stands last.

    Raises:
        ValueError: `order` is unknown.

    Example:
        >>> pixel_order(torch.tensor([[[0.5, -1.0], [2.0, 0.0]]]))
        tensor([[1, 3, 0, 2]])
    """
    _check_order(order)
    flat = heatmap.flatten(1)
    keys = flat if order == "least" else -flat
    ranked, result = keys.sort(dim=1, stable=True)
    # Drawing a permutation costs more than sorting, and changes nothing where all values differ.
    tied = (ranked[:, 1:] == ranked[:, :-1]).any(dim=1).nonzero()[:, 0]
    if len(tied):
        samples = sample_keys(range(len(flat)) if ids is None else ids, flat.device)[tied]
        shuffled = permutation(seed, "pixel_order", samples, 0, flat.shape[1])
        result[tied] = shuffled.gather(1, keys[tied].gather(1, shuffled).argsort(dim=1, stable=True))
    return result


def pixel_rank(order: Tensor) -> Tensor:
    """Invert an order: `(B, P)` int64 pixel indices become the position of each pixel in it.

    Example:
        >>> pixel_rank(torch.tensor([[1, 3, 0, 2]]))
        tensor([[2, 0, 3, 1]])
    """
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)


def fill_images(fill: MaskFill, normalization: Normalization, batch: Batch, *, seed: int) -> Tensor:
    """Make what masked pixels are replaced by, in the model's input space.

    Args:
        fill: `"black"`, `"mean"` or a pixel value as in `fill_value`; `"blur"`, the image itself under a Gaussian of
            standard deviation 10/224 of the shorter side (reflected at the border, cut off at three deviations);
            `"noise"`, independent uniform pixel values in [0, 1], keyed by (seed, sample).
        normalization: how pixel values became model inputs.
        batch: the samples.
        seed: the run's seed.

    Returns:
        `(B, C, 1, 1)` or `(B, C, H, W)`.
    """
    check_fill(fill, FILLS)
    images = batch.images
    if fill == "blur":
        shorter = min(images.shape[-2:])
        radius = min(ceil(3 * _BLUR * shorter), shorter - 1)
        blurred: Tensor = gaussian_blur(images, [2 * radius + 1] * 2, [_BLUR * shorter] * 2)
        return blurred
    if fill == "noise":
        pixels = uniform(seed, "mask_k_pixels/noise", batch.keys, 0, images[0].numel())
        return normalization.normalize(pixels.to(images.dtype).view_as(images))
    return fill_value(fill, normalization, images).expand(len(images), -1, 1, 1)


def check_fractions(fractions: tuple[float, ...]) -> None:
    """Raise a ValueError unless these are two or more numbers ascending from 0, at most 1."""
    ascending = all(low < high for low, high in pairwise(fractions))
    if len(fractions) < 2 or not ascending or fractions[0] != 0 or fractions[-1] > 1:
        raise ValueError(f"`fractions` must be two or more numbers ascending from 0, at most 1, was {fractions}")


@dataclass(frozen=True)
class MaskKPixels(Metric):
    """Mask-k-pixels: accuracy and log-odds of the label while more and more pixels are masked (SITE, Fig. 5).

    The pixels are ordered by the signed heatmap of the untransformed image. At fraction q the first `round(q·H·W)`
    of them (half to even) are set to `fill`, the image goes through a random warp `T_β`, the same for every fraction
    of a (sample, draw), and then through the model:

        accuracy(q) = [argmax f(T_β(mask_q(x))) = y]        in [0, 1]
        lor(q)      = z_y − logsumexp over j ≠ y of z_j      in nats, unbounded
        delta_lor(q) = lor(q) − lor(0)

    with y the label. Variants: the curves `"accuracy"`, `"lor"`, `"delta_lor"` over `fractions`, and the areas
    under them, `"accuracy_area"`, `"lor_area"`, `"delta_lor_area"` (trapezoid over the fraction). With
    `order="least"` a slow drop is good and higher is better; with `"most"` (deletion) lower is better.

    The warp surrounds the image with the fill where that is one value, and with black under `"blur"` and `"noise"`.
    A constant map is ordered at random and not marked. A sample is invalid when its map is, or when a log-odds is
    not finite.

    With several draws, the areas carry the variance of their mean over the draws.

    Attributes:
        fractions: shares of the pixels to mask, ascending from 0, at most 1.
        order: which pixels go first, `"least"` or `"most"` relevant.
        fill: `"black"`, `"mean"`, a pixel value, `"blur"` or `"noise"` (see `fill_images`).
        transform: the family of warps; `None` for none.
        n_draws: warps per sample.
        target: whose explanation orders the pixels, that of the `"predicted"` class or of the `"label"`.

    Example:
        >>> MaskKPixels(order="most", transform=None).facts("accuracy").higher_is_better
        False
    """

    name: ClassVar[str] = "mask_k_pixels"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = (
        "Wang & Wang, Self-Interpretable Model with Transformation Equivariant Interpretation, NeurIPS 2021, Fig. 5"
    )

    fractions: tuple[float, ...] = FRACTIONS
    order: Order = "least"
    fill: MaskFill = "black"
    transform: WarpFamily | None = field(default_factory=WarpFamily)
    n_draws: int = 1
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if self.transform is not None:
            object.__setattr__(self, "transform", as_family(self.transform))
        object.__setattr__(self, "fractions", tuple(self.fractions))  # a list, from the command line or a suite
        check_fractions(self.fractions)
        _check_order(self.order)
        check_fill(self.fill, FILLS)
        if self.n_draws < 1:
            raise ValueError(f"`n_draws` must be at least 1, was {self.n_draws}")
        if self.target not in {"predicted", "label"}:
            raise ValueError(f'`target` must be "predicted" or "label", was {self.target!r}')

    def facts(self, variant: str) -> Facts:
        """Direction by the order, range by the variant."""
        bounded = variant.startswith("accuracy")
        return Facts(self.order == "least", (0.0, 1.0) if bounded else self.range, self.chance)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: three curves and the areas under them."""
        maps = evidence.heatmaps(self.target)
        correct, odds = self._masked_predictions(evidence, maps)
        curves = {"accuracy": correct, "lor": odds, "delta_lor": odds - odds[..., :1]}
        invalid = invalid_maps(maps) | ~odds.flatten(1).isfinite().all(dim=1)
        status = status_of(len(maps), maps.device, invalid=invalid)
        axis = torch.tensor(self.fractions, dtype=torch.float64, device=maps.device)
        scores = {name: _scores(curve, status, steps=self.fractions) for name, curve in curves.items()}
        areas = {f"{name}_area": _scores(torch.trapezoid(curve, axis), status) for name, curve in curves.items()}
        return scores | areas

    def _masked_predictions(self, evidence: Evidence, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the label is predicted and its log-odds, `(B, D, S)` float64 each."""
        batch, labels = evidence.batch, evidence.targets("label")
        images, pixels = batch.images, maps.shape[-2] * maps.shape[-1]
        rank = pixel_rank(pixel_order(maps, order=self.order, seed=evidence.seed, ids=batch.keys)).int()
        count = torch.tensor([round(share * pixels) for share in self.fractions], device=maps.device)
        fills = fill_images(self.fill, evidence.normalization, batch, seed=evidence.seed)
        around = fill_value("black" if self.fill in ("blur", "noise") else self.fill, evidence.normalization, images)
        steps, draws = len(self.fractions), self.n_draws
        if self.transform is None:

            def build(rows: Tensor) -> Tensor:
                sample, step = rows // (draws * steps), rows % steps
                return mask_pixels(images[sample], rank[sample], count[step], fill=fills[sample])

        else:
            keys, numbers = repeat_draws(batch.keys, draws)
            size = (images.shape[-2], images.shape[-1])
            warps = self.transform.draw(evidence.seed, self.name, keys, numbers, size=size)
            build = MovedMasks(images, rank, count, fills, warps=warps, around=around)

        shape = (len(maps), draws, steps)
        correct, odds = (torch.zeros(shape, dtype=torch.float64, device=maps.device).flatten() for _ in range(2))
        for rows, logits in evidence.predict(len(odds), build):
            label = labels[rows // (draws * steps)]
            correct[rows] = (logits.argmax(dim=1) == label).double()
            odds[rows] = log_odds(logits, label)
        return correct.view(shape), odds.view(shape)


def _scores(values: Tensor, status: Tensor, *, steps: tuple[float, ...] = ()) -> Scores:
    """Average `(B, D)` or `(B, D, S)` values over the draws."""
    mean, variance = mean_over_draws(values)
    return Scores(nan_where(mean, status >= Status.NO_TRUTH), status, None if steps else variance, steps)


def _check_order(order: str) -> None:
    if order not in {"least", "most"}:
        raise ValueError(f'`order` must be "least" or "most", was {order!r}')
