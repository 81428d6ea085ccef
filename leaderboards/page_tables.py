"""The tables of a page: numbers with their intervals as bars, and the rows behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from .board import Board
from .columns import PRICES, Column, faults_of
from .csv_table import TEXT_COLUMNS, cell_text
from .names import printable
from .places import Place, row_of
from .record import COLUMNS, Record
from .sheets import Cell, Sheet, citation_value, sheets_of

_UNINFORMED = "random"  # the control that says what chance is where a metric does not


class Tables:
    """What the template fills in of the tables of a board, as plain values."""

    def __init__(self, board: Board) -> None:
        """Number the rows, as what is shown of a number on a click refers to them."""
        self.board = board
        self.rows = {row_of(record): number for number, record in enumerate(board.records)}

    @cached_property
    def sheets(self) -> list[dict[str, Any]]:
        """A table for each dataset and model."""
        return [self._sheet(sheet) for sheet in sheets_of(self.board)]

    def _sheet(self, sheet: Sheet) -> dict[str, Any]:
        columns = [column for column in sheet.columns if column.applies]
        return {
            "title": printable(sheet.title),
            "samples": sheet.samples,
            "scores": [
                (column.name, _arrow(column), self._number(cell, column, None))
                for column in sheet.alone
                if column.applies
                for cell in sheet.cells(column).values()
            ],
            "columns": [_heading(sheet, column) for column in columns],
            "lines": list(self._lines(sheet, columns)),
            "compared": sheet.how_compared,
            "notes": [printable(note) for note in sheet.control_notes],
        }

    def _lines(self, sheet: Sheet, columns: list[Column]) -> Iterator[dict[str, Any]]:
        cells = [
            (column, sheet.cells(column), None if column.metric in PRICES else _span(column)) for column in columns
        ]
        for label, control in sheet.names.items():
            line: list[dict[str, Any]] = []
            for column, found, span in cells:
                cell = found.get(label)
                line.append({"kind": "none"} if cell is None else self._number(cell, column, span))
                if sheet.has_reported(column):
                    line.append(_reported(sheet.reported(cell.record) if cell else ()))
            yield {"label": label, "control": control, "cells": line}

    def _number(self, cell: Cell, column: Column, span: _Span | None) -> dict[str, Any]:
        record = cell.record
        return {
            "kind": "measured",
            "row": self.rows[row_of(record)],
            "value": cell.value,
            "interval": cell.interval,
            "group": cell.group,
            "best": cell.is_best,
            "faulty": bool(faults_of(record)),
            "sort": cell_text(record.value) if record.value is not None else None,
            "bar": None if span is None else span.bar(record),
            "spoken": _spoken(cell, column),
        }

    @cached_property
    def beside(self) -> list[dict[str, str]]:
        """Every number that publications report, beside the measured one."""
        return [
            {
                "title": printable(sheet.title),
                "label": label,
                "metric": column.name,
                "arrow": _arrow(column),
                "measured": cell.value,
                "interval": cell.interval,
                "reported": citation_value(row),
                "source": printable(row.source),
            }
            for sheet in sheets_of(self.board)
            for label, column, cell, row in sheet.beside
        ]

    @property
    def data(self) -> dict[str, Any]:
        """The rows of the board, and where each stands."""
        cells = [[cell_text(value) for value in row.model_dump(by_alias=True).values()] for row in self.board.records]
        return {
            "columns": COLUMNS,
            "text": [place for place, name in enumerate(COLUMNS) if name in TEXT_COLUMNS],
            # 0 stands for what the row before has too, which halves the table.
            "rows": [
                [0 if cell == before else cell for cell, before in zip(row, previous, strict=True)]
                for row, previous in zip(cells, [[None] * len(COLUMNS), *cells], strict=False)
            ],
            "places": {
                str(self.rows[row]): _place_facts(place) for row, place in self.board.places.items() if row in self.rows
            },
        }


class _Span(NamedTuple):
    """What the bars of a column reach from and to."""

    low: float
    high: float
    chance: float | None

    def bar(self, record: Record) -> dict[str, str | None] | None:
        """Where the interval, the mean and chance lie, from 0 to 100."""
        if record.value is None or self.high <= self.low:
            return None
        whole = record.ci_low is not None and record.ci_high is not None
        low = self._place(record.ci_low or 0.0)
        return {
            "low": f"{low:.1f}",
            "width": f"{self._place(record.ci_high or 0.0) - low:.1f}" if whole else None,
            "mean": f"{self._place(record.value):.1f}",
            "chance": None if self.chance is None else f"{self._place(self.chance):.1f}",
        }

    def _place(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def _span(column: Column) -> _Span:
    chance = _chance(column)[0]
    ends = [
        end
        for record in column.cells.values()
        for end in (record.value, record.ci_low, record.ci_high)
        if end is not None
    ]
    ends += [] if chance is None else [chance]
    return _Span(min(ends, default=0.0), max(ends, default=0.0), chance)


def _chance(column: Column) -> tuple[float | None, str]:
    """What an uninformative map scores, and how that is known."""
    for record in column.cells.values():
        if record.chance is not None:
            return record.chance, "what the metric's definition says of a map that knows nothing"
    for record in column.cells.values():
        if record.explainer == _UNINFORMED and record.value is not None and column.metric not in PRICES:
            return record.value, f"what the control {_UNINFORMED} scores here"
    return None, ""


def _heading(sheet: Sheet, column: Column) -> dict[str, Any]:
    chance, known = _chance(column)
    return {
        "name": column.name,
        "words": [printable(word) for word in column.words],
        "higher": column.higher_is_better,
        "chance": "" if chance is None else format(chance, ".3g"),
        "chance_from": known,
        "reported": sheet.has_reported(column),
    }


def _reported(rows: Iterable[Record]) -> dict[str, Any]:
    found = list(rows)
    values = [row.value for row in found if row.value is not None]
    return {
        "kind": "reported",
        "said": [(citation_value(row), printable(row.source)) for row in found],
        "sort": cell_text(values[0]) if values else None,
    }


def _arrow(column: Column) -> str:
    return "↑" if column.higher_is_better else "↓"


def _spoken(cell: Cell, column: Column) -> str:
    """What a screen reader says of a number."""
    if cell.record.value is None:
        return "not applicable" if cell.record.kind == "not_applicable" else "no sample could be scored"
    parts = [cell.value]
    if cell.interval:
        parts.append(f"{cell.record.ci_low:{column.precision}} to {cell.record.ci_high:{column.precision}}")
    if cell.place is not None:
        parts.append(f"rank {cell.place.rank} of {cell.place.of}, tie group {' '.join(cell.group)}")
    if cell.is_best:
        parts.append("better than all others")
    if faults := faults_of(cell.record):
        parts.append(faults)
    return ", ".join(parts)


def _place_facts(place: Place) -> list[tuple[str, str]]:
    return [
        ("rank", f"{place.rank} of {place.of} explainers; from {place.low} to {place.high} is possible"),
        ("tie groups", place.group),
        ("compared", "sample by sample" if place.paired else "by intervals"),
    ]
