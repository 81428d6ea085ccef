"""A baseline on disk: what is written is read again, and what does not belong together is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from interpeval.leaderboards.baseline import Baseline, Row, as_written, read_baseline, scores_path, write_baseline
from interpeval.leaderboards.check import check
from interpeval.leaderboards.record import records
from leaderboard_cases import series

HOSTILE = ('=cmd|"/c calc"!A1', "'-1", "a,b\r\nc", "\x1b[2J", "ä\u202e", "")


def side(*rows):
    return Baseline.of(records(rows, seed=0), rows)


@pytest.fixture
def board(tmp_path):
    return tmp_path / "board.csv"


def rewrite(board, change):
    """Change the text of the scores beside a board."""
    path = scores_path(board)
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode()))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_back_as_they_were(board, name):
    written = side(series([1 / 3, 0.25], explainer=name, ids=("one", name), variant="lor"))
    write_baseline(written, board)
    read = read_baseline(board)
    assert read.records.keys() == written.records.keys()
    (samples,) = read.samples.values()
    assert dict(zip(samples.ids, samples.values.tolist(), strict=True)) == {"one": 0.333333333, name: 0.25}


def test_samples_that_do_not_count_are_written_empty(board):
    status = np.array([0, 3, 2], np.uint8)
    write_baseline(side(series([0.5, np.nan, np.nan], status=status)), board)
    (samples,) = read_baseline(board).samples.values()
    assert np.array_equal(samples.values, [0.5, np.nan, np.nan], equal_nan=True)


def test_the_same_rows_give_the_same_bytes_in_any_order(board, tmp_path):
    one, two = series([0.5, 0.25]), series([1.0, 0.5], explainer="lime")
    other = tmp_path / "other.csv"
    write_baseline(side(one, two), board)
    write_baseline(side(two, one), other)
    assert board.read_bytes() == other.read_bytes()
    assert scores_path(board).read_bytes() == scores_path(other).read_bytes()


def test_a_class_mean_finds_the_scores_of_the_plain_mean(board):
    both = series(np.arange(4.0), classes=np.array([0, 0, 0, 1]), aggregations=("items", "classes"), variant="tau=1/x")
    write_baseline(side(both), board)
    read = read_baseline(board)
    assert sorted(row.variant for row in read.samples) == ["tau=1/x", "tau=1/x/class_mean"]
    assert gzip.decompress(scores_path(board).read_bytes()).count(b"\n") == 1 + 4
    # And a check against it weighs classes: they come from the other side.
    now = series(np.array([0.0, 1, 2, 0]), classes=both.classes, aggregations=("classes",), variant="tau=1/x", seed=1)
    found = next(one for one in check(read, side(now)).findings if one.row.variant.endswith("class_mean"))
    assert (found.test, found.p, found.before, found.after) == ("paired", 0.5, 2.0, 0.5)


def test_without_scores_there_are_records_alone(board):
    write_baseline(side(series([0.5, 0.25])), board)
    scores_path(board).unlink()
    read = read_baseline(board)
    assert len(read.records) == 1
    assert read.samples == {}


def test_the_table_of_the_command_scores_will_do(board):
    write_baseline(side(series([0.5, 0.25])), board)
    scores_path(board).unlink()
    header = "dataset,sample_id,model,explainer,explainer_params,metric,variant,step,value,status,mc_se\n"
    row = "digits,{},lenet,gradient,{{}},pointing_game,,{},{},ok,\n"
    lines = [row.format("a", "", 0.5), row.format("b", "", 0.25), row.format("a", 0.1, 9), row.format("a", 0.2, 9)]
    board.with_name("board.scores.csv").write_text(header + "".join(lines), encoding="utf-8")
    (samples,) = read_baseline(board).samples.values()
    assert (samples.ids, samples.values.tolist()) == (("a", "b"), [0.5, 0.25])


def test_scores_of_another_board_are_refused(board):
    write_baseline(side(series([0.5, 0.25])), board)
    rewrite(board, lambda text: text.replace("0.25", "0.26"))
    with pytest.raises(ValueError, match=r"gradient: pointing_game` are not those of the board .*delete this file"):
        read_baseline(board)


def test_scores_of_fewer_samples_are_refused(board):
    write_baseline(side(series([0.5, 0.5])), board)
    rewrite(board, lambda text: "".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="are not those of the board"):
        read_baseline(board)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("sample_id", "sample"), "the column `sample_id` is missing"),
        (lambda text: text + text.splitlines()[-1] + "\n", "stands twice"),
        (lambda text: text + "digits,lenet\n", "cut short"),
        (lambda text: text.replace("0.25", "much"), "could not convert"),
    ],
)
def test_damaged_scores_are_named(board, change, said):
    write_baseline(side(series([0.5, 0.25])), board)
    rewrite(board, change)
    with pytest.raises(ValueError, match=said) as error:
        read_baseline(board)
    assert str(scores_path(board)) in str(error.value)


def test_scores_that_are_not_packed_are_named(board):
    write_baseline(side(series([0.5, 0.25])), board)
    packed = scores_path(board).read_bytes()
    for damaged in (b"not packed", packed[:-9], packed[:12] + b"\xff" * 8 + packed[20:]):
        scores_path(board).write_bytes(damaged)
        with pytest.raises(ValueError, match="must hold per-sample scores"):
            read_baseline(board)


def test_rounding_is_that_of_files():
    values = np.array([1 / 3, -1e-20, 123456789.123, np.nan])
    assert np.array_equal(as_written(values), [0.333333333, -1e-20, 123456789.0, np.nan], equal_nan=True)


def test_parts_are_joined_row_by_row():
    one, two = series([0.5, 0.25]), series([1.0, 0.5], explainer="lime")
    changed = series([0.75, 0.75], explainer="lime")
    joined = side(one, two).joined(side(changed))
    assert {row.explainer: record.value for row, record in joined.records.items()} == {"gradient": 0.375, "lime": 0.75}
    lime = joined.only(lambda row: row.explainer == "lime")
    assert [samples.values.tolist() for samples in lime.samples.values()] == [[0.75, 0.75]]


def test_a_row_is_named_for_people_without_control_characters():
    row = Row("digits", "lenet", "gradcam", '{"layer": "\x1b"}', "lor", "area")
    assert row.text == r'digits, lenet, gradcam {"layer": "\x1b"}: lor area'
    assert Row("digits", "lenet", "", "", "accuracy", "").text == "digits, lenet: accuracy"
