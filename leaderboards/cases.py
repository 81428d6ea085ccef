"""The scores of single samples, and those samples that explainers do best and worst on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .board import Board
from .columns import PRICES, Column
from .names import CONTROLS
from .record import Record
from .series import Series
from .sheets import sheets_of

Subject = tuple[str, str, str, str, int]
"""Dataset, its revision, model, its digest and seed."""

Scored = Mapping[tuple[str, str], Series]
"""Scores by explainer and its parameters."""


class Case(NamedTuple):
    """A sample that explainers do best or worst on, by the mean of their scores; controls do not count.

    Attributes:
        id: name of the sample.
        mean: the mean over explainers.
        of: number of explainers.
    """

    id: str
    mean: float
    of: int


class Cases(NamedTuple):
    """The best and the worst sample under one column of a table.

    Attributes:
        subject: dataset, dataset_revision, model, model_digest and seed.
        column: the column.
        target: the class that is explained; empty where that is not known.
        scores: the scores of all samples, by explainer.
        best: the sample with the best mean.
        worst: the sample with the worst mean; the same one if all means are equal.
    """

    subject: Subject
    column: Column
    target: str
    scores: Scored
    best: Case
    worst: Case


def subject_named(about: Mapping[str, Any]) -> Subject:
    """Return what a unit is a result of, from what it says about itself."""
    names = (about["dataset"], about["dataset_revision"], about["model"], about["model_digest"])
    return (*names, int(about["seed"]))


def subject_of(item: Series | Record) -> Subject:
    """Return what a row is about, but for the explainer."""
    return item.dataset, item.dataset_revision, item.model, item.model_digest, item.seed


def sample_scores(board: Board, subject: Subject) -> Iterator[tuple[Column, Scored]]:
    """Yield the per-sample scores of each column of one dataset and model, by explainer; prices are left out."""
    mine = [
        item
        for item in board.series
        if isinstance(item, Series) and item.explainer and not item.steps and subject_of(item) == subject
    ]
    for sheet in sheets_of(board):
        if subject_of(sheet.rows[0]) == subject:
            for column in sheet.columns:
                found = {
                    (item.explainer, item.explainer_params): item
                    for item in mine
                    if (item.metric, item.variant) == (column.metric, column.variant)
                    and column.version in {0, item.metric_version}
                }
                if found and column.metric not in PRICES:
                    yield column, found


def cases_of(board: Board) -> list[Cases]:
    """Return the samples with the best and the worst mean score over explainers, for each column of each table.

    A sample that fewer explainers have a score of than of others is passed over: its mean is not that of the same
    explainers. Of equal samples the first by name is taken.
    """
    found: list[Cases] = []
    for rows in board.blocks.values():
        subject = subject_of(rows[0])
        for column, scores in sample_scores(board, subject):
            names, means, count = _means(scores)
            if names:
                sign = -1 if column.higher_is_better else 1
                best, worst = (_first(names, way * means, means, count) for way in (sign, -sign))
                target = next(iter(scores.values())).target
                found.append(Cases(subject, column, target, scores, best, worst))
    return found


def _first(names: list[str], order: NDArray[np.float64], means: NDArray[np.float64], count: int) -> Case:
    """The sample that comes first; by name among equals."""
    name, place = min((names[place], place) for place in np.flatnonzero(order == order.min()))
    return Case(name, float(means[place]), count)


def _means(scores: Scored) -> tuple[list[str], NDArray[np.float64], int]:
    """Samples, their means over the explainers that compete, and of how many: of as many as have a score of any."""
    rows = [item for (explainer, _), item in sorted(scores.items()) if explainer not in CONTROLS]
    names = list(dict.fromkeys(name for item in rows for name in item.ids))
    place = {name: number for number, name in enumerate(names)}
    values = np.full((len(rows), len(names)), np.nan)
    for row, item in zip(values, rows, strict=True):
        row[[place[name] for name in item.ids]] = item.values
    counts = np.isfinite(values).sum(axis=0)
    most = int(counts.max(initial=0))
    chosen = np.flatnonzero((counts == most) & (most > 0))
    return [names[number] for number in chosen], np.nansum(values[:, chosen], axis=0) / max(most, 1), most
