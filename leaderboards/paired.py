"""Differences of rows that were measured on the same samples, and how far they are more than chance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .statistics import Sampling, estimate

FLIPS = 9_999
"""Random sign flips behind a p-value where there are too many to try all."""
ALL_FLIPS = 14
"""Up to this many differences other than 0, all flips of signs are tried (2^13, as flipping all changes nothing)."""

_BLOCK = 2**18  # signs held in memory at a time (2 MiB, which stays in the cache of a core)


class Differences(NamedTuple):
    """Paired differences `first - second` of P pairs of rows.

    Attributes:
        value: `(P,)` mean difference; NaN where no sample counts in both rows.
        low: `(P,)` lower end of its 95 % interval; NaN where fewer than two samples (or clusters) count.
        high: `(P,)` upper end.
        p: `(P,)` two-sided p-value of the sign-flip test.
        effect: `(P,)` standardised mean: the mean difference over the standard deviation of the differences
            (Cohen's d_z); 0 where all differences are 0, infinite where they are all alike and not 0; NaN below two
            samples.
        greater: `(P,)` share of the samples on which `first` has the greater value, ties counting one half.
        n: `(P,)` int64 number of samples that count in both rows.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p: NDArray[np.float64]
    effect: NDArray[np.float64]
    greater: NDArray[np.float64]
    n: NDArray[np.int64]


def differences(
    ids: Sequence[str],
    values: NDArray[np.float64],
    pairs: NDArray[np.intp],
    *,
    seed: int,
    classes: NDArray[np.int64] | None = None,
    clusters: Sequence[str] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    flips: int = FLIPS,
) -> Differences:
    """Compare pairs of rows sample by sample; a sample that is missing in either row of a pair is left out of it.

    Intervals are those of `interpeval.leaderboards.statistics.estimate` on the differences, with the same resamples
    as the intervals of single rows. p-values are those of `sign_flip_test`. In means of class means, samples weigh
    one over the size of their class in standard deviations and shares too.

    Args:
        ids: N names of samples, all different; their order changes nothing.
        values: `(N, K)` float64, one column per row of a leaderboard; NaN where a sample does not count.
        pairs: `(P, 2)` columns to compare.
        seed: seed of resamples and flips.
        classes: `(N,)` class of each sample, to compare means of class means.
        clusters: N names, equal for samples that depend on each other: they are resampled and flipped together.
        bounds: smallest and largest possible value.
        flips: number of random flips.

    Returns:
        What is found for the P pairs.

    Raises:
        ValueError: if ids repeat or shapes disagree.

    Example:
        >>> scores = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, np.nan]])
        >>> found = differences(["a", "b", "c", "d"], scores, np.array([[0, 1]]), seed=0)
        >>> [round(float(part[0]), 3) for part in (found.value, found.p, found.effect, found.greater)]
        [0.667, 0.5, 1.155, 0.833]
        >>> found.n.tolist()
        [3]
    """
    if values.ndim != 2 or len(values) != len(ids):
        raise ValueError(f"`values` must be ({len(ids)}, K), was {values.shape}")
    sampling = Sampling.of(ids, classes=classes, clusters=clusters)
    first, second = pairs.T
    apart = values[:, first] - values[:, second]
    widest = np.tile([bounds[0] - bounds[1], bounds[1] - bounds[0]], (len(pairs), 1))
    mean = estimate(ids, apart, seed=seed, classes=classes, clusters=clusters, bounds=widest)
    apart = apart[sampling.order]
    valid = ~np.isnan(apart)
    apart, shares = np.where(valid, apart, 0.0), sampling.shares(valid)
    p = sign_flip_test(sampling.totals(shares * apart), seed=seed, flips=flips)
    return Differences(
        mean.value,
        mean.low,
        mean.high,
        np.where(mean.n > 0, p, np.nan),
        _effect(apart, shares, mean.n),
        np.where(mean.n > 0, (shares * (0.5 + 0.5 * np.sign(apart))).sum(axis=0), np.nan),
        mean.n,
    )


def sign_flip_test(parts: NDArray[np.float64], *, seed: int, flips: int = FLIPS) -> NDArray[np.float64]:
    """Two-sided p-values of paired permutation tests: how often a sum is as far from 0 after random flips of signs.

    If neither of two rows were better, each sample (or cluster) could as well have had their values exchanged, which
    flips the sign of its difference. With at most `ALL_FLIPS` differences other than 0, all flips are tried and p is
    the share of those whose sum is at least as far from 0 as the sum observed. With more, it is `(c + 1) / (flips + 1)`
    for c of that many random flips, so that a p-value is never too small. Sums that differ by rounding count as equal.

    Args:
        parts: `(C, P)` what each of C independent samples (or clusters), in a fixed order, adds to each of P sums.
        seed: seed of the flips; all columns see the same ones.
        flips: number of random flips.

    Returns:
        `(P,)` p-values; 1 where all parts are 0.

    Example:
        >>> sign_flip_test(np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), seed=0).tolist()
        [0.25, 1.0]
    """
    # Rounding of a sum is far below this, and what differs by less cannot be told from it.
    observed = np.abs(parts.sum(axis=0)) - 1e-12 * np.abs(parts).sum(axis=0)
    other = parts != 0
    p = np.ones(parts.shape[1])
    few = other.sum(axis=0) <= ALL_FLIPS
    for column in np.flatnonzero(few):
        moving = parts[other[:, column], column]
        p[column] = np.mean(np.abs(_all_signs(len(moving)) @ moving) >= observed[column])
    if not few.all():
        parts, observed = parts[:, ~few], observed[~few]
        extreme = sum((np.abs(signs @ parts) >= observed).sum(axis=0) for signs in _signs(len(parts), seed, flips))
        p[~few] = (extreme + 1) / (flips + 1)
    return p


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values of several tests so that with probability 1 - α none of those below α is there by chance.

    The k-th smallest of m is multiplied by m + 1 - k, and raised to the adjusted value of the one before it.

    Args:
        p: `(m,)` p-values; NaN stays NaN and does not count as a test.

    Returns:
        `(m,)` adjusted values, at most 1.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> holm(np.array([0.04, 0.01, np.nan, 0.03])).round(3).tolist()
        [0.06, 0.03, nan, 0.06]
    """
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def _effect(apart: NDArray[np.float64], shares: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    mean = (shares * apart).sum(axis=0)
    deviation = np.sqrt((shares * (apart - mean) ** 2).sum(axis=0) * n / np.maximum(n - 1, 1))
    differ = deviation > 1e-12 * np.abs(mean)  # by more than rounding
    effect = np.divide(mean, deviation, where=differ, out=np.copysign(np.inf, mean))
    return np.where(n < 2, np.nan, np.where(mean == 0, 0.0, effect))


@cache
def _all_signs(size: int) -> NDArray[np.float64]:
    """`(2^(size-1), size)` of 1 and -1, the first of them 1: every flip but for flips of all signs at once."""
    codes = np.arange(2 ** max(size - 1, 0))[:, None]
    return 1.0 - 2.0 * (codes >> np.arange(size)[::-1] & 1)


def _signs(size: int, seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    """Blocks `(r, size)` of random 1 and -1; the r sum to `flips`. Raw words are used as in the bootstrap."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/sign flips".encode(), digest_size=16).digest(), "little")
    generator = np.random.Philox(key=key)
    words, block = -(-size // 64), max(1, _BLOCK // size)
    for start in range(0, flips, block):
        rows = min(block, flips - start)
        raw = generator.random_raw(rows * words).astype("<u8").view(np.uint8).reshape(rows, 8 * words)
        yield 1.0 - 2.0 * np.unpackbits(raw, axis=1, count=size, bitorder="little").astype(np.float64)
