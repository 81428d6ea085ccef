"""Whether rows stand in the order that publications print: also where the numbers themselves cannot agree."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from .names import printable
from .published import Published, published
from .record import Record

ORDERINGS_TOML = Path(__file__).with_name("orderings.toml")


class PrintedOrder(BaseModel):
    """Rows of one table of a publication, and which of ours stand for them.

    Attributes:
        source: the publication, as in `published.csv`.
        table: where in it.
        dataset: name as printed.
        metric: name as printed.
        models: name of ours for each printed model that takes part; those that `published.csv` names if empty.
        explainers: name of ours for each printed explainer; those that `published.csv` names if empty.
        datasets: of ours, on which they are compared; any if empty.
        cause: why a pair may stand the other way round here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    table: str
    dataset: str
    metric: str
    models: Mapping[str, str] = {}
    explainers: Mapping[str, str] = {}
    datasets: Sequence[str] = ()
    cause: str = ""

    @property
    def rows(self) -> list[Published]:
        """The printed numbers that take part."""
        return [
            row
            for row in published()
            if (row.source, row.table, row.dataset, row.metric) == (self.source, self.table, self.dataset, self.metric)
            and row.our_value is not None
            and self.our_model(row)
            and bool(self.our_explainer(row)) == bool(row.explainer)
        ]

    def our_model(self, row: Published) -> str:
        """Name of ours for a printed row; empty where there is none."""
        return self.models.get(row.model, "") if self.models else row.our_model

    def our_explainer(self, row: Published) -> str:
        """Name of ours for its explainer; empty for a metric of the model alone."""
        return self.explainers.get(row.explainer, "") if self.explainers else row.our_explainer


class Pair(NamedTuple):
    """Two rows of which a publication prints the first as the better one.

    Attributes:
        better: measured row of the one that is printed as better.
        worse: of the other.
        printed: the two printed numbers, on our scale.
    """

    better: Record
    worse: Record
    printed: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the first is better here, too."""
        return _better(self.better, _value(self.better), _value(self.worse))

    @property
    def is_separated(self) -> bool:
        """Whether the two 95 % intervals do not touch."""
        ends = [(row.ci_low, row.ci_high) for row in (self.better, self.worse)]
        (low, high), (other_low, other_high) = ends
        if low is None or high is None or other_low is None or other_high is None:
            return False
        return high < other_low or other_high < low


@dataclass(frozen=True)
class Ordering:
    """What became of a printed order on one dataset of a board.

    Attributes:
        printed: what is printed.
        dataset: where it was measured.
        metric: of ours, with its variant.
        pairs: every two rows that are printed with different numbers and measured here.
    """

    printed: PrintedOrder
    dataset: str
    metric: str
    pairs: Sequence[Pair]

    @property
    def reversed(self) -> list[Pair]:
        """The pairs that stand the other way round."""
        return [pair for pair in self.pairs if not pair.holds]

    @property
    def verdict(self) -> str:
        """In words: how many pairs stand as printed, how many of them beyond chance."""
        kept = [pair for pair in self.pairs if pair.holds]
        beyond = sum(pair.is_separated for pair in kept)
        return f"{len(kept)} of {len(self.pairs)} pairs as printed, {beyond} of them with separate intervals"

    @property
    def exceptions(self) -> list[str]:
        """In words: the pairs that stand the other way round, with the numbers measured here."""
        return [
            f"{_name(pair.better)} ({_value(pair.better):.3g}) is not better than {_name(pair.worse)} "
            f"({_value(pair.worse):.3g}){'' if pair.is_separated else ', within their intervals'}"
            for pair in self.reversed
        ]


def orderings(records: Iterable[Record], printed: Sequence[PrintedOrder] | None = None) -> list[Ordering]:
    """Hold the measured rows of a board against the printed orders of which it has two rows or more.

    Only rows of one dataset are compared with each other. It need not be the printed one.

    Args:
        records: rows of a board; where one subject has several, that of most samples counts.
        printed: the orders; those of `orderings.toml` if not given.
    """
    measured = [row for row in records if row.kind == "measured" and row.value is not None]
    datasets = sorted({row.dataset for row in measured})
    found: list[Ordering] = []
    for order in read_orderings() if printed is None else printed:
        for dataset in [name for name in datasets if name in order.datasets or not order.datasets]:
            pairs = _pairs(order, [row for row in measured if row.dataset == dataset])
            if pairs:
                found.append(Ordering(order, dataset, _metric(pairs[0].better), pairs))
    return found


@cache
def read_orderings(path: Path = ORDERINGS_TOML) -> tuple[PrintedOrder, ...]:
    """Read the orders of a file.

    Raises:
        ValueError: it is not such a file, or names a table that `published.csv` does not have.
        OSError: it cannot be read.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    orders = tuple(PrintedOrder.model_validate(entry) for entry in content.pop("ordering", []))
    if content:
        raise ValueError(f"`{path}` must hold [[ordering]] tables only, had {', '.join(content)}")
    for order in orders:
        if len(order.rows) < 2:
            raise ValueError(
                f"`{path}`: {order.source}, {order.table}, {order.dataset}, {order.metric} must be at least two "
                f"numbers of published.csv that correspond to ours, were {len(order.rows)}"
            )
    return orders


def _pairs(order: PrintedOrder, measured: Iterable[Record]) -> list[Pair]:
    by_name: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for row in measured:
        by_name[row.model, row.explainer, row.metric].append(row)
    found: list[tuple[float, Record]] = []
    for row in order.rows:
        names = (order.our_model(row), order.our_explainer(row), row.our_metric)
        same = [record for record in by_name[names] if _is_variant(record.variant, row.our_variant)]
        if same:
            found.append((row.our_value or 0.0, max(same, key=lambda record: record.n)))
    return [
        Pair(first, second, (a, b)) if _better(first, a, b) else Pair(second, first, (b, a))
        for (a, first), (b, second) in combinations(found, 2)
        if a != b
    ]


def _is_variant(measured: str, printed: str) -> bool:
    """Whether a variant is the printed one, under whatever configuration."""
    return measured == printed or (bool(printed) and measured.endswith(f"/{printed}"))


def _better(like: Record, a: float, b: float) -> bool:
    return a > b if like.higher_is_better else a < b


def _value(row: Record) -> float:
    return float("nan") if row.value is None else row.value


def _metric(row: Record) -> str:
    return printable(f"{row.metric} {row.variant}".rstrip())


def _name(row: Record) -> str:
    return printable(f"{row.model} {row.explainer}".rstrip())
