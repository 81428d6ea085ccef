"""Reading what others wrote: no more bytes, no deeper nesting and no other values than the reader is made for."""

from __future__ import annotations

import gzip
import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
DEPTH = 64
"""Lists and objects within each other that a JSON text may have: files in use have five or six."""
MEBIBYTE = 2**20
_PIECE = 16 * MEBIBYTE


def read_bytes(path: Path, *, most: int) -> bytes:
    """Return the content of a file.

    Args:
        path: a plain file: a device has no end, and a pipe may never begin.
        most: how many bytes it may have.

    Raises:
        ValueError: it is no plain file, or has more bytes.
        OSError: it is missing, or cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it must be a plain file, and is a folder, a device or a pipe")
    if found.st_size > most:
        raise ValueError(f"it must have at most {_size(most)}, has {found.st_size} bytes")
    with path.open("rb") as file:
        return file.read(found.st_size)


def read_text(path: Path, *, most: int) -> str:
    """Return the content of a text file in UTF-8, with or without a byte order mark; arguments as `read_bytes`.

    Raises:
        ValueError: it is no plain file, has more bytes, or is no such text.
        OSError: it is missing, or cannot be read.
    """
    return read_bytes(path, most=most).decode("utf-8-sig")


def unpacked(file: BinaryIO, *, most: int) -> bytes:
    """Unpack a gzip file, of which a thousandth part can be the rest.

    Raises:
        ValueError: it unpacks to more than `most` bytes.
        OSError, EOFError, zlib.error: it is damaged.

    Example:
        >>> from io import BytesIO
        >>> unpacked(BytesIO(gzip.compress(bytes(10**6))), most=1000)
        Traceback (most recent call last):
        ValueError: it must unpack to at most 1000 bytes
    """
    parts: list[bytes] = []
    total = 0
    with gzip.open(file) as plain:
        while part := plain.read(MEBIBYTE):
            total += len(part)
            if total > most:
                raise ValueError(f"it must unpack to at most {_size(most)}")
            parts.append(part)
    return b"".join(parts)


def read_json(path: Path, *, most: int) -> Any:
    """Return what a JSON file holds; arguments as `read_bytes`.

    Raises:
        ValueError: it is no plain file, has more bytes, or is refused by `parse_json`.
        OSError: it is missing, or cannot be read.
    """
    return parse_json(read_bytes(path, most=most))


def parse_json(data: bytes) -> Any:
    """Parse JSON as its standard has it: in UTF-8, numbers finite, and every key of an object once.

    Raises:
        ValueError: it is no such JSON, or nested deeper than `DEPTH`.

    Example:
        >>> parse_json(b'{"n": 1, "n": 2}')
        Traceback (most recent call last):
        ValueError: the key 'n' stands twice in one object
    """
    depth = _depth(data)
    if depth > DEPTH:
        raise ValueError(f"lists and objects must be at most {DEPTH} deep, are {depth}")
    text = data.decode("utf-8-sig")
    return json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)


def _depth(data: bytes) -> int:
    """Count how deep brackets stand in each other outside of strings, before a parser goes as deep."""
    import numpy as np  # which lists and suites need not load

    if b"\\" in data:
        data = _without_escapes(data)
    deepest = depth = quotes = 0
    for start in range(0, len(data), _PIECE):
        marks = _marks(np.frombuffer(data, np.uint8, min(_PIECE, len(data) - start), start))
        inside = (np.cumsum(marks == 0) + quotes) % 2 == 1
        steps = np.cumsum(np.where(inside, 0, marks), dtype=np.int64) + depth
        if len(marks):
            quotes += int((marks == 0).sum())
            deepest, depth = max(deepest, int(steps.max())), int(steps[-1])
    return deepest


def _marks(data: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return 1 for each bracket that opens, −1 for each that closes and 0 for each quotation mark, in their order."""
    import numpy as np

    table = np.full(256, 2, dtype=np.int8)
    for characters, mark in ((b"[{", 1), (b"]}", -1), (b'"', 0)):
        table[list(characters)] = mark
    marks = table[data]
    return marks[marks != 2]


def _without_escapes(data: bytes) -> bytes:
    r"""Take out what a backslash stands before: afterwards every quotation mark begins or ends a string."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"numbers must be finite, one is {text[:40]}")
    return number


def _size(count: int) -> str:
    return f"{count // MEBIBYTE} MiB" if count >= MEBIBYTE else f"{count} bytes"
