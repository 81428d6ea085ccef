"""Means over samples, and how far to trust them.

All numbers that were measured on the same samples are resampled with the same weights, so that the difference of
two of them has the interval of a *paired* comparison. The weights are a pure function of the seed and of the set of
sample ids: the order of the samples changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
SMALL = 30
"""Below this many samples the t interval is reported: there the percentile bootstrap covers too little."""

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


def estimate(
    ids: Sequence[str], values: NDArray[np.float64], *, seed: int, classes: NDArray[np.int64] | None = None
) -> Estimate:
    """Mean of every column over its valid samples, with a 95 % interval over samples.

    From `SMALL` valid samples on, the interval is that of the percentile bootstrap (`RESAMPLES` resamples, weights
    shared by all columns). Below, it is `mean ± t · s/√n`; for class means, whose standard error has no such simple
    form, s/√n is replaced by the standard deviation over resamples times `√(n/(n-1))`, which is the same thing for
    a plain mean. Equal values have an interval of width 0; a single one has none.

    Args:
        ids: N names of samples, all different.
        values: `(N, M)` float64, one column per number (or per step of a curve); NaN where a sample does not count.
        seed: seed of the resampling.
        classes: `(N,)` class of each sample. If given, the estimate is the mean over the seen classes of the class
            means; a resample in which a class is absent averages over the others.

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
    """
    values, groups = _sorted_by_id(ids, values, classes)
    valid = ~np.isnan(values)
    n = valid.sum(axis=0)
    value = _means(np.ones((1, len(values))), values, groups)[0]
    low, high = np.full((2, values.shape[1]), np.nan)

    smallest = values.min(axis=0, where=valid, initial=np.inf)
    equal = (n > 1) & (smallest == values.max(axis=0, where=valid, initial=-np.inf))
    low[equal] = high[equal] = value[equal] = smallest[equal]

    few, many = (n > 1) & (n < SMALL) & ~equal, (n >= SMALL) & ~equal
    if few.any():
        spread = _standard_errors(values[:, few], n[few], groups, seed=seed)
        half = np.array(_T_QUANTILES)[n[few] - 2] * spread
        low[few], high[few] = value[few] - half, value[few] + half
    if many.any():
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low[many], high[many] = np.quantile(_resampled(values[:, many], groups, seed=seed), tails, axis=0)
    return Estimate(value, low, high, n)


def resampled_means(
    ids: Sequence[str], values: NDArray[np.float64], *, seed: int, classes: NDArray[np.int64] | None = None
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
    values, groups = _sorted_by_id(ids, values, classes)
    return _resampled(values, groups, seed=seed)


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


def _sorted_by_id(
    ids: Sequence[str], values: NDArray[np.float64], classes: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], list[NDArray[np.intp]]]:
    if len(set(ids)) != len(ids):
        raise ValueError("`ids` must be all different, but some repeat")
    if values.ndim != 2 or len(values) != len(ids):
        raise ValueError(f"`values` must be ({len(ids)}, M), was {values.shape}")
    if classes is not None and classes.shape != (len(ids),):
        raise ValueError(f"`classes` must be ({len(ids)},), was {classes.shape}")
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.intp)
    return values[order], _groups(None if classes is None else classes[order], len(ids))


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
        mass = weights[:, rows] @ valid.astype(np.float64)
        total += np.divide(
            weights[:, rows] @ np.where(valid, values[rows], 0.0), mass, where=mass > 0, out=np.zeros_like(mass)
        )
        present += mass > 0
    return np.divide(total, present, where=present > 0, out=np.full_like(total, np.nan))


def _resampled(values: NDArray[np.float64], groups: list[NDArray[np.intp]], *, seed: int) -> NDArray[np.float64]:
    return np.concatenate([_means(block, values, groups) for block in _weights(len(values), seed)])


def _standard_errors(
    values: NDArray[np.float64], n: NDArray[np.int64], groups: list[NDArray[np.intp]], *, seed: int
) -> NDArray[np.float64]:
    """Standard errors of means over at least two valid samples."""
    spread: NDArray[np.float64]
    if len(groups) == 1:
        spread = np.nanstd(values, axis=0, ddof=1) / np.sqrt(n)
    else:
        spread = np.nanstd(_resampled(values, groups, seed=seed), axis=0) * np.sqrt(n / (n - 1))
    return spread
