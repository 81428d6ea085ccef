"""Writing files whole."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path


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


def _not_writable_for_all(path: str, flags: int) -> int:
    return os.open(path, flags, 0o664)
