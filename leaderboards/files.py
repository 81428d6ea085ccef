"""Writing files whole."""

from __future__ import annotations

import os
import re
import stat
import uuid
from contextlib import suppress
from pathlib import Path

ABANDONED = 86400.0
"""Seconds after which a file beside another one has no writer any more: a day, as machines are suspended overnight."""
_BESIDE = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that its name never stands for a part of it: write beside it, flush to disk, rename.

    Until then nobody else can read or guess the file beside it. The finished one has the rights of any new file, but
    is never writable for everybody.

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
        with open(beside, "xb", opener=_not_writable_for_all) as file:
            rights = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            beside.chmod(stat.S_IRUSR | stat.S_IWUSR)
            file.write(data)
            file.flush()
            beside.chmod(rights)
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sweep(folder: Path, *, now: float) -> None:
    """Remove what killed writers have left beside the files of a folder, once it is older than `ABANDONED`.

    Args:
        folder: where files are written by `write_whole`; it need not exist.
        now: the time on the clock of its file system, such as that of a file just written there. Clocks of machines
            are not asked: they differ, and what is being written must stay.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _BESIDE.fullmatch(entry.name):
                with suppress(OSError):  # another one was quicker, or it belongs to somebody else
                    found = entry.stat(follow_symlinks=False)
                    if now - max(found.st_mtime, found.st_ctime) > ABANDONED:  # a rename changes the latter alone
                        Path(entry.path).unlink()


def _not_writable_for_all(path: str, flags: int) -> int:
    return os.open(path, flags, 0o664)
