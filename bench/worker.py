"""A worker: finishes the units of a plan that nobody else has in hand, until none is left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from .attempts import Attempts
from .engine import Failure, Options, finish_unit
from .lease import PATIENCE, Holder, Leases
from .plan import Plan, Row
from .stopping import Stop
from .store import Store

_POLL = 0.2  # seconds between two looks at units that others have in hand
_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly however many there are


class StoreError(OSError):
    """The store cannot be written: going on would lose work."""


@dataclass(frozen=True, eq=False)
class Work:
    """A unit of work: a shard of a row, to be scored with all metrics of the row."""

    row: Row
    shard: range

    @cached_property
    def key(self) -> str:
        """The key of the unit."""
        return self.row.key(self.shard)


def works(plans: Sequence[Plan]) -> list[Work]:
    """Return all units of some plans."""
    return [Work(row, shard) for plan in plans for row in plan.rows for shard in row.shards]


def starting_at(units: Sequence[Work], rank: int) -> list[Work]:
    """Return the units in an order of a worker's own, so that workers seldom want the same one."""
    start = int(len(units) * (rank * _GOLDEN % 1))
    return [*units[start:], *units[:start]]


class Worker:
    """Drains units into a store beside any number of others.

    Args:
        units: what is to be done, in this order.
        store: where finished units are.
        options: how they are done.
        stop: asked before every unit.
        patience: seconds without a sign of life after which another worker counts as gone.
    """

    def __init__(
        self, units: Sequence[Work], store: Store, options: Options, *, stop: Stop, patience: float = PATIENCE
    ) -> None:
        """Nothing is done before `drain`."""
        self._units = units
        self._store = store
        self._options = options
        self._stop = stop
        self._attempts = Attempts(store.listing)
        self._leases = Leases(
            store.folder, patience=patience, on_gone=self._record_gone, alive=lambda: not stop.is_orphan
        )

    def drain(self) -> Iterator[Work]:
        """Yield every unit once it is finished or has failed for good, whoever did it, until all are.

        Raises:
            StoreError: the store cannot be written.
        """
        left = list(self._units)
        while left and not self._stop.requested:
            waiting: list[Work] = []
            for unit in left:
                if self._stop.requested:
                    return
                if self._is_settled(unit) or self._settle(unit):
                    yield unit
                else:
                    waiting.append(unit)
            if len(waiting) == len(left):
                time.sleep(_POLL)
            left = waiting

    def _is_settled(self, unit: Work) -> bool:
        return self._attempts.exhausted(unit.key) or self._is_finished(unit)

    def _is_finished(self, unit: Work, *, look: bool = False) -> bool:
        if self._options.existing == "redo":
            return False
        return self._store.holds(unit.key, unit.row.metrics, look=look)

    def _settle(self, unit: Work) -> bool:
        """Try a unit unless another worker has it in hand; return whether it is finished or has failed for good."""
        try:
            with self._leases.claimed(unit.key) as mine:
                return mine and (self._is_finished(unit, look=True) or self._try(unit))
        except OSError as error:
            raise StoreError(f"`{self._store.folder}` cannot be written: {error}; finished work is kept") from error

    def _try(self, unit: Work) -> bool:
        if self._options.on_start is not None:
            self._options.on_start(unit.row)
        outcome = finish_unit(unit.row, unit.shard, self._store, self._options)
        if not isinstance(outcome, Failure):
            return True
        self._attempts.record(unit.key, outcome.message, outcome.trace)
        return self._attempts.exhausted(unit.key)

    def _record_gone(self, key: str, holder: Holder) -> None:
        self._attempts.record(key, f"its worker is gone ({holder}): killed, or out of memory")


def failures(units: Sequence[Work], store: Store) -> list[Failure]:
    """Return what has failed for good."""
    attempts = Attempts(store.listing)
    found: list[Failure] = []
    for unit in units:
        if attempts.exhausted(unit.key) and not store.holds(unit.key, unit.row.metrics, look=True):
            last = attempts.last(unit.key)
            found.append(Failure(unit.row.about, last.message, last.trace))
    return found
