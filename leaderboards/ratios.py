"""Numbers that are no means of per-sample scores but ratios of sums of them, such as F1, and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from .statistics import CONFIDENCE, SMALL, resampled_means


class Ratio(NamedTuple):
    """The mean of some ratios with its 95 % interval.

    Attributes:
        value: the mean; NaN where no sample counts or no denominator is above 0.
        low: lower end of the interval; NaN where fewer than two samples count.
        high: upper end, likewise.
        n: number of samples that count.
        n_ratios: number of ratios in the mean.
    """

    value: float
    low: float
    high: float
    n: int
    n_ratios: int


def estimate_ratios(
    ids: Sequence[str], counts: NDArray[np.float64], *, seed: int, clusters: Sequence[str] | None = None
) -> Ratio:
    """Estimate `mean over r of Σ_i a_ir / Σ_i b_ir`, ratios of sums over samples, with an interval over samples.

    A ratio with `Σ b = 0` is left out of the mean. The samples are resampled as for means
    (`interpeval.leaderboards.statistics`), and every resample has its own ratios. From `SMALL` samples (or clusters)
    on, the interval is that of the percentile bootstrap; below, `value ± t · √(n/(n-1)) · (deviation over
    resamples)`. It does not leave [0, 1]. A value of 1 or 0, from which no resample differs, is not taken for
    certainty: its interval is that of a share of n samples (Clopper and Pearson), to 0.025^(1/n) from 1.

    Args:
        ids: N names of samples, all different.
        counts: `(N, 2 R)` float64, the numerators a of the R ratios, then their denominators b, `0 <= a <= b`; NaN
            throughout the row of a sample that does not count.
        seed: seed of the resampling.
        clusters: N names, equal for samples that depend on each other and are resampled together.

    Raises:
        ValueError: if ids repeat, shapes disagree or the number of columns is odd.

    Example:
        >>> estimate_ratios(["a", "b"], np.array([[1.0, 0.0, 2.0, 0.0], [1.0, 0.0, 1.0, 1.0]]), seed=0)[:2]
        (0.3333333333333333, 0.0)
    """
    if counts.ndim != 2 or counts.shape[1] % 2 or not counts.shape[1]:
        raise ValueError(f"`counts` must be ({len(ids)}, 2 R), was {counts.shape}")
    valid = np.flatnonzero(~np.isnan(counts).any(axis=1))
    n = len(valid)
    if n == 0:
        return Ratio(math.nan, math.nan, math.nan, 0, 0)
    sums = counts[valid].sum(axis=0, keepdims=True)
    value, n_ratios = _mean_ratio(sums)[0], int(np.count_nonzero(sums[0, sums.shape[1] // 2 :]))
    independent = n if clusters is None else len({clusters[row] for row in valid.tolist()})
    if independent < 2 or n_ratios == 0:
        return Ratio(float(value), math.nan, math.nan, n, n_ratios)
    drawn = _mean_ratio(resampled_means(ids, counts, seed=seed, clusters=clusters))
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    if value in {0.0, 1.0}:
        reach = ((1 - CONFIDENCE) / 2) ** (1 / independent)
        low, high = (reach, 1.0) if value == 1 else (0.0, 1 - reach)
    elif independent >= SMALL:
        low, high = np.nanquantile(drawn, tails)
    else:
        spread = np.nanstd(drawn) * math.sqrt(independent / (independent - 1))
        low, high = np.clip(value + stdtrit(independent - 1, np.array(tails)) * spread, 0, 1)
    return Ratio(float(value), float(low), float(high), n, n_ratios)


def _mean_ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(M,)`: for every row of `(M, 2 R)` sums (or means: their ratio is the same), the mean of its ratios."""
    above, below = np.split(sums, 2, axis=1)
    present = below > 0  # not of NaN
    ratios = np.divide(above, below, where=present, out=np.zeros_like(above))
    count = present.sum(axis=1)
    return np.divide(ratios.sum(axis=1), count, where=count > 0, out=np.full(len(sums), np.nan))
