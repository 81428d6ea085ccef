"""Attempts that failed: recorded beside the units, and counted by all workers together."""

from __future__ import annotations

import json
import platform
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..datasets.limited_reading import MEBIBYTE, parse_json, read_bytes
from ..leaderboards.files import write_whole
from .listing import Listing

ATTEMPTS = 3  # so often a unit is tried before it counts as failed
_ENDING = ".failed"
_MOST = 16 * MEBIBYTE  # of a record; a trace has some kilobytes


@dataclass(frozen=True)
class Attempt:
    """An attempt at a unit that failed.

    Attributes:
        message: what went wrong, in a line.
        trace: where, if there is more to say.
        host: the machine it was made on.
    """

    message: str
    trace: str
    host: str


class Attempts:
    """The failed attempts in a folder of units, each a file `KEY.….failed` of its own: nobody has to count up."""

    def __init__(self, listing: Listing) -> None:
        """Take the listing of the folder of the units."""
        self._folder = listing.folder
        self._listing = listing

    def record(self, key: str, message: str, trace: str = "") -> None:
        """Write down that an attempt failed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{key}.{time.time_ns()}-{uuid.uuid4().hex[:8]}{_ENDING}"
        attempt = asdict(Attempt(message, trace, platform.node()))
        write_whole(self._folder / name, json.dumps(attempt, indent=1).encode())
        self._listing.add(name)

    def count(self, key: str) -> int:
        """Return how many attempts at a unit have failed."""
        return len(self._names(key))

    def exhausted(self, key: str) -> bool:
        """Return whether a unit was tried often enough."""
        return self.count(key) >= ATTEMPTS

    def last(self, key: str) -> Attempt:
        """Return the last attempt at a unit that has failed ones."""
        path = self._folder / self._names(key)[-1]
        try:
            attempt = Attempt(**parse_json(read_bytes(path, most=_MOST)))
            if not all(isinstance(text, str) for text in vars(attempt).values()):
                raise TypeError("what it says is not text")
            return attempt
        except (OSError, ValueError, TypeError) as error:
            return Attempt(f"the record `{path.name}` of what went wrong cannot be read: {error}", "", "")

    def forget(self, keys: Iterable[str]) -> None:
        """Remove what is recorded of units."""
        for key in keys:
            for name in self._names(key):
                (self._folder / name).unlink(missing_ok=True)
                self._listing.discard(name)

    def _names(self, key: str) -> list[str]:
        return sorted(name for name in self._listing.of(key) if name.endswith(_ENDING))
