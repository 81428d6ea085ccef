"""Small tar archives, made in memory for tests."""

from __future__ import annotations

import io
import tarfile


def archive(contents, **options):
    """A tar archive of files with these contents; a member may be given as it is."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
            else:
                content(member)
                file.addfile(member)
    return stream.getvalue()


def as_link(kind, to):
    def change(member):
        member.type, member.linkname = kind, to

    return change
