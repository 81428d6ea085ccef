"""The smooth masks of extremal perturbations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TEMPERATURE = 20.0


class SmoothMasks:
    """Masks that cannot change quickly: every pixel takes the largest of the grid points near it, faded by distance.

    `m(u) = smax_v k(|u − v|) g(v)` over the points `v` of a grid, one at the centre of every `step × step` pixels, with
    `k(d) = exp(−2 max(0, d / σ − ½)²)`. `smax` is the mean weighted by `exp(20 ·)`, a maximum with a gradient for
    all. Points further than `⌈σ / step⌉ + 1` cells away along either axis are left out. Beyond
    the border the grid is mirrored, so that points of one value make a mask that prefers no place.

    The published mask is a maximum over the same kernel. Where the grid lies, and where the kernel ends, is not printed
    there.

    Args:
        size: `(H, W)` of the masks.
        step: pixels between grid points.
        sigma: how far a point reaches, in pixels.
        like: a tensor of the type and on the device of the masks.

    Example:
        >>> masks = SmoothMasks((5, 7), step=2, sigma=4.0, like=torch.zeros(1))
        >>> masks.grid_size, masks(torch.zeros(3, 3, 4)).shape
        ((3, 4), torch.Size([3, 5, 7]))
    """

    def __init__(self, size: tuple[int, int], *, step: int, sigma: float, like: Tensor) -> None:
        self._size = size
        self._step = step
        self._reach = math.ceil(sigma / step) + 1
        self._kernel = self._faded(sigma).to(like)
        self._frames = [_mirrored(points, self._reach).to(like) for points in self.grid_size]

    @property
    def grid_size(self) -> tuple[int, int]:
        """Points along y and x."""
        return math.ceil(self._size[0] / self._step), math.ceil(self._size[1] / self._step)

    def __call__(self, grids: Tensor) -> Tensor:
        """Turn `(B, gh, gw)` values of the grid points into `(B, H, W)` masks."""
        (rows, columns), step, window = self.grid_size, self._step, 2 * self._reach + 1
        framed = self._frames[0] @ grids @ self._frames[1].mT
        near = F.unfold(framed[:, None], window).view(-1, window**2, rows, 1, columns, 1)
        # The pixels of a cell have the same neighbours and differ in the distances to them.
        faded = near * self._kernel.view(window**2, 1, step, 1, step)
        masks = ((_TEMPERATURE * faded).softmax(dim=1) * faded).sum(dim=1).reshape(-1, rows * step, columns * step)
        return masks[:, : self._size[0], : self._size[1]]

    def _faded(self, sigma: float) -> Tensor:
        """`(n, step, step)`: the kernel between the neighbours of a cell's point and the pixels of the cell."""
        points = torch.arange(-self._reach, self._reach + 1, dtype=torch.float64) * self._step
        pixels = torch.arange(self._step, dtype=torch.float64) - (self._step - 1) / 2
        apart = (points[:, None] - pixels).square()
        distances = (apart[:, None, :, None] + apart[None, :, None, :]).sqrt()
        return torch.exp(-2 * (distances / sigma - 0.5).clamp(min=0) ** 2).flatten(0, 1)


def _mirrored(points: int, frame: int) -> Tensor:
    """`(points + 2 frame, points)`: puts a mirror image at both ends; a product's gradient is repeatable."""
    places = torch.arange(-frame, points + frame) % (2 * points)
    return F.one_hot(torch.minimum(places, 2 * points - 1 - places), points)
