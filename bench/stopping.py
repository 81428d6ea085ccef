"""Stopping when asked: what is in hand is finished first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ASKED = b"\ninterpeval: finishing what is in hand; once more leaves at once\n"


class Stop:
    """A request to stop, by a signal or because the process that is worked for is gone.

    Attributes:
        parent: number of the process that is worked for, if any.

    Example:
        >>> stop = Stop()
        >>> with stop.on_signals():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.requested
        True
    """

    def __init__(self, *, parent: int | None = None) -> None:
        """Nobody has asked yet."""
        self.parent = parent
        self._asked = False

    @property
    def requested(self) -> bool:
        """Whether to end after what is in hand."""
        return self._asked or self.is_orphan

    @property
    def is_orphan(self) -> bool:
        """Whether the process that is worked for has ended."""
        return self.parent is not None and os.getppid() != self.parent

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """Take SIGINT and SIGTERM as requests; a second one raises `KeyboardInterrupt`, as one does elsewhere.

        Only the main thread of a process can do so: in others, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if self.parent is None:  # which says so for all who work for it
            os.write(2, _ASKED)
