"""A run and its repetition: is every value the same, to the bit, and if not, how far is it off?

Per-sample scores are compared as they stand in the store, bit by bit; the rows made of them as they are published, to
the 9 significant digits of `leaderboard.csv`. Wall times are not compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .baseline import Row
from .record import Record
from .series import Series

T = TypeVar("T")

_FACTS = ("model_digest", "dataset_revision", "metric_version", "seed", "higher_is_better")
_NUMBERS = ("value", "ci_low", "ci_high", "mc_se", "chance", "passes")
_COUNTS = ("n", "n_invalid", "n_degenerate", "n_no_truth", "kind", "source")


@dataclass(frozen=True, eq=False)
class Side:
    """What a run found.

    Attributes:
        series: per-sample scores.
        records: the rows of its `leaderboard.csv`.
    """

    series: Sequence[Series]
    records: Sequence[Record]


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """How far the scores of one metric are off.

    Attributes:
        metric: its name.
        rows: number of its rows in which a sample differs.
        samples: number of scores of samples that differ, in value, status or variance.
        statuses: number of those that differ in status.
        missing: number of scores that one of the two runs alone has.
        largest: largest absolute difference of two values; 0 where they differ in nothing but the sign of a zero,
            the status or the variance.
        row: where that is.
        sample_id: the sample with it.
    """

    metric: str
    rows: int
    samples: int
    statuses: int
    missing: int
    largest: float
    row: Row
    sample_id: str


@dataclass(frozen=True, kw_only=True)
class ColumnDifference:
    """How far a column of `leaderboard.csv` is off.

    Attributes:
        column: its name.
        rows: number of rows in which it differs.
        largest: largest absolute difference; NaN for text and where a number is missing in one of the two.
        row: where that is.
    """

    column: str
    rows: int
    largest: float
    row: Row


@dataclass(frozen=True, kw_only=True)
class FactDifference:
    """A fact about rows that makes them say something else.

    Attributes:
        fact: `model_digest`, `dataset_revision`, `metric_version`, `seed` or `higher_is_better`.
        subject: the model, dataset or metric that it is a fact about.
        before: as it was.
        after: as it is.
        rows: number of rows.
    """

    fact: str
    subject: str
    before: str
    after: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """A run compared with its repetition.

    Attributes:
        rows: number of rows of `leaderboard.csv` that both have.
        scores: number of per-sample scores that both have.
        facts: what makes rows say something else, weights first.
        metrics: metrics whose scores differ.
        columns: columns that differ.
        only_before: rows of the first run alone.
        only_after: rows of the repetition alone.
        tolerance: absolute difference of two numbers that counts as none.
    """

    rows: int
    scores: int
    facts: tuple[FactDifference, ...]
    metrics: tuple[MetricDifference, ...]
    columns: tuple[ColumnDifference, ...]
    only_before: tuple[Row, ...]
    only_after: tuple[Row, ...]
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.facts or self.metrics or self.columns or self.only_before or self.only_after)


@dataclass(frozen=True)
class _Apart:
    """How far two series are off."""

    row: Row
    compared: int
    samples: int
    statuses: int
    missing: int
    largest: float
    sample_id: str


def compare(before: Side, after: Side, *, tolerance: float = 0.0) -> Repetition:
    """Compare every value of a run with that of its repetition.

    Args:
        before: the run.
        after: its repetition.
        tolerance: absolute difference of two numbers that counts as none; with 0 per-sample scores must agree to the
            bit, the sign of a zero included.

    Raises:
        ValueError: `tolerance` is no finite number from 0, or two rows of a run speak of the same thing.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"`tolerance` must be a finite number from 0, was {tolerance}")
    one, two = _records(before), _records(after)
    series = _series(before), _series(after)
    shared = sorted(one.keys() & two.keys())
    rows = sorted({*series[0], *series[1]})
    apart = [_apart(row, series[0].get(row), series[1].get(row), tolerance) for row in rows]
    return Repetition(
        rows=len(shared),
        scores=sum(found.compared for found in apart),
        facts=tuple(_facts((one[row], two[row]) for row in shared)),
        metrics=tuple(_by_metric(apart)),
        columns=tuple(_columns([(row, one[row], two[row]) for row in shared], tolerance)),
        only_before=tuple(sorted(one.keys() - two.keys())),
        only_after=tuple(sorted(two.keys() - one.keys())),
        tolerance=tolerance,
    )


def _records(side: Side) -> dict[Row, Record]:
    return _once((Row.of(record), record) for record in side.records)


def _series(side: Side) -> dict[Row, Series]:
    return _once((row, series) for series in side.series if not (row := Row.of(series)).of_the_machine)


def _once(items: Iterable[tuple[Row, T]]) -> dict[Row, T]:
    found: dict[Row, T] = {}
    for row, item in items:
        if row in found:
            raise ValueError(f"two rows of a run speak of `{row.text}`: they cannot be told apart")
        found[row] = item
    return found


def _apart(row: Row, one: Series | None, two: Series | None, tolerance: float) -> _Apart:
    if one is None or two is None or one.steps != two.steps:
        alone = [series for series in (one, two) if series is not None]
        return _Apart(row, 0, 0, 0, max(len(series.ids) for series in alone), 0.0, "")
    there = {name: place for place, name in enumerate(two.ids)}
    here = [place for place, name in enumerate(one.ids) if name in there]
    order = [there[one.ids[place]] for place in here]
    values = one.values[here], two.values[order]
    statuses = one.status[here] != two.status[order]
    unlike = _unlike(*values, tolerance).reshape(len(here), -1).any(axis=1) | statuses
    unlike |= _variances_unlike(one, two, here, order, tolerance)
    missing = len(one.ids) + len(two.ids) - 2 * len(here)
    gaps = np.nan_to_num(np.abs(values[0] - values[1])).reshape(len(here), -1).max(axis=1, initial=0.0)
    worst = int(np.argmax(np.where(unlike, gaps, -1.0))) if unlike.any() else -1
    far, sample = (0.0, "") if worst < 0 else (float(gaps[worst]), one.ids[here[worst]])
    return _Apart(row, len(here), int(unlike.sum()), int(statuses.sum()), missing, far, sample)


def _variances_unlike(
    one: Series, two: Series, here: list[int], order: list[int], tolerance: float
) -> NDArray[np.bool_]:
    if one.variance is None or two.variance is None:
        return np.full(len(here), one.variance is not two.variance)
    return _unlike(one.variance[here], two.variance[order], tolerance)


def _unlike(one: NDArray[np.float64], two: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Mark numbers that differ in a bit, or by more than the tolerance; every NaN is like every other."""
    bits = (np.ascontiguousarray(side, dtype=np.float64).view(np.int64) for side in (one, two))
    alike = np.equal(*bits) | (np.isnan(one) & np.isnan(two))
    return ~(alike | (np.abs(one - two) <= tolerance)) if tolerance else ~alike


def _by_metric(apart: Iterable[_Apart]) -> Iterable[MetricDifference]:
    groups: dict[str, list[_Apart]] = defaultdict(list)
    for found in apart:
        if found.samples or found.missing:
            groups[found.row.metric].append(found)
    for metric, group in groups.items():
        worst = max(group, key=lambda found: (found.largest, found.samples))
        yield MetricDifference(
            metric=metric,
            rows=len(group),
            samples=sum(found.samples for found in group),
            statuses=sum(found.statuses for found in group),
            missing=sum(found.missing for found in group),
            largest=worst.largest,
            row=worst.row,
            sample_id=worst.sample_id,
        )


def _columns(rows: Sequence[tuple[Row, Record, Record]], tolerance: float) -> Iterable[ColumnDifference]:
    for column in (*_NUMBERS, *_COUNTS):
        gaps = {row: gap for row, one, two in rows if (gap := _gap(column, row, one, two)) is not None}
        beyond = {row: gap for row, gap in gaps.items() if not gap <= tolerance}  # NaN is beyond any
        if beyond:
            worst = max(beyond, key=lambda row: (math.isnan(beyond[row]), beyond[row]))
            yield ColumnDifference(column=column, rows=len(beyond), largest=beyond[worst], row=worst)


def _gap(column: str, row: Row, one: Record, two: Record) -> float | None:
    """Return how far two cells are apart: nothing where they agree, NaN where no number says it."""
    cells = getattr(one, column), getattr(two, column)
    if cells[0] == cells[1] or (row.of_the_machine and column in _NUMBERS):
        return None
    return abs(cells[0] - cells[1]) if all(isinstance(cell, float) for cell in cells) else math.nan


def _facts(pairs: Iterable[tuple[Record, Record]]) -> list[FactDifference]:
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for one, two in pairs:
        for fact in _FACTS:
            before, after = getattr(one, fact), getattr(two, fact)
            if before != after:
                counts[fact, _subject(fact, one), str(before), str(after)] += 1
    order: Mapping[str, int] = {fact: place for place, fact in enumerate(_FACTS)}
    found = sorted(counts.items(), key=lambda item: (order[item[0][0]], item[0]))
    return [
        FactDifference(fact=fact, subject=subject, before=before, after=after, rows=rows)
        for (fact, subject, before, after), rows in found
    ]


def _subject(fact: str, record: Record) -> str:
    """Return what a fact is about."""
    return {"model_digest": record.model, "dataset_revision": record.dataset, "seed": ""}.get(fact, record.metric)
