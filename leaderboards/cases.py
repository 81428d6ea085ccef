"""The scores of single samples, and those samples that explainers do best and worst on."""

from __future__ import annotations

from collections.abc import Iterator

from .board import Board
from .columns import PRICES, Column
from .record import Record
from .series import Series
from .sheets import sheets_of

Subject = tuple[str, str, str, str, int]
"""Dataset, its revision, model, its digest and seed."""


def subject_of(item: Series | Record) -> Subject:
    """Return what a row is about, but for the explainer."""
    return item.dataset, item.dataset_revision, item.model, item.model_digest, item.seed


def sample_scores(board: Board, subject: Subject) -> Iterator[tuple[Column, dict[tuple[str, str], Series]]]:
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
