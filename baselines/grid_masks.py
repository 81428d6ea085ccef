"""Random masks of RISE and RELAX: grids of kept and dropped cells, enlarged bilinearly and shifted at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.philox import uniform
from .option_checks import check_word

Enlargement = Literal["rise", "torchray", "relax"]


@dataclass(frozen=True)
class DrawnMasks:
    """The masks of one sample, drawn but not yet enlarged.

    A mask is `rows[top] · grid · columns[left]ᵀ`: bilinear enlargement and the cut at a random shift are linear along
    each axis, so two small matrix products make a batch of masks.

    Attributes:
        grids: `(n, s, s)` bool, which cells are kept.
        top: `(n,)` int64, the shift along y.
        left: `(n,)` int64, the shift along x.
        rows: `(shifts, H, s)` interpolation weights along y for every shift.
        columns: `(shifts, W, s)` the same along x.
    """

    grids: Tensor
    top: Tensor
    left: Tensor
    rows: Tensor
    columns: Tensor

    def enlarged(self, part: slice) -> Tensor:
        """Return some of the masks, `(m, H, W)` in [0, 1]."""
        grids = self.grids[part].to(self.rows.dtype)
        return self.rows[self.top[part]] @ grids @ self.columns[self.left[part]].mT


def draw_masks(
    key: Tensor, n_masks: int, size: tuple[int, int], *, stream: str, enlargement: Enlargement, n_cells: int,
    p: float, dtype: torch.dtype = torch.float32,
) -> DrawnMasks:  # fmt: skip
    """Draw the masks of one sample on the device of its key.

    Every cell of an `s × s` grid is kept with probability `p`; the grid is enlarged bilinearly to somewhat more than
    the image, and a window of the image's size is cut from it at a shift that is uniform over `n` positions per axis:

    * `"rise"`: to `(s + 1) c` pixels with `c = ⌈H / s⌉`, mirrored at the border, `n = c`: the rule of RISE's
      notebooks (scikit-image's `resize`).
    * `"torchray"`: to `H + c` pixels, in cells of `⌈(H + c) / s⌉` pixels, mirrored at the border, `n = c`.
    * `"relax"`: to `H` pixels, continued at the border (`align_corners=False`), then framed by a reflection of
      `r = ⌊s / 2⌋` pixels; `n = 2 r + 1`.

    The expectation of every pixel is `p` under each of them. The numbers depend on the key and the stream alone; a
    mask does not depend on how many are drawn.

    Args:
        key: int64 scalar, the sample's key.
        n_masks: how many.
        size: `(H, W)` of the image.
        stream: name of what is drawn.
        enlargement: one of the rules above.
        n_cells: `s`.
        p: probability that a cell is kept, in (0, 1].
        dtype: of the masks.

    Raises:
        ValueError: `p` is out of range, or the image is too small for the frame of `"relax"`.

    Example:
        >>> masks = draw_masks(torch.tensor(3), 5, (8, 6), stream="demo", enlargement="rise", n_cells=2, p=1.0)
        >>> masks.enlarged(slice(0, 2)).shape, masks.enlarged(slice(0, 5)).mean().item()
        (torch.Size([2, 8, 6]), 1.0)
    """
    if not 0 < p <= 1:
        raise ValueError(f"`p` must be in (0, 1], was {p}")
    rows, columns = (_windows(side, n_cells, enlargement).to(key.device, dtype) for side in size)
    draws = torch.arange(n_masks, device=key.device)
    shares = uniform(0, stream, key.expand(n_masks), draws, n_cells**2 + 2)
    top, left = ((shares[:, n_cells**2 + axis] * len(windows)).long() for axis, windows in enumerate((rows, columns)))
    return DrawnMasks((shares[:, : n_cells**2] < p).view(-1, n_cells, n_cells), top, left, rows, columns)


def scored_masks(
    masks: DrawnMasks, image: Tensor, score: Callable[[Tensor], Tensor], *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `(scores (m,), masks (m, H * W))` of the masks of one `(C, H, W)` image, `batch_size` at a time.

    Args:
        masks: what it is multiplied by.
        image: the image.
        score: maps `(m, C, H, W)` masked images to `(m,)` numbers.
        batch_size: how many go through the model at once.
    """
    for start in range(0, len(masks.grids), batch_size):
        part = masks.enlarged(slice(start, start + batch_size))
        scores = score(image * part[:, None])
        yield scores.to(part.dtype), part.flatten(1)


def _windows(side: int, n_cells: int, enlargement: Enlargement) -> Tensor:
    """`(shifts, side, s)` float64: the interpolation weights of every window that may be cut."""
    check_word("enlargement", enlargement, get_args(Enlargement))
    cell = math.ceil(side / n_cells)
    if enlargement == "rise":
        enlarged = _interpolation((n_cells + 1) * cell, n_cells / ((n_cells + 1) * cell), n_cells, mirrored=True)
        shifts = cell
    elif enlargement == "torchray":
        length = side + cell
        enlarged = _interpolation(length, 1 / math.ceil(length / n_cells), n_cells, mirrored=True)
        shifts = cell
    else:
        frame = n_cells // 2
        if frame >= side:
            raise ValueError(f"`n_cells` must be below {2 * side} for an image of {side} pixels, was {n_cells}")
        inner = _interpolation(side, n_cells / side, n_cells, mirrored=False)
        enlarged = F.pad(inner.T[None], (frame, frame), mode="reflect")[0].T
        shifts = 2 * frame + 1
    return enlarged.unfold(0, side, 1)[:shifts].mT.contiguous()


def _interpolation(length: int, scale: float, n_cells: int, *, mirrored: bool) -> Tensor:
    """`(length, s)` float64: the share of every cell in every pixel, whose centre lies at `(i + ½) scale − ½`."""
    places = (torch.arange(length, dtype=torch.float64) + 0.5) * scale - 0.5
    last = n_cells - 1
    if mirrored:
        places = last - (places.abs() - last).abs()
    cells = torch.arange(n_cells, dtype=torch.float64)
    return (1 - (places.clamp(0, last)[:, None] - cells).abs()).clamp(min=0)
