"""Ranks and tie groups of the explainers that compete."""

import math

import numpy as np
import pytest
from scipy import stats

from interpeval.leaderboards.places import places_from_intervals, places_from_samples, row_of
from interpeval.leaderboards.ranks import compare
from leaderboard_cases import record, series


def row(name, value, half, **changes):
    return record(value, explainer=name, ci_low=value - half, ci_high=value + half, **changes)


def scores(name, values, **changes):
    return series(np.asarray(values, dtype=float), explainer=name, **changes)


RAMP = np.linspace(0, 1, 40)
NOISE = np.random.default_rng(0).normal(scale=1e-3, size=40)


def test_controls_have_no_place_and_push_nobody_down():
    found = places_from_samples(
        compare([scores("a", RAMP), scores("b", RAMP - 0.5 + NOISE), scores("truth", RAMP + 5)], seed=0)
    )
    places = {key[4]: place for key, place in found.items()}
    assert set(places) == {"a", "b"}
    assert places["a"][:6] == (1, 1, 1, 2, "a", True)
    assert places["b"][:6] == (2, 2, 2, 2, "b", False)
    assert all(place.paired for place in places.values())


def test_a_constant_shift_is_seen_sample_by_sample_and_not_by_intervals():
    """Scores of both go up and down together: their intervals overlap, their differences are all alike."""
    rows = [scores("a", RAMP), scores("b", RAMP - 0.05 + NOISE)]
    paired = {key[4]: place for key, place in places_from_samples(compare(rows, seed=0)).items()}
    means = [row(item.explainer, float(item.values.mean()), 0.1) for item in rows]
    apart = {key[4]: place for key, place in places_from_intervals(means).items()}
    assert paired["a"].best
    assert paired["b"].group == "b"
    assert not apart["a"].best
    assert (apart["a"].group, apart["b"].group) == ("a", "a")


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(("gap", "separable"), [(0.0276, False), (0.0279, True)])
def test_intervals_are_compared_by_the_normal_distribution(gap, separable, lower):
    """Two half intervals of 0.01·1.96 make a joint standard error of 0.01·√2; the limit is 1.96 of these."""
    half = 0.01 * stats.norm.ppf(0.975)
    rows = [row(name, value, half, higher_is_better=not lower) for name, value in (("a", 0.5), ("b", 0.5 + gap))]
    p = 2 * stats.norm.sf(gap / (0.01 * math.sqrt(2)))
    assert (p < 0.05) == separable
    best = "a" if lower else "b"
    found = {key[4]: place for key, place in places_from_intervals(rows).items()}
    assert found[best].rank == 1
    assert found[best].best == separable


def test_p_values_are_adjusted_for_all_pairs():
    """Two pairs at p = 0.03: Holm demands less than 0.05 / 2 of the smaller one once there are further tests."""
    half = 0.01 * stats.norm.ppf(0.975)
    gap = float(stats.norm.isf(0.015)) * 0.01 * math.sqrt(2)
    alone = places_from_intervals([row("a", 0.5, half), row("b", 0.5 + gap, half)])
    among = places_from_intervals([row("a", 0.5, half), row("b", 0.5 + gap, half), row("c", 0.5, half)])
    assert [place.best for place in alone.values()] == [False, True]
    assert not any(place.best for place in among.values())


def test_a_row_without_interval_cannot_be_told_apart_and_points_can():
    blind = places_from_intervals([row("a", 0.5, 0.001), record(0.9, explainer="b")])
    points = places_from_intervals([row("a", 0.5, 0.0), row("b", 0.9, 0.0), row("c", 0.9, 0.0)])
    assert [place.group for place in blind.values()] == ["a", "a"]
    assert [(place.rank, place.group) for place in points.values()] == [(3, "b"), (1, "a"), (1, "a")]


def test_prices_models_and_rows_without_value_have_no_place():
    assert places_from_intervals([row("a", 1, 0, metric="cost"), row("b", 2, 0, metric="cost")]) == {}
    assert (
        places_from_samples(compare([scores("a", RAMP, metric="cost"), scores("b", RAMP, metric="cost")], seed=0)) == {}
    )
    found = places_from_intervals([row("a", 0.5, 0.1), record(None, explainer="b"), row("", 0.5, 0.1)])
    assert [key[4] for key in found] == ["a"]
    assert not found[row_of(row("a", 0.5, 0.1))].best  # nobody to be better than
