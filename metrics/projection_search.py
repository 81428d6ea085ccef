"""Search for the direction in which a point lies farthest out, in coordinates in which the sample is round.

Everything that could depend on which queries happen to be worked on together is arranged not to: coordinates and
directions lie on grids coarse enough for their products to be exact in float64, so that no order of summation, block
size, number of threads or device rounds them differently, and starts come from the sample and the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..datasets.philox import permutation, uniform
from .median_mad import MedianRule, median_mad

_DIRECTION_BITS = 20  # grid of the directions: 2⁻²⁰, so that products with 31-bit coordinates fit float64's 53 bits
_POINT_BITS = 31
_FARTHEST = 2.0**12  # points are drawn in to this multiple of the median length, so that few set the grid for all
_GRADIENT_GRID = 2.0**-6
_GRADIENT_RANGE = 16.0  # 2¹³ rows of at most 16 · 2⁶ steps sum exactly in float32's 24 bits
_GRADIENT_ROWS = 2**13

_FIRST_ANGLE = 0.3  # radians of the first step
_RESTART_ANGLES = (0.15, 0.05)  # in turn
_LAST_ANGLE = 1e-3
_POWER = 3  # of the schedule by which the steps shrink
_WINDOW = 2 / 0.6745  # half-width of a window, in MADs per radian of the step
_MOMENTUM = 0.6
_SELECTED = 0.06  # share of the steps, the last ones, for which medians are selected rather than followed
_TINY = 1e-6  # rounding of a projection in float32, in units of the whitened sample

_RANDOM = 64  # directions in the pool
_FAN = 1024  # directions in the pool in the plane
_FAN_KEPT = 8  # of them for each query, around which the fan is made denser
_FAN_LEVELS = 3
_FAN_DENSER = 8
_ALIKE = 0.98  # |cos| above which two starts are one
_AMPLE = 6000  # sample points below which there are more starts, as many as cost about the same
_MOST_TIMES = 64
_CACHED = 400_000  # numbers in a block that a CPU's cache holds
_BYTES = 48  # working memory for each (direction, sample point) pair


class Budget(NamedTuple):
    """How long to search: steps of the ascent, then rounds that restart it from the best of the pool.

    Attributes:
        steps: of the first ascent.
        pool: sample points that stand in for queries, whose directions become starts for all.
        narrow: starts from which directions of locally smallest MAD are sought, for the same purpose.
        rounds: of restarts.
        starts: of each round, the best direction so far among them.
        restart_steps: of each of these ascents.
    """

    steps: int
    pool: int
    narrow: int
    rounds: int
    starts: int
    restart_steps: int


BUDGETS = {
    "fast": Budget(60, 0, 8, 1, 1, 85),
    "default": Budget(70, 64, 16, 1, 5, 95),
    "thorough": Budget(200, 64, 16, 4, 5, 100),
}


class Sample(NamedTuple):
    """A whitened sample, prepared for exact products.

    Attributes:
        points: `(n, k)` float64 on a grid.
        rounded: `(n, k)` float32 on a coarse grid, for gradients.
        rule: of the medians.
        numbers: that may be held at a time, of `_BYTES` each.
    """

    points: Tensor
    rounded: Tensor
    rule: MedianRule
    numbers: int

    @property
    def block(self) -> int:
        """How many directions are worked on together."""
        return max(1, self.numbers // len(self.points))


def prepare(points: Tensor, rule: MedianRule, memory: int) -> Sample:
    """Put whitened points `(n, k)` on their grids; work on them keeps to `memory` bytes."""
    numbers = memory // _BYTES if points.is_cuda else min(_CACHED, memory // _BYTES)
    length = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    limit = _FARTHEST * math.sqrt(points.shape[1])
    near = points * (limit / length.clamp(min=limit))
    rounded = (points.clamp(-_GRADIENT_RANGE, _GRADIENT_RANGE) / _GRADIENT_GRID).round() * _GRADIENT_GRID
    step = 2.0 ** (math.ceil(math.log2(max(float(length.clamp(max=limit).max()), _TINY))) - _POINT_BITS)
    return Sample((near / step).round() * step, rounded.float(), rule, numbers)


def search(sample: Sample, x: Tensor, *, seed: int, budget: Budget, tick: Callable[[int], object]) -> Tensor:
    """Find for every whitened query a direction in which it lies far out.

    Args:
        sample: the whitened sample.
        x: `(Q, k)` whitened queries.
        seed: of the pool.
        budget: how long to search.
        tick: called with the number of ascents that have ended.

    Returns:
        `(Q, k)` float64 unit vectors.
    """
    pool = _pool(sample, seed, budget)
    climb = partial(_search_plane, sample) if x.shape[1] == 2 else partial(_search_block, sample, budget=budget)
    held = len(pool.directions) + 3 * budget.starts * _plenty(sample) * x.shape[1]  # for each query
    block = max(1, min(sample.block, sample.numbers // held))
    best = [climb(part, pool, tick=tick) for part in x.split(block)]
    return torch.cat(best) if best else x


def _plenty(sample: Sample) -> int:
    """How many times more directions a small sample gets for about the same cost."""
    return max(1, min(_AMPLE // len(sample.points), _MOST_TIMES))


class _Pool(NamedTuple):
    """Directions `(m, k)` with the median and the MAD `(m,)` of the sample along each."""

    directions: Tensor
    median: Tensor
    mad: Tensor

    def outlyingness(self, x: Tensor) -> Tensor:
        """`(B, m)`: of every query along every direction; the product is exact."""
        unit = torch.exp2(torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=_TINY).log2().ceil() - _POINT_BITS)
        along = ((x / unit).round() @ self.directions.T) * unit
        return _outlyingness(along - self.median, self.mad)


def _search_block(sample: Sample, x: Tensor, pool: _Pool, budget: Budget, tick: Callable[[int], object]) -> Tensor:
    values = pool.outlyingness(x)
    found, value = _ascend(sample, x, _first_start(sample, x, pool, values), budget.steps, _FIRST_ANGLE)
    tick(len(x))
    count = budget.starts * _plenty(sample)
    for turn in range(budget.rounds):
        angle = _RESTART_ANGLES[turn % len(_RESTART_ANGLES)]
        starts = _starts(found, pool.directions, values, count)
        many = x.expand(len(starts), *x.shape).flatten(0, 1)
        parts = zip(many.split(sample.block), starts.flatten(0, 1).split(sample.block), strict=True)
        ends = [_ascend(sample, rows, start, budget.restart_steps, angle) for rows, start in parts]
        reached = torch.cat([value for _, value in ends]).view(len(starts), -1)
        directions = torch.cat([direction for direction, _ in ends]).view_as(starts)
        top, index = reached.max(dim=0)
        better = top > value
        found = torch.where(better[:, None], directions[index, torch.arange(len(x), device=x.device)], found)
        value = torch.where(better, top, value)
        tick(len(x))
    return found


def _search_plane(sample: Sample, x: Tensor, pool: _Pool, tick: Callable[[int], object]) -> Tensor:
    """In the plane a fan of directions, ever denser around the best of them, comes closer than an ascent."""
    offsets = torch.linspace(-1, 1, 2 * _FAN_DENSER + 1, dtype=x.dtype, device=x.device) * (math.pi / _FAN)
    u, values = pool.directions.expand(len(x), -1, -1), pool.outlyingness(x)
    for level in range(_FAN_LEVELS):
        kept = values.topk(_FAN_KEPT, dim=1).indices[:, :, None].expand(-1, -1, 2)
        cosine, sine = u.gather(1, kept)[:, :, None].unbind(dim=-1)
        turn = offsets / _FAN_DENSER**level
        u = torch.stack((cosine * turn.cos() - sine * turn.sin(), sine * turn.cos() + cosine * turn.sin()), dim=-1)
        u = _on_grid(u.flatten(1, 2))
        median, mad = _median_mad(sample, u.flatten(0, 1))
        values = _outlyingness((u * x[:, None]).sum(dim=2) - median.view(len(x), -1), mad.view(len(x), -1))
    tick(len(x))
    return u.gather(1, values.argmax(dim=1)[:, None, None].expand(-1, 1, 2))[:, 0]


def _first_start(sample: Sample, x: Tensor, pool: _Pool, values: Tensor) -> Tensor:
    """`(B, k)`: towards the query from the centre (Stahel–Donoho), or the pool's best where that is better."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    best = pool.directions[values.argmax(dim=1)]
    start = _on_grid(torch.where(length > _TINY, x / length.clamp(min=_TINY), best))
    median, mad = _median_mad(sample, start)
    reached = _outlyingness((start * x).sum(dim=1) - median, mad)
    return torch.where((reached >= values.amax(dim=1))[:, None], start, best)


def _starts(current: Tensor, pool: Tensor, values: Tensor, count: int) -> Tensor:
    """`(count, B, k)`: the current direction and the best of the pool; `values` forgets all that is like these."""
    starts = [current]
    for _ in range(count):
        values.masked_fill_((starts[-1] @ pool.T).abs() >= _ALIKE, -1.0)
        starts.append(pool[values.argmax(dim=1)])
    return torch.stack(starts[:count])


def _pool(sample: Sample, seed: int, budget: Budget) -> _Pool:
    """Directions that any query may start from: random ones and some that were searched; in the plane a fan."""
    points = sample.points
    k = points.shape[1]
    if k == 2:
        angle = torch.arange(_FAN, dtype=points.dtype, device=points.device) * (math.pi / _FAN)
        fan = _on_grid(torch.stack((angle.cos(), angle.sin()), dim=1))
        return _Pool(fan, *_median_mad(sample, fan))
    keys = torch.arange(_RANDOM * _plenty(sample), device=points.device)
    random = _unit(torch.special.ndtri(uniform(seed, "projection_depth/directions", keys, 0, k)))
    directions = [random]
    for start in random[: budget.narrow].split(sample.block):
        directions.append(_ascend(sample, None, start, BUDGETS["fast"].steps, _FIRST_ANGLE)[0])
    if budget.pool:
        key = torch.zeros(1, dtype=torch.int64, device=points.device)
        chosen = permutation(seed, "projection_depth/points", key, 0, len(points))[0, : budget.pool]
        for x in points[chosen].split(sample.block):
            directions.append(_ascend(sample, x, _unit(x), BUDGETS["fast"].steps, _FIRST_ANGLE)[0])
    pool = _on_grid(torch.cat(directions))
    return _Pool(pool, *_median_mad(sample, pool))


def _median_mad(sample: Sample, u: Tensor) -> tuple[Tensor, Tensor]:
    """Median and MAD `(m,)` of the sample along directions `(m, k)`."""
    parts = [median_mad((part @ sample.points.T).float(), rule=sample.rule) for part in u.split(sample.block)]
    return torch.cat([median for median, _ in parts]).double(), torch.cat([mad for _, mad in parts]).double()


def _on_grid(u: Tensor) -> Tensor:
    return (u * 2.0**_DIRECTION_BITS).round() / 2.0**_DIRECTION_BITS


def _outlyingness(away: Tensor, mad: Tensor) -> Tensor:
    """`|away| / mad`; 0 where both are rounding, because such a direction says nothing."""
    away = away.abs()
    return torch.where((mad < _TINY) & (away < 4 * _TINY), 0.0, away / mad.clamp(min=_TINY))


def _ascend(sample: Sample, x: Tensor | None, start: Tensor, steps: int, angle: float) -> tuple[Tensor, Tensor]:
    """Climb along great circles by windowed subgradients in ever smaller steps.

    Args:
        sample: the whitened sample.
        x: `(B, k)` queries; `None` seeks directions of locally smallest MAD.
        start: `(B, k)` unit vectors.
        steps: how many.
        angle: of the first step, in radians.

    Returns:
        The best directions seen `(B, k)`, on the grid, and their outlyingness (or 1 / MAD) `(B,)`.
    """
    last = min(_LAST_ANGLE, 6 / len(sample.points))
    rows = _Rows(sample, len(start))
    u, velocity = start, torch.zeros_like(start)
    best, value = start, start.new_full((len(start),), -1.0)
    for step in range(steps):
        turn = last + (angle - last) * (1 - step / (steps - 1)) ** _POWER
        selected = step == 0 or step >= (1 - _SELECTED) * steps
        u = _on_grid(u)
        rows.look(u, turn * _WINDOW, select=selected)
        away = torch.ones_like(value) if x is None else (u * x).sum(dim=1) - rows.median.double()
        if selected:
            reached = _outlyingness(away, rows.mad.double())
            better = reached > value
            best, value = torch.where(better[:, None], u, best), torch.where(better, reached, value)
        gradient = _tangent(_gradient(rows, x, away), u)
        velocity = _tangent(_MOMENTUM * velocity + _unit(gradient), u)
        u = _unit(math.cos(turn) * u + math.sin(turn) * _unit(velocity))
    return best, value


def _gradient(rows: _Rows, x: Tensor | None, away: Tensor) -> Tensor:
    """`(B, k)`: of log |away| - log MAD, where each order statistic is the mean over the window around it."""
    middle, spread, balance = rows.means()
    narrower = (balance[:, None] * middle - spread) / rows.mad.double().clamp(min=_TINY)[:, None]
    if x is None:
        return narrower
    side = torch.where(away < 0, -1.0, 1.0) / away.abs().clamp(min=_TINY)
    return side[:, None] * (x - middle) + narrower


def _tangent(vector: Tensor, u: Tensor) -> Tensor:
    return vector - (vector * u).sum(dim=1, keepdim=True) * u


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-300)


class _Rows:
    """The sample projected on a block of directions: medians, deviations and the windows around them.

    Selecting a median costs many times what counting does. So while steps are long, the medians of the last look are
    followed: one Newton step on the count of points below, with the density that the windows held.
    """

    def __init__(self, sample: Sample, count: int) -> None:
        points = sample.points
        self.sample = sample
        self.exact = points.new_empty(count, len(points))
        self.rows = self.exact.new_empty(self.exact.shape, dtype=torch.float32)
        self.deviation = torch.empty_like(self.rows)
        self.windows = self.rows.new_empty(2, *self.rows.shape)
        self.median = self.mad = self.half = self.rows.new_zeros(count)
        self.counts = self.rows.new_ones(2, count)

    def look(self, u: Tensor, width: float, *, select: bool) -> None:
        """Project on `u` `(B, k)`, find medians and MADs, and mark the points within `width` MADs of them."""
        torch.mm(u, self.sample.points.T, out=self.exact)
        self.rows.copy_(self.exact)
        if select:
            self.median, self.mad = median_mad(self.rows, rule=self.sample.rule)
        else:
            self._follow()
        self._mark(width)

    def _follow(self) -> None:
        target, density = self.rows.shape[1] / 2, self.counts / (2 * self.half).clamp(min=1e-30)
        below = torch.lt(self.rows, self.median[:, None], out=self.deviation).sum(dim=1)
        self.median = self.median + ((target - below) / density[0]).clamp(-self.half, self.half)
        torch.sub(self.rows, self.median[:, None], out=self.deviation).abs_()
        below = torch.lt(self.deviation, self.mad[:, None], out=self.windows[0]).sum(dim=1)
        step = ((target - below) / density[1]).clamp(-self.half, self.half)
        self.mad = torch.maximum(self.mad + step, self.mad / 2)

    def _mark(self, width: float) -> None:
        """Fill `windows`: 1 for the points near the median; ±1, by side, for those as far from it as the MAD."""
        self.half = width * self.mad
        torch.sub(self.rows, self.median[:, None], out=self.deviation)
        torch.sign(self.deviation, out=self.rows)
        distance = self.deviation.abs_()
        for window, center in zip(self.windows, (None, self.mad), strict=True):
            if center is not None:
                distance = self.deviation.sub_(center[:, None]).abs_()
            reach = torch.maximum(self.half, distance.amin(dim=1) * (1 + 1e-6))  # holds one point at least
            torch.le(distance, reach[:, None], out=window)
        self.counts = self.windows.sum(dim=2)
        self.windows[1].mul_(self.rows)

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean point of the first window `(B, k)`, mean signed point of the second one, and its mean sign `(B,)`."""
        size = _GRADIENT_ROWS
        flat = self.windows.flatten(0, 1)
        sums = self.exact.new_zeros(self.sample.rounded.shape[1], len(flat))
        for start in range(0, flat.shape[1], size):  # transposed, because the other way is slow for small k
            sums += self.sample.rounded[start : start + size].T @ flat[:, start : start + size].T
        middle, spread = sums.T.contiguous().unflatten(0, (2, -1)) / self.counts[:, :, None]
        return middle, spread, self.windows[1].sum(dim=1).double() / self.counts[1]
