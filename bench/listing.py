"""What is in a folder of units, known without asking for every unit."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SETTLED = 0.1  # seconds; file systems count the changes of a folder in ticks of up to some hundredths
_AT_ONCE = 1e-3  # a folder that is listed within this time is always looked at anew
_SHARE = 20  # listing takes a twentieth of the time at most


class Listing:
    """Names of the files in a folder by the key they begin with; `KEY-…` and `KEY.…` belong to `KEY`.

    The folder is read again only when it has changed, and a large one not more often than a twentieth of the time
    allows: asking for every one of n units costs O(n), not O(n²). What others have just written may thus be missing
    for a moment; what is `add`ed is there at once.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a-1.json").write_text("")
        ...     Listing(Path(folder)).of("a")
        ['a-1.json']
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder, which need not exist yet."""
        self.folder = folder
        self._names: dict[str, list[str]] = {}
        self._changed: int | None = None
        self._first_seen = 0.0
        self._settled = False
        self._not_before = 0.0

    def of(self, key: str) -> Sequence[str]:
        """Return the names that begin with a key."""
        return self.all().get(key, ())

    def all(self) -> Mapping[str, Sequence[str]]:
        """Return all names by key."""
        now = time.monotonic()
        if now >= self._not_before and self._has_changed(now):
            self._read(now)
        return self._names

    def add(self, name: str) -> None:
        """Count a file that was just written as listed."""
        names = self._names.setdefault(_key_of(name), [])
        if name not in names:
            names.append(name)

    def discard(self, name: str) -> None:
        """Count a file that was just removed as not listed."""
        with suppress(ValueError):
            self._names.get(_key_of(name), []).remove(name)

    def _has_changed(self, now: float) -> bool:
        try:
            changed = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            changed = None
        if changed != self._changed:
            self._changed, self._first_seen = changed, now
        elif self._settled:
            return False
        # A change within the same tick leaves the time stamp as it was, so one look more is taken when it is over.
        self._settled = now - self._first_seen >= _SETTLED
        return True

    def _read(self, now: float) -> None:
        names: dict[str, list[str]] = defaultdict(list)
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    names[_key_of(entry.name)].append(entry.name)
        except FileNotFoundError:
            pass
        self._names = dict(names)
        took = time.monotonic() - now
        self._not_before = now + took * (1 + _SHARE) if took > _AT_ONCE else now


def _key_of(name: str) -> str:
    """Return what stands before the first dash or dot."""
    return name.partition("-")[0].partition(".")[0]
