"""How commands end: exit codes, and one clear line for bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

WORSE = 1  # `check` found what must not be
UNUSABLE = 2  # bad input: nothing was started
FAULTY = 3  # the run is complete, but something went wrong on the way
INTERRUPTED = 130


def guarded(call: Callable[[], Any], *more: type[Exception]) -> Any:
    """Return what a call returns; turn what is wrong with the input into one line and exit code 2."""
    try:
        return call()
    except (ValueError, TypeError, LookupError, OSError, ImportError, *more) as error:
        refuse(str(error))


def shown(text: str) -> str:
    """Return a text of others for the terminal: what does not print is escaped, and no more than 500 are shown."""
    from ..leaderboards.names import printable

    return printable(text)[:500]


def refuse(message: str) -> NoReturn:
    """Say what is wrong with the input and leave with exit code 2; control characters in it are shown escaped.

    Further lines are indented: a name with a line break cannot look like another message.
    """
    from ..leaderboards.names import printable

    click.echo("interpeval: " + "\n  ".join(map(printable, message.split("\n"))), err=True)
    sys.exit(UNUSABLE)
