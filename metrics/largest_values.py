"""How many of the largest values of a heatmap lie in a mask, without sorting it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.philox import permutation_keys, sample_keys
from .base import invalid_maps, nan_where

_STRIDE = 127  # a prime: taking every 127th pixel of a row-major image takes from all of its columns
_WIDTHS = (1, 4)  # standard deviations: try narrow bounds first, missing them costs little
_NO_PIXEL: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def largest_inside(
    heatmap: Tensor,
    mask: Tensor,
    count: Tensor,
    *,
    seed: int = 0,
    ids: Sequence[str] | Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Count how many of the largest signed values of each heatmap lie in its mask.

    They are the first of `pixel_order(heatmap, order="most", seed=seed, ids=ids)`: where values are equal at the cut,
    a permutation keyed by (seed, sample) decides. It is drawn only where the choice matters.

    Args:
        heatmap: `(B, H, W)` floating point.
        mask: `(B, H, W)` bool.
        count: `(B,)` int64, how many values are looked at in each map, at most H·W.
        seed: seed of the permutation.
        ids: `B` sample names or keys that it depends on; positions in the batch if not given.

    Returns:
        `(B,)` float64, whole numbers; NaN where a map holds NaN or an infinite value.

    Raises:
        ValueError: `ids` does not name every sample.

    Example:
        >>> heatmap = torch.tensor([[[5.0, -1.0, 4.0, 3.0]]])
        >>> largest_inside(heatmap, heatmap > 3, torch.tensor([3]))
        tensor([2.], dtype=torch.float64)
    """
    keys = sample_keys(range(len(heatmap)) if ids is None else ids, heatmap.device)
    if len(keys) != len(heatmap):
        raise ValueError(f"`ids` must name each of the {len(heatmap)} samples, had {len(keys)}")
    maps, masks = heatmap.detach().flatten(1), mask.flatten(1)
    if maps.dtype not in (torch.float32, torch.float64):
        maps = maps.float()
    cut = _cut_by_numpy if maps.device.type == "cpu" else _cut_by_sorting
    parts = [  # some at a time, so that sorting, and the choice among ties, take little memory
        _settle(cut(*part), seed, some)
        for *part, some in zip(maps.split(128), masks.split(128), count.split(128), keys.split(128), strict=True)
    ]
    return torch.cat(parts)


class _Cut(NamedTuple):
    """n maps, each cut at its k-th largest value.

    Attributes:
        inside: `(n,)` float64, how many of the k largest lie in the mask, but for those still to be chosen; NaN where
            a map holds NaN or an infinite value.
        room: `(n,)` how many pixels are still to be chosen.
        row: `(T,)` to which of the n maps each pixel to choose from belongs, ascending.
        pixel: `(T,)` its row-major index.
        on: `(T,)` bool, whether it lies in the mask.
    """

    inside: Tensor
    room: Tensor
    row: Tensor
    pixel: Tensor
    on: Tensor


def _settle(cut: _Cut, seed: int, keys: Tensor) -> Tensor:
    """`(n,)` float64: how many are inside, with the tied pixels that stand first in the order of `pixel_order`."""
    if not len(cut.row):
        return cut.inside
    number = torch.cat(
        [
            permutation_keys(seed, "pixel_order", keys[row], 0, pixel)
            for row, pixel in zip(cut.row.split(2**16), cut.pixel.split(2**16), strict=True)
        ]
    )
    # Most ties are of a few pixels: NumPy's calls take a fraction of the time of PyTorch's.
    row, places, on, room = (tensor.cpu().numpy() for tensor in (cut.row, number, cut.on, cut.room))
    ends = np.flatnonzero(np.append(row[1:] != row[:-1], True)) + 1
    more, start = np.zeros(len(room)), 0
    for which, end in zip(row[ends - 1].tolist(), ends.tolist(), strict=True):
        last = np.partition(places[start:end], room[which] - 1)[room[which] - 1]
        more[which] = np.count_nonzero((places[start:end] <= last) & on[start:end])
        start = end
    return cut.inside + torch.from_numpy(more).to(cut.inside.device)


def _cut_by_sorting(maps: Tensor, masks: Tensor, count: Tensor) -> _Cut:
    """Cut `(n, P)` maps on any device."""
    value = maps.sort(dim=1, descending=True).values.gather(1, (count[:, None] - 1).clamp(min=0))
    larger, tied = maps > value, maps == value
    room, equal = count - larger.sum(dim=1), tied.sum(dim=1)
    taken = larger | (tied & (room == equal)[:, None])
    row, pixel = (tied & ((room > 0) & (room < equal))[:, None]).nonzero().unbind(dim=1)
    inside = nan_where((taken & masks).sum(dim=1), invalid_maps(maps))
    return _Cut(inside, room, row, pixel, masks[row, pixel])


def _cut_by_numpy(maps: Tensor, masks: Tensor, count: Tensor) -> _Cut:
    """Do the same on the CPU, several times faster: most values are only compared with two others."""
    values, inside = maps.numpy(), masks.numpy()
    memory = np.empty((2, values.shape[1]), dtype=bool)
    with np.errstate(over="ignore"):  # here rather than where squares are summed: entering it takes its time
        cuts = [_cut_one(*each, memory) for each in zip(values, inside, count.tolist(), strict=True)]
    sizes = torch.tensor([len(cut.pixel) for cut in cuts], dtype=torch.int64)
    return _Cut(
        torch.tensor([cut.inside for cut in cuts], dtype=torch.float64),
        torch.tensor([cut.room for cut in cuts], dtype=torch.int64),
        torch.arange(len(cuts)).repeat_interleave(sizes),
        torch.from_numpy(np.concatenate([_NO_PIXEL, *(cut.pixel for cut in cuts)])),
        torch.from_numpy(np.concatenate([_NO_PIXEL > 0, *(cut.on for cut in cuts)])),
    )


class _One(NamedTuple):
    """The members of `_Cut` for one map."""

    inside: float
    room: int = 0
    pixel: NDArray[np.int64] = _NO_PIXEL
    on: NDArray[np.bool_] = _NO_PIXEL > 0


def _cut_one(values: NDArray[Any], inside: NDArray[np.bool_], k: int, memory: NDArray[np.bool_]) -> _One:
    """Cut `(P,)` values; `memory` is `(2, P)`, to be written to."""
    if not _finite(values):
        return _One(math.nan)
    if k == 0:
        return _One(0)
    larger, between = memory
    near, room = _candidates(values, k, larger, between)
    candidates, on = values.take(near), inside.take(near)
    value = np.partition(candidates, -room)[-room]
    above, tied = candidates > value, candidates == value
    larger &= inside
    count = int(np.count_nonzero(larger)) + int(np.count_nonzero(above & on))
    room -= int(np.count_nonzero(above))
    if room == np.count_nonzero(tied):
        return _One(count + int(np.count_nonzero(tied & on)))
    return _One(count, room, near[tied], on[tied])


def _finite(values: NDArray[Any]) -> bool:
    """Whether all values are; a finite sum of their squares, the fastest to compute, says so, an infinite may not."""
    return math.isfinite(values.dot(values)) or bool(np.isfinite(values).all())


def _candidates(
    values: NDArray[Any], k: int, larger: NDArray[np.bool_], between: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], int]:
    """Indices of values among which the k-th largest is, and which of them it is; marks all that are `larger`."""
    for low, high in _bounds(values, k):
        np.greater(values, high, out=larger)
        np.greater_equal(values, low, out=between)
        between ^= larger
        room = k - int(np.count_nonzero(larger))
        if 0 < room <= np.count_nonzero(between):
            return np.flatnonzero(between), room
    larger[:] = False
    return np.arange(len(values)), k


def _bounds(values: NDArray[Any], k: int) -> Iterator[tuple[float, float]]:
    """Pairs of numbers between which the k-th largest value may lie: probably, and almost surely.

    They are those of a sample of the pixels; the share of it that is larger than the k-th largest value of all has a
    known standard deviation, if pixels are drawn at random.
    """
    sample = np.sort(values[::_STRIDE])
    size, share = len(sample), 1 - k / len(values)
    for deviations in _WIDTHS:
        error = deviations * math.sqrt(size * share * (1 - share)) + 1
        low, high = int(size * share - error), int(size * share + error) + 1
        yield float(sample[low]) if low >= 0 else -np.inf, float(sample[high]) if high < size else np.inf
