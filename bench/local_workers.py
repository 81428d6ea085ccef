"""Worker processes of this machine: started, watched, and started again when they die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attempts import Attempts
from .exits import FAULTY, UNUSABLE
from .lease import Leases
from .stopping import Stop
from .store import Store
from .worker import Work

_POLL = 0.25  # seconds between two looks; a large store is looked at less often
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
        rank: number of the first one among all workers of the run; says where it begins.
        local_rank: number of the first one on this machine; says which device it takes.
    """

    count: int
    unit_timeout: float | None = None
    trust: bool = False
    rank: int = 0
    local_rank: int = 0

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
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._in_hand: dict[tuple[int, str], float] = {}
        self._fruitless = 0

    def drain(self, units: Sequence[Work], on_settled: Callable[[Work], None]) -> None:
        """Return when all units are finished or have failed for good, or when asked to stop.

        Raises:
            WorkerError: the workers cannot go on; what they said stands on the terminal.
        """
        left = list(units)
        with tempfile.TemporaryDirectory(prefix="interpeval-") as private:
            manifest = Path(private) / "run.json"
            manifest.write_text(json.dumps(self._content, default=str))
            try:
                while left and not self._stop.requested:
                    start = time.monotonic()
                    self._staff(manifest)
                    left = self._without_settled(left, on_settled)
                    time.sleep(max(_POLL, _SHARE * (time.monotonic() - start)) if left else 0)
                self._end()
                self._without_settled(left, on_settled)
            finally:
                for process in self._running.values():
                    process.kill()
                    process.wait()
                    self._leases.take_from(process.pid)

    def _without_settled(self, left: Sequence[Work], on_settled: Callable[[Work], None]) -> list[Work]:
        still: list[Work] = []
        for unit in left:
            if self._store.holds(unit.key, unit.row.metrics) or self._attempts.exhausted(unit.key):
                on_settled(unit)
            else:
                still.append(unit)
        if len(still) < len(left):
            self._fruitless = 0
        return still

    def _staff(self, manifest: Path) -> None:
        """See to it that all workers are there, and that none spends too long on a unit."""
        for rank in range(self._crew.count):
            process = self._running.get(rank)
            code = None if process is None else process.poll()
            if process is not None and code is not None:
                del self._running[rank]
                self._bury(process, code)
            if rank not in self._running:
                self._running[rank] = self._start(rank, manifest)
        if self._crew.unit_timeout is not None:
            self._kill_hanging(self._crew.unit_timeout)

    def _start(self, rank: int, manifest: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "interpeval.bench.cli", "worker", str(self._folder)]
        command += [
            "--manifest",
            str(manifest),
            "--parent",
            str(os.getpid()),
            *(["--trust"] if self._crew.trust else []),
        ]
        environment = os.environ | {
            "RANK": str(self._crew.rank + rank),
            "LOCAL_RANK": str(self._crew.local_rank + rank),
            "OMP_NUM_THREADS": str(self._crew.threads),
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        # A process group of its own, so that Ctrl-C reaches the workers through us alone, and once.
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, process_group=0)  # noqa: S603

    def _bury(self, process: subprocess.Popen[bytes], code: int) -> None:
        """Record what a worker that has ended leaves unfinished."""
        if code == UNUSABLE:
            raise WorkerError("a worker could not go on (what it said stands above); finished work is kept")
        keys = self._leases.take_from(process.pid)
        for key in keys:
            self._attempts.record(key, f"its worker died: {_cause(code)}")
        self._fruitless = 0 if keys or code in (0, FAULTY) else self._fruitless + 1
        if self._fruitless >= _FRUITLESS:
            raise WorkerError(f"{_FRUITLESS} workers died without beginning a unit, the last one: {_cause(code)}")

    def _kill_hanging(self, seconds: float) -> None:
        processes = {process.pid: process for process in self._running.values()}
        now = time.monotonic()
        in_hand = {
            (holder.pid, key): self._in_hand.get((holder.pid, key), now)
            for key, (holder, _) in self._leases.holders().items()
            if holder.pid in processes and holder.machine == self._leases.me.machine
        }
        for (pid, key), since in in_hand.items():
            if now - since > seconds and processes[pid].poll() is None:
                processes[pid].kill()
                processes[pid].wait()
                if key in self._leases.take_from(pid):
                    self._attempts.record(
                        key, f"it took longer than `--unit-timeout` {seconds:g} s; its worker was killed"
                    )
        self._in_hand = in_hand

    def _end(self) -> None:
        """Wait for the workers to end: by themselves when nothing is left, else when what they have in hand is done."""
        if self._stop.requested:
            for process in self._running.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
        seconds = self._crew.unit_timeout if self._stop.requested else _LEAVE
        with suppress(subprocess.TimeoutExpired):
            for process in self._running.values():
                process.wait(seconds)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
