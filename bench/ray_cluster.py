"""Units as tasks of a Ray cluster.

This process, the driver, alone writes the store, so that the nodes need share no file system. A task is told the place
of its unit in the plan and returns the unit, or what went wrong. Weights travel through Ray; data that is not embedded,
and files of code, must lie at the same place on every node, and this package be installed in the same version.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .engine import Failure, Options
from .packed_model import pack
from .plan import Plan, Row
from .ray_task import Asked, Order, WentWrong, do, variables_of
from .store import PackedUnit, Store, Unit, packed, unpacked
from .suite import Experiment, Suite

ATTEMPTS = 3  # so often a unit is tried before it counts as failed
_AHEAD = 2  # tasks handed to Ray for each one that can run
_KNOCK = 20.0  # seconds to wait for an address to answer
_POLL = 1.0  # seconds after which Ctrl-C is heard at the latest


@dataclass(frozen=True, eq=False)
class _Work:
    """A unit of work, and its place in its plan."""

    plan: int
    number: int
    row: Row
    shard: range


class Cluster:
    """A Ray cluster that this process is connected to (`connected`)."""

    def __init__(self, ray: Any) -> None:
        """Take the module `ray`, connected."""
        self._ray = ray

    def drain(
        self,
        suite: Suite,
        plans: Sequence[Plan],
        store: Store,
        options: Options,
        *,
        dataset_options: Mapping[str, object],
    ) -> Iterator[list[Unit] | Failure]:
        """Have every unit of some plans done; yields the units of each shard as they come, or what went wrong with it.

        A unit that fails, or whose process or node dies, is tried three times in all.

        Args:
            suite: what the plans were made of.
            plans: one for each experiment.
            store: where finished units are; this process alone writes it.
            options: how to run.
            dataset_options: arguments for the datasets that take them.

        Raises:
            OSError: the store cannot be written: going on would lose work.
            ValueError: no node of the cluster has room for a task.
        """
        needs = {"CPU": torch.get_num_threads(), "GPU": int(options.device.type == "cuda")}
        if not self._slots(needs):
            raise ValueError(
                f"no node of the Ray cluster has room for a task with {needs['CPU']} CPUs and {needs['GPU']} GPUs: "
                "OMP_NUM_THREADS says how many CPUs a task has"
            )
        # Ray itself tries nothing again: it would not count with us, and never end where memory is short.
        task = self._ray.remote(do).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)
        orders = {
            place: self._ray.put(_order(experiment, plan, suite.seed, options, dataset_options))
            for place, (experiment, plan) in enumerate(zip(suite.experiments, plans, strict=True))
            if plan.rows
        }
        waiting, running = deque(_works(plans)), dict[Any, _Work]()
        tries = Counter[_Work]()
        while waiting or running:
            room = _AHEAD * max(1, self._slots(needs))
            while waiting and len(running) < room:
                work = waiting.popleft()
                done = [] if options.existing == "redo" else store.find(work.row.key(work.shard))
                if work.row.metrics.keys() <= {key for unit in done for key in unit.metrics}:
                    yield _settled(work, done, options)
                else:
                    running[task.remote([orders[work.plan]], _asked(work, done))] = work
            ready = self._ray.wait([*running], timeout=_POLL)[0] if running else []
            for reference in ready:
                work = running.pop(reference)
                found = self._outcome(reference)
                tries[work] += 1
                if isinstance(found, WentWrong) and tries[work] < ATTEMPTS:
                    waiting.append(work)
                else:
                    yield _settled(work, _kept(found, work.row, store), options)

    def _outcome(self, reference: Any) -> PackedUnit | WentWrong:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # its process died, or could not begin
            return WentWrong(f"{type(error).__name__}: {_line(error)}", str(error))

    def _slots(self, needs: Mapping[str, int]) -> int:
        """Return how many tasks can run at a time on the nodes that are there."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) // count) for name, count in needs.items() if count) for node in nodes)


@contextmanager
def connected(address: str) -> Generator[Cluster]:
    """Connect to a Ray cluster; `"auto"` is the one that runs on this machine.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no such cluster, or it runs another version of Python or Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")  # an extra: type checkers need not know it
    except ImportError as error:
        raise ImportError('`--ray` needs Ray, which is not installed: pip install "interpeval[ray]"') from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ValueError(f"`--ray`: no Ray cluster can be reached at `{address}`: {_line(error)}") from error
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` where nobody listens at `host:port`; Ray itself would go on trying for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def _line(error: Exception) -> str:
    """Return the first line of a message of Ray, which may have a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _works(plans: Sequence[Plan]) -> Iterator[_Work]:
    for place, plan in enumerate(plans):
        for number, row in enumerate(plan.rows):
            for shard in row.shards:
                yield _Work(place, number, row, shard)


def _order(
    experiment: Experiment, plan: Plan, seed: int, options: Options, dataset_options: Mapping[str, object]
) -> Order:
    return Order(
        experiment=experiment,
        model=pack(experiment.model, plan.rows[0].model),
        seed=seed,
        dataset_options=dict(dataset_options),
        device=options.device.type,
        threads=torch.get_num_threads(),
        batch_size=options.batch_size,
        keep_attributions=options.keep_attributions,
        folder=str(Path.cwd()),
        variables=variables_of(experiment),
    )


def _asked(work: _Work, done: Sequence[Unit]) -> Asked:
    return Asked(
        row=work.number,
        shard=work.shard,
        key=work.row.key(work.shard),
        determined_by=work.row.determined_by,
        metrics={key: metric.name for key, metric in work.row.metrics.items()},
        done=[packed(unit) for unit in done],
    )


def _kept(found: PackedUnit | WentWrong, row: Row, store: Store) -> list[Unit] | Failure:
    """Write the unit that a task returned."""
    if isinstance(found, WentWrong):
        return Failure(row.about, found.message, found.trace)
    unit = unpacked(found)
    store.write(unit)
    return [unit]


def _settled(work: _Work, outcome: list[Unit] | Failure, options: Options) -> list[Unit] | Failure:
    if options.on_unit is not None:
        options.on_unit(work.row, len(work.shard))
    return outcome
