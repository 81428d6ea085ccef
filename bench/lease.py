"""Leases: which worker has a unit in hand, agreed on by nothing but files in a shared folder."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ..datasets.limited_reading import parse_json, read_bytes

BEAT = 5.0  # seconds between two signs of life
PATIENCE = 60.0  # seconds without one after which a holder counts as gone
_ENDING = ".lease"
_SIZE = 512  # bytes of a lease, the same at every beat, so that it is written in place
_MOST = 16 * _SIZE  # a name of a machine may make it longer
_MOST_PID = 2**31 - 1


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        worker: unique name of the worker.
        host: its machine, for people.
        machine: stands for a boot of a machine and its space of process numbers; empty where that is not known.
        pid: its process.
        beat: how often it has given a sign of life.
    """

    worker: str
    host: str
    machine: str
    pid: int
    beat: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be gone: a process of this machine that is not there any more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Leases:
    """The leases in a folder, as one worker sees them.

    A lease is a file `KEY.lease` that is created with `O_CREAT | O_EXCL` and says who holds it. A thread counts up a
    number in it every few seconds. A holder counts as gone when its process is known to be dead, or when the file has
    not changed for `patience` seconds on the clock of the one who waits: clocks of two machines are never compared.
    Its lease is renamed away, which succeeds for one only, and claimed anew.

    Two workers may come to do the same unit, as after a machine was suspended. Results are deterministic and written
    whole, so it costs time and nothing else.

    Args:
        folder: where the leases are.
        beat: seconds between two signs of life.
        patience: seconds without one after which a holder counts as gone.
        on_gone: called with key and holder of a lease that was taken away from one who is gone.
        alive: asked before each sign of life; what it denies is as good as gone.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, other = Leases(Path(folder)), Leases(Path(folder))
        ...     with one.claimed("unit") as mine, other.claimed("unit") as theirs:
        ...         print(mine, theirs)
        ...     with other.claimed("unit") as theirs:
        ...         print(theirs)
        True False
        True
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat: float = BEAT,
        patience: float = PATIENCE,
        on_gone: Callable[[str, Holder], None] | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Nothing is written before a lease is claimed."""
        self.folder = folder
        self.me = Holder(uuid.uuid4().hex[:12], platform.node(), _machine(), os.getpid())
        self._beat = beat
        self._patience = patience
        self._on_gone = on_gone
        self._alive = alive
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextmanager
    def claimed(self, key: str) -> Generator[bool]:
        """Hold the lease of a unit, or yield `False` if another one does."""
        lease = self._create(key)
        if lease is None and self._take_from_gone(key):
            lease = self._create(key)
        if lease is None:
            yield False
            return
        try:
            with self._heartbeat(lease):
                yield True
        finally:
            lease.release()

    def holders(self) -> Mapping[str, tuple[Holder, float]]:
        """Return who holds which unit, and when each gave its last sign of life, as the file system says."""
        found: dict[str, tuple[Holder, float]] = {}
        for path in self.folder.glob(f"*{_ENDING}"):
            with suppress(OSError):
                holder = _parsed(_content(path))
                if holder is not None:
                    found[path.name.removesuffix(_ENDING)] = holder, path.stat().st_mtime
        return found

    def take_from(self, pid: int) -> list[str]:
        """Take the leases away from a process of this machine that has ended, and return their keys."""
        return [
            key
            for key, (holder, _) in self.holders().items()
            if (holder.pid, holder.machine, holder.host) == (pid, self.me.machine, self.me.host)
            and self._remove(key, holder.worker)
        ]

    @contextmanager
    def _heartbeat(self, lease: _Lease) -> Generator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._beat):
                if self._alive():
                    with suppress(OSError):  # a full disk: the worst that can follow is that the unit is done twice
                        lease.beat()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _create(self, key: str) -> _Lease | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._path(key), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        self._seen.pop(key, None)
        lease = _Lease(self._path(key), descriptor, self.me)
        try:
            lease.beat()
        except OSError:
            lease.release()
            raise
        return lease

    def _take_from_gone(self, key: str) -> bool:
        """Remove a lease whose holder is gone; return whether the unit may be free now."""
        try:
            content = _content(self._path(key))
        except OSError:
            return True
        now = time.monotonic()
        before, since = self._seen.get(key, (b"", now))
        if content != before:
            since = now
        self._seen[key] = content, since
        holder = _parsed(content)
        if now - since < self._patience and (holder is None or not holder.is_dead):
            return False
        if not self._remove(key, "" if holder is None else holder.worker):
            return False
        if holder is not None and self._on_gone is not None:
            self._on_gone(key, holder)
        return True

    def _remove(self, key: str, worker: str) -> bool:
        """Remove the lease of a worker; `False` if somebody else was quicker."""
        path = self._path(key)
        aside = path.with_name(f".{key}.{uuid.uuid4().hex}.tmp")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        holder = _parsed(_content(aside))
        taken = worker == ("" if holder is None else holder.worker)
        if not taken:  # a fresh one, made since we looked: put it back unless there is yet another
            with suppress(OSError):
                os.link(aside, path)
        with suppress(IsADirectoryError, PermissionError):  # a folder, which nobody of ours has made, stays aside
            aside.unlink()
        self._seen.pop(key, None)
        return taken


class _Lease:
    """A lease that is held. It is written through its descriptor: one taken away is never brought back by a beat."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self._path = path
        self._descriptor = descriptor
        self._holder = asdict(holder)

    def beat(self) -> None:
        os.pwrite(self._descriptor, json.dumps(self._holder).encode().ljust(_SIZE - 1) + b"\n", 0)
        self._holder["beat"] += 1

    def release(self) -> None:
        with suppress(OSError):
            if os.fstat(self._descriptor).st_ino == self._path.stat().st_ino:
                self._path.unlink()
        with suppress(OSError):
            os.close(self._descriptor)


def _content(path: Path) -> bytes:
    """Return what stands in a lease; nothing for what cannot be one, such as a pipe."""
    try:
        return read_bytes(path, most=_MOST)
    except ValueError:
        return b""


def _parsed(content: bytes) -> Holder | None:
    """Return the holder a lease names; `None` for one that was being written when its writer was killed, or forged."""
    try:
        holder = Holder(**parse_json(content))
    except (ValueError, TypeError):
        return None
    texts, numbers = (holder.worker, holder.host, holder.machine), (holder.pid, holder.beat)
    # Not `isinstance`: true is a whole number to it, too.
    known = all(type(text) is str for text in texts) and all(type(number) is int for number in numbers)
    return holder if known and 0 < holder.pid <= _MOST_PID else None


@cache
def _machine() -> str:
    """Return what process numbers of this system are unique in: a boot of the machine and a space of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
