"""The leaderboard as text for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tabulate import MIN_PADDING, SEPARATING_LINE, tabulate

from .names import CONTROLS, labels, primary_variants, printable
from .record import Record, position

WIDTH = 160
"""Characters that a table may take up side by side."""

_FLOORS = frozenset(CONTROLS) - {"truth"}
_PRICES = frozenset({"cost"})  # metrics that do not say how good an explanation is
_OF_THE_MACHINE = frozenset({"seconds"})  # variants that say more about the machine than about the explainer
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
    return "\n\n".join(_block(rows, unbeaten) for rows in _blocks(records).values())


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
    blocks = _blocks(records)
    return [
        (f"{_title(rows)}: " if len(blocks) > 1 else "") + note
        for rows in blocks.values()
        for column in _columns([row for row in rows if row.explainer and row.metric not in _PRICES])
        for note in _notes(column)
    ]


@dataclass(frozen=True)
class _Column:
    """One column of a table: a variant of a metric, and the record of each explainer by label."""

    metric: str
    variant: str
    cells: dict[str, Record]
    unbeaten: frozenset[str] = frozenset()  # labels

    @property
    def applies(self) -> bool:
        """Whether the metric has a meaning for any of the explainers."""
        return any(record.kind != "not_applicable" for record in self.cells.values())

    @property
    def name(self) -> str:
        return printable(f"{self.metric} {self.variant}".rstrip())

    @property
    def header(self) -> list[str]:
        """The name in short lines, broken after underscores, and an arrow to where better is."""
        better = next(iter(self.cells.values())).higher_is_better
        words = [printable(part).replace("_", "_ ") for part in (self.metric, self.variant) if part]
        words[-1] += " ↑" if better else " ↓"
        return [
            line.replace("_ ", "_")
            for part in words
            for line in textwrap.wrap(part, _HEADER_WIDTH, break_long_words=False)
        ]

    @property
    def precision(self) -> str:
        """Format of the numbers: about four digits of the largest mean, so that points stand under each other."""
        values = [abs(record.value) for record in self.cells.values() if record.value is not None]
        if all(value == round(value) for value in values) and not any(map(_half_width, self.cells.values())):
            return ".0f"
        exponent = math.floor(math.log10(max(values) or 1))
        if exponent < -4:
            return ".2e"
        return f".{max(3, 2 - exponent) if exponent < 0 else max(0, 3 - exponent)}f"

    @property
    def width(self) -> int:
        return max(*map(len, self.texts.values()), *(len(line) + MIN_PADDING for line in self.header))

    @property
    def texts(self) -> dict[str, str]:
        """What stands in the cells."""
        precision = self.precision
        marks = {
            label: "†" * (label in self.unbeaten) + "*" * bool(_faults(record)) for label, record in self.cells.items()
        }
        room = max(1, *map(len, marks.values()))
        return {label: _cell(record, precision, marks[label].ljust(room)) for label, record in self.cells.items()}


def _cell(record: Record, precision: str, mark: str) -> str:
    if record.kind == "not_applicable":
        return "n/a"
    if record.value is None:
        return "–"
    half = _half_width(record)
    return (format(record.value, precision) + mark + (f"±{half:{precision}}" if half else "")).rstrip()


def _half_width(record: Record) -> float:
    if record.ci_low is None or record.ci_high is None:
        return 0.0
    return (record.ci_high - record.ci_low) / 2


def _faults(record: Record) -> str:
    counts = {"invalid": record.n_invalid, "degenerate": record.n_degenerate, "without truth": record.n_no_truth}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _blocks(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Records by dataset and model."""
    blocks: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        blocks[record.dataset, record.dataset_revision, record.model, record.model_digest].append(record)
    return dict(sorted(blocks.items()))


def _block(rows: list[Record], unbeaten: Collection[tuple[str | int, ...]]) -> str:
    """Headline, tables and footnotes of one dataset and model."""
    explained = [row for row in rows if row.explainer]
    columns = _columns(explained, unbeaten)
    applicable = [column for column in columns if column.applies]
    names = labels(explained)
    real = sum(explainer not in CONTROLS for explainer, _ in names)
    tables = [_table(part, list(names.values()), real) for part in _side_by_side(applicable, names.values())]
    return "\n\n".join(filter(None, [_headline(rows), *tables, "\n".join(_footnotes(columns))]))


def _columns(rows: list[Record], unbeaten: Collection[tuple[str | int, ...]] = ()) -> list[_Column]:
    """One column for each primary variant of each metric; prices last."""
    names = labels(rows)
    metrics: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        metrics[row.metric].append(row)
    columns: list[_Column] = []
    for metric in sorted(metrics, key=lambda name: (name in _PRICES, name)):
        measured = {row.variant for row in metrics[metric] if row.kind != "not_applicable"}
        for variant in primary_variants(measured - _OF_THE_MACHINE or {""}):
            # What does not apply has no variants: it stands in every column of its metric.
            chosen = [row for row in metrics[metric] if row.variant == variant or row.kind == "not_applicable"]
            cells = {names[row.explainer, row.explainer_params]: row for row in chosen}
            ordered = {label: cells[label] for label in names.values() if label in cells}
            marked = frozenset[str]()
            if metric not in _PRICES:
                marked = frozenset(label for label, row in ordered.items() if position(row) in unbeaten)
            columns.append(_Column(metric, variant, ordered, marked))
    return columns


def _title(rows: list[Record]) -> str:
    return f"{printable(rows[0].dataset)}, {printable(rows[0].model)}"


def _headline(rows: list[Record]) -> str:
    """Dataset, model, number of samples, and the metrics of the model alone."""
    about_model = _columns([row for row in rows if not row.explainer])
    scores = [f"{column.name} {text}" for column in about_model if column.applies for text in column.texts.values()]
    samples = max(row.n + row.n_invalid + row.n_no_truth for row in rows)
    line = f"{_title(rows)}, {samples} samples" + (": " + ", ".join(scores) if scores else "")
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _side_by_side(columns: list[_Column], names: Iterable[str]) -> Iterator[list[_Column]]:
    """Split columns into tables that fit."""
    first = max(map(len, names), default=0)
    part, width = list[_Column](), first
    for column in columns:
        if part and width + 2 + column.width > WIDTH:
            yield part
            part, width = [], first
        part.append(column)
        width += 2 + column.width
    if part:
        yield part


def _table(columns: list[_Column], names: list[str], real: int) -> str:
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


def _footnotes(columns: list[_Column]) -> list[str]:
    """What marks mean, counts of samples that are not as they should be, and why metrics do not apply."""
    legend = [_LEGEND] if any(column.unbeaten for column in columns) else []
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)  # metrics by explainer and what is said of it
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for column in columns:
        for label, record in column.cells.items():
            if record.kind == "not_applicable":
                names = reasons[label if column.applies else "for all", printable(record.source)]
                names += [] if column.name in names else [column.name]
            elif _faults(record):
                faults[label, _faults(record)].append(column.name)
    notes = [*legend, *_together("* ", faults), *_together("n/a ", reasons)]
    return [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]


def _together(mark: str, said: dict[tuple[str, str], list[str]]) -> list[str]:
    """One line for all explainers of which the same is said."""
    whom: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (label, text), names in said.items():
        whom[text, ", ".join(names)].append(label)
    return [f"{mark}{', '.join(found)}: {text} ({names})" for (text, names), found in whom.items()]


def _notes(column: _Column) -> Iterator[str]:
    """A sentence if a control beats real explainers in this column: whom the best one beats."""
    shown = {
        label: format(record.value, column.precision)
        for label, record in column.cells.items()
        if record.value is not None
    }
    real = [label for label in shown if column.cells[label].explainer not in CONTROLS]
    beaten: dict[str, list[str]] = {}
    sign = 1 if next(iter(column.cells.values())).higher_is_better else -1
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
