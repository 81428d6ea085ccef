"""The samples that explainers do best and worst on, known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interpeval.leaderboards.board import Board, Source, merge
from interpeval.leaderboards.cases import Case, Cases, cases_of
from interpeval.leaderboards.record import records
from interpeval.leaderboards.series import Series, Status
from leaderboard_cases import series

NAN = float("nan")


def board(*items: Series) -> Board:
    return merge([Source("run", records(items, seed=0), items)])


def scores(values: list[float], **changes: Any) -> Series:
    """Scores of samples `a`, `b`, `c`, …; NaN where there is none."""
    status = np.where(np.isnan(values), int(Status.INVALID), int(Status.OK)).astype(np.uint8)
    return series(values, **{"ids": tuple("abcdefgh"[: len(values)]), "status": status, **changes})


def only(*items: Series) -> Cases:
    [found] = cases_of(board(*items))
    return found


@pytest.mark.parametrize(("higher", "best", "worst"), [(True, "b", "c"), (False, "c", "b")])
def test_best_and_worst_are_those_of_the_mean_over_explainers_in_the_direction_of_the_metric(
    *, higher: bool, best: str, worst: str
) -> None:
    one = scores([0.9, 0.8, 0.1], explainer="one", higher_is_better=higher)
    other = scores([0.1, 0.6, 0.2], explainer="other", higher_is_better=higher)
    found = only(one, other)
    assert (found.best.id, found.worst.id) == (best, worst)
    means = {case.id: (case.mean, case.of) for case in (found.best, found.worst)}
    assert means == {"b": (pytest.approx(0.7), 2), "c": (pytest.approx(0.15), 2)}


def test_controls_do_not_count() -> None:
    found = only(scores([0.1, 0.2], explainer="one"), scores([9.0, 0.0], explainer="random"))
    assert (found.best, found.worst) == (Case("b", 0.2, 1), Case("a", 0.1, 1))
    assert cases_of(board(scores([0.1, 0.2], explainer="truth"))) == []


def test_of_equal_samples_the_first_by_name_is_taken() -> None:
    found = only(scores([0.5, 1.0, 0.5, 1.0], ids=("z", "y", "b", "c")))
    assert (found.best.id, found.worst.id) == ("c", "b")
    same = only(scores([0.5, 0.5], ids=("z", "b")))
    assert same.best == same.worst == Case("b", 0.5, 1)


def test_a_sample_that_some_explainer_has_no_score_of_is_passed_over() -> None:
    one, other = scores([0.5, 1.0, 0.2], explainer="one"), scores([0.5, NAN, 0.4], explainer="other")
    found = only(one, other)
    assert (found.best, found.worst) == (Case("a", 0.5, 2), Case("c", pytest.approx(0.3), 2))


def test_an_explainer_without_any_score_hides_no_sample() -> None:
    found = only(scores([0.5, 1.0], explainer="one"), scores([NAN, NAN], explainer="broken"))
    assert (found.best, found.worst) == (Case("b", 1.0, 1), Case("a", 0.5, 1))
    assert cases_of(board(scores([NAN, NAN]))) == []


def test_samples_of_explainers_may_come_in_any_order() -> None:
    found = only(scores([0.0, 1.0, 0.1]), scores([0.1, 0.6, 0.0], ids=("c", "b", "a"), explainer="other"))
    assert (found.best, found.worst) == (Case("b", pytest.approx(0.8), 2), Case("a", 0.0, 2))


def test_costs_and_curves_are_left_out_and_tables_kept_apart() -> None:
    items = [
        scores([1.0, 2.0], metric="cost", variant="forward"),
        series(np.ones((2, 2)), metric="deletion", variant="probability", steps=(0.0, 1.0)),
        scores([1.0, 2.0], metric="deletion", variant="probability_area", target="predicted"),
        scores([2.0, 1.0], metric="top_k", model="vgg", target="label"),
        scores([2.0, 1.0], metric="accuracy", explainer=""),
    ]
    found = [(one.subject[2], one.column.name, one.target, one.best.id) for one in cases_of(board(*items))]
    assert found == [("lenet", "deletion probability_area", "predicted", "b"), ("vgg", "top_k", "label", "a")]
