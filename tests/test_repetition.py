"""A run against its repetition: every bit of every value counts, and what differs is counted and placed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpeval.leaderboards.record import records
from interpeval.leaderboards.repetition import Side, compare
from interpeval.leaderboards.repetition_report import as_dict, as_text
from interpeval.leaderboards.series import Series, Status
from leaderboard_cases import not_applicable, series

VALUES = np.array([0.5, 0.25, 1.0, 0.75, 0.0])


def side(*parts, seed=0):
    return Side([part for part in parts if isinstance(part, Series)], records(parts, seed=seed))


def test_the_same_values_are_equal():
    found = compare(side(series(VALUES)), side(series(VALUES, seconds=99.0, device="cuda", torch="1.0")))
    assert found.equal
    assert (found.rows, found.scores) == (1, 5)
    assert as_text(found) == "5 scores of samples and 1 rows compared: equal to the bit."


def test_one_bit_is_found_and_placed():
    changed = VALUES.copy()
    changed[3] = np.nextafter(changed[3], 1)
    found = compare(side(series(VALUES)), side(series(changed)))
    assert not found.equal
    (metric,) = found.metrics
    assert (metric.metric, metric.rows, metric.samples, metric.statuses) == ("pointing_game", 1, 1, 0)
    assert metric.largest == np.spacing(0.75)
    assert metric.sample_id == "sample/3"
    assert compare(side(series(VALUES)), side(series(changed)), tolerance=1e-12).equal


def test_the_sign_of_a_zero_is_a_bit():
    changed = VALUES.copy()
    changed[4] = -0.0
    found = compare(side(series(VALUES)), side(series(changed)))
    assert [(one.samples, one.largest, one.sample_id) for one in found.metrics] == [(1, 0.0, "sample/4")]
    assert compare(side(series(VALUES)), side(series(changed)), tolerance=1e-300).equal


@given(
    st.lists(st.floats(-1, 1), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.sampled_from([0.0, 0.1]),
)
def test_counts_are_those_of_a_plain_loop(drawn, changed, tolerance):
    later = np.array([new if flag else old for new, old, flag in zip(drawn, VALUES, changed, strict=True)])
    gaps = [
        abs(new - old)
        for new, old in zip(later.tolist(), VALUES.tolist(), strict=True)
        if (abs(new - old) > tolerance if tolerance else new.hex() != old.hex())
    ]
    found = compare(side(series(VALUES)), side(series(later)), tolerance=tolerance)
    assert sum(one.samples for one in found.metrics) == len(gaps)
    assert max((one.largest for one in found.metrics), default=0.0) == max(gaps, default=0.0)


def test_a_status_is_compared_even_where_the_value_agrees():
    status = np.zeros(5, np.uint8)
    status[4] = Status.DEGENERATE
    found = compare(side(series(VALUES)), side(series(VALUES, status=status)), tolerance=10)
    assert [(one.samples, one.statuses) for one in found.metrics] == [(1, 1)]
    assert [(one.column, one.rows) for one in found.columns] == [("n_degenerate", 1)], "no tolerance of counts"


def test_a_sample_that_does_not_count_any_more_differs():
    invalid, values = np.zeros(5, np.uint8), VALUES.copy()
    invalid[0], values[0] = Status.INVALID, np.nan
    found = compare(side(series(VALUES)), side(series(values, status=invalid)), tolerance=10)
    assert [(one.samples, one.statuses, one.largest) for one in found.metrics] == [(1, 1, 0.0)]
    assert compare(side(series(values, status=invalid)), side(series(values, status=invalid))).equal


def test_variances_are_compared():
    variance = np.full(5, 0.5)
    one, other = series(VALUES, variance=variance), series(VALUES, variance=variance + np.array([0, 0, 1e-3, 0, 0]))
    found = compare(side(one), side(other))
    assert [(part.samples, part.largest, part.sample_id) for part in found.metrics] == [(1, 0.0, "sample/2")]
    assert [part.column for part in found.columns] == ["mc_se"]
    assert [part.samples for part in compare(side(one), side(series(VALUES))).metrics] == [5]


def test_the_order_of_the_samples_does_not_matter():
    ids = tuple(f"sample/{i}" for i in range(5))
    found = compare(side(series(VALUES)), side(series(VALUES[::-1].copy(), ids=ids[::-1])))
    assert found.equal


def test_samples_of_one_run_alone_are_counted():
    found = compare(side(series(VALUES)), side(series(VALUES[:3])))
    assert found.scores == 3
    assert [(one.samples, one.missing) for one in found.metrics] == [(0, 2)]


def test_curves_are_compared_at_every_step():
    curve = np.stack([VALUES, VALUES], axis=1)
    other = curve.copy()
    other[2, 1] = 0.875
    parts = [series(values, steps=(0.0, 1.0), variant="curve") for values in (curve, other)]
    found = compare(side(parts[0]), side(parts[1]))
    assert [(one.samples, one.largest, one.sample_id) for one in found.metrics] == [(1, 0.125, "sample/2")]
    elsewhere = series(curve, steps=(0.0, 0.5), variant="curve")
    assert [one.missing for one in compare(side(parts[0]), side(elsewhere)).metrics] == [5]


def test_other_weights_are_said_first():
    found = compare(side(series(VALUES)), side(series(VALUES + 0.125, model_digest="8d", metric_version=2, seed=1)))
    assert [(one.fact, one.before, one.after) for one in found.facts] == [
        ("model_digest", "7c", "8d"), ("metric_version", "1", "2"), ("seed", "0", "1"),
    ]  # fmt: skip
    assert as_text(found).startswith("model_digest was 7c, is 8d in 1 rows: model lenet has other weights")


def test_another_revision_is_a_difference_though_all_values_agree():
    found = compare(side(series(VALUES)), side(series(VALUES, dataset_revision="6b")))
    assert not found.equal
    assert "their values are equal to the bit" in as_text(found)


def test_rows_of_one_run_alone_are_named():
    other = series(VALUES, explainer="lime")
    found = compare(side(series(VALUES), other), side(series(VALUES)))
    assert [row.explainer for row in found.only_before] == ["lime"]
    assert "1 rows are in the run alone: digits, lenet, lime: pointing_game" in as_text(found)
    swapped = compare(side(series(VALUES)), side(series(VALUES), other))
    assert [row.explainer for row in swapped.only_after] == ["lime"]


def test_what_does_not_apply_any_more_is_a_difference():
    found = compare(side(series(VALUES)), side(not_applicable("no masks")))
    assert {one.column for one in found.columns} >= {"kind", "source", "value", "n"}


def test_wall_times_are_not_compared():
    parts = [series(VALUES + shift, metric="cost", variant="seconds") for shift in (0, 1)]
    found = compare(side(parts[0]), side(parts[1]))
    assert found.equal
    assert (found.rows, found.scores) == (1, 0)


def test_intervals_of_another_seed_are_a_difference_of_the_table_alone():
    values = np.random.default_rng(0).random(50)
    found = compare(side(series(values)), side(series(values), seed=1))
    assert not found.metrics
    assert {one.column for one in found.columns} == {"ci_low", "ci_high"}


def test_names_are_shown_without_control_characters_and_all_of_it_is_json():
    ids = ("\x1b[2Ja", "b", "c", "d", "e")
    found = compare(side(series(VALUES, ids=ids)), side(series(VALUES + np.eye(5)[0], ids=ids)))
    assert "\x1b" not in as_text(found)
    assert "\\x1b[2Ja" in as_text(found)
    assert as_dict(found)["metrics"][0]["sample_id"] == ids[0]
    assert as_dict(found)["columns"][0]["row"]["dataset"] == "digits"


def test_two_rows_of_one_run_that_speak_of_the_same_are_refused():
    twice = [series(VALUES), series(VALUES, model_digest="8d")]
    with pytest.raises(ValueError, match="two rows of a run speak of `digits, lenet, gradient: pointing_game`"):
        compare(Side(twice, records(twice[:1], seed=0)), side(series(VALUES)))


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_is_a_finite_number_from_0(tolerance):
    with pytest.raises(ValueError, match="`tolerance` must be a finite number from 0"):
        compare(side(series(VALUES)), side(series(VALUES)), tolerance=tolerance)
