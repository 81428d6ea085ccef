"""The leaderboard as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tabulate import MIN_PADDING, SEPARATING_LINE, tabulate

from .columns import PRICES, Column, blocks_of, columns_of, faults_of, half_width, remarks_of
from .names import CONTROLS, labels, printable
from .record import Record, position

WIDTH = 160
"""Characters that a table may take up side by side."""

_FLOORS = frozenset(CONTROLS) - {"truth"}
_HEADER_WIDTH = 12
_LEGEND = "† no other real explainer is better by more than chance (paired sign-flip tests, Holm over the column, 5 %)"


def summary_table(records: Iterable[Record], *, unbeaten: Collection[tuple[str | int, ...]] = ()) -> str:
    """Lay out records as one table per (dataset, model): rows are explainers, columns are metrics.

    A cell is the mean with `±` half the width of its 95 % interval (left out where the interval is a point or
    missing), with `†` after the means of `unbeaten` rows and `*` after the mean if samples were left out or
    degenerate; footnotes count them. `n/a` says that the metric does not apply, `–` that no sample could be scored.
    Metrics of the model alone stand in the headline, controls below a line. Columns that do not fit into `WIDTH`
    characters go into a further table below. Of the variants of a metric, `primary_variants` are shown; wall times
    are left to `leaderboard.csv`.

    Args:
        records: rows of a leaderboard, in any order.
        unbeaten: by `interpeval.leaderboards.record.position`, the rows than which no other is significantly better
            (`interpeval.leaderboards.ranks.unbeaten`). Prices are not marked.

    Returns:
        The text, without a final newline; characters in names that a terminal would obey are shown escaped.
    """
    return "\n\n".join(_block(rows, unbeaten) for rows in blocks_of(records).values())


def control_notes(records: Iterable[Record]) -> list[str]:
    """Say where a control other than `truth` scores better than a real explainer.

    The metric may then reward something else than a faithful explanation, or those explainers are poor. Means are
    compared as they are shown; whether a difference is more than chance is for paired comparisons to say. `cost` is
    left out.

    Args:
        records: rows of a leaderboard, in any order.

    Returns:
        One sentence for each metric on which that happens, such as `pointing_game: center (0.812) is better than
        deconvnet (0.640), gradient (0.701); edges (0.652) than some`, led by dataset and model where there are
        several.
    """
    blocks = blocks_of(records)
    return [
        (f"{_title(rows)}: " if len(blocks) > 1 else "") + note
        for rows in blocks.values()
        for column in columns_of([row for row in rows if row.explainer and row.metric not in PRICES])
        for note in _notes(column)
    ]


@dataclass(frozen=True)
class _Printed:
    """A column as it is printed.

    Attributes:
        column: the column.
        unbeaten: labels of the explainers that get a mark.
    """

    column: Column
    unbeaten: frozenset[str] = frozenset()

    @property
    def header(self) -> list[str]:
        """The name in short lines, broken after underscores, and an arrow to where better is."""
        words = [printable(part).replace("_", "_ ") for part in self.column.words]
        words[-1] += " ↑" if self.column.higher_is_better else " ↓"
        return [
            line.replace("_ ", "_")
            for part in words
            for line in textwrap.wrap(part, _HEADER_WIDTH, break_long_words=False)
        ]

    @property
    def width(self) -> int:
        """Characters that it takes up."""
        return max(*map(len, self.texts.values()), *(len(line) + MIN_PADDING for line in self.header))

    @cached_property
    def texts(self) -> dict[str, str]:
        """What stands in the cells."""
        precision, cells = self.column.precision, self.column.cells
        marks = {
            label: "†" * (label in self.unbeaten) + "*" * bool(faults_of(record)) for label, record in cells.items()
        }
        room = max(1, *map(len, marks.values()))
        return {label: _cell(record, precision, marks[label].ljust(room)) for label, record in cells.items()}


def _cell(record: Record, precision: str, mark: str) -> str:
    if record.kind == "not_applicable":
        return "n/a"
    if record.value is None:
        return "–"
    half = half_width(record)
    return (format(record.value, precision) + mark + (f"±{half:{precision}}" if half else "")).rstrip()


def _printed(rows: list[Record], unbeaten: Collection[tuple[str | int, ...]] = ()) -> list[_Printed]:
    """The columns of one block; prices are not marked."""
    return [
        _Printed(
            column,
            frozenset(
                label
                for label, row in column.cells.items()
                if position(row) in unbeaten and column.metric not in PRICES
            ),
        )
        for column in columns_of(rows)
    ]


def _block(rows: list[Record], unbeaten: Collection[tuple[str | int, ...]]) -> str:
    """Headline, tables and footnotes of one dataset and model."""
    explained = [row for row in rows if row.explainer]
    columns = _printed(explained, unbeaten)
    applicable = [printed for printed in columns if printed.column.applies]
    names = labels(explained)
    real = sum(explainer not in CONTROLS for explainer, _ in names)
    tables = [_table(part, list(names.values()), real) for part in _side_by_side(applicable, names.values())]
    return "\n\n".join(filter(None, [_headline(rows), *tables, "\n".join(_footnotes(columns))]))


def _title(rows: list[Record]) -> str:
    return f"{printable(rows[0].dataset)}, {printable(rows[0].model)}"


def _headline(rows: list[Record]) -> str:
    """Dataset, model, number of samples, and the metrics of the model alone."""
    about_model = [
        printed for printed in _printed([row for row in rows if not row.explainer]) if printed.column.applies
    ]
    scores = [f"{printed.column.name} {text}" for printed in about_model for text in printed.texts.values()]
    samples = max(row.n + row.n_invalid + row.n_no_truth for row in rows)
    line = f"{_title(rows)}, {samples} samples" + (": " + ", ".join(scores) if scores else "")
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _side_by_side(columns: list[_Printed], names: Iterable[str]) -> Iterator[list[_Printed]]:
    """Split columns into tables that fit."""
    first = max(map(len, names), default=0)
    part, width = list[_Printed](), first
    for column in columns:
        if part and width + 2 + column.width > WIDTH:
            yield part
            part, width = [], first
        part.append(column)
        width += 2 + column.width
    if part:
        yield part


def _table(columns: list[_Printed], names: list[str], real: int) -> str:
    """One table; the first `real` rows are explainers, the others controls."""
    texts = [column.texts for column in columns]
    rows: list[Any] = [[name, *(cells.get(name, "") for cells in texts)] for name in names]
    if 0 < real < len(rows):
        rows.insert(real, SEPARATING_LINE)
    headers = [["explainer"], *(column.header for column in columns)]
    height = max(map(len, headers))
    return tabulate(
        rows,
        headers=["\n".join([""] * (height - len(lines)) + lines) for lines in headers],
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left", *("right" for _ in columns)],
    )


def _footnotes(columns: list[_Printed]) -> list[str]:
    """What marks mean, counts of samples that are not as they should be, and why metrics do not apply."""
    legend = [_LEGEND] if any(printed.unbeaten for printed in columns) else []
    faults, reasons = remarks_of([printed.column for printed in columns])
    notes = [*legend, *(f"* {fault}" for fault in faults), *(f"n/a {reason}" for reason in reasons)]
    return [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]


def _notes(column: Column) -> Iterator[str]:
    """A sentence if a control beats real explainers in this column: whom the best one beats."""
    shown = {
        label: format(record.value, column.precision)
        for label, record in column.cells.items()
        if record.value is not None
    }
    real = [label for label in shown if column.cells[label].explainer not in CONTROLS]
    beaten: dict[str, list[str]] = {}
    sign = 1 if column.higher_is_better else -1
    for control, value in shown.items():
        worse = [label for label in real if sign * float(value) > sign * float(shown[label])]
        if worse and column.cells[control].explainer in _FLOORS:
            beaten[control] = worse
    if beaten:
        best, *others = sorted(beaten, key=lambda control: -sign * float(shown[control]))
        worse = beaten[best]
        listed = ", ".join(f"{label} ({shown[label]})" for label in worse)
        whom = f"all {len(real)} real explainers" if 3 < len(worse) == len(real) else listed
        too = f"; {', '.join(f'{control} ({shown[control]})' for control in others)} than some" if others else ""
        yield f"{column.name}: {best} ({shown[best]}) is better than {whom}{too}"
