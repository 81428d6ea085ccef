"""Affine coordinates in which a sample is round: its span, a robust centre and a robust scatter."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..datasets.philox import uniform
from .median_mad import median_mad

_CLIP = 10.0  # lengths beyond this multiple of the median length are shortened before the span is sought
_MOST_POINTS = 10_000  # sample points that the scatter is estimated from
_ITERATIONS = 200
_CONVERGED = 1e-12
_ROWS_A_DIMENSION = 20  # that the frame is made of
_COLLAPSED = 1e3  # condition above which the scatter has collapsed onto a part of the sample


class Whitening(NamedTuple):
    """Maps points to `k` coordinates, `(x - origin) @ weights - center`, and directions back by `weights`.

    Attributes:
        origin: `(d,)`, a point of the affine span of the sample.
        weights: `(d, k)`, k the rank of the sample; a direction v there is the direction `weights @ v` here.
        center: `(k,)`, the robust centre.
        scale: `(d,)`, the unit of each feature in which distances from the span are taken; 0 for a constant one.
        basis: `(d, k)` orthonormal, the span in these units.
        slack: distance from the span that is rounding, as a share of the length.
    """

    origin: Tensor
    weights: Tensor
    center: Tensor
    scale: Tensor
    basis: Tensor
    slack: float

    @property
    def rank(self) -> int:
        """Dimension of the affine span of the sample."""
        return self.weights.shape[1]

    def points(self, x: Tensor) -> Tensor:
        """`(…, k)` float64: coordinates of points `(…, d)`."""
        return (x - self.origin) @ self.weights - self.center

    def normal(self, x: Tensor) -> Tensor | None:
        """`(d,)`: unit vector along which the sample is constant and x `(d,)` elsewhere, if x is outside the span."""
        off = torch.where(self.scale == 0, x - self.origin, 0.0)
        if bool((off != 0).any()):
            return off / torch.linalg.vector_norm(off)
        if self.rank == int((self.scale > 0).sum()):
            return None
        y = _in_units(x - self.origin, self.scale)
        residual = _residual(y[None], self.basis)[0]
        if torch.linalg.vector_norm(residual) <= self.slack * (1 + torch.linalg.vector_norm(y)):
            return None
        normal = _in_units(residual, self.scale)
        return normal / torch.linalg.vector_norm(normal)


def robust_whitening(sample: Tensor, tolerance: float) -> Whitening:
    """Find the span of a sample and coordinates in which its bulk is round (Hettmansperger–Randles estimate).

    The centre and the scatter are those of Hettmansperger and Randles (2002): the spatial median and Tyler's shape
    in each other's coordinates. They do not depend on the affine coordinates of the sample, up to a rotation, nor on
    a minority of outliers.

    Args:
        sample: `(n, d)` float64.
        tolerance: singular values below this share of the largest one are rounding.

    Returns:
        The map. The median length of the whitened points is √k.
    """
    scale = feature_scale(sample)
    middle = median_mad(sample.T.contiguous())[0]
    away = torch.linalg.vector_norm(_in_units(sample - middle, scale), dim=1)
    origin = sample[away.argmin()]  # a point of the sample, because the medians may lie outside its span
    y = _in_units(sample - origin, scale)
    values, basis = _span(y, tolerance)
    weights = basis / values
    some = y[:: math.ceil(len(y) / _MOST_POINTS)] @ weights
    center, turn = _round(some)
    turn = turn @ _frame((some - center) @ turn)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    slack = tolerance + 10 * float(_share_outside(y, basis).max()) if basis.shape[1] < basis.shape[0] else tolerance
    return Whitening(origin, inverse[:, None] * (weights @ turn), center @ turn, scale, basis, slack)


def feature_scale(sample: Tensor) -> Tensor:
    """`(d,)`: MAD of each feature; its mean deviation where that is 0; 0 for a constant feature."""
    columns = sample.T.contiguous()
    median, mad = median_mad(columns)
    return torch.where(mad > 0, mad, (columns - median[:, None]).abs().mean(dim=1))


def _in_units(y: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, y / scale, 0.0)


def _residual(y: Tensor, basis: Tensor) -> Tensor:
    """`(B, d)`: parts of the rows that lie outside the span."""
    for _ in range(2):  # the second pass removes what rounding left
        y = y - (y @ basis) @ basis.T
    return y


def _share_outside(y: Tensor, basis: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_residual(y, basis), dim=1) / (1 + torch.linalg.vector_norm(y, dim=1))


def _span(y: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Singular values `(k,)`, per point, and right singular vectors `(d, k)` of shortened rows."""
    length = torch.linalg.vector_norm(y, dim=1)
    limit = _CLIP * length[length > 0].median() if bool((length > 0).any()) else length.new_tensor(1.0)
    short = y * (limit / length.clamp(min=limit))[:, None]
    _, values, basis = torch.linalg.svd(torch.linalg.qr(short, mode="r").R, full_matrices=False)
    kept = values > tolerance * values.max()
    return values[kept] / math.sqrt(len(y)), basis[kept].T.contiguous()


def _frame(z: Tensor) -> Tensor:
    """Rotation `(k, k)` into a frame that the rows `(n, k)` carry with them, so that it turns as they turn.

    It brings the rows, as unit vectors, as close as a rotation can to fixed random ones. Without it the coordinates
    of two affine images of one sample would differ by a rotation, and a search in them would end in other maxima.
    """
    rows = z[: _ROWS_A_DIMENSION * z.shape[1]]
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-6)
    keys = torch.arange(len(rows), device=z.device)
    marks = uniform(0, "projection_depth/frame", keys, 0, z.shape[1]).double() - 0.5
    left, _, right = torch.linalg.svd(rows.T @ marks)
    return left @ right


def _round(z: Tensor) -> tuple[Tensor, Tensor]:
    """Centre `(k,)` and matrix `(k, k)` such that `(z - centre) @ matrix` is round with median length √k."""
    n, k = z.shape
    middle, unit = median_mad(z.T.contiguous())[0], torch.eye(k, dtype=z.dtype, device=z.device)
    center, turn = middle, unit
    ridge = min(0.5, k / (10 * n))  # too few points leave some directions undetermined
    for _ in range(_ITERATIONS if k > 1 else 0):
        y = (z - center) @ turn
        inverse = 1 / torch.linalg.vector_norm(y, dim=1).clamp(min=1e-6)
        units = y * inverse[:, None]
        step = units.mean(dim=0) / inverse.mean()
        back = torch.linalg.inv(turn)
        center = center + step @ back
        shape = (1 - ridge) * k * (units.T @ units) / n + ridge * unit
        values, vectors = torch.linalg.eigh(shape)
        turn = turn @ (vectors / values.clamp(min=1e-6).sqrt())
        collapsed = torch.linalg.matrix_norm(turn) * torch.linalg.matrix_norm(back) > k * _COLLAPSED
        if bool(collapsed) or torch.maximum(values.log().abs().max(), step.abs().max()) < _CONVERGED:
            break
    if k > 1 and bool(torch.linalg.cond(turn) > _COLLAPSED):  # half of the points lie on one line or plane
        center, turn = middle, unit
    lengths = torch.linalg.vector_norm((z - center) @ turn, dim=1)
    typical = lengths.median() if bool(lengths.median() > 0) else lengths.mean()
    return center, turn * (math.sqrt(k) / typical if bool(typical > 0) else 1.0)
