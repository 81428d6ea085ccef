"""Reading a list of structs from a MATLAB file.

SciPy's `loadmat` reads much more, and follows whatever a file says: one of a few kilobytes, nested deep enough, ends
the process, and another one asks for any amount of memory. Here neither depth nor sizes are the file's to choose.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from .limited_reading import MEBIBYTE, read_bytes

_HEADER = 128
_VERSION = b"\x00\x01IM"  # 5 to 7.2, in the order of bytes of all machines that MATLAB runs on today
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements
_DIMENSIONS = 32  # no array has more
_STRUCT, _CHAR = 2, 4  # kinds of matrices, of which all from 6 on have numbers
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}

Value = str | float | None
"""What a field of a struct holds: text, one number, or something else."""


def read_structs(path: Path, name: str, *, most: int) -> list[dict[str, Value]]:
    """Return an array of structs, in the order in which MATLAB counts them.

    Args:
        path: a file of MATLAB 5 to 7.2 (what `save` writes, but for its option `-v7.3`).
        name: the variable.
        most: how many bytes the file, and each variable once unpacked, may have.

    Raises:
        ValueError, zlib.error, struct.error: it is no such file, is damaged, has more bytes or no such array.
        OSError: it is missing, or cannot be read.
    """
    data = read_bytes(path, most=most)
    if data[_HEADER - 4 : _HEADER] != _VERSION:
        raise ValueError("it must be a file of MATLAB 5 to 7.2")
    for kind, content in _elements(memoryview(data)[_HEADER:]):
        elements = _elements(_unpacked(content, most)) if kind == _COMPRESSED else iter([(kind, content)])
        found = _named(_matrix(elements), name)
        if found is not None:
            return found
    raise ValueError(f"it must have an array of structs `{name}`, has none")


def _named(matrix: memoryview, name: str) -> list[dict[str, Value]] | None:
    """Return the structs of a matrix, or `None` if it has another name or no structs."""
    elements = _elements(matrix)
    kind, count, own = _head(elements)
    if kind != _STRUCT or own != name:
        return None
    (length,) = struct.unpack("<i", _next(elements)[1])
    text = bytes(_next(elements)[1])
    if length < 1 or len(text) % length:
        raise ValueError("the names of its fields are damaged")
    names = [text[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), length)]
    return [{field: _value(_matrix(elements)) for field in names} for _ in range(count if names else 0)]


def _value(matrix: memoryview) -> Value:
    if not matrix:
        return None
    elements = _elements(matrix)
    kind, count, _ = _head(elements)
    if kind == _CHAR:
        stored, content = next(elements, (1, b""))  # there may be none if the text is empty
        return bytes(content).decode(_TEXTS[stored]) if stored in _TEXTS else None
    if kind > _CHAR + 1 and count == 1:
        stored, content = _next(elements)
        return struct.unpack(f"<{_NUMBERS[stored]}", content)[0] if stored in _NUMBERS else None
    return None


def _head(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, int, str]:
    """Read the kind of a matrix, how many elements it has, and its name."""
    (flags,) = struct.unpack_from("<I", _next(elements)[1])
    shape = _next(elements)[1][: 4 * _DIMENSIONS]
    count = math.prod(struct.unpack(f"<{len(shape) // 4}i", shape))
    return flags & 0xFF, count, bytes(_next(elements)[1]).decode("latin-1")


def _matrix(elements: Iterator[tuple[int, memoryview]]) -> memoryview:
    kind, content = _next(elements)
    if kind != _MATRIX:
        raise ValueError(f"there must be a matrix (14), there is something else ({kind})")
    return content


def _next(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None:
        raise ValueError("it ends too early")
    return found


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Take data apart into kinds and contents; what lies within each is left as it is."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, place)
        if kind >> 16:  # four bytes or less stand in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError(f"it ends within an element of {size} bytes")
        yield kind, data[start : start + size]
        place = end


def _unpacked(data: memoryview, most: int) -> memoryview:
    """Unpack what a thousandth part can be the rest of."""
    plain = zlib.decompressobj().decompress(data, most + 1)
    if len(plain) > most:
        raise ValueError(f"it must unpack to at most {most // MEBIBYTE} MiB")
    return memoryview(plain)
