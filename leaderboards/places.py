"""Where the rows of a board stand: ranks and tie groups of the explainers that compete.

Where per-sample scores are at hand, rows are compared pair by pair on the same samples
(`interpeval.leaderboards.ranks`). A board that is only a table has values and intervals: there two rows are compared as
if they had been measured on different samples, which finds fewer differences where scores of different explainers go up
and down together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import PRICES, half_width
from .names import CONTROLS, labels
from .paired import holm
from .ranks import ALPHA, Comparison, standings
from .record import Record, position
from .series import Identity

_WIDE = 1.959963984540054  # half of a 95 % interval in standard errors

Row = tuple[str | int, ...]
"""What tells a row from all others: its `position` and its seed."""


class Place(NamedTuple):
    """Where one row stands among the explainers that compete, which controls do not.

    Attributes:
        rank: 1 + number of rows with a better value.
        low: 1 + number of rows that are significantly better.
        high: number of rows - number of rows that are significantly worse.
        of: number of rows.
        group: letters of its tie groups, see `interpeval.leaderboards.ranks.standings`.
        best: whether it is significantly better than every other row.
        paired: whether the rows were compared sample by sample.
    """

    rank: int
    low: int
    high: int
    of: int
    group: str
    best: bool
    paired: bool


def row_of(item: Identity | Record) -> Row:
    """Return what tells a row from all others."""
    return (*position(item), item.seed)


def places_from_samples(comparisons: Iterable[Comparison]) -> dict[Row, Place]:
    """Place the rows of tables that were compared pair by pair; prices have no places."""
    found: dict[Row, Place] = {}
    for one in comparisons:
        real = [i for i, row in enumerate(one.rows) if row.explainer not in CONTROLS]
        if one.rows[0].metric not in PRICES:
            rows = [(*position(one.rows[i])[:-1], one.variant, one.rows[i].seed) for i in real]
            chosen = np.ix_(real, real)
            names, scores = [one.names[i] for i in real], one.sign * one.values[real]
            found |= _places(rows, names, scores, one.better[chosen], one.met[chosen], paired=True)
    return found


def places_from_intervals(records: Iterable[Record]) -> dict[Row, Place]:
    """Place rows by their values and intervals alone.

    The difference of two means over their joint standard error (each a half interval over 1.96) is compared with the
    normal distribution; p-values are adjusted by Holm over all pairs of a table. A row without an interval cannot be
    told from any other.

    Args:
        records: rows of one table, which differ in the explainer only.

    Returns:
        The places of the explainers with a value; none for prices.

    Example:
        >>> versions = dict.fromkeys(("interpeval", "torch", "captum", "device"), "any")
        >>> counts = dict.fromkeys(("n_invalid", "n_degenerate", "n_no_truth", "seed"), 0)
        >>> def row(explainer, value):
        ...     return Record(
        ...         dataset="digits", dataset_revision="1f", model="lenet", model_digest="2e", explainer=explainer,
        ...         explainer_params="{}", metric="pointing_game", metric_version=1, variant="", value=value, n=100,
        ...         ci_low=value - 0.05, ci_high=value + 0.05, higher_is_better=True, kind="measured", **versions,
        ...         **counts,
        ...     )
        >>> found = places_from_intervals([row("gradient", 0.6), row("gradcam", 0.9), row("lrp", 0.63)])
        >>> [(place.rank, place.low, place.high, place.group, place.best) for place in found.values()]
        [(3, 2, 3, 'b', False), (1, 1, 1, 'a', True), (2, 2, 3, 'b', False)]
    """
    rows = [
        row
        for row in records
        if row.kind == "measured" and row.value is not None and row.explainer not in CONTROLS and row.explainer
    ]
    if not rows or rows[0].metric in PRICES:
        return {}
    names = labels(rows)
    scores = np.array([row.value or 0.0 for row in rows]) * (1 if rows[0].higher_is_better else -1)
    better = np.zeros((len(rows), len(rows)), dtype=bool)
    pairs = list(itertools.combinations(range(len(rows)), 2))
    adjusted = holm(np.array([_p_value(rows[i], rows[j]) for i, j in pairs]))
    for (i, j), p in zip(pairs, adjusted, strict=True):
        better[i, j], better[j, i] = p < ALPHA and scores[i] > scores[j], p < ALPHA and scores[i] < scores[j]
    met = ~np.eye(len(rows), dtype=bool)
    ordered = [names[row.explainer, row.explainer_params] for row in rows]
    return _places([row_of(row) for row in rows], ordered, scores, better, met, paired=False)


def _p_value(first: Record, second: Record) -> float:
    """Two-sided p-value of two independent means being equal; 1 where an interval is missing."""
    if None in {first.ci_low, second.ci_low} or first.value is None or second.value is None:
        return 1.0
    error = math.hypot(half_width(first), half_width(second)) / _WIDE
    apart = abs(first.value - second.value)
    if error == 0:
        return float(apart == 0)
    return math.erfc(apart / error / math.sqrt(2))


def _places(
    rows: Sequence[Row],
    names: Sequence[str],
    scores: NDArray[np.float64],
    better: NDArray[np.bool_],
    met: NDArray[np.bool_],
    *,
    paired: bool,
) -> dict[Row, Place]:
    found = standings(names, scores, better, met)
    ranked = [i for i, standing in enumerate(found) if standing is not None]
    return {
        row: Place(*standing[:3], len(ranked), standing.group, _beats(better[i], i, ranked), paired)
        for i, (row, standing) in enumerate(zip(rows, found, strict=True))
        if standing is not None
    }


def _beats(better: NDArray[np.bool_], row: int, ranked: Sequence[int]) -> bool:
    others = [other for other in ranked if other != row]
    return bool(others) and bool(better[others].all())
