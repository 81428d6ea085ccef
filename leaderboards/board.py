"""A board: the rows of one or several runs that may stand in one table, and where they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .columns import blocks_of
from .orderings import Ordering, orderings
from .places import Place, Row, places_from_intervals, places_from_samples, row_of
from .published import reported_beside
from .ranks import Comparison, compare
from .record import Record, position
from .series import NotApplicable, Series


class MixedError(ValueError):
    """Runs whose numbers must not stand in one table."""


@dataclass(frozen=True, eq=False)
class Source:
    """What one run, or one table, adds to a board.

    Attributes:
        name: how the user named it; stands in messages.
        records: its rows.
        series: the per-sample scores behind them; empty where there is only a table.
    """

    name: str
    records: Sequence[Record]
    series: Sequence[Series | NotApplicable] = ()


@dataclass(frozen=True, eq=False)
class Board:
    """Rows that may stand in one table.

    Attributes:
        records: measured rows, rows that do not apply, and what publications report of the same; sorted.
        series: the per-sample scores behind measured rows, as far as they are at hand.
        notes: what a reader must know of how the sources were put together.
    """

    records: Sequence[Record]
    series: Sequence[Series | NotApplicable] = ()
    notes: Sequence[str] = ()

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The explainers of every table compared on the same samples, as far as those are at hand."""
        by_seed: dict[int, list[Series | NotApplicable]] = defaultdict(list)
        for item in self.series:
            by_seed[item.seed].append(item)
        return [one for seed, items in sorted(by_seed.items()) for one in compare(items, seed=seed)]

    @cached_property
    def places(self) -> dict[Row, Place]:
        """Where each row stands: by its samples where all rows of a table have them, by its interval elsewhere."""
        paired = places_from_samples(self.comparisons)
        found: dict[Row, Place] = {}
        for rows in self._tables():
            intervals = places_from_intervals(rows)
            found |= {row: paired[row] for row in intervals} if intervals.keys() <= paired.keys() else intervals
        return found

    @cached_property
    def reported(self) -> dict[tuple[str, ...], list[Record]]:
        """What publications report, by dataset, model, explainer, metric and variant."""
        found: dict[tuple[str, ...], list[Record]] = defaultdict(list)
        for row in self.records:
            if row.kind == "reported":
                found[names_of(row)].append(row)
        return dict(found)

    @cached_property
    def orderings(self) -> list[Ordering]:
        """Whether rows stand in the order in which publications print them."""
        return orderings(self.records)

    @property
    def blocks(self) -> dict[str, list[Record]]:
        """The rows of each dataset and model, by a title that tells them apart."""
        blocks = blocks_of(self.records)
        return dict(zip(_titles(list(blocks)), blocks.values(), strict=True))

    def _tables(self) -> Iterable[list[Record]]:
        """Measured rows that differ in the explainer only."""
        for rows in blocks_of(self.records).values():
            tables: dict[tuple[str | int, ...], list[Record]] = defaultdict(list)
            for row in rows:
                tables[row.metric, row.metric_version, row.variant].append(row)
            yield from tables.values()


def merge(sources: Sequence[Source], *, allow_mixed: bool = False) -> Board:
    """Put the rows of several runs into one board.

    A row that several sources hold, as they all do of the controls, is taken from the first of them.

    Args:
        sources: at least one.
        allow_mixed: accept runs of different dataset revisions, metric versions or seeds, which are kept apart in
            all tables, and of different samples of one subject, of which the first stands in the board.

    Returns:
        The board, with what publications report of the same rows.

    Raises:
        MixedError: the sources differ in one of these; the message names the difference and the sources.

    Example:
        >>> merge([Source("results/a", []), Source("results/b", [])]).records
        []
    """
    faults = [] if allow_mixed else [*_differences(sources)]
    rows: dict[Row, tuple[str, Record]] = {}
    notes: list[str] = []
    for source in sources:
        for record in source.records:
            if record.kind == "reported":
                continue
            name, first = rows.setdefault(row_of(record), (source.name, record))
            if first.n != record.n and not allow_mixed:
                faults.append(_other_samples(first, name, record, source.name))
            elif name != source.name and _contradict(first, record):
                notes.append(_other_value(first, name, record, source.name))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults[:_FAULTS]))
        more = f"\n  and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
        raise MixedError(f"these runs must not stand in one table:\n{listed}{more}\n--allow-mixed keeps them apart")
    measured = [record for _, record in rows.values()]
    known = [record for source in sources for record in source.records if record.kind == "reported"]
    reported = {(names_of(row), row.source, row.value): row for row in [*known, *reported_beside(measured)]}
    records = sorted([*measured, *reported.values()], key=lambda row: (*row_of(row), row.source))
    return Board(records, _series(sources, {key: name for key, (name, _) in rows.items()}), notes)


_FAULTS = 12  # that are listed


def names_of(row: Record) -> tuple[str, str, str, str, str]:
    """Dataset, model, explainer, metric and variant: what a reported number and a measured one have in common."""
    return row.dataset, row.model, row.explainer, row.metric, row.variant


def _differences(sources: Sequence[Source]) -> Iterable[str]:
    """Name dataset revisions, metric versions and seeds in which sources differ from the first one that has any."""
    seen: dict[tuple[str, str], tuple[str, frozenset[str | int]]] = {}
    for source in sources:
        facts: dict[tuple[str, str], frozenset[str | int]] = defaultdict(frozenset)
        for row in source.records:
            if row.kind != "reported":
                facts["revision of dataset", row.dataset] |= {row.dataset_revision}
                facts["version of metric", row.metric] |= {row.metric_version}
                facts["seed", ""] |= {row.seed}
        for (what, whose), values in sorted(facts.items()):
            name, first = seen.setdefault((what, whose), (source.name, values))
            if first != values:
                of = f"{what} `{whose}`" if whose else what
                yield f"{of}: {_listed(first)} in {name}, {_listed(values)} in {source.name}"


def _listed(values: Iterable[str | int]) -> str:
    return " and ".join(f"`{value}`" for value in sorted(values, key=str))


def _row_name(row: Record) -> str:
    metric = f"{row.metric} {row.variant}".rstrip()
    return f"`{row.explainer or row.model}` under `{metric}` on `{row.dataset}`"


def _other_samples(first: Record, name: str, record: Record, other: str) -> str:
    return f"samples of {_row_name(record)}: {first.n} in {name}, {record.n} in {other} (run both with one --limit)"


def _other_value(first: Record, name: str, record: Record, other: str) -> str:
    shown = [f"{value:.9g}" if value is not None else "none" for value in (first.value, record.value)]
    return f"{_row_name(record)} is {shown[0]} in {name}, which is shown, and {shown[1]} in {other}"


def _contradict(first: Record, record: Record) -> bool:
    """Whether two records of one row differ by more than the machine explains."""
    return first.variant != "seconds" and (first.value, first.n) != (record.value, record.n)


def _series(sources: Sequence[Source], owners: dict[Row, str]) -> list[Series | NotApplicable]:
    """Series of every source, but for those of a metric of which rows were taken from other sources only."""
    holders: dict[Row, set[str]] = defaultdict(set)
    for (*metric, _, seed), name in owners.items():
        holders[*metric, seed].add(name)
    found: dict[Row, Series | NotApplicable] = {}
    for source in sources:
        for item in source.series:
            if source.name in holders.get((*position(item)[:-1], item.seed), {source.name}):
                found.setdefault(row_of(item), item)
    return list(found.values())


def _titles(keys: Sequence[tuple[str | int, ...]]) -> list[str]:
    """Dataset and model; of revision, digest and seed what tells blocks of the same names apart."""
    titles: list[str] = []
    for key in keys:
        same = [other for other in keys if (other[0], other[2]) == (key[0], key[2])]
        parts = [f"{key[0]} · {key[2]}"]
        for place, word in ((1, "revision"), (3, "weights"), (4, "seed")):
            if len({other[place] for other in same}) > 1:
                parts.append(f"{word} {key[place]}")
        titles.append(", ".join(parts))
    return titles
