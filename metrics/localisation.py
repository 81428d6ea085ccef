"""What the localisation metrics share: their inputs, the neighbourhood of a mask, and what becomes of a sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Evidence, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of

Degenerate = Literal["worst", "skip"]
"""What a silent map does: it scores the metric's worst value, or its sample is left out. It is counted either way."""

Resolution = Literal["input", "original"]
"""Where heatmap and mask are compared: in the model's input, or in the image before it was resized."""

Truth = Literal["item", "all"]
"""Where the object is: the mask of the sample's class, or the union of all annotated objects of its image."""


class Measured(NamedTuple):
    """What a localisation metric says about some maps.

    Attributes:
        values: `(B,)` float64.
        silent: `(B,)` bool, maps that show nothing; of no meaning where a map holds NaN.
        variance: `(B,)` float64, Monte Carlo variance of `values`; `None` where they were not drawn.
    """

    values: Tensor
    silent: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LocalisationMetric(Metric):
    """A metric that compares a heatmap with a mask and whose worst value is 0: a subclass says how to `measure`.

    An empty mask is no truth. A silent map scores 0 and is degenerate, or is left out.

    Attributes:
        target: class explained; `"none"` for the whole output of an encoder.
        truth: what counts as the object: the sample's own mask (`"item"`), or every annotated object of its image
            (`"all"`), which is the same where the dataset knows of no others.
        resolution: `"input"` compares in the geometry of the model's input; `"original"` maps the heatmap back to
            the image's own size first (`at_resolution`), as the publications' code does.
        degenerate: what a silent map does: `"worst"`, score 0; `"skip"`, leave the sample out (as some released
            code does, which lets an explainer gain by staying silent). It is counted either way.
    """

    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "masks"})

    target: TargetRule = "label"
    truth: Truth = "item"
    resolution: Resolution = "input"
    degenerate: Degenerate = "worst"

    def __post_init__(self) -> None:
        """Check the configuration."""
        check_choice("target", self.target, get_args(TargetRule))
        check_choice("truth", self.truth, get_args(Truth))
        check_choice("resolution", self.resolution, get_args(Resolution))
        check_choice("degenerate", self.degenerate, get_args(Degenerate))
        if self.truth == "all" and self.resolution == "original":
            raise ValueError(
                '`truth` must be "item" with `resolution="original"`, was "all"; only the masks of the '
                "samples' own classes are known at the original size"
            )

    @abstractmethod
    def measure(self, heatmap: Tensor, mask: Tensor, *, seed: int, keys: Tensor) -> Measured:
        """Measure `(B, H, W)` heatmaps against masks of the same size; draws are keyed by `seed` and `(B,)` keys."""

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        heatmaps, keys = evidence.heatmaps(self.target), evidence.batch.keys
        if self.resolution == "input":
            return {"": self._scores(heatmaps, true_masks(evidence, self.truth), evidence.seed, keys)}
        parts = [  # one by one, because each image has a size of its own
            self._scores(at_resolution(each, (mask.shape[0], mask.shape[1])), mask[None], evidence.seed, key)
            for each, mask, key in zip(heatmaps.split(1), original_masks(evidence), keys.split(1), strict=True)
        ]
        return {"": _joined(parts)}

    def _scores(self, heatmap: Tensor, mask: Tensor, seed: int, keys: Tensor) -> Scores:
        measured = self.measure(heatmap, mask, seed=seed, keys=keys)
        return localisation_scores(measured, heatmaps=heatmap, masks=mask, degenerate=self.degenerate)


def check_maps(heatmap: Tensor, mask: Tensor) -> None:
    """Check that `heatmap` is `(B, H, W)` floating point and `mask` is bool of the same shape.

    Raises:
        TypeError: a wrong type; nothing is converted, because a mask of 0 and 255 and a heatmap of whole numbers
            are mistakes more often than intentions.
        ValueError: a wrong shape.
    """
    check_heatmap(heatmap)
    if not torch.is_tensor(mask) or mask.dtype != torch.bool:
        raise TypeError(f"`mask` must be a bool tensor, was {_kind(mask)}; call `mask > 0` or `mask.bool()` first")
    if mask.shape != heatmap.shape:
        raise ValueError(f"`mask` must have the shape of `heatmap`, {tuple(heatmap.shape)}, had {tuple(mask.shape)}")


def check_heatmap(heatmap: Tensor) -> None:
    """Check that `heatmap` is a `(B, H, W)` floating-point tensor; errors as `check_maps`."""
    if not torch.is_tensor(heatmap) or not heatmap.is_floating_point():
        raise TypeError(f"`heatmap` must be a floating-point tensor, was {_kind(heatmap)}")
    if heatmap.ndim != 3 or 0 in heatmap.shape[1:]:
        raise ValueError(
            f"`heatmap` must be (B, H, W) with H, W > 0, was {tuple(heatmap.shape)}; "
            "reduce the channels first (`interpeval.baselines.base.heatmap`)"
        )


def empty_masks(mask: Tensor) -> Tensor:
    """`(B,)` bool: which `(B, H, W)` masks have no true pixel."""
    return mask.view(torch.uint8).flatten(1).amax(dim=1) == 0  # bytes: twenty times faster than `any`


def mask_areas(mask: Tensor) -> Tensor:
    """`(B,)` int64: how many true pixels each of the `(B, H, W)` masks has."""
    if mask.device.type != "cpu":
        return mask.flatten(1).sum(dim=1)
    return torch.tensor([np.count_nonzero(each) for each in mask.numpy()], dtype=torch.int64)  # forty times faster


def zero_maps(heatmap: Tensor) -> Tensor:
    """`(B,)` bool: which `(B, H, W)` heatmaps are 0 throughout."""
    maps = heatmap.flatten(1)
    zero = maps.amax(dim=1) == 0
    zero[zero.clone()] = maps[zero].amin(dim=1) == 0  # most maps need not be looked at twice
    return zero


def true_masks(evidence: Evidence, truth: Truth = "item") -> Tensor:
    """Return the `(B, H, W)` bool masks of the samples' classes, or of all annotated objects where there are others.

    Raises:
        ValueError: the dataset has no masks.
    """
    batch = evidence.batch
    masks = batch.all_masks if truth == "all" and batch.all_masks is not None else batch.masks
    if masks is None:
        raise ValueError("`batch.masks` must be given for a localisation metric, was None; use a dataset with masks")
    return masks


def original_masks(evidence: Evidence) -> Sequence[Tensor]:
    """Return the B bool masks `(h, w)` in the size that each image had before it was resized.

    Raises:
        ValueError: they are not known.
    """
    if evidence.batch.original_masks is None:
        raise ValueError(
            '`batch.original_masks` must be given for `resolution="original"`, was None; use a dataset that resizes '
            'whole images and keeps their masks, or `resolution="input"`'
        )
    return evidence.batch.original_masks


def at_resolution(heatmap: Tensor, size: tuple[int, int]) -> Tensor:
    """Map heatmaps to another size: bilinear interpolation between pixel centres (`align_corners=False`).

    Args:
        heatmap: `(B, H, W)` floating point.
        size: height and width wanted.

    Returns:
        `(B, *size)` of the same type; `heatmap` itself where that is its size. Interpolation only: a map that
        shrinks is not smoothed, so single pixels of it can be passed over.

    Raises:
        TypeError: `heatmap` is not floating point.
        ValueError: `heatmap` is not `(B, H, W)`, or a side wanted is not positive.

    Example:
        >>> at_resolution(torch.tensor([[[0.0, 4.0]]]), (1, 4))
        tensor([[[0., 1., 3., 4.]]])
    """
    check_heatmap(heatmap)
    if min(size) < 1:
        raise ValueError(f"`size` must be positive, was {tuple(size)}")
    if tuple(heatmap.shape[1:]) == tuple(size):
        return heatmap
    return F.interpolate(heatmap[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def check_choice(name: str, found: object, choices: Sequence[str]) -> None:
    """Check that a configuration field holds one of its words.

    Raises:
        ValueError: it does not.
    """
    if found not in choices:
        words = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be {words}, was {found!r}")


def tolerance_in_pixels(tolerance: float | None, mask: Tensor) -> float:
    """Return `tolerance`, or for `None` the usual 15 pixels at 224×224, scaled with the shorter side of `mask`.

    Example:
        >>> tolerance_in_pixels(None, torch.zeros(1, 448, 640, dtype=torch.bool))
        30.0
    """
    return 15 * min(mask.shape[1:]) / 224 if tolerance is None else tolerance


def check_tolerance(tolerance: float) -> None:
    """Check that `tolerance` is a positive finite number.

    Raises:
        ValueError: it is not.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(
            f"`tolerance` must be a positive finite number of pixels, was {tolerance}; 1 means on the mask"
        )


def squared_reach(tolerance: float, size: tuple[int, int], *, inclusive: bool = False) -> int:
    """Return the largest whole squared distance that lies within `tolerance` pixels.

    Squared distances between pixels are whole numbers, so comparing them with this one is exact for every
    tolerance. `size` caps it: no two pixels of an `(H, W)` image lie farther apart.

    Example:
        >>> squared_reach(15.0, (224, 224)), squared_reach(15.0, (224, 224), inclusive=True)
        (224, 225)
    """
    check_tolerance(tolerance)
    exact = Fraction(float(tolerance)) ** 2
    reach = math.floor(exact) if inclusive else math.ceil(exact) - 1
    return min(reach, size[0] ** 2 + size[1] ** 2)


def near_mask(mask: Tensor, tolerance: float, *, inclusive: bool = False) -> Tensor:
    """Mark every pixel whose Euclidean distance to the mask is below `tolerance` pixels.

    The mask is dilated by a disc, exactly. `tolerance=1` gives the mask itself.

    Args:
        mask: `(B, H, W)` bool.
        tolerance: positive number of pixels, not necessarily whole.
        inclusive: whether a distance of exactly `tolerance` is near enough.

    Returns:
        `(B, H, W)` bool; nothing is near an empty mask.

    Raises:
        ValueError: `tolerance` is not a positive finite number.

    Example:
        >>> mask = torch.tensor([[[False, False, False, True]]])
        >>> near_mask(mask, 2.0)
        tensor([[[False, False,  True,  True]]])
        >>> near_mask(mask, 2.0, inclusive=True)
        tensor([[[False,  True,  True,  True]]])
    """
    reach = squared_reach(tolerance, (mask.shape[1], mask.shape[2]), inclusive=inclusive)
    return _unpack(_dilate(_pack(mask), reach), len(mask))


def localisation_scores(
    measured: Measured, *, heatmaps: Tensor, masks: Tensor, degenerate: Degenerate = "worst"
) -> Scores:
    """Build the scores of a metric whose worst value is 0.

    Args:
        measured: what the metric says; its values are NaN for the samples below.
        heatmaps: `(B, H, W)`; a map with NaN or an infinite value makes its sample invalid.
        masks: `(B, H, W)` bool; an empty mask leaves its sample without truth.
        degenerate: whether silent maps score 0 (`"worst"`) or are left out (`"skip"`).
    """
    values, silent, variance = measured
    invalid = values.isnan()
    invalid[invalid.clone()] = invalid_maps(heatmaps[invalid])  # the others were looked at before
    status = status_of(
        len(values), values.device, **silence(silent, degenerate), no_truth=empty_masks(masks), invalid=invalid
    )
    missing = status >= Status.NO_TRUTH
    if variance is not None:
        variance = nan_where(variance.masked_fill(silent, 0.0), missing)
    return Scores(nan_where(values.masked_fill(silent, 0.0), missing), status, variance)


def silence(silent: Tensor, degenerate: Degenerate) -> dict[str, Tensor]:
    """Name the status of `(B,)` silent samples for `status_of`: `degenerate`, or `skipped`."""
    return {"skipped" if degenerate == "skip" else "degenerate": silent}


def _joined(parts: Sequence[Scores]) -> Scores:
    """Put the scores of single samples together."""
    variances = [part.variance for part in parts if part.variance is not None]
    return Scores(
        torch.cat([part.values for part in parts]),
        torch.cat([part.status for part in parts]),
        torch.cat(variances) if variances else None,
    )


def _kind(found: object) -> str:
    return str(found.dtype) if isinstance(found, Tensor) else type(found).__name__


def _dilate(mask: Tensor, reach: int) -> Tensor:
    """Dilate `(N, H, W)` bits by the disc of offsets with `dy² + dx² <= reach`.

    A disc is a stack of horizontal runs. Going from its tip (|dy| largest, run shortest) to its middle, the runs
    only grow, so each is made from the one before.
    """
    height, width = mask.shape[1:]
    near = torch.zeros_like(mask)
    runs, half = mask, 0  # the mask dilated horizontally by `half` pixels to both sides
    for dy in range(min(math.isqrt(reach), height - 1), -1, -1):
        wanted = min(math.isqrt(reach - dy * dy), width - 1)
        while half < wanted:
            # Half a run may be cut off by the border, and the other half must reach it: no longer step leaves no gap.
            step = min(half + 1, wanted - half)
            grown = runs.clone()
            grown[..., step:] |= runs[..., :-step]
            grown[..., :-step] |= runs[..., step:]
            runs, half = grown, half + step
        near[:, dy:] |= runs[:, : height - dy]
        near[:, : height - dy] |= runs[:, dy:]
    return near


def _pack(mask: Tensor) -> Tensor:
    """Let eight masks share a byte, one bit each: `(B, H, W)` bool to `(⌈B/8⌉, H, W)` uint8.

    Dilation is limited by memory traffic: packed it takes a sixth of the time.
    """
    members = mask.view(torch.uint8)
    packed = members[::8].clone()
    for bit in range(1, min(8, len(mask))):
        packed[: len(members[bit::8])] |= members[bit::8] << bit
    return packed


def _unpack(packed: Tensor, count: int) -> Tensor:
    """Undo `_pack` for `count` masks."""
    members = packed.new_empty((count, *packed.shape[1:]))
    for bit in range(min(8, count)):
        members[bit::8] = (packed[: len(members[bit::8])] >> bit) & 1
    return members.view(torch.bool)
