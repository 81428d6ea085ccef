"""Random geometry: affine warps drawn per sample, how they are applied, and how draws are averaged.

Matrices are in the coordinates of `torch.nn.functional.affine_grid` with `align_corners=True`: -1 and +1 are the
centres of the outermost pixels, and a matrix maps a place in the output to the place in the input it is read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.base import Normalization
from ..datasets.philox import uniform

Fill = Literal["black", "mean"] | float

_WHOLE = 1e-9  # share of the side within which places count as whole pixels
_COVERED = 0.999  # smallest weight of true pixels, rather than padding, in a pixel that is compared


@dataclass(frozen=True)
class Affine:
    """The family `T_β` of random warps; every parameter is drawn uniformly and independently per (sample, draw).

    The defaults are the family of SITE (Wang & Wang, NeurIPS 2021), for training and for evaluation.

    Attributes:
        rotation: largest angle in degrees, either way.
        translation: largest shift, as a share of the side (of the distance between the centres of the first and
            the last pixel), either way, in x and in y.
        scale: smallest and largest magnification.
        shear: largest horizontal shear angle in degrees, either way; below 90.
        flip: mirror left to right with probability 1/2.

    Raises:
        ValueError: a parameter is outside its range.

    Example:
        >>> from interpeval.datasets.philox import sample_keys
        >>> Affine().matrices(0, "demo", sample_keys(["a", "b"]), 0, size=(8, 8)).shape
        torch.Size([2, 2, 3])
    """

    rotation: float = 90.0
    translation: float = 0.25
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        """Check that every parameter makes sense."""
        for name, limit in (("rotation", float("inf")), ("translation", float("inf")), ("shear", 90.0)):
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"`{name}` must be at least 0 and below {limit:g}, was {getattr(self, name)}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise ValueError(f"`scale` must be (smallest, largest) with 0 < smallest <= largest, was {self.scale}")

    def matrices(self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]) -> Tensor:
        """Draw one warp for every (sample key, draw) pair: a pure function of the arguments.

        Args:
            seed: the run's seed.
            stream: name of what is drawn; different names give independent warps.
            keys: `(N,)` int64 sample keys.
            draws: `(N,)` int64 or one number: which Monte Carlo repetition.
            size: `(H, W)` of the images, so that a rotation keeps angles when they are not square.

        Returns:
            `(N, 2, 3)` float64 output-to-input matrices.
        """
        share = uniform(seed, stream, keys, draws, 6)  # always six, so that no parameter shifts another's numbers
        signed = 2 * share - 1
        low, high = self.scale
        return affine_matrices(
            signed[:, 0] * self.rotation,
            signed[:, 1:3] * self.translation,
            scale=low + (high - low) * share[:, 3],
            shear=signed[:, 4] * self.shear,
            flip=(share[:, 5] < 0.5) & self.flip,
            size=size,
        )


def as_affine(transform: object) -> Affine:
    """Take a family as it is, or its parameters by name, as the command line and suites give them.

    Raises:
        TypeError: it is neither, or a parameter is unknown.

    Example:
        >>> as_affine({"rotation": 30.0}) == Affine(rotation=30.0)
        True
    """
    if isinstance(transform, Affine):
        return transform
    if isinstance(transform, Mapping):
        return Affine(**transform)
    raise TypeError(f"`transform` must be an `Affine` or its parameters by name, was {transform!r}")


def affine_matrices(
    rotation: Tensor,
    translation: Tensor,
    *,
    size: tuple[int, int],
    scale: Tensor | None = None,
    shear: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """Build the output-to-input matrices of known warps about the centre of the image.

    In pixels, measured from the centre: `input = R(rotation) · S(shear) · diag(±1, 1) / scale · output + shift`, with
    `R(t) = [[cos t, -sin t], [sin t, cos t]]` and the shift `translation · (W - 1, H - 1)`. In normalised
    coordinates the shift is `2 · translation`.

    Args:
        rotation: `(N,)` degrees; a positive angle turns the picture counterclockwise as displayed (y down).
        translation: `(N, 2)` shares of the side, in x and in y: where the centre of the output is read from.
        size: `(H, W)` of the images.
        scale: `(N,)` magnification; 1 without.
        shear: `(N,)` degrees; 0 without.
        flip: `(N,)` bool, mirror left to right; false without.

    Returns:
        `(N, 2, 3)` float64.

    Example:
        >>> affine_matrices(torch.zeros(1), torch.tensor([[0.25, 0.0]]), size=(8, 8))[0].tolist()
        [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    angle = torch.deg2rad(rotation.double())
    cos, sin, one = angle.cos(), angle.sin(), torch.ones_like(angle)
    slope = torch.zeros_like(one) if shear is None else torch.deg2rad(shear.double()).tan()
    inverse = one if scale is None else one / scale
    mirror = one if flip is None else torch.where(flip, -one, one)
    height, width = (max(side - 1, 1) for side in size)
    a, b = cos * mirror * inverse, (cos * slope - sin) * inverse
    c, d = sin * mirror * inverse, (sin * slope + cos) * inverse
    shift = 2 * translation.double()
    first = torch.stack((a, b * (height / width), shift[:, 0]), dim=1)
    second = torch.stack((c * (width / height), d, shift[:, 1]), dim=1)
    return torch.stack((first, second), dim=1)


def warp(images: Tensor, matrices: Tensor, *, fill: Tensor | float = 0.0, which: Tensor | None = None) -> Tensor:
    """Warp every image by its own matrix: bilinear, `align_corners=True`, `fill` outside.

    Coordinates and weights are float64. Shifts by whole pixels, mirroring and quarter turns (to within 1e-9 of the
    side) permute the values exactly, and an image that is `fill` all over stays so.

    Args:
        images: `(N, C, H, W)`, floating point.
        matrices: `(N, 2, 3)` float64, output to input.
        fill: what lies outside the image, a number or broadcastable to `(N, C, H, W)`; it mixes into the pixels
            whose neighbours lie half outside.
        which: `(N,)` int64, the matrix of each image, where images share them and there are fewer than N.

    Returns:
        `(N, C, H, W)` in the type of `images`.

    Example:
        >>> shift = affine_matrices(torch.zeros(1), torch.tensor([[0.5, 0.0]]), size=(2, 3))
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), shift, fill=-1.0)
        tensor([[[[ 2.,  3., -1.],
                  [ 5.,  6., -1.]]]])
    """
    grid = F.affine_grid(matrices, [len(matrices), *images.shape[1:]], align_corners=True)
    permutes = _permutes(matrices, (images.shape[-2], images.shape[-1]))
    if which is not None:
        grid, permutes = grid[which], permutes[which]
    # Zeros are padded around `images - fill`; in float64 the difference is exact for float32 values.
    offsets = images.to(torch.float64, copy=True).sub_(fill)
    result = F.grid_sample(offsets, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    exact = permutes.nonzero()[:, 0]
    if len(exact):  # a weight of 1e-15 on a neighbour would turn zeros into something else
        result[exact] = F.grid_sample(
            offsets[exact], grid[exact], mode="nearest", padding_mode="zeros", align_corners=True
        )
    return result.add_(fill).to(images.dtype)


def valid_region(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Find the pixels into which no padding mixes: `T(1) > 0.999` for an image of ones.

    Args:
        matrices: `(N, 2, 3)` float64, output to input.
        size: `(H, W)` of the images.

    Returns:
        `(N, H, W)` bool.

    Example:
        >>> shift = affine_matrices(torch.zeros(1), torch.tensor([[0.5, 0.0]]), size=(2, 3))
        >>> valid_region(shift, (2, 3))
        tensor([[[ True,  True, False],
                 [ True,  True, False]]])
    """
    ones = torch.ones(1, dtype=torch.float64, device=matrices.device).expand(len(matrices), 1, *size)
    return warp(ones, matrices)[:, 0] > _COVERED


def fill_value(fill: Fill, normalization: Normalization, images: Tensor) -> Tensor:
    """Express a fill in the model's input space.

    Args:
        fill: `"black"`, pixel value 0; `"mean"`, the mean of the normalisation, which is 0 in the model's space; or
            a number, a pixel value (0 black, 1 white) that every channel takes.
        normalization: how pixel values became model inputs.
        images: `(B, C, H, W)`, for the number of channels, type and device.

    Returns:
        `(C, 1, 1)`.

    Raises:
        ValueError: `fill` is none of these.

    Example:
        >>> fill_value("black", Normalization((0.5,), (0.25,)), torch.zeros(1, 1, 2, 2)).item()
        -2.0
    """
    check_fill(fill)
    blank = images.new_zeros((images.shape[1], 1, 1))
    if fill == "mean":
        return blank
    return normalization.normalize(blank if isinstance(fill, str) else blank + fill)


def check_fill(fill: object, words: tuple[str, ...] = ("black", "mean")) -> None:
    """Raise a ValueError unless `fill` is one of `words` or a finite number."""
    number = isinstance(fill, (int, float)) and abs(fill) < float("inf")
    if not number and fill not in words:
        choices = ", ".join(f'"{word}"' for word in words)
        raise ValueError(f"`fill` must be {choices} or a finite pixel value (0 black, 1 white), was {fill!r}")


def repeat_draws(keys: Tensor, n_draws: int) -> tuple[Tensor, Tensor]:
    """Pair every sample with every draw, sample by sample.

    Args:
        keys: `(B,)` int64 sample keys.
        n_draws: number of Monte Carlo repetitions.

    Returns:
        keys and draws, `(B * n_draws,)` int64 each; row `b * n_draws + d` is draw `d` of sample `b`.

    Example:
        >>> repeat_draws(torch.tensor([7, 9]), 2)
        (tensor([7, 7, 9, 9]), tensor([0, 1, 0, 1]))
    """
    return keys.repeat_interleave(n_draws), torch.arange(n_draws, device=keys.device).repeat(len(keys))


def mean_over_draws(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Average the draws of each sample, and estimate the variance of that average.

    The variance is the sample variance over the draws (divisor D - 1) divided by their number D. A draw that is NaN
    is left out.

    Args:
        values: `(B, D, ...)` float64.

    Returns:
        the mean, `(B, ...)`, NaN where every draw is; and its variance, `(B, ...)`, NaN where fewer than two draws
        are left, or `None` with one draw, from which no variance can be estimated.

    Example:
        >>> mean_over_draws(torch.tensor([[1.0, 3.0]]))
        (tensor([2.]), tensor([1.]))
    """
    mean = values.nanmean(dim=1)
    if values.shape[1] == 1:
        return mean, None
    count = values.isfinite().sum(dim=1)
    squares = (values - mean.unsqueeze(1)).square().nansum(dim=1)
    return mean, torch.where(count > 1, squares / (count * (count - 1)), torch.nan)


def _permutes(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """`(N,)` bool: which matrices are whole numbers in pixels, so that all places they read from are whole pixels."""
    half = (matrices.new_tensor((size[1], size[0])) - 1) / 2
    linear = matrices[:, :, :2] * half[:, None] / half
    origin = (matrices[:, :, 2] - matrices[:, :, :2].sum(dim=2) + 1) * half
    turns = ((linear - linear.round()).abs() < _WHOLE).flatten(1).all(dim=1)
    return turns & ((origin - origin.round()).abs() < _WHOLE * half).all(dim=1)
