"""Intervals and paired tests against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interpeval.leaderboards.paired import differences, sign_flip_test
from interpeval.leaderboards.statistics import estimate

PAIR = np.array([[0, 1]])


def names(size: int) -> list[str]:
    return [f"sample/{i}" for i in range(size)]


def rows(size: int, shift: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(size)
    return random.normal(size=(size, 1)) + random.normal(size=(size, 2)) + [shift, 0]


def mean_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(one - other, axis=axis)


def permutation_p(values: np.ndarray, resamples: float) -> float:
    found = stats.permutation_test(
        (values[:, 0], values[:, 1]),
        mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


@pytest.mark.parametrize("size", [2, 5, 9, 12])
@pytest.mark.parametrize("rounded", [False, True])
def test_p_values_of_few_samples_are_those_of_the_exact_permutation_test(size: int, *, rounded: bool) -> None:
    values = rows(size).round(0 if rounded else 16)
    assert differences(names(size), values, PAIR, seed=0).p[0] == pytest.approx(
        permutation_p(values, np.inf), rel=1e-12
    )


def test_p_values_of_many_samples_are_those_of_a_random_permutation_test() -> None:
    values, flips = rows(50), 9999
    theirs = permutation_p(values, flips)
    ours = differences(names(50), values, PAIR, seed=0).p[0]
    assert 0.02 < theirs < 0.5
    # Both are shares of 9999 draws: they differ by four standard errors of a difference at most.
    assert abs(ours - theirs) < 4 * np.sqrt(2 * theirs * (1 - theirs) / flips)
    unpaired = differences(names(50), np.stack([values[:, 0], values[::-1, 1]], axis=1), PAIR, seed=0).p[0]
    assert abs(unpaired - theirs) > 4 * np.sqrt(2 * theirs * (1 - theirs) / flips)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(9, 2, 4), (13, 1, 0), (4, 4, 1), (30, 14, 20), (60, 61, 0)])
def test_of_differences_of_one_size_the_test_is_the_sign_test(wins: int, losses: int, ties: int) -> None:
    parts = np.repeat([0.1, -0.1, 0.0], [wins, losses, ties])[:, None]
    exact = stats.binomtest(wins, wins + losses).pvalue
    error = 0.0 if wins + losses <= 14 else 4 * np.sqrt(exact * (1 - exact) / 9999) + 1e-4
    assert sign_flip_test(parts, seed=0)[0] == pytest.approx(exact, rel=1e-12, abs=error)


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_are_those_of_the_percentile_bootstrap(*, paired: bool) -> None:
    values = rows(80)
    if paired:
        data, statistic = (values[:, 0], values[:, 1]), mean_difference
        ours = differences(names(80), values, PAIR, seed=0)
    else:
        data, statistic = (values[:, 0],), np.mean
        ours = estimate(names(80), values[:, :1], seed=0)
    found = stats.bootstrap(
        data, statistic, paired=paired, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    low, high = found.confidence_interval
    # A 2.5 % quantile of 2000 resamples has a standard error of 0.06 standard deviations, 0.015 of the width.
    assert [ours.low[0], ours.high[0]] == pytest.approx([low, high], abs=0.06 * (high - low))
    other = estimate(names(80), values[:, 1:], seed=0)
    assert [other.low[0], other.high[0]] != pytest.approx([low, high], abs=0.06 * (high - low))


@pytest.mark.parametrize("size", [2, 7, 30, 256])
def test_the_interval_of_nothing_but_hits_is_that_of_clopper_and_pearson(size: int) -> None:
    values = np.tile([1.0, 0.0], (size, 1))
    ours = estimate(names(size), values, seed=0, bounds=np.array([[0.0, 1.0], [0.0, 1.0]]))
    for column, hits in enumerate((size, 0)):
        exact = stats.binomtest(hits, size).proportion_ci(method="exact")
        assert [ours.low[column], ours.high[column]] == pytest.approx([exact.low, exact.high], rel=1e-12)
