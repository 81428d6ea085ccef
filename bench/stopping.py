"""Stopping when asked: what is in hand is finished first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ASKED = b"\ninterpeval: finishing what is in hand; once more leaves at once\n"


class Stop:
    """A request to stop, by a signal, or for a child process because its parent is gone.

    Example:
        >>> stop = Stop()
        >>> with stop.on_signals():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.requested
        True
    """

    def __init__(self, *, of_child: bool = False) -> None:
        """Nobody has asked yet."""
        self._parent = multiprocessing.parent_process() if of_child else None
        self._asked = False

    @property
    def requested(self) -> bool:
        """Whether to end after what is in hand."""
        return self._asked or self.is_orphan

    @property
    def is_orphan(self) -> bool:
        """Whether this is a child process whose parent has ended."""
        return self._parent is not None and not self._parent.is_alive()

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
        if self._parent is None:  # which says so for all who work for it
            os.write(2, _ASKED)
