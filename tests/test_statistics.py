"""Means, intervals and their pairing."""

import math

import numpy as np
import pytest
from scipy import stats

from interpeval.leaderboards.statistics import RESAMPLES, SMALL, estimate, monte_carlo_error, resampled_means
from reference import statistics as slow


def names(size):
    return [f"sample/{i}" for i in range(size)]


def column(values):
    return np.array(values, dtype=np.float64)[:, None]


def numbers_of(result, place):
    return [None if math.isnan(part[place]) else part[place] for part in result[:3]]


# Known answers


def test_interval_of_three_samples_is_the_one_of_the_textbook():
    result = estimate(names(3), column([1, 2, 3]), seed=0)
    half = 4.302652729749462 / math.sqrt(3)  # t quantile for two degrees of freedom, s = 1
    assert numbers_of(result, 0) == pytest.approx([2, 2 - half, 2 + half], rel=1e-14)


@pytest.mark.parametrize("size", range(2, SMALL))
def test_interval_of_few_samples_is_students(size):
    values = np.random.default_rng(size).normal(size=size)
    expected = stats.t.interval(0.95, size - 1, loc=values.mean(), scale=stats.sem(values))
    result = estimate(names(size), column(values), seed=0)
    assert [result.low[0], result.high[0]] == pytest.approx(expected, rel=1e-9)  # older SciPy: 1e-11


def test_from_thirty_samples_on_the_interval_is_not_students_any_more():
    values = np.random.default_rng(0).exponential(size=SMALL)
    expected = stats.t.interval(0.95, SMALL - 1, loc=values.mean(), scale=stats.sem(values))
    result = estimate(names(SMALL), column(values), seed=0)
    assert result.low[0] != pytest.approx(expected[0], rel=1e-3)


@pytest.mark.parametrize("classes", [None, np.arange(40) % 3])
@pytest.mark.parametrize(
    ("valid", "expected"),
    [(0, [None, None, None]), (1, [0.1, None, None]), (5, [0.1, 0.1, 0.1]), (40, [0.1, 0.1, 0.1])],
)
def test_nothing_one_sample_and_equal_samples(valid, expected, classes):
    values = np.where(np.arange(40) < valid, 0.1, np.nan)
    result = estimate(names(40), column(values), seed=0, classes=classes)
    assert numbers_of(result, 0) == expected
    assert result.n.tolist() == [valid]


def test_no_samples_at_all_give_no_number():
    result = estimate([], np.zeros((0, 2)), seed=0)
    assert np.isnan(result.value).all()
    assert np.isnan(result.low).all()
    assert result.n.tolist() == [0, 0]


def test_class_mean_weighs_every_seen_class_alike():
    # Class 0 has mean 1, class 4 has mean 5, class 7 is unseen (its only sample is missing).
    values, classes = column([0, 1, 2, 5, np.nan]), np.array([0, 0, 0, 4, 7])
    assert estimate(names(5), values, seed=0, classes=classes).value.tolist() == [3.0]
    assert estimate(names(5), values, seed=0).value.tolist() == [2.0]


def test_monte_carlo_error_by_hand():
    variance = np.array([1.0, 3.0, 4.0])
    assert monte_carlo_error(variance) == pytest.approx(math.sqrt(8) / 3, rel=1e-15)
    expected = math.sqrt((1 + 3) / 2**2 + 4) / 2
    assert monte_carlo_error(variance, classes=np.array([6, 6, 2])) == pytest.approx(expected, rel=1e-15)
    assert math.isnan(monte_carlo_error(np.array([])))


# The definition, restated


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("size", [12, 45])
def test_estimates_are_those_of_the_definition(size, by_class, clustered):
    random = np.random.default_rng(size)
    ids = [f"{place}" for place in random.permutation(size)]
    values = np.stack([random.normal(size=size), random.integers(0, 2, size), random.exponential(size=size)], axis=1)
    values[random.random(size) < 0.1, 1] = np.nan
    values[5:, 2] = np.nan  # so few that a resample may hold none of them
    classes = random.integers(0, 4, size) if by_class else None
    clusters = [f"image/{i}" for i in random.integers(0, 0.8 * size, size)] if clustered else None
    result = estimate(ids, values, seed=3, classes=classes, clusters=clusters)
    listed = None if classes is None else classes.tolist()
    for place in range(values.shape[1]):
        expected = slow.estimate(ids, values[:, place].tolist(), 3, listed, clusters)
        assert numbers_of(result, place) == pytest.approx(expected, rel=1e-10)


def test_resampling_in_several_blocks_is_resampling_in_one(monkeypatch):
    ids, values = names(33), np.random.default_rng(0).normal(size=(33, 2))
    whole = resampled_means(ids, values, seed=0)
    monkeypatch.setattr("interpeval.leaderboards.statistics._BLOCK", 33 * 7)
    assert np.allclose(resampled_means(ids, values, seed=0), whole, rtol=0, atol=1e-14)


# The weights


def test_a_resample_draws_with_replacement_and_equal_chances():
    size = 40
    counts = resampled_means(names(size), np.eye(size), seed=0) * size
    assert np.allclose(counts, counts.round(), atol=1e-9)
    assert np.allclose(counts.sum(axis=1), size)
    # A count is binomial with mean 1 and variance 1 - 1/N; two of them have covariance -1/N.
    deviation = (counts.mean(axis=0) - 1) * math.sqrt(RESAMPLES / (1 - 1 / size))
    assert stats.kstest(deviation, "norm").pvalue > 0.01
    covariance = np.cov(counts.T)
    assert np.diag(covariance).mean() == pytest.approx(1 - 1 / size, rel=0.03)
    assert covariance[~np.eye(size, dtype=bool)].mean() == pytest.approx(-1 / size, rel=0.03)


@pytest.mark.parametrize("classes", [None, np.arange(50) % 7])
def test_the_order_of_samples_changes_nothing(classes):
    random = np.random.default_rng(0)
    ids, values, order = names(50), random.normal(size=(50, 3)), random.permutation(50)
    values[4, 1] = np.nan
    first = estimate(ids, values, seed=0, classes=classes)
    shuffled = [ids[place] for place in order]
    second = estimate(shuffled, values[order], seed=0, classes=None if classes is None else classes[order])
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
    # The control: values under other names are resampled otherwise.
    assert not np.array_equal(estimate(ids, values[order], seed=0).low, first.low)


def test_another_seed_resamples_otherwise():
    ids, values = names(50), np.random.default_rng(0).normal(size=(50, 1))
    first, second = (estimate(ids, values, seed=seed) for seed in (0, 1))
    assert first.value == second.value
    assert first.low != second.low


@pytest.mark.parametrize("missing", [0, 6])
def test_difference_of_perfectly_correlated_columns_has_no_width(missing):
    ids, scores = names(50), np.random.default_rng(0).normal(size=50)
    scores[:missing] = np.nan
    both = resampled_means(ids, np.stack([scores, scores + 0.3], axis=1), seed=0)
    assert np.allclose(both[:, 1] - both[:, 0], 0.3, rtol=0, atol=1e-12)
    # The control: resampled apart, the difference is as uncertain as two independent means.
    apart = resampled_means(ids, column(scores + 0.3), seed=1)[:, 0] - both[:, 0]
    assert np.ptp(np.quantile(apart, [0.025, 0.975])) > np.ptp(np.quantile(both[:, 0], [0.025, 0.975]))


def test_calls_with_the_same_samples_are_paired_whatever_else_they_hold():
    ids, values = names(60), np.random.default_rng(0).normal(size=(60, 5))
    alone = resampled_means(ids, values[:, 3:4], seed=0)
    assert np.allclose(alone[:, 0], resampled_means(ids, values, seed=0)[:, 3], rtol=0, atol=1e-13)


# How often the interval holds the truth


def coverage(low, high, truth):
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize(
    ("size", "draw", "truth"),
    [
        (8, lambda random, shape: random.normal(2, 3, shape), 2),
        (50, lambda random, shape: random.normal(2, 3, shape), 2),
        (200, lambda random, shape: random.binomial(1, 0.3, shape), 0.3),
    ],
    ids=["normal, t", "normal, bootstrap", "Bernoulli, bootstrap"],
)
def test_intervals_hold_the_true_mean_about_95_times_in_100(size, draw, truth):
    values = draw(np.random.default_rng(0), (size, 2000)).astype(np.float64)
    result = estimate(names(size), values, seed=0)
    # Three standard errors of a share of 2000 are 0.015; the bootstrap at n = 50 is known to cover about 0.94.
    assert coverage(result.low, result.high, truth) == pytest.approx(0.95, abs=0.02)


def test_the_bootstrap_of_few_samples_covers_too_little_which_is_why_t_is_used():
    values = np.random.default_rng(0).normal(size=(8, 2000))
    low, high = np.quantile(resampled_means(names(8), values, seed=0), [0.025, 0.975], axis=0)
    assert coverage(low, high, 0) < 0.92


def test_intervals_of_class_means_hold_the_mean_of_class_means():
    size, centres = 270, np.array([0.0, 1.0, 5.0])
    classes = np.arange(size) % 9 // 4  # shares of 4, 4 and 1 in 9
    values = centres[classes][:, None] + np.random.default_rng(0).normal(size=(size, 1000))
    by_class = estimate(names(size), values, seed=0, classes=classes)
    assert coverage(by_class.low, by_class.high, centres.mean()) == pytest.approx(0.95, abs=0.025)
    # The control: the plain mean is another quantity.
    plain = estimate(names(size), values, seed=0)
    assert coverage(plain.low, plain.high, centres.mean()) < 0.1


def test_intervals_of_class_means_of_few_samples_are_not_too_narrow():
    # A class of two samples is often absent from a resample, which widens the interval: it errs on the safe side.
    size, centres = 18, np.array([0.0, 1.0, 5.0])
    classes = np.arange(size) % 9 // 4
    values = centres[classes][:, None] + np.random.default_rng(0).normal(size=(size, 1000))
    by_class = estimate(names(size), values, seed=0, classes=classes)
    assert coverage(by_class.low, by_class.high, centres.mean()) > 0.94


# Clusters


@pytest.mark.parametrize("size", [9, 33])
def test_samples_that_are_clusters_of_their_own_are_the_default(size):
    ids, values = names(size), np.random.default_rng(0).normal(size=(size, 2))
    for one, other in zip(estimate(ids, values, seed=0, clusters=ids), estimate(ids, values, seed=0), strict=True):
        assert np.array_equal(one, other)
    # The control: two samples in one cluster.
    fewer = estimate(ids, values, seed=0, clusters=[ids[1], *ids[1:]])
    assert not np.array_equal(fewer.low, estimate(ids, values, seed=0).low)


def test_a_single_cluster_has_no_interval():
    result = estimate(names(3), column([1, 2, 6]), seed=0, clusters=["image"] * 3)
    assert numbers_of(result, 0) == [3.0, None, None]
    assert result.n.tolist() == [3]


@pytest.mark.parametrize("size", [12, 60])
def test_intervals_of_clusters_hold_the_mean_where_those_of_samples_do_not(size):
    random = np.random.default_rng(0)
    values = np.repeat(random.normal(size=(size, 1000)), 5, axis=0) + 0.5 * random.normal(size=(5 * size, 1000))
    images = np.repeat(names(size), 5).tolist()
    together = estimate(names(5 * size), values, seed=0, clusters=images)
    assert coverage(together.low, together.high, 0) == pytest.approx(0.95, abs=0.02)
    apart = estimate(names(5 * size), values, seed=0)
    assert coverage(apart.low, apart.high, 0) < 0.7


# Known ranges

UNIT = np.array([[0.0, 1.0]])


def test_intervals_end_where_the_range_ends():
    values = column([1, 1, 0])
    free, bounded = estimate(names(3), values, seed=0), estimate(names(3), values, seed=0, bounds=UNIT)
    assert (free.low[0], free.high[0]) == pytest.approx((-0.768, 2.101), abs=0.001)
    assert (bounded.low[0], bounded.high[0]) == (0.0, 1.0)
    half_open = estimate(names(3), values, seed=0, bounds=np.array([[0.0, np.inf]]))
    assert (half_open.low[0], half_open.high[0]) == (0.0, free.high[0])
    unbounded = estimate(names(3), values, seed=0, bounds=np.array([[-np.inf, np.inf]]))
    assert unbounded == free


def test_nothing_but_the_best_value_is_not_certainty():
    # (1 - x)^3 = 0.025: with a smaller mean, three hits in a row have less than that probability.
    low = 0.025 ** (1 / 3)
    hits = estimate(names(3), column([1, 1, 1]), seed=0, bounds=UNIT)
    assert numbers_of(hits, 0) == pytest.approx([1.0, low, 1.0], rel=1e-14)
    misses = estimate(names(3), column([0, 0, 0]), seed=0, bounds=UNIT)
    assert numbers_of(misses, 0) == pytest.approx([0.0, 0.0, 1 - low], rel=1e-14)
    cosines = estimate(names(3), column([1, 1, 1]), seed=0, bounds=np.array([[-1.0, 1.0]]))
    assert numbers_of(cosines, 0) == pytest.approx([1.0, 2 * low - 1, 1.0], rel=1e-14)


@pytest.mark.parametrize(
    ("value", "bounds"), [(0.75, (0, 1)), (0.0, (0, np.inf)), (0.0, (-np.inf, 0)), (0.0, (-np.inf, np.inf))]
)
def test_equal_values_elsewhere_or_in_an_open_range_have_no_width(value, bounds):
    result = estimate(names(40), column([value] * 40), seed=0, bounds=np.array([bounds], dtype=np.float64))
    assert numbers_of(result, 0) == [value, value, value]


def test_the_smallest_mean_of_class_means_that_is_as_probable_as_all_hits():
    # Two classes with two samples and one: the smallest (p + q) / 2 with p² q = 0.025, found on a grid.
    p = np.linspace(0.001, 1, 100_000)
    expected = ((p + 0.025 / p**2) / 2).min()
    result = estimate(names(3), column([1, 1, 1]), seed=0, classes=np.array([4, 4, 7]), bounds=UNIT)
    assert result.low[0] == pytest.approx(expected, rel=1e-6)
    clustered = estimate(names(3), column([1, 1, 1]), seed=0, clusters=["x", "x", "y"], bounds=UNIT)
    expected = ((2 * p + 0.025 / p) / 3).min()  # one draw for each cluster, the first of twice the weight
    assert clustered.low[0] == pytest.approx(expected, rel=1e-6)


def bernoulli_coverage(size, chances, bounds):
    """Exact probability that the interval of a share holds it, from the intervals of 0 to all hits."""
    hits = (np.arange(size)[:, None] < np.arange(size + 1)).astype(np.float64)
    found = estimate(names(size), hits, seed=0, bounds=bounds)
    covered = (found.low <= chances[:, None]) & (chances[:, None] <= found.high)
    return (covered * stats.binom.pmf(np.arange(size + 1), size, chances[:, None])).sum(axis=1)


@pytest.mark.parametrize("size", [3, 5, 10, 20, 29, 50, 256])
def test_shares_near_an_end_are_covered(size):
    near = np.array([0.001, 0.01 / size, 0.3 / size, 1 - 0.3 / size, 0.9999])
    bounds = np.repeat(UNIT, size + 1, axis=0)
    assert (bernoulli_coverage(size, near, bounds) > 0.95).all()
    # Where all are hits or all are misses, an interval without width covers nothing.
    assert (bernoulli_coverage(size, near, None) < 0.3).all()


@pytest.mark.parametrize("size", [5, 10, 20, 29, 50, 100])
def test_shares_are_covered_well_enough_everywhere(size):
    # As with all intervals of means, coverage falls short in places, where an end of a likely interval just misses.
    coverage = bernoulli_coverage(size, np.linspace(0.001, 0.999, 999), np.repeat(UNIT, size + 1, axis=0))
    assert coverage.min() > 0.84
    assert coverage.mean() > 0.94


# Bad input


def test_bounds_of_other_columns_are_refused():
    with pytest.raises(ValueError, match=r"`bounds` must be \(2, 2\), was \(1, 2\)"):
        estimate(names(3), np.zeros((3, 2)), seed=0, bounds=UNIT)


@pytest.mark.parametrize(
    ("ids", "values", "classes", "message"),
    [
        (["a", "a"], np.zeros((2, 1)), None, "`ids` must be all different"),
        (["a", "b"], np.zeros((3, 1)), None, r"`values` must be \(2, M\), was \(3, 1\)"),
        (["a", "b"], np.zeros(2), None, r"`values` must be \(2, M\), was \(2,\)"),
        (["a", "b"], np.zeros((2, 1)), np.zeros(3, np.int64), r"`classes` must be \(2,\), was \(3,\)"),
    ],
)
def test_members_that_disagree_are_refused(ids, values, classes, message):
    with pytest.raises(ValueError, match=message):
        estimate(ids, values, seed=0, classes=classes)
