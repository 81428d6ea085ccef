"""The images of a mask-k curve: every sample masked further and further, each step under the same warp."""

from __future__ import annotations

import torch
from torch import Tensor

from .warps import Warps

_BLOCK = 4 * 2**20  # bytes of images made at a time, where fewer are asked for
_CACHED = 2**20  # bytes of images added up at a time: what a processor's cache holds


def mask_pixels(images: Tensor, rank: Tensor, count: Tensor, *, fill: Tensor) -> Tensor:
    """Replace the first `count` pixels of each image, all channels together.

    Args:
        images: `(N, C, H, W)`.
        rank: `(N, H*W)` position of each pixel in the order (`interpeval.metrics.mask_k_pixels.pixel_rank`).
        count: `(N,)` how many pixels go.
        fill: what they are replaced by, broadcastable to `(N, C, H, W)`.

    Returns:
        `(N, C, H, W)`, a new tensor.

    Example:
        >>> image, rank = torch.ones(1, 1, 2, 2), torch.tensor([[2, 0, 3, 1]])
        >>> mask_pixels(image, rank, torch.tensor([2]), fill=torch.zeros(1))
        tensor([[[[1., 0.],
                  [1., 0.]]]])
    """
    gone = rank < count[:, None]
    return torch.where(gone.view(len(images), 1, *images.shape[-2:]), fill, images)


class MovedMasks:
    """Makes the warped images of any (sample, draw, step), in the order of their row numbers.

    Row `(b * D + d) * S + s` is sample `b` with its first `counts[s]` pixels replaced, under its warp `d`. A warped
    pixel is a weighted sum of four, found once for all steps; a step adds up those of the four that it still has.
    The images are those of `mask_pixels` and `Warps.apply`
    to the rounding of float32; where a warp permutes pixels they are the same to the bit, and an image without any
    pixel left is `around` to the bit.

    Rows are made some (sample, draw) at a time and the last ones kept, because they are asked for in ascending order.
    """

    def __init__(
        self, images: Tensor, rank: Tensor, counts: Tensor, fills: Tensor, *, warps: Warps, around: Tensor
    ) -> None:
        """Store what the images are made of.

        Args:
            images: `(B, C, H, W)`.
            rank: `(B, H*W)` position of each pixel in the order.
            counts: `(S,)` ascending from 0, how many pixels go.
            fills: `(B, C, 1, 1)` or `(B, C, H, W)`, what they are replaced by.
            warps: `B * D` of them, those of a sample together.
            around: `(C, 1, 1)`, what surrounds the images.
        """
        self.images = images
        self.rank = rank
        self.counts = counts
        self.fills = fills
        self.warps = warps
        self.around = around
        # The last step at which a pixel is still there; every pixel is at step 0.
        # Whole numbers as floating-point ones: comparing small integers takes several times as long.
        self._steps = torch.arange(len(counts), dtype=images.dtype, device=images.device)
        self._last_step = torch.searchsorted(counts, rank, right=True).sub_(1).to(images.dtype)
        self._first, self._stop = 0, 0
        self._made = images.new_empty((0, len(counts), *images.shape[1:]))

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the `(n, C, H, W)` images of ascending row numbers."""
        pairs, step = rows // len(self.counts), rows % len(self.counts)
        first, last = int(pairs[0]), int(pairs[-1])
        if first < self._first or last >= self._stop:
            self._make(first, last)
        return self._made[pairs - self._first, step]

    def _make(self, first: int, last: int) -> None:
        """Make the images of some (sample, draw) pairs, and of those that follow as far as memory is cheap."""
        size = len(self.counts) * self.images[0].numel() * self.images.element_size()
        stop = min(max(last + 1, first + max(1, _BLOCK // size)), len(self.warps))
        samples = torch.arange(first, stop, device=self.images.device) // (len(self.warps) // len(self.images))
        warps = self.warps[first:stop]
        made = self._moved(samples, warps)
        for pair in warps.permutes.nonzero()[:, 0].tolist():
            made[pair] = self._one_by_one(samples[pair], warps[pair : pair + 1])
        self._first, self._stop = first, stop

    def _moved(self, samples: Tensor, warps: Warps) -> Tensor:
        """`(P, S, C, H, W)`: the fill under its warp, and on it what each step still has of the image."""
        images, fills, last_step = self.images[samples], self.fills[samples], self._last_step[samples]
        around = self.around.expand_as(fills)
        below = around if torch.equal(fills, around) else warps.apply(fills.expand_as(images), fill=self.around)
        offsets, made = (images - fills).flatten(2), self._buffer(len(samples))
        parts = [
            (offsets.gather(2, source[:, None].expand_as(offsets)).mul_(weight[:, None]), last_step.gather(1, source))
            for source, weight in _neighbours(warps.grid, offsets.dtype)
        ]
        for steps in self._steps.split(max(1, _CACHED // images.nbytes)):
            first, stop = int(steps[0]), int(steps[-1]) + 1
            some = made[:, first:stop].copy_(below[:, None]).flatten(3)
            for share, last in parts:
                there = (
                    (last[:, None, None] - steps[:, None, None]).clamp_(-1, 0).add_(1)
                )  # 1 up to its last step, then 0
                some.addcmul_(share[:, None], there)
        return made

    def _buffer(self, pairs: int) -> Tensor:
        """`(P, S, C, H, W)` of any content: memory that was used before is many times faster than new one."""
        if len(self._made) < pairs:
            self._made = self.images.new_empty((pairs, len(self.counts), *self.images.shape[1:]))
        return self._made[:pairs]

    def _one_by_one(self, sample: Tensor, warp: Warps) -> Tensor:
        """`(S, C, H, W)`: the images of one pair from their definition."""
        steps = len(self.counts)
        images, rank, fill = (
            part[sample].expand(steps, *part.shape[1:]) for part in (self.images, self.rank, self.fills)
        )
        same = torch.zeros(steps, dtype=torch.int64, device=images.device)
        return warp[same].apply(mask_pixels(images, rank, self.counts, fill=fill), fill=self.around)


def _neighbours(grid: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Four times `(P, H*W)` int64 pixels and their bilinear weights, which are 0 outside the image."""
    height, width = grid.shape[1:3]
    x, y = ((grid[..., axis].flatten(1) + 1) * ((side - 1) / 2) for axis, side in ((0, width), (1, height)))
    left, top = x.floor(), y.floor()
    found: list[tuple[Tensor, Tensor]] = []
    for row, of_row in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, of_column in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            found.append((pixel.long(), (of_row * of_column * inside).to(dtype)))
    return found
