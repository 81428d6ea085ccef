"""Means over samples, and how far to trust them.

All numbers that were measured on the same samples are resampled with the same weights, so that the difference of
two of them has the interval of a *paired* comparison. The weights are a pure function of the seed and of the set of
sample ids: the order of the samples changes nothing.

Samples that depend on each other, such as the items of one image, form a *cluster*: clusters are then what is drawn and
counted wherever samples are otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
SMALL = 30
"""Below this many samples (or clusters) the interval is that of t: there the percentile bootstrap covers too little."""

_BLOCK = 2**22  # weights held in memory at a time (32 MiB)

# 97.5 % quantiles of Student's t distribution with 1 … SMALL - 2 degrees of freedom.
_T_QUANTILES = (
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
    2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
    2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
    2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
    2.0555294386428735, 2.0518305164802846, 2.0484071417952454,
)  # fmt: skip


class Estimate(NamedTuple):
    """Means of some columns with their 95 % intervals.

    Attributes:
        value: `(M,)` float64; NaN where no sample counts.
        low: `(M,)` float64, lower end; NaN where fewer than two samples count.
        high: `(M,)` float64, upper end; NaN where fewer than two samples count.
        n: `(M,)` int64, number of samples in the mean.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sampling:
    """How samples enter a mean: in which order, in which classes, and which of them depend on each other.

    Attributes:
        order: `(N,)` positions of the samples in the order of their ids; all else speaks of samples in this order.
        classes: rows of each class; all rows together for a plain mean.
        clusters: `(N,)` number of the cluster of each sample, clusters in the order of their names; `None` if every
            sample is a cluster of its own.
        size: number of clusters.
    """

    order: NDArray[np.intp]
    classes: list[NDArray[np.intp]]
    clusters: NDArray[np.intp] | None
    size: int

    @classmethod
    def of(
        cls, ids: Sequence[str], *, classes: NDArray[np.int64] | None = None, clusters: Sequence[str] | None = None
    ) -> Sampling:
        """Arrange samples by their ids.

        Args:
            ids: N names of samples, all different.
            classes: `(N,)` class of each sample, for means of class means.
            clusters: N names, equal for samples that depend on each other.

        Raises:
            ValueError: if ids repeat or lengths disagree.
        """
        if len(set(ids)) != len(ids):
            raise ValueError("`ids` must be all different, but some repeat")
        if classes is not None and classes.shape != (len(ids),):
            raise ValueError(f"`classes` must be ({len(ids)},), was {classes.shape}")
        if clusters is not None and len(clusters) != len(ids):
            raise ValueError(f"`clusters` must be {len(ids)} names, were {len(clusters)}")
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.intp)
        rows = _groups(None if classes is None else classes[order], len(ids))
        if clusters is None or len(set(clusters)) == len(ids):
            return cls(order, rows, None, len(ids))
        number = {name: place for place, name in enumerate(sorted(set(clusters)))}
        return cls(order, rows, np.array([number[name] for name in clusters], dtype=np.intp)[order], len(number))

    def shares(self, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        """`(N, M)` share of every sample in the mean of each column of `(N, M)`; 0 where it is not valid."""
        shares = np.zeros(valid.shape)
        for rows in self.classes:
            shares[rows] = valid[rows] / np.maximum(valid[rows].sum(axis=0), 1)
        return shares / np.maximum(shares.sum(axis=0), 0.5)  # the sum is the number of classes seen, perhaps 0

    def totals(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(C, M)` sums over each of C clusters of `(N, M)` parts."""
        if self.clusters is None:
            return parts
        totals = np.zeros((self.size, parts.shape[1]))
        np.add.at(totals, self.clusters, parts)
        return totals


def estimate(
    ids: Sequence[str],
    values: NDArray[np.float64],
    *,
    seed: int,
    classes: NDArray[np.int64] | None = None,
    clusters: Sequence[str] | None = None,
    bounds: NDArray[np.float64] | None = None,
) -> Estimate:
    """Mean of every column over its valid samples, with a 95 % interval over samples.

    From `SMALL` valid samples on, the interval is that of the percentile bootstrap (`RESAMPLES` resamples, weights
    shared by all columns). Below, it is `mean ± t · s/√n`; for class means and clusters, whose standard error has no
    such simple form, s/√n is replaced by the standard deviation over resamples times `√(n/(n-1))`, which is the same
    thing for a plain mean. With clusters, n counts clusters.

    Equal values have an interval of width 0; a single one has none. Where the range `[l, u]` of the values is known,
    intervals do not leave it, and n values that are all `u` (or all `l`) are not taken for certainty: had the mean
    been below `l + (u - l) · 0.025^(1/n)`, they would have been seen with probability below 0.025 (the bound of
    Clopper and Pearson, which holds for every distribution within the range). Samples with unequal shares `w` in the
    mean have `n · (0.025 · Π w)^(1/n)` in place of `0.025^(1/n)`, the smallest mean that is as probable.

    Args:
        ids: N names of samples, all different.
        values: `(N, M)` float64, one column per number (or per step of a curve); NaN where a sample does not count.
        seed: seed of the resampling.
        classes: `(N,)` class of each sample. If given, the estimate is the mean over the seen classes of the class
            means; a resample in which a class is absent averages over the others.
        clusters: N names, equal for samples that depend on each other and are resampled together.
        bounds: `(M, 2)` smallest and largest possible value of every column; unbounded if left out.

    Returns:
        Estimates of the M columns.

    Raises:
        ValueError: if ids repeat or shapes disagree.

    Example:
        >>> scores = np.array([[1.0, 0.2], [0.0, 0.2], [1.0, np.nan]])
        >>> result = estimate(["a", "b", "c"], scores, seed=0)
        >>> result.value.round(3).tolist(), result.n.tolist()
        ([0.667, 0.2], [3, 2])
        >>> result.low.round(3).tolist(), result.high.round(3).tolist()
        ([-0.768, 0.2], [2.101, 0.2])
        >>> result = estimate(["a", "b", "c"], scores, seed=0, bounds=np.array([[0.0, 1.0], [0.0, 1.0]]))
        >>> result.low.round(3).tolist(), result.high.round(3).tolist()
        ([0.0, 0.2], [1.0, 0.2])
    """
    sampling = Sampling.of(ids, classes=classes, clusters=clusters)
    values = _arranged(values, sampling)
    valid = ~np.isnan(values)
    n = valid.sum(axis=0)
    independent = n if sampling.clusters is None else (sampling.totals(valid.astype(np.float64)) > 0).sum(axis=0)
    value = _means(np.ones((1, len(values))), values, sampling.classes)[0]
    low, high = np.full((2, values.shape[1]), np.nan)

    smallest = values.min(axis=0, where=valid, initial=np.inf)
    equal = (independent > 1) & (smallest == values.max(axis=0, where=valid, initial=-np.inf))
    low[equal] = high[equal] = value[equal] = smallest[equal]

    few, many = (independent > 1) & (independent < SMALL) & ~equal, (independent >= SMALL) & ~equal
    if few.any():
        spread = _standard_errors(values[:, few], independent[few], sampling, seed=seed)
        half = np.array(_T_QUANTILES)[independent[few] - 2] * spread
        low[few], high[few] = value[few] - half, value[few] + half
    if many.any():
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low[many], high[many] = np.quantile(_resampled(values[:, many], sampling, seed=seed), tails, axis=0)
    if bounds is not None:
        low, high = _within(bounds, low, high, equal=equal, shares=sampling.totals(sampling.shares(valid)))
    return Estimate(value, low, high, n)


def _within(
    bounds: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    equal: NDArray[np.bool_],
    shares: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep intervals within bounds, and widen those of equal values at an end of them."""
    if bounds.shape != (len(low), 2):
        raise ValueError(f"`bounds` must be ({len(low)}, 2), was {bounds.shape}")
    lower, upper = bounds.T
    width = np.where(np.isfinite(upper - lower), upper - lower, 0.0)  # nothing follows from an end of an open range
    count = np.maximum((shares > 0).sum(axis=0), 1)
    logarithms = np.log(shares, where=shares > 0, out=np.zeros_like(shares)).sum(axis=0)
    margin = width * (1 - count * np.exp((math.log((1 - CONFIDENCE) / 2) + logarithms) / count))
    top, bottom = equal & (low >= upper), equal & (high <= lower)
    low, high = np.where(top, upper - margin, low), np.where(bottom, lower + margin, high)
    return np.clip(low, lower, upper), np.clip(high, lower, upper)


def resampled_means(
    ids: Sequence[str],
    values: NDArray[np.float64],
    *,
    seed: int,
    classes: NDArray[np.int64] | None = None,
    clusters: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Means of every column in every resample, as `(RESAMPLES, M)`; arguments as `estimate`.

    All columns, and all calls with the same seed and ids, see the same resamples: differences of columns are paired.
    NaN where a resample holds no sample that counts.

    Example:
        >>> scores = np.arange(40.0)
        >>> means = resampled_means([str(i) for i in range(40)], np.stack([scores, scores + 1], axis=1), seed=0)
        >>> bool(np.allclose(means[:, 1] - means[:, 0], 1))
        True
    """
    sampling = Sampling.of(ids, classes=classes, clusters=clusters)
    return _resampled(_arranged(values, sampling), sampling, seed=seed)


def monte_carlo_error(variance: NDArray[np.float64], *, classes: NDArray[np.int64] | None = None) -> float:
    """Standard error of a mean that is due to Monte Carlo draws alone: `√(Σ variance_i) / n`.

    Args:
        variance: `(n,)` variances of the samples in the mean.
        classes: `(n,)` their classes, for the mean of class means: `√(Σ_c Σ_i∈c variance_i / n_c²) / K`.

    Returns:
        The standard error; NaN without samples.

    Example:
        >>> monte_carlo_error(np.array([4.0, 12.0]))
        2.0
    """
    if len(variance) == 0:
        return math.nan
    groups = _groups(classes, len(variance))
    return math.sqrt(math.fsum(math.fsum(variance[rows]) / len(rows) ** 2 for rows in groups)) / len(groups)


def _groups(classes: NDArray[np.int64] | None, size: int) -> list[NDArray[np.intp]]:
    """Rows of each class; all rows in one group without classes, which makes the class mean a plain mean."""
    if classes is None:
        return [np.arange(size)]
    return [np.flatnonzero(classes == name) for name in np.unique(classes)]


def _arranged(values: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """`(N, M)` values in the order of the ids."""
    size = len(sampling.order)
    if values.ndim != 2 or len(values) != size:
        raise ValueError(f"`values` must be ({size}, M), was {values.shape}")
    return values[sampling.order]


def _weights(size: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks `(r, size)` of how often each resample holds each sample; the r sum to `RESAMPLES`.

    Raw words are used because NumPy keeps the stream of a bit generator fixed, but not what `Generator` makes of it.
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed}/bootstrap".encode(), digest_size=16).digest(), "little")
    generator = np.random.Philox(key=key)
    left, block = RESAMPLES, max(1, _BLOCK // size)
    while left > 0:
        rows = min(block, left)
        words = generator.random_raw(rows * size).reshape(rows, size)
        cells = (((words >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)).astype(np.intp)
        cells += size * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)
        left -= rows


def _means(
    weights: NDArray[np.float64], values: NDArray[np.float64], groups: list[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """`(R, M)`: for every row of `(R, N)` weights, the mean over present groups of the weighted group means."""
    total, present = np.zeros((2, len(weights), values.shape[1]))
    for rows in groups:
        valid = ~np.isnan(values[rows])
        whole = valid.all()  # then one sum serves all columns, which halves the work
        mass = weights[:, rows].sum(axis=1, keepdims=True) if whole else weights[:, rows] @ valid.astype(np.float64)
        mass = np.broadcast_to(mass, total.shape)
        total += np.divide(
            weights[:, rows] @ np.where(valid, values[rows], 0.0), mass, where=mass > 0, out=np.zeros_like(mass)
        )
        present += mass > 0
    return np.divide(total, present, where=present > 0, out=np.full_like(total, np.nan))


def _resampled(values: NDArray[np.float64], sampling: Sampling, *, seed: int) -> NDArray[np.float64]:
    drawn = _weights(sampling.size, seed)
    blocks = drawn if sampling.clusters is None else (block[:, sampling.clusters] for block in drawn)
    return np.concatenate([_means(block, values, sampling.classes) for block in blocks])


def _standard_errors(
    values: NDArray[np.float64], n: NDArray[np.int64], sampling: Sampling, *, seed: int
) -> NDArray[np.float64]:
    """Standard errors of means over at least two valid samples or clusters."""
    spread: NDArray[np.float64]
    if len(sampling.classes) == 1 and sampling.clusters is None:
        spread = np.nanstd(values, axis=0, ddof=1) / np.sqrt(n)
    else:
        spread = np.nanstd(_resampled(values, sampling, seed=seed), axis=0) * np.sqrt(n / (n - 1))
    return spread
