"""Differences of rows on the same samples, and their tests."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interpeval.leaderboards import paired
from interpeval.leaderboards.paired import ALL_FLIPS, FLIPS, differences, holm, sign_flip_test
from interpeval.leaderboards.statistics import estimate, resampled_means
from reference import paired as slow

PAIR = np.array([[0, 1]])


def names(size):
    return [f"sample/{i}" for i in range(size)]


def column(values):
    return np.array(values, dtype=np.float64)[:, None]


def rows(size, count, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(size, 1)) + random.normal(size=(size, count)) + 0.1 * np.arange(count)


def alike(one, other, tolerance=1e-12):
    return all(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True) for a, b in zip(one, other, strict=True))


# The sign-flip test


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([1, 2, 3], 2 / 8),  # only +6 and -6 are as far as 6
        ([3, -1], 1.0),
        ([3, 1, -1], 6 / 8),  # |sum| is 3, 5, 1, 3 and the same again: 6 of 8 are 3 or more
        ([5], 1.0),
        ([0, 0, 0], 1.0),
        ([1, 2, 0, 3, 0, 0], 2 / 8),
        ([0.1, 0.2, -0.3], 1.0),  # the sum is 0 but for rounding
        ([1] * ALL_FLIPS, 2 / 2**ALL_FLIPS),
        ([], 1.0),
    ],
)
def test_p_by_hand(parts, expected):
    assert sign_flip_test(column(parts), seed=0).tolist() == [expected]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.sampled_from([1, 3, 10, 7000]))
def test_all_flips_are_counted_exactly_however_numbers_round(tenths, scale):
    expected = slow.p_of_all_flips([Fraction(number) for number in tenths])
    assert sign_flip_test(column(tenths) / scale, seed=0).tolist() == [expected]


@pytest.mark.parametrize("size", [20, 64, 131])
def test_random_flips_are_those_of_the_definition(size):
    parts = np.random.default_rng(size).integers(-3, 4, (size, 3)) * 0.1
    expected = [slow.p_of_random_flips([round(10 * part) for part in parts[:, k]], 5, 300) for k in range(3)]
    assert sign_flip_test(parts, seed=5, flips=300).tolist() == expected
    assert sign_flip_test(parts, seed=6, flips=300).tolist() != expected


def test_random_flips_find_what_all_flips_find():
    parts = np.random.default_rng(3).normal(0.25, 1, ALL_FLIPS + 1)
    exact = slow.p_of_all_flips(parts.tolist())
    assert 0.05 < exact < 0.95
    [found] = sign_flip_test(column(parts), seed=0)
    far = round(found * (FLIPS + 1)) - 1
    assert stats.binomtest(far, FLIPS, exact).pvalue > 0.001
    # Not the same by construction: with one difference less, all flips are tried and nothing is random.
    fewer = [sign_flip_test(column(parts[1:]), seed=seed)[0] for seed in (0, 1)]
    assert fewer[0] == fewer[1] == slow.p_of_all_flips(parts[1:].tolist())
    assert sign_flip_test(column(parts), seed=1)[0] != found


def test_p_is_never_0_and_never_too_small():
    assert sign_flip_test(np.ones((200, 1)), seed=0, flips=99).tolist() == [1 / 100]


def test_p_of_rows_alike_is_evenly_spread():
    parts = np.random.default_rng(0).normal(size=(25, 3000))
    p = sign_flip_test(parts, seed=0, flips=999)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    # The control: with a shift the test is no longer even, it rejects.
    assert np.mean(sign_flip_test(parts + 0.6, seed=0, flips=999) < 0.05) > 0.7


def test_flipping_in_several_blocks_is_flipping_in_one(monkeypatch):
    parts = rows(70, 4)
    whole = sign_flip_test(parts, seed=0, flips=500)
    monkeypatch.setattr(paired, "_BLOCK", 70 * 3)
    assert sign_flip_test(parts, seed=0, flips=500).tolist() == whole.tolist()


# Differences


def test_a_comparison_by_hand():
    values = np.array([[2, 1], [4, 2], [3, 0], [5, 5], [np.nan, 7], [7, np.nan]], dtype=np.float64)
    found = differences(names(6), values, PAIR, seed=0)
    half = 3.1824463052837078 * math.sqrt(5 / 3) / 2  # t for three degrees of freedom; differences 1, 2, 3 and 0
    assert (found.value[0], found.n[0], found.p[0]) == (1.5, 4, 0.25)
    assert (found.low[0], found.high[0]) == pytest.approx((1.5 - half, 1.5 + half), rel=1e-14)
    assert found.effect[0] == pytest.approx(1.5 / math.sqrt(5 / 3), rel=1e-14)
    assert found.greater[0] == pytest.approx(3.5 / 4, rel=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "value", "p", "effect", "greater", "n"),
    [
        ([1, 2, 3], [1, 2, 3], 0.0, 1.0, 0.0, 0.5, 3),
        ([1.1, 2.1, 3.1], [1, 2, 3], 0.1, 0.25, math.inf, 1.0, 3),
        ([1, 2, 3], [1.1, 2.1, 3.1], -0.1, 0.25, -math.inf, 0.0, 3),
        ([1, np.nan], [3, 4], -2.0, 1.0, math.nan, 0.0, 1),
        ([1, np.nan], [np.nan, 4], math.nan, math.nan, math.nan, math.nan, 0),
        ([], [], math.nan, math.nan, math.nan, math.nan, 0),
    ],
)
def test_rows_that_are_alike_or_share_little(first, second, value, p, effect, greater, n):
    values = np.array([first, second], dtype=np.float64).T
    found = differences(names(len(first)), values, PAIR, seed=0)
    numbers = [found.value[0], found.p[0], found.effect[0], found.greater[0], found.n[0]]
    assert numbers == pytest.approx([value, p, effect, greater, n], rel=1e-12, nan_ok=True)
    if n > 1:
        assert (found.low[0], found.high[0]) == pytest.approx((value, value), rel=1e-12)
    else:
        assert np.isnan([found.low[0], found.high[0]]).all()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_comparisons_are_those_of_the_definition(by_class, clustered):
    random = np.random.default_rng(4)
    size = 12
    ids = [f"{i}" for i in random.permutation(size)]
    values = random.integers(0, 5, (size, 3)).astype(np.float64)
    values[[2, 5], [0, 1]] = np.nan
    classes = random.integers(0, 3, size) if by_class else None
    clusters = [f"image {i // 2}" for i in range(size)] if clustered else None
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    found = differences(ids, values, pairs, seed=1, classes=classes, clusters=clusters)
    for place, (a, b) in enumerate(pairs):
        apart = dict(zip(ids, values[:, a] - values[:, b], strict=True))
        apart = {name: Fraction(apart[name]) for name in ids if not math.isnan(apart[name])}
        class_of = dict(zip(ids, classes.tolist(), strict=True)) if by_class else None
        cluster_of = dict(zip(ids, clusters or ids, strict=True))
        share = slow.weights(list(apart), class_of)
        parts = slow.totals({name: share[name] * apart[name] for name in apart}, {n: cluster_of[n] for n in apart})
        numbers = [found.value[place], found.effect[place], found.greater[place], found.p[place]]
        expected = [*map(float, slow.describe(apart, class_of)), slow.p_of_all_flips(parts)]
        assert numbers == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [None, np.arange(60) % 4])
def test_the_interval_is_that_of_the_difference_of_the_resampled_means(classes):
    ids, values = names(60), rows(60, 2)
    means = resampled_means(ids, values, seed=3, classes=classes)
    expected = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
    found = differences(ids, values, PAIR, seed=3, classes=classes)
    assert [found.low[0], found.high[0]] == pytest.approx(expected, abs=1e-12)
    value = estimate(ids, values, seed=3, classes=classes).value
    assert found.value[0] == pytest.approx(value[0] - value[1], abs=1e-12)
    # The control: single intervals say much less about rows that vary together.
    apart = differences(ids, np.stack([values[:, 0], values[::-1, 1]], axis=1), PAIR, seed=3, classes=classes)
    assert apart.high[0] - apart.low[0] > 1.2 * (found.high[0] - found.low[0])


def test_exchanging_the_rows_turns_every_sign():
    values = rows(40, 2)
    values[3, 1] = np.nan
    values[5] = 1.0  # a tie
    one = differences(names(40), values, PAIR, seed=0)
    other = differences(names(40), values, PAIR[:, ::-1], seed=0)
    turned = other._replace(
        value=-other.value, low=-other.high, high=-other.low, effect=-other.effect, greater=1 - other.greater
    )
    assert alike(one, turned)


@pytest.mark.parametrize("clusters", [None, [f"image/{i // 3}" for i in range(50)]])
@pytest.mark.parametrize("classes", [None, np.arange(50) % 7])
def test_the_order_of_samples_changes_nothing(classes, clusters):
    ids, values, order = names(50), rows(50, 3), np.random.default_rng(0).permutation(50)
    values[4, 1] = np.nan
    pairs = np.array([[0, 1], [0, 2]])
    first = differences(ids, values, pairs, seed=0, classes=classes, clusters=clusters)
    shuffled = differences(
        [ids[i] for i in order],
        values[order],
        pairs,
        seed=0,
        classes=None if classes is None else classes[order],
        clusters=None if clusters is None else [clusters[i] for i in order],
    )
    assert all(np.array_equal(one, other) for one, other in zip(first, shuffled, strict=True))
    # The control: values under other names are flipped otherwise.
    assert not np.array_equal(differences(ids, values[order], pairs, seed=0).p, first.p)


def test_a_pair_is_the_same_alone_and_among_others_and_beside_faulty_rows():
    values = rows(60, 4)
    alone = differences(names(60), values[:, :2], PAIR, seed=0)
    values[:50, 2], values[:, 3] = np.nan, np.nan
    pairs = np.array([[2, 3], [0, 1], [1, 2]])
    among = differences(names(60), values, pairs, seed=0)
    assert alike(alone, [part[1:2] for part in among])
    assert among.n.tolist() == [0, 60, 10]


def test_a_table_without_pairs_has_no_differences():
    found = differences(names(5), rows(5, 1), np.zeros((0, 2), dtype=np.intp), seed=0)
    assert [part.shape for part in found] == [(0,)] * 7


def test_differences_stay_within_twice_the_range():
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1]])
    free = differences(names(3), values, PAIR, seed=0)
    bounded = differences(names(3), values, PAIR, seed=0, bounds=(0.0, 1.0))
    assert free.high[0] > 1
    assert (bounded.low[0], bounded.high[0]) == (free.low[0], 1.0)
    # Where one row always has the best value and the other always the worst, that is not certainty.
    extreme = differences(names(9), np.tile([1.0, 0.0], (9, 1)), PAIR, seed=0, bounds=(0.0, 1.0))
    assert (extreme.low[0], extreme.high[0]) == (pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 9))), 1.0)


# Clusters


def test_a_cluster_of_copies_counts_as_one_sample():
    values = rows(16, 2)
    copies, clusters = np.repeat(values, 3, axis=0), np.repeat(names(16), 3).tolist()
    found = differences(names(48), copies, PAIR, seed=0, clusters=clusters)
    once = differences(names(16), values, PAIR, seed=0)
    assert found.p == once.p
    assert found.value == pytest.approx(once.value, rel=1e-12)
    assert found.n == [48]
    # Resamples of 16 clusters, made a t interval by their standard deviation instead of s / √n.
    assert found.high - found.low == pytest.approx(once.high - once.low, rel=0.05)
    # The control: taken for 48 samples, they look surer than they are.
    naive = differences(names(48), copies, PAIR, seed=0)
    assert naive.p < found.p / 2
    assert naive.high - naive.low < 0.7 * (found.high - found.low)


def test_from_thirty_clusters_on_the_interval_of_copies_is_that_of_single_samples():
    values = rows(40, 2)
    found = differences(
        names(80), np.repeat(values, 2, axis=0), PAIR, seed=0, clusters=np.repeat(names(40), 2).tolist()
    )
    once = differences(names(40), values, PAIR, seed=0)
    assert [found.low[0], found.high[0]] == pytest.approx([once.low[0], once.high[0]], rel=1e-12)


def test_samples_that_are_clusters_of_their_own_are_the_default():
    ids, values = names(33), rows(33, 2)
    assert alike(differences(ids, values, PAIR, seed=0, clusters=ids), differences(ids, values, PAIR, seed=0), 0)
    assert not alike(
        differences(ids, values, PAIR, seed=0, clusters=[ids[1], *ids[1:]]), differences(ids, values, PAIR, seed=0)
    )


# Holm


def test_holm_by_hand():
    # Sorted: 0.01 · 4, 0.02 · 3, 0.03 · 2 (raised to 0.06), 0.04 · 1 (raised to 0.06)
    found = holm(np.array([0.04, 0.01, np.nan, 0.03, 0.02]))
    assert found.tolist() == pytest.approx([0.06, 0.04, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.4, 0.6])).tolist() == [0.8, 0.8]
    assert holm(np.array([0.9, 0.7, 0.8])).tolist() == [1.0, 1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.just(math.nan), st.integers(0, 20).map(lambda k: k / 20)), max_size=8))
def test_holm_is_that_of_the_definition(p):
    assert holm(np.array(p, dtype=np.float64)).tolist() == pytest.approx(slow.holm(p), rel=1e-12, nan_ok=True)


def test_holm_keeps_the_chance_of_any_false_alarm():
    # Ten true hypotheses a family: uncorrected, 40 % of the families hold a p below 0.05.
    p = np.random.default_rng(0).random((2000, 10))
    alarms = sum((holm(family) < 0.05).any() for family in p)
    assert stats.binomtest(int(alarms), 2000, 0.05, alternative="greater").pvalue > 0.01
    assert np.mean((p < 0.05).any(axis=1)) > 0.35


@pytest.mark.parametrize(
    ("ids", "values", "clusters", "message"),
    [
        (["a", "a"], np.zeros((2, 2)), None, "`ids` must be all different"),
        (["a", "b"], np.zeros((3, 2)), None, r"`values` must be \(2, K\), was \(3, 2\)"),
        (["a", "b"], np.zeros((2, 2)), ["x"], "`clusters` must be 2 names, were 1"),
    ],
)
def test_members_that_disagree_are_refused(ids, values, clusters, message):
    with pytest.raises(ValueError, match=message):
        differences(ids, values, PAIR, seed=0, clusters=clusters)
