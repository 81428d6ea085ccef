"""Worker processes of this machine: started, watched, and started again when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from .attempts import Attempts
from .exits import FAULTY, INTERRUPTED, UNUSABLE, guarded
from .lease import Leases
from .rebuild import drain_here
from .stopping import Stop
from .store import Store
from .worker import Work

_POLL = 0.25  # seconds between two looks; a large store is looked at less often
_LONGEST = 10.0  # seconds between them at most
_SHARE = 20  # looking takes a twentieth of the time at most
_LEAVE = 5.0  # seconds that workers have to end when there is nothing left to do
_FRUITLESS = 3  # workers that may die in a row without a unit being finished or tried


class WorkerError(RuntimeError):
    """The workers cannot go on."""


@dataclass(frozen=True)
class Crew:
    """Which workers to start.

    Attributes:
        count: how many.
        unit_timeout: seconds that a unit may take before its worker is killed.
        trust: let them unpickle weights files.
    """

    count: int
    unit_timeout: float | None = None
    trust: bool = False

    @property
    def threads(self) -> int:
        """Threads of each worker: the cores there are, shared evenly."""
        return int(os.environ.get("OMP_NUM_THREADS") or max(1, _cores() // self.count))


class LocalWorkers:
    """Has the units of a run finished by processes of this machine.

    Args:
        crew: which workers.
        folder: the folder of the run.
        content: of its `run.json`, as this run wrote it.
        store: its store.
        stop: asked all the time; workers then finish what they have in hand.
    """

    def __init__(self, crew: Crew, folder: Path, content: Mapping[str, Any], store: Store, *, stop: Stop) -> None:
        """Nothing is started before `drain`."""
        self._crew = crew
        self._folder = folder
        self._content = content
        self._store = store
        self._stop = stop
        self._attempts = Attempts(store.listing)
        self._leases = Leases(store.folder)
        self._running: dict[int, ForkServerProcess] = {}
        self._in_hand: dict[tuple[int, str], float] = {}
        self._fruitless = 0

    def drain(self, units: Sequence[Work]) -> Iterator[Work]:
        """Yield every unit once it is finished or has failed for good, until all are, or until asked to stop.

        Raises:
            WorkerError: the workers cannot go on; what they said stands on the terminal.
        """
        left = list(units)
        try:
            while left and not self._stop.requested:
                self._staff()
                start = time.monotonic()
                settled, left = self._parted(left)
                took = time.monotonic() - start
                yield from settled
                time.sleep(min(_LONGEST, max(_POLL, _SHARE * took)) if left else 0)
            self._end()
            yield from self._parted(left)[0]
        finally:
            for process in self._running.values():
                self._kill(process)

    def _parted(self, units: Sequence[Work]) -> tuple[list[Work], list[Work]]:
        """Tell settled units from those that are left."""
        settled: list[Work] = []
        left: list[Work] = []
        for unit in units:
            is_settled = self._store.holds(unit.key, unit.row.metrics) or self._attempts.exhausted(unit.key)
            (settled if is_settled else left).append(unit)
        if settled:
            self._fruitless = 0
        return settled, left

    def _staff(self) -> None:
        """See to it that all workers are there, and that none spends too long on a unit."""
        for rank in range(self._crew.count):
            process = self._running.get(rank)
            if process is not None and process.exitcode is not None:
                del self._running[rank]
                self._bury(process, process.exitcode)
            if rank not in self._running:
                self._running[rank] = self._start(rank)
        if self._crew.unit_timeout is not None:
            self._kill_hanging(self._crew.unit_timeout)

    def _start(self, rank: int) -> ForkServerProcess:
        """Start a worker as a copy of a process that has imported everything and has done nothing yet."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([drain_here.__module__])
        process = context.Process(target=_be_worker, args=(self._folder, self._content, self._crew, rank))
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(self._crew.threads)  # read when libraries are loaded
        try:
            process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
        return process

    def _bury(self, process: ForkServerProcess, code: int) -> None:
        """Record what a worker that has ended leaves unfinished."""
        if code == UNUSABLE:
            raise WorkerError("a worker could not go on (what it said stands above); finished work is kept")
        keys = self._leases.take_from(_number(process))
        for key in keys:
            self._attempts.record(key, f"its worker died: {_cause(code)}")
        self._fruitless = 0 if keys or code in (0, FAULTY) else self._fruitless + 1
        if self._fruitless >= _FRUITLESS:
            raise WorkerError(f"{_FRUITLESS} workers died without beginning a unit, the last one: {_cause(code)}")

    def _kill_hanging(self, seconds: float) -> None:
        processes = {_number(process): process for process in self._running.values()}
        now = time.monotonic()
        self._in_hand = {
            (holder.pid, key): self._in_hand.get((holder.pid, key), now)
            for key, (holder, _) in self._leases.holders().items()
            if holder.pid in processes and holder.machine == self._leases.me.machine
        }
        for (pid, key), since in self._in_hand.items():
            if now - since > seconds and key in self._kill(processes[pid]):
                self._attempts.record(key, f"it took longer than `--unit-timeout` {seconds:g} s; its worker was killed")

    def _kill(self, process: ForkServerProcess) -> list[str]:
        """Kill a worker and return what it had in hand."""
        process.kill()
        process.join()
        return self._leases.take_from(_number(process))

    def _end(self) -> None:
        """Wait for the workers to end: by themselves when nothing is left, else when what they have in hand is done."""
        if self._stop.requested:
            for process in self._running.values():
                if process.is_alive():
                    os.kill(_number(process), signal.SIGTERM)
        for process in self._running.values():
            process.join(self._crew.unit_timeout if self._stop.requested else _LEAVE)


def _be_worker(folder: Path, content: Mapping[str, Any], crew: Crew, rank: int) -> None:
    """Do the work of one process, and end with the exit code of `interpeval worker`."""
    os.setpgid(0, 0)  # Ctrl-C reaches the workers through the process that watches them alone, and once
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(crew.threads)
    stop = Stop(of_child=True)
    failed = guarded(lambda: drain_here(folder, content, stop, trust=crew.trust))
    sys.exit(INTERRUPTED if stop.requested else FAULTY if failed else 0)


def _number(process: ForkServerProcess) -> int:
    return process.pid or 0  # it has one from the moment it is started


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
