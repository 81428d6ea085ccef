"""Units as tasks of a Ray cluster.

This process, the driver, alone writes the store, so that the nodes need share no file system. A task is told the place
of its unit in the plan and returns the unit, or what went wrong. Weights travel through Ray; data that is not embedded,
and files of code, must lie at the same place on every node, and this package be installed in the same version.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .attempts import Attempts
from .engine import Options
from .packed_model import pack
from .plan import Plan
from .ray_task import Asked, Order, WentWrong, do, variables_of
from .stopping import Stop
from .store import PackedUnit, Store, packed, unpacked
from .suite import Experiment, Suite
from .worker import Work

_AHEAD = 2  # tasks handed to Ray for each one that can run
_KNOCK = 20.0  # seconds to wait for an address to answer
_POLL = 1.0  # seconds after which Ctrl-C is heard at the latest


@dataclass(frozen=True, eq=False)
class _Task:
    """A unit of work, and where it stands: in which plan, and in which row of it."""

    plan: int
    number: int
    unit: Work


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
        stop: Stop,
        dataset_options: Mapping[str, object],
    ) -> Iterator[Work]:
        """Yield every unit of some plans once it is finished or has failed for good, until all are.

        A unit that fails, or whose process or node dies, is tried as often as any (`interpeval.bench.attempts`).

        Args:
            suite: what the plans were made of.
            plans: one for each experiment.
            store: where finished units are; this process alone writes it.
            options: how to run.
            stop: when it asks to stop, no more units are begun.
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
        remote = self._ray.remote(do).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)
        orders = {
            place: self._ray.put(_order(experiment, plan, suite.seed, options, dataset_options))
            for place, (experiment, plan) in enumerate(zip(suite.experiments, plans, strict=True))
            if plan.rows
        }
        attempts, waiting, running = Attempts(store.listing), deque(_tasks(plans)), dict[Any, _Task]()
        while running or (waiting and not stop.requested):
            room = _AHEAD * max(1, self._slots(needs))
            while waiting and len(running) < room and not stop.requested:
                task = waiting.popleft()
                if _is_settled(task.unit, store, attempts, options):
                    yield task.unit
                else:
                    running[remote.remote([orders[task.plan]], _asked(task, store, options))] = task
            ready = self._ray.wait([*running], timeout=_POLL)[0] if running else []
            for reference in ready:
                task = running.pop(reference)
                if self._keep(reference, task.unit, store, attempts):
                    yield task.unit
                else:
                    waiting.append(task)

    def _keep(self, reference: Any, unit: Work, store: Store, attempts: Attempts) -> bool:
        """Write the unit that a task returned, or what went wrong; return whether the unit is settled."""
        found = self._outcome(reference)
        if isinstance(found, WentWrong):
            attempts.record(unit.key, found.message, found.trace)
            return attempts.exhausted(unit.key)
        store.write(unpacked(found))
        return True

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


def _tasks(plans: Sequence[Plan]) -> Iterator[_Task]:
    for place, plan in enumerate(plans):
        for number, row in enumerate(plan.rows):
            for shard in row.shards:
                yield _Task(place, number, Work(row, shard))


def _is_settled(unit: Work, store: Store, attempts: Attempts, options: Options) -> bool:
    if attempts.exhausted(unit.key):
        return True
    return options.existing != "redo" and store.holds(unit.key, unit.row.metrics)


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


def _asked(task: _Task, store: Store, options: Options) -> Asked:
    unit = task.unit
    return Asked(
        row=task.number,
        shard=unit.shard,
        key=unit.key,
        determined_by=unit.row.determined_by,
        metrics={key: metric.name for key, metric in unit.row.metrics.items()},
        done=[] if options.existing == "redo" else [packed(one) for one in store.find(unit.key)],
    )
