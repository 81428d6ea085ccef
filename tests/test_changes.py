"""Two runs compared: hand-worked differences, what is refused, and what moved most."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from interpeval.leaderboards.baseline import Baseline
from interpeval.leaderboards.changes import SHOWN, changes
from interpeval.leaderboards.changes_report import as_json, as_markdown, as_text
from interpeval.leaderboards.record import records
from leaderboard_cases import not_applicable, series


def side(*rows):
    return Baseline.of(records(rows, seed=0), rows)


A = np.array([0.5, 0.25, 1.0, 0.75])
MOVE = np.array([0.25, 0.5, 0.25, 0.0])


def test_differences_are_those_known_by_hand():
    """Only two of the eight flips of three gains are as far from 0; the fourth sample does not move."""
    (row,) = changes(side(series(A)), side(series(A + MOVE))).rows
    assert (row.a, row.b, row.difference) == (0.625, 0.875, 0.25)
    assert row.p == row.p_holm == 2 / 8
    assert row.effect == pytest.approx(0.25 / np.std(MOVE, ddof=1))
    assert (row.won, row.n) == (3.5 / 4, 4)
    half = 3.182446305 * np.std(MOVE, ddof=1) / 2  # the 97.5 % quantile of t with 3 degrees of freedom
    assert (row.ci_low, row.ci_high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))


def test_the_second_run_wins_where_it_is_lower_if_lower_is_better():
    lower = {"higher_is_better": False}
    (row,) = changes(side(series(A, **lower)), side(series(A - MOVE, **lower))).rows
    assert (row.difference, row.won) == (-0.25, 3.5 / 4)


def test_samples_that_changed_most_come_first():
    (row,) = changes(side(series(A)), side(series(A + MOVE))).rows
    assert [(one.sample_id, one.a, one.b) for one in row.changed] == [
        ("sample/1", 0.25, 0.75),
        ("sample/0", 0.5, 0.75),
        ("sample/2", 1.0, 1.25),
    ]
    (many,) = changes(side(series(np.zeros(20))), side(series(np.arange(20.0)))).rows
    assert [one.b for one in many.changed] == [19, 18, 17, 16, 15][:SHOWN]


def test_samples_pair_by_name():
    order = [2, 0, 3, 1]
    names = tuple(f"sample/{k}" for k in order)
    (row,) = changes(side(series(A)), side(series((A + MOVE)[order], ids=names))).rows
    assert row.difference == 0.25
    assert row.changed[0].sample_id == "sample/1"


def test_correction_counts_the_rows_that_differ():
    names = ("a", "b", "c")
    before = side(*(series(A, explainer=name) for name in names))
    after = side(*(series(A + k * MOVE, explainer=name) for k, name in enumerate(names)))
    found = changes(before, after).rows
    assert math.isnan(found[0].p_holm)
    assert [row.p_holm for row in found[1:]] == [2 * 2 / 8] * 2


def test_distance_is_relative_to_the_average_change_of_each_row():
    """Squares over their mean: 1/6, 4/6, 1/6, 0 over 1/4 in one row; only sample 3 in the other one, at 4."""
    alone = np.array([0.0, 0, 0, 100])
    before = side(series(A), series(A, explainer="lime"), series(A, explainer="same"))
    after = side(series(A + MOVE), series(A + alone, explainer="lime"), series(A, explainer="same"))
    moved = {one.sample_id: one for one in changes(before, after).moved}
    assert moved["sample/1"].distance == pytest.approx(math.sqrt((16 / 6 + 0) / 2))
    assert moved["sample/3"].distance == pytest.approx(math.sqrt((0 + 4) / 2))
    assert (moved["sample/3"].row.explainer, moved["sample/3"].b) == ("lime", 100.75)
    assert next(iter(moved)) == "sample/3"


def test_clusters_are_flipped_together():
    clusters = ("x", "x", "y", "y")
    (row,) = changes(side(series(A, clusters=clusters)), side(series(A + 1, clusters=clusters))).rows
    assert row.p == 1 / 2


def test_class_means_weigh_classes_alike():
    parts = {"classes": np.array([0, 0, 0, 1]), "aggregations": ("classes",)}
    (row,) = changes(side(series(A, **parts)), side(series(A + MOVE, **parts))).rows
    assert row.row.variant == "class_mean"
    assert row.difference == pytest.approx((1 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dataset_revision": "6b"}, "revision of the dataset was 5a, is 6b"),
        ({"metric_version": 2}, "version of the metric was 1, is 2"),
        ({"ids": ("sample/0", "sample/1", "sample/2", "x\x1b")}, r"4 samples in the first and 4 .*3 of them the same"),
        ({"explainer": "lime"}, "share no row"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(changed, said):
    with pytest.raises(ValueError, match=said) as error:
        changes(side(series(A)), side(series(A, **changed)))
    assert "\x1b" not in str(error.value)


def test_what_is_left_out_is_listed():
    seconds = {"metric": "cost", "variant": "seconds"}
    ratios = series(np.ones((4, 2)), steps=(0.0, 1.0), aggregations=("ratios",), metric="f1")
    before = side(series(A), series(A, **seconds), ratios, series(A, explainer="lime"))
    after = side(series(A), series(A, **seconds), ratios, series(A, metric="top_k"), not_applicable("-", metric="bam"))
    found = changes(before, after)
    assert [row.row.metric for row in found.rows] == ["pointing_game"]
    assert [row.metric for row in found.not_compared] == ["cost", "f1"]
    assert [row.explainer for row in found.only_a] == ["lime"]
    assert [row.metric for row in found.only_b] == ["bam", "top_k"]


NAME = "x|\x1b\n<b>"


@pytest.fixture
def found():
    names = ("sample/0", "sample/1", NAME, "sample/3")
    before = side(series(A, explainer=NAME, ids=names), series(A, explainer="same", ids=names))
    return changes(
        before, side(series(A + 100 * MOVE[::-1], explainer=NAME, ids=names), series(A, explainer="same", ids=names))
    )


def test_the_text_says_what_differs(found):
    text = as_text(found, samples=1)
    assert text.startswith(
        "2 rows compared: 0 differ by more than chance (*, p < 0.05 after Holm), 1 differ by less, 1 do"
    )
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    moved = text.split("changed most")[1]
    assert r"x|\x1b\n<b>" in moved.splitlines()[4]
    assert "sample/1" not in moved


def test_markdown_keeps_hostile_names_in_their_cells(found):
    text = as_markdown(found, samples=2)
    table = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {10, 6}
    assert "<b>" not in text


def test_json_holds_everything_and_no_nan(found):
    content = json.loads(as_json(found))
    assert [row["explainer"] for row in content["rows"]] == ["same", NAME]
    assert content["rows"][0]["p_holm"] is None
    assert content["rows"][1]["changed"][0] == {"sample_id": NAME, "a": 1.0, "b": 51.0}
    assert content["moved"][0]["sample_id"] == NAME


def test_a_difference_beyond_chance_is_marked():
    before, after = side(series(np.zeros(8))), side(series(np.ones(8)))
    assert " 0.0078* " in as_text(changes(before, after), samples=0)
