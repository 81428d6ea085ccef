"""A slice of `leaderboards/digit_scenes.csv`, measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpeval.bench.evaluation import evaluate
from interpeval.bench.suite import load_suite
from interpeval.leaderboards.baseline import Row, read_baseline
from interpeval.leaderboards.check import check
from interpeval.leaderboards.check_report import as_table

BOARD = Path(__file__).parents[1] / "leaderboards" / "digit_scenes.csv"
EXPLAINERS = ("gradient", "gradcam", "smoothgrad")  # one of them draws
METRICS = ("content_heatmap", "pointing_game", "self_consistency", "stochastic_pointing_game")


def in_slice(row: Row) -> bool:
    return row.explainer in EXPLAINERS and row.metric in METRICS


@pytest.fixture(scope="module")
def board():
    if not BOARD.exists():
        pytest.skip("the board is not there: see `Adding to a leaderboard` in CONTRIBUTING.md for how it is made")
    return read_baseline(BOARD)


def test_the_board_holds_what_its_suite_says(board):
    (experiment,) = load_suite("digit_scenes").experiments
    assert {row.dataset for row in board.records} == {experiment.dataset}
    assert {row.model for row in board.records} == {experiment.model}
    named = {name.partition("?")[0] for name in experiment.explainers}
    assert named < {row.explainer for row in board.records}
    assert board.samples.keys() == {row for row, one in board.records.items() if one.kind == "measured"}


@pytest.mark.slow
def test_a_slice_of_the_board_is_found_again(board):
    """The network is trained on the spot, so its weights depend on the arithmetic of the machine.

    Where they are those of the board, every value must be equal; elsewhere, none may be worse by more than chance.
    """
    suite = load_suite("digit_scenes")
    (experiment,) = suite.experiments
    explainers = [name for name in experiment.explainers if name.partition("?")[0] in EXPLAINERS]
    metrics = [name for name in experiment.metrics or () if name.partition("?")[0] in METRICS]
    found = evaluate(
        experiment.model, explainers, experiment.dataset, metrics, seed=suite.seed, limit=experiment.limit,
        device="cpu", controls=False,
    ).baseline  # fmt: skip
    wanted = board.only(in_slice)
    assert found.records.keys() == wanted.records.keys()
    result = check(wanted, found)
    assert not result.failures, as_table(result)
    some = next(iter(wanted.records))
    if found.records[some].model_digest == wanted.records[some].model_digest:
        assert result.tests == {"exact": len(wanted.records)}
        assert result.counts == {"same": len(wanted.records)}
