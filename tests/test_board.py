"""Putting runs into one board."""

import pytest

from interpeval.leaderboards.board import MixedError, Source, merge
from interpeval.leaderboards.columns import blocks_of, columns_of
from leaderboard_cases import record, series


def source(name, *rows, items=()):
    return Source(name, rows, items)


def test_rows_of_all_sources_stand_in_one_board_sorted():
    board = merge([source("b", record(0.5, explainer="lime")), source("a", record(0.7, explainer="gradient"))])
    assert [row.explainer for row in board.records] == ["gradient", "lime"]
    assert list(board.blocks) == ["digits · lenet"]
    assert board.notes == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset_revision": "6b"}, "revision of dataset `digits`: `5a` in runs/a, `6b` in runs/b"),
        ({"metric_version": 2}, "version of metric `pointing_game`: `1` in runs/a, `2` in runs/b"),
        ({"seed": 3}, "seed: `0` in runs/a, `3` in runs/b"),
    ],
)
def test_runs_that_differ_are_refused_by_name_and_kept_apart_on_demand(changes, named):
    first, second = record(0.5, ci_low=0.49, ci_high=0.51), record(0.9, ci_low=0.89, ci_high=0.91, **changes)
    sources = [source("runs/a", first), source("runs/b", second)]
    with pytest.raises(MixedError) as refused:
        merge(sources)
    assert named in str(refused.value)
    assert "--allow-mixed" in str(refused.value)
    board = merge(sources, allow_mixed=True)
    assert list(board.records) == [first, second]
    # In one column, either would be better than the other.
    assert not any(place.best for place in board.places.values())
    columns = [column for rows in blocks_of(board.records).values() for column in columns_of(rows)]
    assert [list(column.cells.values()) for column in columns] == [[first], [second]]


def test_several_differences_are_all_named():
    rows = [record(0.5), record(0.5, explainer="lime", seed=1, metric_version=2, dataset_revision="6b")]
    with pytest.raises(MixedError) as refused:
        merge([source(name, row) for name, row in zip("ab", rows, strict=True)])
    assert len(str(refused.value).splitlines()) == 2 + 3


def test_other_datasets_and_metrics_are_no_difference():
    other = record(0.5, dataset="voc", dataset_revision="6b", metric="top_k", metric_version=4)
    assert len(merge([source("a", record(0.5)), source("b", other)]).records) == 2


def test_a_row_of_both_is_taken_from_the_first_and_a_contradiction_is_said():
    control = record(0.5, explainer="random")
    assert merge([source("a", control), source("b", control)]).notes == []
    board = merge([source("a", control), source("b", control.model_copy(update={"value": 0.25}))])
    assert list(board.records) == [control]
    [note] = board.notes
    assert note == "`random` under `pointing_game` on `digits` is 0.5 in a, which is shown, and 0.25 in b"


def test_wall_times_contradict_nobody():
    rows = [record(value, metric="cost", variant="seconds") for value in (0.5, 0.25)]
    assert merge([source("a", rows[0]), source("b", rows[1])]).notes == []


def test_other_samples_of_one_subject_are_refused():
    sources = [source("a", record(0.5, n=24)), source("b", record(0.6, n=256))]
    with pytest.raises(MixedError, match=r"samples of `gradient` under `pointing_game`.*: 24 in a, 256 in b"):
        merge(sources)
    assert [row.n for row in merge(sources, allow_mixed=True).records] == [24]


def test_samples_are_compared_where_all_have_them_and_intervals_elsewhere():
    values = [0.1 * i for i in range(10)]
    items = [series(values, explainer="a"), series([value - 0.05 - 0.001 * value for value in values], explainer="b")]
    rows = [
        record(float(item.values.mean()), explainer=item.explainer, ci_low=0.2, ci_high=0.7, n=10) for item in items
    ]
    with_samples = merge([source("run", *rows, items=items)])
    assert {place.paired for place in with_samples.places.values()} == {True}
    assert sum(place.best for place in with_samples.places.values()) == 1
    third = record(0.45, explainer="c", ci_low=0.2, ci_high=0.7, n=10)
    mixed = merge([source("run", *rows, items=items), source("table", third)])
    assert {place.paired for place in mixed.places.values()} == {False}
    assert {place.group for place in mixed.places.values()} == {"a"}


def test_series_follow_the_row_that_is_shown():
    first, second = series([0.0, 1.0], explainer="a"), series([1.0, 1.0], explainer="a")
    board = merge([source("x", record(0.5, explainer="a", n=2), items=[first]),
                   source("y", record(1.0, explainer="a", n=2), items=[second])])  # fmt: skip
    assert list(board.series) == [first]


def test_what_publications_report_stands_beside_the_measured_row_and_in_no_table():
    measured = record(
        0.8, dataset="cifar10", model="site", explainer="own", metric="self_consistency", variant="masked"
    )
    board = merge([source("a", measured)])
    [reported] = [row for row in board.records if row.kind == "reported"]
    assert (reported.value, reported.explainer) == (0.886, "own")
    assert [row for rows in blocks_of(board.records).values() for row in rows] == [measured]
    # A board that was written and is read again holds it once.
    assert list(merge([source("a", *board.records)]).records) == list(board.records)
    own = reported.model_copy(update={"source": "somebody else, Table 9", "value": 0.5})
    assert [row.value for row in merge([source("a", *board.records, own)]).records if row.kind == "reported"] == [
        0.886,
        0.5,
    ]


def test_titles_say_what_tells_blocks_apart():
    rows = [record(0.5), record(0.5, seed=1), record(0.5, model_digest="8d"), record(0.5, dataset="voc")]
    board = merge([source("a", *rows)], allow_mixed=True)
    assert list(board.blocks) == [
        "digits · lenet, weights 7c, seed 0",
        "digits · lenet, weights 7c, seed 1",
        "digits · lenet, weights 8d, seed 0",
        "voc · lenet",
    ]
