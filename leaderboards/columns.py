"""The records of a leaderboard arranged as tables: one for each dataset and model, rows explainers, columns metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .names import OF_THE_MACHINE, by_numbers, labels, primary_variants, printable
from .record import Record

PRICES = frozenset({"cost"})
"""Metrics that do not say how good an explanation is."""


@dataclass(frozen=True)
class Column:
    """One column of a table: a variant of a metric, and the record of each explainer.

    Attributes:
        metric: name of the metric.
        version: its version, where the table holds several; 0 otherwise.
        variant: which of its numbers.
        cells: the records by the label of the explainer, in the order of the rows.
    """

    metric: str
    version: int
    variant: str
    cells: dict[str, Record]

    @property
    def applies(self) -> bool:
        """Whether the metric has a meaning for any of the explainers."""
        return any(record.kind != "not_applicable" for record in self.cells.values())

    @property
    def name(self) -> str:
        """Metric and variant for people."""
        return printable(" ".join(self.words))

    @property
    def words(self) -> list[str]:
        """Metric and variant, those that there are."""
        metric = f"{self.metric} v{self.version}" if self.version else self.metric
        return [metric, self.variant] if self.variant else [metric]

    @property
    def higher_is_better(self) -> bool:
        """Direction of the variant, which what does not apply does not know: it states that of the whole metric."""
        records = self.cells.values()
        return min(records, key=lambda record: record.kind == "not_applicable").higher_is_better

    @property
    def precision(self) -> str:
        """Format of the numbers: about four digits of the largest mean, so that points stand under each other."""
        values = [abs(record.value) for record in self.cells.values() if record.value is not None]
        if all(value == round(value) for value in values) and not any(map(half_width, self.cells.values())):
            return ".0f"
        exponent = math.floor(math.log10(max(values) or 1))
        if exponent < -4:
            return ".2e"
        return f".{max(3, 2 - exponent) if exponent < 0 else max(0, 3 - exponent)}f"


class Remark(NamedTuple):
    """Something that holds of several explainers under several columns.

    Attributes:
        who: their labels, with commas.
        text: what is said, as printable text.
        where: the names of the columns, with commas.
    """

    who: str
    text: str
    where: str

    def __str__(self) -> str:
        """Return all in one line."""
        return f"{self.who}: {self.text} ({self.where})"


def blocks_of(records: Iterable[Record]) -> dict[tuple[str | int, ...], list[Record]]:
    """Records by dataset, its revision, model, its digest and seed: numbers across these are not comparable.

    What publications report is left out: it stands beside what was measured.
    """
    blocks: dict[tuple[str | int, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.kind != "reported":
            key = (record.dataset, record.dataset_revision, record.model, record.model_digest, record.seed)
            blocks[key].append(record)
    return dict(sorted(blocks.items()))


def columns_of(rows: Iterable[Record], *, also: Collection[tuple[str, str]] = ()) -> list[Column]:
    """One column for each primary variant of each metric; prices last.

    Args:
        rows: the records of one block, of explainers or of the model alone.
        also: further variants to show, by metric and variant.
    """
    rows = list(rows)
    names = labels(rows)
    metrics: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for row in rows:
        metrics[row.metric, row.metric_version].append(row)
    columns: list[Column] = []
    for metric, version in sorted(metrics, key=lambda key: (key[0] in PRICES, key)):
        mine = metrics[metric, version]
        several = sum(name == metric for name, _ in metrics) > 1
        measured = {row.variant for row in mine if row.kind != "not_applicable"}
        shown = primary_variants(measured - OF_THE_MACHINE or {""})
        more = (variant for variant in measured.difference(shown) if (metric, variant) in also)
        shown += sorted(more, key=by_numbers)
        for variant in shown:
            # What does not apply has no variants: it stands in every column of its metric.
            chosen = [row for row in mine if row.variant == variant or row.kind == "not_applicable"]
            cells = {names[row.explainer, row.explainer_params]: row for row in chosen}
            ordered = {label: cells[label] for label in names.values() if label in cells}
            columns.append(Column(metric, version if several else 0, variant, ordered))
    return columns


def half_width(record: Record) -> float:
    """Half the width of the interval; 0 without one."""
    if record.ci_low is None or record.ci_high is None:
        return 0.0
    return (record.ci_high - record.ci_low) / 2


def faults_of(record: Record) -> str:
    """How many samples are not as they should be, in words; empty if none."""
    counts = {"invalid": record.n_invalid, "degenerate": record.n_degenerate, "without truth": record.n_no_truth}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def remarks_of(columns: Iterable[Column]) -> tuple[list[Remark], list[Remark]]:
    """Return counts of samples that are not as they should be, and why metrics do not apply."""
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)  # columns by explainer and what is said of it
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for column in columns:
        for label, record in column.cells.items():
            if record.kind == "not_applicable":
                names = reasons[label if column.applies else "for all", printable(record.source)]
                names += [] if column.name in names else [column.name]
            elif faults_of(record):
                faults[label, faults_of(record)].append(column.name)
    return _together(faults), _together(reasons)


def _together(said: dict[tuple[str, str], list[str]]) -> list[Remark]:
    """One remark for all explainers of which the same is said."""
    whom: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (label, text), names in said.items():
        whom[text, ", ".join(names)].append(label)
    return [Remark(", ".join(found), text, names) for (text, names), found in whom.items()]
