"""Projection depth: how central a point is within a sample, by the direction in which it lies farthest out."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..datasets.philox import permutation
from .base import Evidence, Metric, Scores, Status, nan_where, status_of
from .median_mad import MedianRule, median_mad
from .projection_plane import critical_directions
from .projection_search import BUDGETS, prepare, search
from .whitening import Whitening, robust_whitening

BudgetName = Literal["fast", "default", "thorough"]

_MOST_SWEPT = 2000  # points of a planar sample up to which the supremum is computed exactly
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5}  # share of the scale below which a distance is rounding
_NARROW = 0.1  # MAD, in units of the whitened sample, below which a hyperplane through half of it is looked for
_REFITS = 10
_SUBSETS = 8  # halves of a small sample that are tried for a hyperplane that misses the query


@dataclass(frozen=True, eq=False)
class ProjectionDepth:
    """What `projection_depth` found out about Q queries.

    Attributes:
        depth: `(Q,)` float64 in [0, 1].
        direction: `(Q, d)` float64 unit vectors that attain it, in the coordinates of the data as given.
        degenerate: `(Q,)` bool: a direction exists in which at least half of the sample coincides and the query lies
            elsewhere, so that its outlyingness is infinite and its depth 0.
        off_span: `(Q,)` bool: the reason is that the query lies outside the affine span of the sample.
        too_few_samples: a hyperplane passes through half of the sample whatever the data are, because its dimension
            is above n // 2: depths say nothing. Reduce the dimension.
        n_zero_mad_features: how many features take one value in at least half of the sample.
        exact: the depths are the suprema themselves (one or two dimensions), not upper bounds found by a search.
    """

    depth: Tensor
    direction: Tensor
    degenerate: Tensor
    off_span: Tensor
    too_few_samples: bool
    n_zero_mad_features: int
    exact: bool


def projection_depth(
    query: Tensor,
    reference: Tensor,
    *,
    seed: int = 0,
    budget: BudgetName = "default",
    median: MedianRule = "average",
    memory: int = 2**28,
    progress: bool = False,
) -> ProjectionDepth:
    """Measure how central each query is within the reference sample.

    `D(x|X) = 1 / (1 + O(x))` with the outlyingness `O(x) = sup |⟨u, x⟩ - med⟨u, X⟩| / MAD⟨u, X⟩` over all unit
    vectors u; the MAD is the median of the absolute deviations from the median, without the factor 1.4826.

    Exact for samples that span a line, or a plane with at most 2000 points. Otherwise a search finds a direction, so
    the depth is an upper bound: of two results on the same data the lower one is the better. Whatever was found is
    evaluated once more in float64 on the data as given: `abs(u @ x - median(X @ u)) / MAD(X @ u)` is the outlyingness.

    The depth of a query is the same, to the last bit, whichever other queries are asked about and in which order.
    It does not depend on the affine coordinates of the data, apart from what the search misses in one and finds in
    another: for Gaussian samples of some thousand points mostly below 1 % (`"fast"`) or 0.3 % (`"default"`), for
    lumpy ones, or few points for the dimension, up to some percent.

    Args:
        query: `(Q, d)` float64 or float32.
        reference: `(n, d)` float64 or float32, n >= 2, on the same device.
        seed: of the random starts.
        budget: how long to search: `"fast"`, `"default"` or `"thorough"` (about 1, 4 and 18 times as long).
        median: what an even n takes, `"average"` of the two middle values, or as the package data-depth does
            (`"datadepth"`: the upper one for the MAD).
        memory: bytes that the search may use at a time, beside some six float64 copies of the reference sample; it
            takes 48 for each of its points even if that is more. A CPU is fastest with less than 20 MB and takes no
            more than that, but for very large samples.
        progress: show a bar.

    Returns:
        Depths in [0, 1], higher is more central, 1 for a query in the centre; the directions; and what is degenerate.

    Raises:
        TypeError: `query` or `reference` is not a float32 or float64 tensor.
        ValueError: shapes do not fit, the sample has fewer than two points, a value is NaN or infinite, or an option
            is none of its values.

    Warns:
        UserWarning: n // 2 is below the dimension that the sample spans, so that every depth is 0 or meaningless.

    Departs from data-depth, which searches in the coordinates as given and takes the upper median for the MAD.

    Reference:
        Zuo and Serfling, General notions of statistical depth function, Annals of Statistics 28, 2000.

    Example:
        >>> sample = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])  # median 2, MAD 1
        >>> projection_depth(torch.tensor([[2.0], [5.0]]), sample).depth
        tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    _check(query, reference, budget, median, memory)
    tolerance = max(_TOLERANCE[query.dtype], _TOLERANCE[reference.dtype])
    sample = _Sample.of(reference.detach().double().contiguous(), tolerance, median)
    return _depths(
        query.detach().double().contiguous(), sample, seed=seed, budget=budget, memory=memory, progress=progress
    )


@dataclass(frozen=True)
class DepthInClass(Metric):
    """Projection depth of a sample within its class, in the space of the interpreter's attributes (FLINT, App. C.4).

    How typical a sample is of its label, as the interpreter sees it: `D(Φ(x) | Φ(X))` with the activations Φ of the
    attributes and samples X of the label on which predictor and interpreter agree. Higher is more typical, in
    [0, 1]. It describes samples rather than judges explanations: disagreements are expected to lie deep in the tail
    (`interpeval.bench.disagreement` compares them with samples on which both agree).

    A class of which fewer than `2 d + 1` agreeing samples are found, for d attributes, has no truth.

    Attributes:
        n_reference: samples of a class to draw, from the part of the dataset that is not scored.
        budget: of the search, as in `projection_depth`.

    Example:
        >>> DepthInClass(budget="fast").n_reference
        500
    """

    name: ClassVar[str] = "projection_depth"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"interpreter", "label", "classes"})
    reference: ClassVar[str] = "Parekh et al., A Framework to Learn with Interpretation, NeurIPS 2021, App. C.4"

    n_reference: int = 500
    budget: BudgetName = "fast"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if self.n_reference < 2:
            raise ValueError(f"`n_reference` must be at least 2, was {self.n_reference}")
        if self.budget not in get_args(BudgetName):
            raise ValueError(f"`budget` must be one of {', '.join(get_args(BudgetName))}, was {self.budget!r}")

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        labels, activations = evidence.targets("label"), evidence.interpretation.activations.double()
        values = torch.full((len(labels),), torch.nan, dtype=torch.float64, device=labels.device)
        invalid = ~activations.isfinite().all(dim=1)
        for label in labels.unique().tolist():
            rows = ((labels == label) & ~invalid).nonzero()[:, 0]
            logits, interpreted = evidence.members(label, self.n_reference)
            agreeing = interpreted.activations[logits.argmax(dim=1) == interpreted.logits.argmax(dim=1)].double()
            if len(rows) and len(agreeing) > 2 * agreeing.shape[1]:
                values[rows] = projection_depth(
                    activations[rows], agreeing, seed=evidence.seed, budget=self.budget
                ).depth
        status = status_of(len(labels), labels.device, no_truth=values.isnan(), invalid=invalid)
        return {"": Scores(nan_where(values, status >= Status.NO_TRUTH), status)}


def _check(query: Tensor, reference: Tensor, budget: str, median: str, memory: int) -> None:
    for name, value in (("query", query), ("reference", reference)):
        if not isinstance(value, Tensor) or value.dtype not in _TOLERANCE:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{name}` must be a float32 or float64 tensor, was {kind}")
    shapes = f"`query` was {tuple(query.shape)}, `reference` {tuple(reference.shape)}"
    if query.ndim != 2 or reference.ndim != 2 or query.shape[1] != reference.shape[1] or reference.shape[1] == 0:
        raise ValueError(f"`query` must be (Q, d) and `reference` (n, d) with one d >= 1: {shapes}")
    if len(reference) < 2:
        raise ValueError(f"`reference` must hold two points or more: {shapes}")
    for name, value in (("query", query), ("reference", reference)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"`{name}` must be finite, but holds NaN or infinite values: {shapes}")
    if budget not in BUDGETS:
        raise ValueError(f'`budget` must be "fast", "default" or "thorough", was {budget!r}')
    if median not in get_args(MedianRule):
        raise ValueError(f'`median` must be "average" or "datadepth", was {median!r}')
    if memory < 1:
        raise ValueError(f"`memory` must be a positive number of bytes, was {memory}")


class _Sample(NamedTuple):
    """The reference sample `(n, d)`, its features' medians and MADs `(d,)`, and the coordinates of its span."""

    points: Tensor
    median: Tensor
    mad: Tensor
    whitening: Whitening
    tolerance: float
    rule: MedianRule

    @classmethod
    def of(cls, points: Tensor, tolerance: float, rule: MedianRule) -> _Sample:
        median, mad = median_mad(points.T.contiguous(), rule=rule)
        return cls(points, median, mad, robust_whitening(points, tolerance), tolerance, rule)

    @property
    def too_small(self) -> bool:
        """Whether a hyperplane passes through half of the sample in whatever position it is."""
        return len(self.points) // 2 < self.whitening.rank

    @property
    def sweepable(self) -> bool:
        """Whether the suprema can be computed exactly."""
        return self.whitening.rank <= 1 or (self.whitening.rank == 2 and len(self.points) <= _MOST_SWEPT)


class _Extreme(NamedTuple):
    """Where one query lies farthest out."""

    direction: Tensor
    outlyingness: float
    off_span: bool = False


def _depths(
    query: Tensor, sample: _Sample, *, seed: int, budget: BudgetName, memory: int, progress: bool
) -> ProjectionDepth:
    """Settle what is certain, look for directions for the other queries, and evaluate them."""
    extremes = {row: extreme for row, x in enumerate(query) if (extreme := _off_majority(x, sample)) is not None}
    inside = {row: sample.whitening.points(x) for row, x in enumerate(query) if row not in extremes}
    found: dict[int, Tensor] = {}
    if sample.too_small:
        _warn_of_few(sample)
        found = {row: v for row, z in inside.items() if (v := _missed_half(z, sample, seed)) is not None}
    rows = [row for row in inside if row not in found]
    if rows and sample.whitening.rank > 0:
        whitened = torch.stack([inside[row] for row in rows])
        with tqdm(desc="projection depth", disable=not progress) as bar:
            directions = (
                _sweep(whitened, sample, bar)
                if sample.sweepable
                else _search(whitened, sample, bar, seed=seed, budget=budget, memory=memory)
            )
        # Copies, because what BLAS computes from a row can depend on where in memory it begins.
        found |= {row: v.clone() for row, v in zip(rows, directions, strict=True)}
    extremes |= {row: _farthest(query[row], found.get(row), sample) for row in inside}
    return _report(query, sample, [extremes[row] for row in range(len(query))])


def _report(query: Tensor, sample: _Sample, extremes: list[_Extreme]) -> ProjectionDepth:
    outlyingness = query.new_tensor([extreme.outlyingness for extreme in extremes])
    return ProjectionDepth(
        depth=1 / (1 + outlyingness),
        direction=torch.stack([extreme.direction for extreme in extremes]) if extremes else query,
        degenerate=outlyingness.isinf(),
        off_span=torch.tensor([extreme.off_span for extreme in extremes], dtype=torch.bool, device=query.device),
        too_few_samples=sample.too_small,
        n_zero_mad_features=int((sample.mad == 0).sum()),
        exact=sample.sweepable,
    )


def _off_majority(x: Tensor, sample: _Sample) -> _Extreme | None:
    """A direction in which x `(d,)` is infinitely far out, if the span of the sample or one feature shows one."""
    normal = sample.whitening.normal(x)
    if normal is not None:
        return _Extreme(normal, math.inf, off_span=True)
    off_median = (sample.mad == 0) & (x != sample.median)
    return _Extreme(_axis(x, int(off_median.int().argmax())), math.inf) if bool(off_median.any()) else None


def _axis(like: Tensor, feature: int) -> Tensor:
    axis = torch.zeros_like(like)
    axis[feature] = 1
    return axis


def _warn_of_few(sample: _Sample) -> None:
    warnings.warn(
        f"the {len(sample.points)} points of `reference` span {sample.whitening.rank} dimensions: a hyperplane through "
        "half of them misses almost any query, so that its depth is 0. Reduce the dimension, to a twentieth of the "
        "number of points or less.",
        stacklevel=4,
    )


def _missed_half(z: Tensor, sample: _Sample, seed: int) -> Tensor | None:
    """Normal of a hyperplane through more than half of a small sample that misses z `(k,)`, if there is one."""
    points = sample.whitening.points(sample.points)
    key = torch.zeros(1, dtype=torch.int64, device=z.device)
    order = permutation(seed, "projection_depth/halves", key, 0, len(points))[0]
    for turn in range(_SUBSETS):
        half = points[order.roll(turn)[: len(points) // 2 + 1]]
        plane = torch.linalg.qr((half[1:] - half[0]).T).Q
        away = z - half[0]
        for _ in range(2):  # the second pass removes what rounding left
            away = away - plane @ (plane.T @ away)
        distance = torch.linalg.vector_norm(away)
        if distance > 10 * sample.tolerance * max(1.0, float(torch.linalg.vector_norm(z))):
            return away / distance
    return None


def _sweep(x: Tensor, sample: _Sample, bar: tqdm[NoReturn]) -> Tensor:
    """`(Q, k)`: directions in which the suprema are attained, for k of 1 and 2."""
    if x.shape[1] == 1:
        return torch.ones_like(x)
    bar.reset(total=len(sample.points))
    critical = critical_directions(sample.whitening.points(sample.points).cpu().numpy(), sample.rule, bar.update)
    u, spread = critical.directions, np.maximum(critical.mad, 1e-300)
    rounding = 10 * sample.tolerance
    best: list[int] = []
    for first, second in x.tolist():
        away = np.abs(first * u[:, 0] + second * u[:, 1] - critical.median)
        away[(away <= rounding) & (critical.mad <= sample.tolerance)] = 0  # such a direction says nothing
        best.append(int(np.argmax(away / spread)))
    return torch.from_numpy(u[best]).to(x)


def _search(x: Tensor, sample: _Sample, bar: tqdm[NoReturn], *, seed: int, budget: BudgetName, memory: int) -> Tensor:
    """`(Q, k)`: directions in which the queries lie far out."""
    plan = BUDGETS[budget]
    bar.reset(total=len(x) * (1 + plan.rounds))
    prepared = prepare(sample.whitening.points(sample.points), sample.rule, memory)
    return search(prepared, x, seed=seed, budget=plan, tick=bar.update)


def _farthest(x: Tensor, v: Tensor | None, sample: _Sample) -> _Extreme:
    """Evaluate the axes, the whitened direction that was found, and the hyperplane that it may hint at."""
    values = torch.where(sample.mad > 0, (x - sample.median).abs() / sample.mad, 0.0)
    best = int(values.argmax())
    extreme = _Extreme(_axis(x, best), float(values[best]))
    if v is None:
        return extreme
    found, mad = _along(x, v, sample)
    candidates = [extreme, found]
    if mad < _NARROW:
        candidates.append(_along(x, _fitted_normal(v, sample), sample)[0])
    return max(candidates, key=lambda candidate: candidate.outlyingness)


def _along(x: Tensor, v: Tensor, sample: _Sample) -> tuple[_Extreme, float]:
    """Outlyingness of x `(d,)` along the whitened direction v, on the data as given; and the MAD, whitened."""
    u = sample.whitening.weights @ v
    length = torch.linalg.vector_norm(u)
    u, unit = u / length, 1 / float(length)
    median, mad = median_mad((sample.points @ u)[None], rule=sample.rule)
    away, spread = abs(float((x * u).sum()) - float(median)), float(mad)
    if spread > sample.tolerance * unit:
        return _Extreme(u, away / spread), spread / unit
    return _Extreme(u, math.inf if away > 10 * sample.tolerance * unit else 0.0), spread / unit


def _fitted_normal(v: Tensor, sample: _Sample) -> Tensor:
    """Normal of the hyperplane that fits the half of the sample nearest to its median along v, refitted in turn."""
    points = sample.whitening.points(sample.points)
    for _ in range(_REFITS):
        along = points @ v
        median, mad = median_mad(along[None], rule=sample.rule)
        if float(mad) <= sample.tolerance:
            break
        half = points[(along - median).abs().topk(len(points) // 2 + 1, largest=False).indices]
        v = torch.linalg.svd(torch.linalg.qr(half - half.mean(dim=0), mode="r").R).Vh[-1]
    return v
