"""What Markdown, LaTeX and the page show of a board: the same cells, in the same order, with the same notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .board import Board, names_of
from .columns import Column, Remark, columns_of, remarks_of
from .names import CONTROLS, labels
from .places import Place, row_of
from .record import Record
from .terminal import control_notes

PAIRED = "compared sample by sample (paired sign-flip tests)"
UNPAIRED = "compared by their values and intervals, as if measured on different samples"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        record: the row of the leaderboard.
        place: where it stands; `None` for controls, prices, and rows without a value.
        precision: how its numbers are written.
    """

    record: Record
    place: Place | None
    precision: str

    @property
    def value(self) -> str:
        """The mean as text; `n/a` if the metric does not apply, `–` if no sample could be scored."""
        if self.record.kind == "not_applicable":
            return "n/a"
        return "–" if self.record.value is None else format(self.record.value, self.precision)

    @property
    def interval(self) -> str:
        """The 95 % interval as text; empty without one, and where it is a point."""
        low, high = self.record.ci_low, self.record.ci_high
        if low is None or high is None or low == high:
            return ""
        return f"[{low:{self.precision}}, {high:{self.precision}}]"

    @property
    def group(self) -> str:
        """Letters of its tie groups."""
        return self.place.group if self.place else ""

    @property
    def is_best(self) -> bool:
        """Whether it is better than all others by more than chance."""
        return self.place is not None and self.place.best


@dataclass(frozen=True, eq=False)
class Sheet:
    """All tables of one dataset and model.

    Attributes:
        title: dataset and model, and what tells this sheet from others of the same names.
        rows: its records.
        board: the board that it is part of.
    """

    title: str
    rows: Sequence[Record]
    board: Board

    @cached_property
    def columns(self) -> list[Column]:
        """The metrics of explanations, also those that do not apply to any."""
        return columns_of((row for row in self.rows if row.explainer), also=self._reported_variants)

    @cached_property
    def alone(self) -> list[Column]:
        """The metrics of the model alone."""
        return columns_of((row for row in self.rows if not row.explainer), also=self._reported_variants)

    @cached_property
    def names(self) -> dict[str, bool]:
        """Labels of the explainers, in order, and whether they are controls."""
        found = labels(row for row in self.rows if row.explainer)
        return {label: name in CONTROLS for (name, _), label in found.items()}

    @property
    def samples(self) -> int:
        """How many samples were scored, at most."""
        return max(row.n + row.n_invalid + row.n_no_truth for row in self.rows)

    @cached_property
    def remarks(self) -> tuple[list[Remark], list[Remark]]:
        """Faulty samples, and why metrics do not apply."""
        faults, reasons = remarks_of(self.columns)
        more_faults, more_reasons = remarks_of(self.alone)
        return [*faults, *more_faults], [*reasons, *more_reasons]

    @property
    def control_notes(self) -> list[str]:
        """Where controls score better than real explainers."""
        return control_notes(self.rows)

    @property
    def how_compared(self) -> list[str]:
        """How tie groups were found."""
        ways = {place.paired for row in self.rows if (place := self.board.places.get(row_of(row))) is not None}
        return [PAIRED if paired else UNPAIRED for paired in sorted(ways, reverse=True)]

    def cells(self, column: Column) -> dict[str, Cell]:
        """The cells of a column by label of the explainer."""
        return {
            label: Cell(record, self.board.places.get(row_of(record)), column.precision)
            for label, record in column.cells.items()
        }

    def reported(self, record: Record) -> Sequence[Record]:
        """What publications report of the same."""
        return self.board.reported.get(names_of(record), ())

    def has_reported(self, column: Column) -> bool:
        """Whether publications report anything of a column."""
        return any(self.reported(record) for record in column.cells.values())

    @cached_property
    def beside(self) -> list[tuple[str, Column, Cell, Record]]:
        """Every reported number with the measured one: label, column, cell, what is reported."""
        return [
            (label, column, cell, row)
            for column in [*self.alone, *self.columns]
            for label, cell in self.cells(column).items()
            for row in self.reported(cell.record)
        ]

    @cached_property
    def _reported_variants(self) -> set[tuple[str, str]]:
        return {(row.metric, row.variant) for row in self.rows if row.variant and self.reported(row)}


def sheets_of(board: Board) -> Iterable[Sheet]:
    """Return a sheet for each dataset and model."""
    return [Sheet(title, rows, board) for title, rows in board.blocks.items()]


def citation_value(record: Record) -> str:
    """Return a reported number as text."""
    return "–" if record.value is None else f"{record.value:.4g}"
