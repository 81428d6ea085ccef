"""Two runs compared row by row on the same samples: how far they differ, and which samples changed most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .baseline import Baseline, Row
from .check import changes_of_meaning
from .names import printable
from .paired import FLIPS, Differences, differences, holm
from .record import CLASS_MEAN

SHOWN = 5
"""Samples of a row that are named."""


@dataclass(frozen=True)
class SampleChange:
    """A sample whose score changed.

    Attributes:
        sample_id: name of the sample.
        a: score in the first run.
        b: score in the second run.
    """

    sample_id: str
    a: float
    b: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row in two runs, compared on the samples that count in both.

    Attributes:
        row: what it speaks of.
        higher_is_better: direction.
        a: value in the first run.
        b: value in the second run.
        difference: mean of `b - a`.
        ci_low: lower end of its 95 % interval; NaN below two samples.
        ci_high: upper end.
        p: two-sided p-value of the sign-flip test.
        p_holm: the same, adjusted for all rows in which a sample differs; NaN where none does.
        effect: standardised mean of the differences (Cohen's d_z).
        won: share of the samples on which the second run is better (whatever the direction), ties counting one half.
        n: number of samples that count in both.
        changed: the samples that changed most, at most `SHOWN`.
    """

    row: Row
    higher_is_better: bool
    a: float
    b: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    effect: float
    won: float
    n: int
    changed: tuple[SampleChange, ...]


@dataclass(frozen=True)
class Moved:
    """How far a sample moved over all rows.

    Attributes:
        sample_id: name of the sample.
        dataset: name of its dataset.
        distance: root mean square, over the rows in which any sample differs, of its difference over the root mean
            square difference of the row; 1 for a sample that moves as the average one.
        row: the row in which it moved farthest.
        a: its score there in the first run.
        b: its score there in the second run.
    """

    sample_id: str
    dataset: str
    distance: float
    row: Row
    a: float
    b: float


@dataclass(frozen=True)
class Changes:
    """Two runs, compared.

    Attributes:
        rows: what was compared, sorted by row.
        moved: all samples that differ anywhere, those that moved farthest first.
        only_a: rows of the first run alone.
        only_b: rows of the second run alone.
        not_compared: rows that are no means of per-sample scores.
    """

    rows: tuple[Change, ...]
    moved: tuple[Moved, ...]
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]
    not_compared: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class _Pair:
    """The scores of the same samples, in the order of their ids, in two runs."""

    row: Row
    higher_is_better: bool
    means: tuple[float, float]
    ids: tuple[str, ...]
    values: NDArray[np.float64]  # (N, 2)
    classes: NDArray[np.int64] | None
    clusters: tuple[str, ...]

    @property
    def apart(self) -> NDArray[np.float64]:
        """`(N,)` differences; 0 where a sample does not count in both."""
        return np.nan_to_num(self.values[:, 1] - self.values[:, 0])

    @property
    def sampling(self) -> object:
        """Equal for pairs that can be compared together."""
        return self.ids, self.clusters, None if self.classes is None else self.classes.tobytes()


def changes(a: Baseline, b: Baseline, *, seed: int = 0) -> Changes:
    """Compare the rows that two runs share, sample by sample.

    Args:
        a: one run, with per-sample scores.
        b: the other one.
        seed: seed of resamples and flips.

    Raises:
        ValueError: if the runs share no row, or a row of one has another dataset revision, metric version, direction
            or other samples than in the other; the message names the difference.
    """
    shared = [row for row in sorted(a.records.keys() & b.records.keys()) if _measured(a, row) and _measured(b, row)]
    if not shared:
        raise ValueError("the two runs share no row: dataset, model, explainer, metric and variant must agree")
    compared = [row for row in shared if row in a.samples and row in b.samples and not row.of_the_machine]
    for row in compared:
        _check_alike(a, b, row)
    pairs = [pair for row in compared if (pair := _pair(a, b, row)) is not None]
    found = _compared(pairs, seed=seed)
    adjusted = holm(np.array([found[pair.row].p if pair.apart.any() else np.nan for pair in pairs])).tolist()
    return Changes(
        tuple(replace(found[pair.row], p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)),
        _moved(pairs),
        tuple(sorted(a.records.keys() - b.records.keys())),
        tuple(sorted(b.records.keys() - a.records.keys())),
        tuple(row for row in shared if row not in found),
    )


def _measured(side: Baseline, row: Row) -> bool:
    return side.records[row].kind == "measured"


def _check_alike(a: Baseline, b: Baseline, row: Row) -> None:
    why = changes_of_meaning(a.records[row], b.records[row])
    if why:
        raise ValueError(f"the two runs cannot be compared: `{row.text}`: {why}")
    one, two = set(a.samples[row].ids), set(b.samples[row].ids)
    if one != two:
        name = printable(min(one ^ two))
        raise ValueError(
            f"the two runs cannot be compared: `{row.text}` has {len(one)} samples in the first and {len(two)} in the "
            f"second run, {len(one & two)} of them the same (`{name}` is in one of them alone); run both on the same "
            "samples"
        )


def _pair(a: Baseline, b: Baseline, row: Row) -> _Pair | None:
    """Return the scores of a row in both runs; `None` if no sample counts in both."""
    sides = a.samples[row], b.samples[row]
    orders = [sorted(range(len(side.ids)), key=side.ids.__getitem__) for side in sides]
    values = np.stack([side.values[order] for side, order in zip(sides, orders, strict=True)], axis=1)
    means = a.records[row].value, b.records[row].value
    if means[0] is None or means[1] is None or np.isnan(values).any(axis=1).all():
        return None
    first, order = sides[0], orders[0]
    by_class = row.variant.rpartition("/")[2] == CLASS_MEAN
    clusters = first.clusters or first.ids
    return _Pair(
        row,
        a.records[row].higher_is_better,
        (means[0], means[1]),
        tuple(first.ids[k] for k in order),
        values,
        first.classes[order] if by_class and first.classes is not None else None,
        tuple(clusters[k] for k in order),
    )


def _compared(pairs: Sequence[_Pair], *, seed: int) -> dict[Row, Change]:
    """Compare pairs, those on the same samples together."""
    together: dict[object, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        together[pair.sampling].append(pair)
    rows: dict[Row, Change] = {}
    for group in together.values():
        columns = np.arange(2 * len(group), dtype=np.intp).reshape(-1, 2)[:, ::-1]  # the second run minus the first
        found = differences(
            group[0].ids,
            np.concatenate([pair.values for pair in group], axis=1),
            columns,
            seed=seed,
            classes=group[0].classes,
            clusters=group[0].clusters,
            flips=max(FLIPS, 100 * len(pairs)),  # so that Holm's correction can be passed
        )
        rows |= {pair.row: _change(pair, found, place) for place, pair in enumerate(group)}
    return rows


def _change(pair: _Pair, found: Differences, place: int) -> Change:
    value, low, high, p, effect, greater = (float(part[place]) for part in found[:6])
    apart = np.abs(pair.apart)
    order = sorted(np.flatnonzero(apart).tolist(), key=lambda k: (-apart[k], k))
    return Change(
        row=pair.row,
        higher_is_better=pair.higher_is_better,
        a=pair.means[0],
        b=pair.means[1],
        difference=value,
        ci_low=low,
        ci_high=high,
        p=p,
        p_holm=np.nan,
        effect=effect,
        won=greater if pair.higher_is_better else 1 - greater,
        n=int(found.n[place]),
        changed=tuple(SampleChange(pair.ids[k], *pair.values[k].tolist()) for k in order[:SHOWN]),
    )


def _moved(pairs: Sequence[_Pair]) -> tuple[Moved, ...]:
    squares: dict[tuple[str, str], list[float]] = defaultdict(list)
    farthest: dict[tuple[str, str], tuple[float, _Pair, int]] = {}
    for pair in pairs:
        square = pair.apart**2
        valid = ~np.isnan(pair.values).any(axis=1)
        if not square.any():
            continue
        for k in np.flatnonzero(valid).tolist():
            sample, far = (pair.row.dataset, pair.ids[k]), float(square[k] / square[valid].mean())
            squares[sample].append(far)
            if far > farthest.get(sample, (0.0, pair, k))[0]:
                farthest[sample] = far, pair, k
    rows = [
        Moved(name, dataset, float(np.sqrt(np.mean(squares[dataset, name]))), pair.row, *pair.values[k].tolist())
        for (dataset, name), (_, pair, k) in farthest.items()
    ]
    return tuple(sorted(rows, key=lambda one: (-one.distance, one.dataset, one.sample_id)))
