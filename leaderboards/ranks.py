"""Which explainer is better than which by more than chance: paired comparisons, ranks and tie groups.

The rows of one table, which are the explainers under one variant of a metric for one dataset and model, are compared
pair by pair on the samples that count in both. Of two rows one is *significantly better* if the p-value of its
sign-flip test, adjusted by Holm over all pairs of the table, is below `ALPHA`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .names import CONTROLS, labels
from .paired import FLIPS, Differences, differences, holm
from .record import position, published_variant
from .series import NotApplicable, Series
from .statistics import Sampling

ALPHA = 0.05
"""Probability, at most, that a table holds a significant difference where there is none."""


class Rank(NamedTuple):
    """Where one row of a table stands.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        metric: name of the metric.
        variant: which of its numbers.
        explainer: label of the row, see `interpeval.leaderboards.names.labels`.
        value: the mean over its own samples; NaN without any.
        rank: 1 + number of rows whose value is better to 9 significant digits; `None` for a row without a value, or
            that shares no sample with any other.
        rank_low: 1 + number of rows that are significantly better.
        rank_high: number of ranked rows - number of rows that are significantly worse.
        group: letters of its tie groups, see `standings`.
    """

    dataset: str
    model: str
    metric: str
    variant: str
    explainer: str
    value: float
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    group: str


class Difference(NamedTuple):
    """Two rows of a table, compared on the samples that count in both.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        metric: name of the metric.
        variant: which of its numbers.
        a: label of one row.
        b: label of the other row.
        difference: mean of `a - b`.
        ci_low: lower end of its 95 % interval.
        ci_high: upper end.
        p: p-value of the sign-flip test.
        p_holm: the same, adjusted for all pairs of this table.
        effect: standardised mean of the differences (Cohen's d_z).
        won: share of the samples on which `a` is better (whatever the direction), ties counting one half.
        n: number of samples that count in both rows.
        n_left_out: number of samples of either row that do not.
    """

    dataset: str
    model: str
    metric: str
    variant: str
    a: str
    b: str
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    effect: float
    won: float
    n: int
    n_left_out: int


class Standing(NamedTuple):
    """Rank, rank interval and tie groups of one row."""

    rank: int
    low: int
    high: int
    group: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The K rows of one table, compared in P pairs.

    Attributes:
        rows: what was measured, real explainers first, then controls.
        names: labels of the rows.
        variant: the variant under which their means are published.
        values: `(K,)` means; NaN for a row in which no sample counts.
        pairs: `(P, 2)` the rows of each pair.
        found: what the pairs are like.
        p_holm: `(P,)` p-values, adjusted for this table.
        n_left_out: `(P,)` number of samples of either row that do not count in both.
    """

    rows: tuple[Series, ...]
    names: tuple[str, ...]
    variant: str
    values: NDArray[np.float64]
    pairs: NDArray[np.intp]
    found: Differences
    p_holm: NDArray[np.float64]
    n_left_out: NDArray[np.int64]

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 otherwise."""
        return 1 if self.rows[0].higher_is_better else -1

    @property
    def better(self) -> NDArray[np.bool_]:
        """`(K, K)`: whether row i is significantly better than row j."""
        first, second = self.pairs.T
        significant = self.p_holm < ALPHA  # NaN is not
        better = np.zeros((len(self.rows), len(self.rows)), dtype=bool)
        better[first, second] = significant & (self.sign * self.found.value > 0)
        better[second, first] = significant & (self.sign * self.found.value < 0)
        return better

    @property
    def met(self) -> NDArray[np.bool_]:
        """`(K, K)`: whether two rows share a sample that counts in both."""
        first, second = self.pairs.T
        met = np.zeros((len(self.rows), len(self.rows)), dtype=bool)
        met[first, second] = met[second, first] = self.found.n > 0
        return met


def compare(series: Iterable[Series | NotApplicable], *, seed: int) -> list[Comparison]:
    """Compare all explainers, controls included, under every variant that is published.

    Args:
        series: what was measured; curves, ratios of sums, and metrics of the model alone, are passed over.
        seed: seed of resamples and flips.

    Returns:
        One comparison per dataset, model, metric and variant, in this order. Its p-values rest on at least 40 random
        flips a pair, so that Holm's correction can be passed however many explainers there are.

    Example:
        >>> texts = ("dataset_revision", "model_digest", "interpeval", "torch", "captum", "device")
        >>> def row(explainer, value):
        ...     return Series(
        ...         dataset="digits", model="lenet", explainer=explainer, explainer_params="{}", metric="pointing_game",
        ...         metric_version=1, variant="", higher_is_better=True, chance=None, seed=0, seconds=0.1, passes=6,
        ...         ids=tuple("abcdefgh"), values=np.full(8, value), status=np.zeros(8, np.uint8), variance=None,
        ...         classes=np.zeros(8, np.int64), **dict.fromkeys(texts, "any"),
        ...     )
        >>> found = compare([row("gradient", 0.7), row("gradcam", 0.9), row("center", 0.7)], seed=0)
        >>> [(row.explainer, row.rank, row.rank_low, row.rank_high, row.group) for row in ranks(found)]
        [('gradcam', 1, 1, 1, 'a'), ('center', 2, 2, 3, 'b'), ('gradient', 2, 2, 3, 'b')]
    """
    tables: dict[tuple[str | int, ...], list[Series]] = defaultdict(list)
    for item in series:
        if isinstance(item, Series) and item.explainer and not item.steps:
            *subject, _, _, metric, version, _ = position(item)
            for by_class, aggregation in ((False, "items"), (True, "classes")):
                if aggregation in item.aggregations:
                    variant = published_variant(item, by_class=by_class)
                    tables[*subject, metric, version, variant, by_class].append(item)
    return [_comparison(rows, by_class=bool(key[-1]), seed=seed) for key, rows in sorted(tables.items())]


def standings(
    names: Sequence[str], scores: NDArray[np.float64], better: NDArray[np.bool_], met: NDArray[np.bool_]
) -> list[Standing | None]:
    """Rank the K rows of a table.

    The rank of a row is 1 + the number of rows with a better score, to the 9 significant digits of `leaderboard.csv`;
    its interval is [1 + number significantly better, number ranked - number significantly worse]. Tie groups are the
    longest runs of rows, in the order of their scores (of their names where these are equal), within which no row is
    significantly better than another; each has a letter, `a` for the best, and a row has the letters of all its
    groups. Rows that share a letter are thus not separable; rows that share none are either separable, or stand apart
    because some row between them is separable from one of them.

    A rank lies within its interval if all rows count the same samples; scores of different samples may contradict
    what the shared ones say.

    Args:
        names: K names.
        scores: `(K,)` where higher is better; NaN for a row without one.
        better: `(K, K)` whether row i is significantly better than row j.
        met: `(K, K)` whether rows i and j share a sample.

    Returns:
        K standings; `None` for a row without a score, or that shares no sample with another one that has a score.

    Example:
        >>> better = np.array([[False, False, True], [False, False, False], [False, False, False]])
        >>> rows = standings(["x", "y", "z"], np.array([0.9, 0.8, 0.7]), better, ~np.eye(3, dtype=bool))
        >>> [(row.rank, row.low, row.high, row.group) for row in rows]
        [(1, 1, 2, 'a'), (2, 1, 3, 'ab'), (3, 2, 3, 'b')]
    """
    scored = np.flatnonzero(~np.isnan(scores))
    ranked = [int(row) for row in scored if len(scored) == 1 or met[row, scored].any()]
    shown = {row: float(format(scores[row], ".9g")) for row in ranked}
    order = sorted(ranked, key=lambda row: (-shown[row], names[row]))
    groups = [
        "".join(_letter(k) for k, run in enumerate(_runs(better[np.ix_(order, order)])) if place in run)
        for place in range(len(order))
    ]
    found: list[Standing | None] = [None] * len(names)
    for place, row in enumerate(order):
        found[row] = Standing(
            1 + sum(shown[other] > shown[row] for other in ranked),
            1 + int(better[ranked, row].sum()),
            len(ranked) - int(better[row, ranked].sum()),
            groups[place],
        )
    return found


def ranks(comparisons: Iterable[Comparison]) -> list[Rank]:
    """Return where every row of every table stands: table by table, best first, rows without a rank last."""
    rows: list[Rank] = []
    for one in comparisons:
        found = standings(one.names, one.sign * one.values, one.better, one.met)
        order = sorted(range(len(found)), key=lambda row: _place(found[row], one.names[row]))
        for row in order:
            standing = found[row] or (None, None, None, "")
            rows.append(Rank(*_about(one), one.names[row], float(one.values[row]), *standing))
    return rows


def paired_differences(comparisons: Iterable[Comparison]) -> list[Difference]:
    """Return every pair of every table."""
    return [
        Difference(
            *_about(one),
            one.names[first],
            one.names[second],
            float(one.found.value[pair]),
            float(one.found.low[pair]),
            float(one.found.high[pair]),
            float(one.found.p[pair]),
            float(one.p_holm[pair]),
            float(one.found.effect[pair]),
            float(one.found.greater[pair] if one.sign > 0 else 1 - one.found.greater[pair]),
            int(one.found.n[pair]),
            int(one.n_left_out[pair]),
        )
        for one in comparisons
        for pair, (first, second) in enumerate(one.pairs)
    ]


def unbeaten(comparisons: Iterable[Comparison]) -> frozenset[tuple[str | int, ...]]:
    """Return the rows than which no real explainer is significantly better, by `position`.

    Controls do not compete; a table in which fewer than two real explainers have a value has no such row.
    """
    return frozenset(itertools.chain.from_iterable(map(_unbeaten, comparisons)))


def _unbeaten(one: Comparison) -> Iterator[tuple[str | int, ...]]:
    real = [i for i, row in enumerate(one.rows) if row.explainer not in CONTROLS and not np.isnan(one.values[i])]
    better, met = one.better, one.met
    for row in real:
        if met[row, real].any() and not better[real, row].any():
            yield (*position(one.rows[row])[:-1], one.variant)


def _comparison(rows: list[Series], *, by_class: bool, seed: int) -> Comparison:
    names = labels(rows)
    rows = sorted(rows, key=lambda row: list(names).index((row.explainer, row.explainer_params)))
    ids, values, present, classes, clusters = _aligned(rows)
    pairs = np.array(list(itertools.combinations(range(len(rows)), 2)), dtype=np.intp).reshape(-1, 2)
    found = differences(
        ids,
        values,
        pairs,
        seed=seed,
        classes=classes if by_class else None,
        clusters=clusters,
        bounds=rows[0].range,
        flips=max(FLIPS, 40 * len(pairs)),
    )
    valid = ~np.isnan(values)
    shares = Sampling.of(ids, classes=classes if by_class else None).shares(valid)
    means = np.where(valid.any(axis=0), (shares * np.where(valid, values, 0.0)).sum(axis=0), np.nan)
    return Comparison(
        rows=tuple(rows),
        names=tuple(names[row.explainer, row.explainer_params] for row in rows),
        variant=published_variant(rows[0], by_class=by_class),
        values=means,
        pairs=pairs,
        found=found,
        p_holm=holm(found.p),
        n_left_out=present[:, pairs].any(axis=2).sum(axis=0) - found.n,
    )


def _aligned(
    rows: list[Series],
) -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], list[str]]:
    """Ids that any of K rows holds, sorted; `(N, K)` values, and whether a row has them; their classes and clusters."""
    ids = sorted(set[str]().union(*(row.ids for row in rows)))
    place = {name: i for i, name in enumerate(ids)}
    values, present = np.full((len(ids), len(rows)), np.nan), np.zeros((len(ids), len(rows)), dtype=bool)
    classes, clusters = np.zeros(len(ids), dtype=np.int64), np.array(ids, dtype=object)
    for column, row in enumerate(rows):
        here = [place[name] for name in row.ids]
        values[here, column], present[here, column], classes[here] = row.values, True, row.classes
        clusters[here] = row.clusters or row.ids
    return ids, values, present, classes, list(clusters)


def _about(one: Comparison) -> tuple[str, str, str, str]:
    row = one.rows[0]
    return row.dataset, row.model, row.metric, one.variant


def _place(standing: Standing | None, name: str) -> tuple[bool, int, str]:
    return standing is None, standing.rank if standing else 0, name


def _runs(better: NDArray[np.bool_]) -> Iterator[range]:
    """Runs of places that hold no pair of which one is better, and that no longer such run holds."""
    apart, end = better | better.T, 0
    for start in range(len(apart)):
        stop = next((k for k in range(start + 1, len(apart)) if apart[start:k, k].any()), len(apart))
        if stop > end:
            yield range(start, stop)
            end = stop


def _letter(place: int) -> str:
    """Name groups by a … z, A … Z, then by the same with a dot, with two dots, and so on."""
    return ascii_letters[place % 52] + "." * (place // 52)
