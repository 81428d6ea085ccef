"""`interpeval compare` and `interpeval check` from the command line: every exit code, every format, `--update`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

import toys
from interpeval.bench.cli import main
from interpeval.bench.evaluation import evaluate
from interpeval.leaderboards.baseline import Baseline, read_baseline, scores_path, write_baseline
from interpeval.leaderboards.check import check
from interpeval.leaderboards.record import records
from leaderboard_cases import series

TOYS = Path(__file__).parent / "toys.py"
VALUES = np.array([0.5, 0.25, 1.0, 0.75, 0.5, 0.125, 0.375])


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def written(path, *rows):
    write_baseline(Baseline.of(records(rows, seed=0), rows), path)
    return path


@pytest.fixture
def board(tmp_path):
    return written(tmp_path / "board.csv", series(VALUES))


@pytest.fixture
def worse(tmp_path):
    return written(tmp_path / "worse.csv", series(VALUES - 0.125, seed=1))


@pytest.mark.parametrize("change", [0.0, 0.125])
def test_unchanged_or_better_is_0(board, tmp_path, change):
    now = written(tmp_path / "now.csv", series(VALUES + change, seed=1))
    assert call("check", now, "--against", board).exit_code == 0


def test_better_is_1_where_no_number_may_move(board, tmp_path):
    now = written(tmp_path / "now.csv", series(VALUES + 0.125, seed=1))
    found = call("check", now, "--against", board, "--any-change", "--alpha", 2 / 128)
    assert found.exit_code == 1
    assert found.output.startswith("1 rows: 1 different (tests: 1 paired; alpha 0.015625, any change)")


def test_worse_is_1(board, worse):
    found = call("check", worse, "--against", board)
    assert found.exit_code == 1
    assert found.output.startswith("1 rows: 1 worse (tests: 1 paired; alpha 0.01)")
    assert "accept it with --update" in found.output


def test_alpha_and_atol_decide(board, worse):
    """Seven losses of one size are p = 1/128."""
    assert call("check", worse, "--against", board, "--alpha", 1 / 129).exit_code == 0
    assert call("check", worse, "--against", board, "--alpha", 1 / 128).exit_code == 1
    assert call("check", worse, "--against", board, "--atol", 0.125).exit_code == 0


def test_missing_rows_and_new_versions_are_1(board, tmp_path):
    for number, change in enumerate(({"explainer": "lime"}, {"metric_version": 2})):
        now = written(tmp_path / f"{number}.csv", series(VALUES, **change))
        found = call("check", now, "--against", board)
        assert found.exit_code == 1
        assert "--update" in found.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--against", "board.csv"], "No such file"),
        (["board.csv", "--against", "nowhere.csv"], "No such file"),
        ([".", "--against", "board.csv"], "holds no run"),
        (["board.csv", "--against", "."], "holds no run"),
        (["board.csv", "--against", "text.csv"], "column"),
        (["board.csv", "--against", "empty.csv"], "nothing to check against"),
        (["empty.csv", "--against", "board.csv"], "no finished work"),
        (["board.csv", "--against", ".", "--update"], "the folder of a run"),
        (["board.csv", "--against", "board.csv", "--format", "html"], "`--format` must be one of table, junit"),
        (["board.csv", "--against", "board.csv", "--format", "junit="], "`--format` must be"),
        (["board.csv", "--against", "board.csv", "--format", "junit=no/such/folder.xml"], "No such file"),
        (["board.csv", "--against", "mixed.csv"], "two rows speak of"),
        (["a\x1b[2J.csv", "--against", "board.csv"], r"a\x1b[2J.csv"),
    ],
)
def test_unusable_input_is_2_in_one_line(board, monkeypatch, arguments, said):
    folder = board.parent
    (folder / "text.csv").write_text("hello\n")
    written(folder / "empty.csv")
    lines = board.read_text().splitlines()
    (folder / "mixed.csv").write_text("\n".join([*lines, lines[1].replace(",7c,", ",8d,"), ""]))
    monkeypatch.chdir(folder)
    found = call("check", *arguments)
    assert found.exit_code == 2
    (line,) = found.output.strip().splitlines()
    assert line.startswith("interpeval: ")
    assert said in line
    assert "\x1b" not in line


@pytest.mark.parametrize("arguments", [["--alpha", "0"], ["--alpha", "0.9"], ["--atol", "-1"], []])
def test_bad_options_are_2(board, arguments):
    against = ["--against", str(board)] if arguments else []
    assert call("check", board, *against, *arguments).exit_code == 2


def test_formats_go_where_they_are_sent(board, worse, tmp_path):
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    found = call(
        "check", worse, "--against", board, "--format", "github", "--format", f"junit={junit}", "--format",
        f"summary={summary}",
    )  # fmt: skip
    assert found.exit_code == 1
    assert found.output.startswith("::error title=")
    assert ElementTree.parse(junit).getroot().get("failures") == "1"  # noqa: S314  # ours
    assert summary.read_text(encoding="utf-8").startswith("### interpeval check: failed")


def test_update_shows_the_difference_and_takes_it(board, worse):
    found = call("check", worse, "--against", board, "--update")
    assert found.exit_code == 0
    assert "1 worse" in found.output
    assert board.read_bytes() == worse.read_bytes()
    assert scores_path(board).read_bytes() == scores_path(worse).read_bytes()
    again = call("check", worse, "--against", board)
    assert (again.exit_code, "1 exact" in again.output) == (0, True)


def test_update_makes_a_baseline_that_is_not_there(board, tmp_path):
    fresh = tmp_path / "fresh.csv"
    assert call("check", board, "--against", fresh).exit_code == 2
    assert call("check", board, "--against", fresh, "--update").exit_code == 0
    assert read_baseline(fresh).samples.keys() == read_baseline(board).samples.keys()


def test_update_writes_nothing_if_something_is_wrong(board, worse):
    before = board.read_bytes()
    assert call("check", worse, "--against", board, "--update", "--format", "junit=no/such/folder").exit_code == 2
    assert board.read_bytes() == before


def test_without_scores_intervals_decide(board, worse):
    scores_path(board).unlink()
    found = call("check", worse, "--against", board)
    assert (found.exit_code, "1 interval" in found.output) == (0, True)


def test_compare_prints_text_markdown_and_json(board, worse):
    text = call("compare", board, worse)
    assert text.exit_code == 0
    assert "1 rows compared: 1 differ by more than chance" in text.output
    assert "|:" in call("compare", board, worse, "--format", "markdown").output
    content = json.loads(call("compare", board, worse, "--json").output)
    assert [row["difference"] for row in content["rows"]] == [-0.125]
    assert content == json.loads(call("compare", board, worse, "--format", "json").output)


def test_compare_refuses_what_differs(board, tmp_path):
    other = written(tmp_path / "other.csv", series(VALUES, metric_version=2))
    found = call("compare", board, other)
    assert found.exit_code == 2
    assert "version of the metric was 1, is 2" in found.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same run under two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        found = call(
            "run", "--dataset", f"{TOYS}:Squares", "--model", f"{TOYS}:network", "--explainer", "gradient", "--metric",
            "pointing_game", "--metric", "top_k", "--metric", "cost", "--limit", 16, "--seed", seed, "--out",
            folder / str(seed),
        )  # fmt: skip
        assert found.exit_code == 0, found.output
    return folder


def test_folders_of_runs_are_checked_and_compared(runs, tmp_path):
    same = call("check", runs / "0", "--against", runs / "0")
    assert (same.exit_code, "paired" in same.output) == (0, False)
    board = tmp_path / "board.csv"
    assert call("check", runs / "0", "--against", board, "--update").exit_code == 0
    again = call("check", runs / "0", "--against", board)
    assert same.output == again.output
    reseeded = call("check", runs / "1", "--against", board)
    assert (reseeded.exit_code, "paired" in reseeded.output) == (0, True)
    assert "random" in call("compare", runs / "0", runs / "1").output


def test_an_explainer_that_draws_at_will_is_not_held_to_equal_values():
    found = evaluate(toys.network(), [toys.Draws, toys.Plain], toys.Squares(), ["top_k"], limit=4, controls=False)
    assert {explainer for _, _, explainer in found.baseline.unrepeatable} == {"Draws"}
    tests = {one.row.explainer: one.test for one in check(found.baseline, found.baseline).findings}
    assert tests == {"Draws": "paired", "Plain": "exact"}
