"""What the localisation metrics share: their inputs, the neighbourhood of a mask, and what becomes of a sample."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from .base import Evidence, Scores, Status, invalid_maps, nan_where, status_of


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


def true_masks(evidence: Evidence) -> Tensor:
    """Return the `(B, H, W)` bool masks of the batch.

    Raises:
        ValueError: the dataset has none.
    """
    if evidence.batch.masks is None:
        raise ValueError("`batch.masks` must be given for a localisation metric, was None; use a dataset with masks")
    return evidence.batch.masks


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
    values: Tensor, *, heatmaps: Tensor, masks: Tensor, silent: Tensor, variance: Tensor | None = None
) -> Scores:
    """Build the scores of a metric whose worst value is 0.

    Args:
        values: `(B,)` per-sample values.
        heatmaps: `(B, H, W)`; a map with NaN or an infinite value makes its sample invalid.
        masks: `(B, H, W)` bool; an empty mask leaves its sample without truth.
        silent: `(B,)` bool; these samples score 0 and are degenerate.
        variance: `(B,)` Monte Carlo variance of `values`, if they were drawn.
    """
    status = status_of(
        len(values),
        values.device,
        degenerate=silent,
        no_truth=empty_masks(masks),
        invalid=invalid_maps(heatmaps),
    )
    missing = status >= Status.NO_TRUTH
    if variance is not None:
        variance = nan_where(variance.masked_fill(silent, 0.0), missing)
    return Scores(nan_where(values.masked_fill(silent, 0.0), missing), status, variance)


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
