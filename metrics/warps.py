"""Random geometry: warps drawn per sample from a family, and how they are applied.

Matrices are in the coordinates of `torch.nn.functional.affine_grid` with `align_corners=True`: -1 and +1 are the
centres of the outermost pixels, and a matrix maps a place in the output to the place in the input it is read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.philox import uniform

_WHOLE = 1e-9  # share of the side within which places count as whole pixels
_COVERED = 0.999  # smallest weight of true pixels, rather than padding, in a pixel that is compared


@dataclass(frozen=True)
class WarpFamily:
    """The family `T_β` of random warps; every parameter is drawn uniformly and independently per (sample, draw).

    The defaults are the family of SITE (Wang & Wang, NeurIPS 2021), for training and for evaluation.

    Attributes:
        rotation: largest angle in degrees, either way.
        translation: largest shift, as a share of the side (of the distance between the centres of the first and
            the last pixel), either way, in x and in y.
        scale: smallest and largest magnification.
        shear: largest horizontal shear angle in degrees, either way; below 90.
        flip: mirror left to right with probability 1/2.
        elastic: standard deviation of the elastic distortion, as a share of the side: how far each place is read
            from where it would be, in x and in y. The displacements are white noise smoothed by a Gaussian.
        smoothness: standard deviation of that Gaussian, as a share of the shorter side. (Simard et al. 2003
            distort 28×28 digits by a standard deviation of about 0.05 at a smoothness of 0.14.)

    Raises:
        ValueError: a parameter is outside its range.

    Example:
        >>> from interpeval.datasets.philox import sample_keys
        >>> len(WarpFamily().draw(0, "demo", sample_keys(["a", "b"]), 0, size=(8, 8)))
        2
    """

    rotation: float = 90.0
    translation: float = 0.25
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    flip: bool = False
    elastic: float = 0.0
    smoothness: float = 0.15

    def __post_init__(self) -> None:
        """Check that every parameter makes sense."""
        unlimited = float("inf")
        limits = {"rotation": unlimited, "translation": unlimited, "shear": 90.0, "elastic": unlimited}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"`{name}` must be at least 0 and below {limit:g}, was {getattr(self, name)}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise ValueError(f"`scale` must be (smallest, largest) with 0 < smallest <= largest, was {self.scale}")
        if not 0 < self.smoothness <= 1:
            raise ValueError(f"`smoothness` must be above 0 and at most 1, was {self.smoothness}")

    def draw(self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]) -> Warps:
        """Draw one warp for every (sample key, draw) pair: a pure function of the arguments.

        Args:
            seed: the run's seed.
            stream: name of what is drawn; different names give independent warps.
            keys: `(N,)` int64 sample keys.
            draws: `(N,)` int64 or one number: which Monte Carlo repetition.
            size: `(H, W)` of the images, so that a rotation keeps angles when they are not square.

        Returns:
            N warps. Displacements are computed when they are needed, so that many warps take little memory.
        """
        matrices = self.matrices(seed, stream, keys, draws, size=size)
        numbers = torch.as_tensor(draws, device=keys.device).expand_as(keys)
        field = None
        if self.elastic:
            field = _Elastic(seed, f"{stream}/elastic", keys, numbers, self.elastic, self.smoothness)
        return Warps(matrices, size, field)

    def matrices(self, seed: int, stream: str, keys: Tensor, draws: Tensor | int, *, size: tuple[int, int]) -> Tensor:
        """Draw the `(N, 2, 3)` float64 output-to-input matrices of warps, without elastic distortion; see `draw`."""
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


def as_family(transform: object) -> WarpFamily:
    """Take a family as it is, or its parameters by name, as the command line and suites give them.

    Raises:
        TypeError: it is neither, or a parameter is unknown.

    Example:
        >>> as_family({"rotation": 30.0}) == WarpFamily(rotation=30.0)
        True
    """
    if isinstance(transform, WarpFamily):
        return transform
    if isinstance(transform, Mapping):
        return WarpFamily(**transform)
    raise TypeError(f"`transform` must be a `WarpFamily` or its parameters by name, was {transform!r}")


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


@dataclass(frozen=True, eq=False)
class Warps:
    """N known warps of images of one size; `warps[rows]` are some of them.

    Attributes:
        matrices: `(N, 2, 3)` float64, output to input.
        size: `(H, W)` of the images.
        elastic: where each place is read from besides; `None` for affine warps.
    """

    matrices: Tensor
    size: tuple[int, int]
    elastic: _Elastic | None = None
    permuting: Tensor | None = None

    def __len__(self) -> int:
        """Return their number."""
        return len(self.matrices)

    def __getitem__(self, rows: Tensor | slice) -> Warps:
        """Return the warps of some rows, which may repeat."""
        elastic = None if self.elastic is None else self.elastic.rows(rows)
        return Warps(self.matrices[rows], self.size, elastic, self.permutes[rows])

    @cached_property
    def permutes(self) -> Tensor:
        """`(N,)` bool: which warps read from whole pixels only."""
        if self.permuting is not None:
            return self.permuting
        whole = _permutes(self.matrices, self.size)
        return whole if self.elastic is None else torch.zeros_like(whole)

    @cached_property
    def grid(self) -> Tensor:
        """`(N, H, W, 2)` float64, the places (x, y) that the output's pixels are read from, as `grid_sample` reads."""
        grid = F.affine_grid(self.matrices, [len(self), 1, *self.size], align_corners=True)
        return grid if self.elastic is None else grid + self.elastic.displacements(self.size)

    @cached_property
    def region(self) -> Tensor:
        """`(N, H, W)` bool: the pixels into which no padding mixes, `T(1) > 0.999` for an image of ones."""
        inside = [
            torch.minimum(place + 1, side - place).clamp_(0, 1)  # weight of the image between two pixels, per axis
            for side, place in zip(reversed(self.size), _places(self.grid, self.size), strict=True)
        ]
        return inside[0].mul_(inside[1]) > _COVERED

    def apply(self, images: Tensor, *, fill: Tensor | float = 0.0) -> Tensor:
        """Warp every image by its own warp: bilinear, `align_corners=True`, `fill` outside.

        Coordinates and weights are float64. Shifts by whole pixels, mirroring and quarter turns (to within 1e-9 of
        the side) permute the values exactly, and an image that is `fill` all over stays so.

        Args:
            images: `(N, C, H, W)`, floating point.
            fill: what lies outside the image, a number or broadcastable to `(N, C, H, W)`; it mixes into the pixels
                whose neighbours lie half outside.

        Returns:
            `(N, C, H, W)` in the type of `images`.
        """
        # Zeros are padded around `images - fill`; in float64 the difference is exact for float32 values.
        offsets = images.to(torch.float64, copy=True).sub_(fill)
        result = F.grid_sample(offsets, self.grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        exact = self.permutes.nonzero()[:, 0]
        if len(exact):  # a weight of 1e-15 on a neighbour would turn zeros into something else
            result[exact] = F.grid_sample(
                offsets[exact], self.grid[exact], mode="nearest", padding_mode="zeros", align_corners=True
            )
        return result.add_(fill).to(images.dtype)


def warp(images: Tensor, matrices: Tensor, *, fill: Tensor | float = 0.0) -> Tensor:
    """Warp `(N, C, H, W)` images by `(N, 2, 3)` float64 matrices, see `Warps.apply`.

    Example:
        >>> shift = affine_matrices(torch.zeros(1), torch.tensor([[0.5, 0.0]]), size=(2, 3))
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]), shift, fill=-1.0)
        tensor([[[[ 2.,  3., -1.],
                  [ 5.,  6., -1.]]]])
    """
    return Warps(matrices, (images.shape[-2], images.shape[-1])).apply(images, fill=fill)


def valid_region(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Find the pixels into which no padding mixes, `(N, H, W)` bool: `T(1) > 0.999` for an image of ones.

    Example:
        >>> shift = affine_matrices(torch.zeros(1), torch.tensor([[0.5, 0.0]]), size=(2, 3))
        >>> valid_region(shift, (2, 3))
        tensor([[[ True,  True, False],
                 [ True,  True, False]]])
    """
    return Warps(matrices, size).region


class _Elastic(NamedTuple):
    """Smooth random displacements, drawn by (seed, stream, key, draw) when they are asked for."""

    seed: int
    stream: str
    keys: Tensor
    draws: Tensor
    deviation: float
    smoothness: float

    def rows(self, rows: Tensor | slice) -> _Elastic:
        return self._replace(keys=self.keys[rows], draws=self.draws[rows])

    def displacements(self, size: tuple[int, int]) -> Tensor:
        """`(N, H, W, 2)` float64, in the coordinates of `grid_sample`, with the same law at every pixel.

        The noise reaches beyond the image, so that nothing happens at its border.
        """
        sigma = self.smoothness * min(size)
        reach = ceil(3 * sigma)
        noisy = [side + 2 * reach for side in size]
        shares = uniform(self.seed, self.stream, self.keys, self.draws, 2 * noisy[0] * noisy[1])
        noise = (12**0.5 * (shares - 0.5)).view(-1, *noisy)  # of variance 1
        for _ in range(2):  # along x, then, transposed, along y; a product for each, so that none depends on others
            band = _smoothing(noise.shape[2] - 2 * reach, sigma, reach, noise.device)
            noise = torch.bmm(noise, band.expand(len(noise), -1, -1)).transpose(1, 2)
        return 2 * self.deviation * noise.view(len(self.keys), 2, *size).permute(0, 2, 3, 1)


def _smoothing(side: int, sigma: float, reach: int, device: torch.device) -> Tensor:
    """`(side + 2 * reach, side)` float64: smooths rows by a Gaussian and keeps the variance of white noise at 1."""
    kernel = torch.arange(-reach, reach + 1, dtype=torch.float64, device=device).div(sigma).square().mul(-0.5).exp()
    kernel = kernel / kernel.square().sum().sqrt()
    band = kernel.new_zeros((side, side + 2 * reach))
    for row in range(side):
        band[row, row : row + len(kernel)] = kernel
    return band.T


def _places(grid: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The x and the y of a grid in pixels, 0 at the centre of the first."""
    height, width = size
    return (grid[..., 0] + 1) * ((width - 1) / 2), (grid[..., 1] + 1) * ((height - 1) / 2)


def _permutes(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """`(N,)` bool: which matrices are whole numbers in pixels, so that all places they read from are whole pixels."""
    half = (matrices.new_tensor((size[1], size[0])) - 1) / 2
    linear = matrices[:, :, :2] * half[:, None] / half
    origin = (matrices[:, :, 2] - matrices[:, :, :2].sum(dim=2) + 1) * half
    turns = ((linear - linear.round()).abs() < _WHOLE).flatten(1).all(dim=1)
    return turns & ((origin - origin.round()).abs() < _WHOLE * half).all(dim=1)
