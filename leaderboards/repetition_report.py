"""A run and its repetition, compared: for a terminal and as JSON."""

from __future__ import annotations

import math
from typing import Any

from tabulate import tabulate

from .baseline import Row
from .names import printable
from .repetition import ColumnDifference, FactDifference, MetricDifference, Repetition

_METRICS = ("metric", "rows", "scores", "statuses", "in one alone", "largest", "where")
_COLUMNS = ("column", "rows", "largest", "where")
_WHY = {
    "model_digest": "model {subject} has other weights, as one trained on another machine has: all its values are "
    "those of another network",
    "dataset_revision": "dataset {subject} holds other samples",
    "metric_version": "metric {subject} is defined otherwise",
    "seed": "every draw is another one",
    "higher_is_better": "the direction of metric {subject} is another one",
}


def as_text(found: Repetition) -> str:
    """Lay out what differs, other weights first, then every metric and column with its largest difference."""
    parts = ["\n".join(_fact(fact) for fact in found.facts)]
    parts.append(_summary(found))
    parts.append(_table([_metric(one) for one in found.metrics], _METRICS))
    parts.append(_table([_column(one) for one in found.columns], _COLUMNS))
    parts += [_alone(found.only_before, "the run"), _alone(found.only_after, "the repetition")]
    return "\n\n".join(filter(None, parts))


def as_dict(found: Repetition) -> dict[str, Any]:
    """Return everything as what JSON can say."""
    return {
        "equal": found.equal,
        "tolerance": found.tolerance,
        "rows": found.rows,
        "scores": found.scores,
        "facts": [vars(one) for one in found.facts],
        "metrics": [{**vars(one), "row": one.row._asdict()} for one in found.metrics],
        "columns": [
            {**vars(one), "row": one.row._asdict(), "largest": None if math.isnan(one.largest) else one.largest}
            for one in found.columns
        ],
        "only_before": [row._asdict() for row in found.only_before],
        "only_after": [row._asdict() for row in found.only_after],
    }


def _fact(one: FactDifference) -> str:
    said = f"{one.fact} was {one.before}, is {one.after} in {one.rows} rows: {_WHY[one.fact].format(**vars(one))}"
    return printable(said)


def _summary(found: Repetition) -> str:
    compared = f"{found.scores} scores of samples and {found.rows} rows compared"
    how = f"within {found.tolerance:g}" if found.tolerance else "to the bit"
    if found.equal:
        return f"{compared}: equal {how}."
    if not (found.metrics or found.columns):
        return f"{compared}: their values are equal {how}."
    differ = sum(one.samples for one in found.metrics)
    return f"{compared}: {differ} scores are not equal {how}."


def _metric(one: MetricDifference) -> list[str]:
    where = one.row.text + (f", {printable(one.sample_id)}" if one.sample_id else "")
    return [one.metric, *map(str, (one.rows, one.samples, one.statuses, one.missing)), f"{one.largest:.3g}", where]


def _column(one: ColumnDifference) -> list[str]:
    return [one.column, str(one.rows), "" if math.isnan(one.largest) else f"{one.largest:.3g}", one.row.text]


def _table(rows: list[list[str]], headers: tuple[str, ...]) -> str:
    cells = [[printable(cell) for cell in row] for row in rows]
    return tabulate(cells, headers=headers, tablefmt="simple", disable_numparse=True) if rows else ""


def _alone(rows: tuple[Row, ...], side: str) -> str:
    if not rows:
        return ""
    listed = "; ".join(row.text for row in rows[:3]) + ("; …" if len(rows) > 3 else "")
    return f"{len(rows)} rows are in {side} alone: {listed}"
