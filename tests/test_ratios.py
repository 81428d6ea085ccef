"""Means of ratios of sums, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from interpeval.leaderboards.ratios import estimate_ratios
from interpeval.leaderboards.statistics import estimate

Floats = NDArray[np.float64]


def names(count: int) -> list[str]:
    return [f"sample/{i}" for i in range(count)]


def f1_like(count: int, classes: int = 3, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    predicted, labels = generator.random((2, count, classes)) < 0.4
    return np.hstack([2.0 * (predicted & labels), predicted * 1.0 + labels])


def test_the_value_is_the_mean_of_ratios_of_sums() -> None:
    counts = np.array([[1.0, 2, 0, 4, 2, 0], [2, 0, 0, 4, 3, 0], [np.nan] * 6])
    found = estimate_ratios(["a", "b", "c"], counts, seed=0)
    assert found.value == pytest.approx((3 / 8 + 2 / 5) / 2, abs=1e-15)  # the third ratio is 0 / 0
    assert (found.n, found.n_ratios) == (2, 2)


@pytest.mark.parametrize("count", [7, 60])
def test_a_ratio_with_equal_denominators_is_a_mean_with_its_interval(count: int) -> None:
    values = np.random.default_rng(1).random(count)
    found = estimate_ratios(names(count), np.stack([3 * values, np.full(count, 3.0)], axis=1), seed=4)
    mean = estimate(names(count), values[:, None], seed=4, bounds=np.array([[0.0, 1.0]]))
    assert found.value == pytest.approx(mean.value[0], rel=1e-12)
    # Below 30, the deviation over resamples stands for s/√n.
    assert (found.low, found.high) == pytest.approx((mean.low[0], mean.high[0]), rel=1e-9 if count == 60 else 0.05)


def test_intervals_hold_the_truth_as_often_as_they_should() -> None:
    """F1 of independent decisions, `2 p q / (p + q)` for a large population; 200 samples of 100."""
    truth = 2 * 0.4 * 0.4 / 0.8
    held = 0
    for seed in range(200):
        found = estimate_ratios(names(100), f1_like(100, seed=seed), seed=seed)
        held += found.low <= truth <= found.high
    assert 180 <= held <= 199  # 95 % of 200 are 190; the binomial's 99.9 % interval is 179 … 198


@pytest.mark.parametrize("count", [2, 7, 60])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_value_at_the_end_of_the_range_is_not_taken_for_certainty(count: int, share: float) -> None:
    found = estimate_ratios(names(count), np.tile([2 * share, 2.0], (count, 1)), seed=0)
    mean = estimate(names(count), np.full((count, 1), share), seed=0, bounds=np.array([[0.0, 1.0]]))
    assert found[:3] == pytest.approx((share, mean.low[0], mean.high[0]), abs=1e-12)
    assert found.high - found.low == pytest.approx(1 - 0.025 ** (1 / count))


def test_the_order_of_samples_changes_nothing_and_the_seed_does() -> None:
    counts = f1_like(50)
    order = np.random.default_rng(3).permutation(50)
    found = estimate_ratios(names(50), counts, seed=0)
    shuffled = estimate_ratios([names(50)[row] for row in order], counts[order], seed=0)
    assert shuffled == pytest.approx(found, rel=1e-12)
    assert estimate_ratios(names(50), counts, seed=1)[1:3] != found[1:3]


def test_samples_of_a_cluster_are_resampled_together() -> None:
    counts = np.repeat(f1_like(40), 4, axis=0)
    clusters = [name for name in names(40) for _ in range(4)]
    alone = estimate_ratios(names(160), counts, seed=0)
    together = estimate_ratios(names(160), counts, seed=0, clusters=clusters)
    assert together.value == alone.value
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2.0, rel=0.15)  # √4: four copies say no more than one


def test_too_few_samples_have_no_interval_and_none_no_value() -> None:
    counts = f1_like(2, seed=5) + np.array([0.0, 0, 0, 1, 1, 1])
    one = estimate_ratios(["a", "b"], np.where([[True], [False]], counts, np.nan), seed=0)
    assert one.n == 1
    assert np.isfinite(one.value)
    assert np.isnan([one.low, one.high]).all()
    none = estimate_ratios(["a", "b"], np.full((2, 6), np.nan), seed=0)
    assert np.isnan(none[:3]).all()
    assert none[3:] == (0, 0)
    undecided = estimate_ratios(["a", "b"], np.zeros((2, 6)), seed=0)
    assert np.isnan(undecided[:3]).all()
    assert undecided[3:] == (2, 0)


def test_an_odd_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`counts` must be \(2, 2 R\), was \(2, 3\)"):
        estimate_ratios(["a", "b"], np.zeros((2, 3)), seed=0)
