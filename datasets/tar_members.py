"""Files in tar archives, found once and then read where they stand: nothing is unpacked to a disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from .files import BadSampleError, DatasetError, is_inner

UNSAFE = "archive member that is no plain file within the archive"
_BLOCK = 512


class TarMember(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path; an archive in the archive is a folder, called like it without `.tar`.
        start: where its content begins in the archive's file.
        size: how many bytes it has.
    """

    name: PurePosixPath
    start: int
    size: int


def tar_members(path: Path) -> Iterator[TarMember | BadSampleError]:
    """Find the files in a tar archive and in the archives that it holds (ImageNet's has one for each class).

    Yields:
        Every file; and an error, to be raised or counted, for every other member: links, devices, sparse files, and
        names that lead out of the archive. Folders are passed over.

    Raises:
        DatasetError: it is missing, truncated, no tar archive, or a compressed one, which cannot be read from the
            middle.
    """
    try:
        with path.open("rb") as file:
            yield from _members(path, file, (0, path.stat().st_size))
    except DatasetError:
        raise
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"`{path}` must be an uncompressed tar archive, and cannot be read as one: {error}"
        ) from error


def read_member(path: Path, member: TarMember) -> bytes:
    """Return the content of a file in an archive."""
    with path.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


def _members(
    path: Path, file: BinaryIO, extent: tuple[int, int], folder: PurePosixPath | None = None
) -> Iterator[TarMember | BadSampleError]:
    """Read the archive between two places of the file; `folder` is its name if it is one in another archive."""
    start, end = extent
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            stop = member.offset_data + member.size
            if member.isdir():
                continue
            if not member.isreg() or member.issparse() or not is_inner(member.name):
                yield BadSampleError(path, UNSAFE, f"`{member.name}`")
                continue
            if member.size < 0 or not start <= member.offset_data <= stop <= end:
                raise DatasetError(f"`{path}` is truncated within `{member.name}`")
            name = PurePosixPath(member.name)
            if name.suffix == ".tar" and folder is None:
                yield from _members(path, file, (member.offset_data, stop), name.with_suffix(""))
            else:
                yield TarMember((folder or PurePosixPath()) / name, member.offset_data, member.size)
        # tarfile takes a damaged or missing header for the end, which has a block of zeros.
        file.seek(archive.offset)
        if archive.offset + _BLOCK > end or any(file.read(_BLOCK)):
            raise DatasetError(f"`{path}` is truncated or damaged after {archive.offset} bytes: it has no end mark")
