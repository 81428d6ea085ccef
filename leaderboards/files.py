"""Writing files whole."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that its name never stands for a part of it: write beside it, flush to disk, rename.

    Args:
        path: the file, in a folder that exists; what was there is replaced.
        data: its content.

    Raises:
        OSError: if the folder cannot be written to; `path` is then as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/table.csv", b"a,b")
        ...     Path(folder, "table.csv").read_bytes(), len(list(Path(folder).iterdir()))
        (b'a,b', 1)
    """
    path = Path(path)
    beside = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
