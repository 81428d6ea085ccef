"""Files in archives are found where they are, and what could lead elsewhere is refused."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath

import pytest

from interpeval.datasets.files import BadSampleError, DatasetError
from interpeval.datasets.tar_members import UNSAFE, TarMember, read_member, tar_members
from tar_files import archive, as_link

CONTENTS = {"a.txt": b"first", "folder/b.txt": b"", "folder/c.txt": bytes(range(256)) * 5}


@pytest.fixture
def written(tmp_path):
    def write(data):
        path = tmp_path / "all.tar"
        path.write_bytes(data)
        return path

    return write


def test_links_of_the_working_folder_are_not_those_of_the_archive(written, tmp_path, monkeypatch):
    path = written(archive(CONTENTS))
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "folder").symlink_to("/")
    monkeypatch.chdir(tmp_path / "cwd")
    assert [str(member.name) for member in tar_members(path)] == list(CONTENTS)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_found_and_read(written, kind):
    contents = CONTENTS | {f"{'long' * 40}/name.txt": b"x", "ünïcode.txt": b"y"} if kind else CONTENTS
    path = written(archive(contents, format=kind))
    members = list(tar_members(path))
    assert {str(member.name): read_member(path, member) for member in members} == contents


def test_an_archive_in_the_archive_is_a_folder_and_one_in_that_is_a_file(written):
    inner = archive(CONTENTS)
    twice = archive({"n1.tar": archive({"deep.tar": inner, **CONTENTS}), "n2.tar": archive({}), "x.txt": b"x"})
    path = written(twice)
    members = {str(member.name): read_member(path, member) for member in tar_members(path)}
    assert members == {"n1/deep.tar": inner, **{f"n1/{name}": c for name, c in CONTENTS.items()}, "x.txt": b"x"}


@pytest.mark.parametrize("name", ["../a.txt", "/etc/hostname", "a/../../b.txt", "..\\b.txt", "C:\\b.txt"])
@pytest.mark.parametrize("inner", [False, True])
def test_names_that_lead_out_are_errors_and_the_others_are_found(written, name, inner):
    data = archive({name: b"bad", "good.txt": b"good"})
    path = written(archive({"n1.tar": data}) if inner else data)
    bad, good = tar_members(path)
    assert isinstance(bad, BadSampleError)
    assert bad.reason == UNSAFE
    assert name in bad.detail
    assert isinstance(good, TarMember)
    assert read_member(path, good) == b"good"


@pytest.mark.parametrize(
    "change",
    [
        as_link(tarfile.SYMTYPE, "/etc/hostname"),
        as_link(tarfile.SYMTYPE, "good.txt"),
        as_link(tarfile.LNKTYPE, "good.txt"),
        as_link(tarfile.CHRTYPE, ""),
        as_link(tarfile.FIFOTYPE, ""),
    ],
    ids=["link out", "link", "hard link", "device", "pipe"],
)
def test_members_that_are_no_plain_files_are_errors(written, change):
    good, bad = tar_members(written(archive({"good.txt": b"good", "bad": change})))
    assert isinstance(good, TarMember)
    assert isinstance(bad, BadSampleError)
    assert bad.reason == UNSAFE


def test_folders_are_passed_over(written):
    assert list(tar_members(written(archive({"folder": as_link(tarfile.DIRTYPE, "")})))) == []


def test_a_truncated_archive_is_an_error_wherever_it_ends(written):
    whole = archive(CONTENTS, format=tarfile.USTAR_FORMAT)
    end = 512 + 512 + 512 + 512 + 3 * 512  # three heads, contents of one and of three blocks
    assert not any(whole[end:])
    for size in [0, 1, 511, 512, 700, 1024, 1500, 2048, 2100, end - 512, end - 1, end, end + 511]:
        with pytest.raises(DatasetError, match=r"truncated|cannot be read|no end mark"):
            list(tar_members(written(whole[:size])))
    assert len(list(tar_members(written(whole[: end + 512])))) == 3


def test_a_truncated_inner_archive_does_not_run_on_into_the_outer_one(written):
    inner = archive(CONTENTS)[:1024]
    with pytest.raises(DatasetError, match=r"is truncated within `n2.tar`"):
        list(tar_members(written(archive({"n1.tar": inner, "n2.tar": archive(CONTENTS)}))))
    long = tarfile.TarInfo("c.txt")
    long.size = 2000  # which begins in the inner archive and would end in what follows it
    with pytest.raises(DatasetError, match=r"truncated within `c.txt`"):
        list(tar_members(written(archive({"n1.tar": long.tobuf(), "n2.tar": archive(CONTENTS)}))))


def test_a_damaged_head_is_an_error(written):
    data = bytearray(archive(CONTENTS, format=tarfile.USTAR_FORMAT))
    data[1024 + 150] ^= 1  # in the checksum of the second head
    with pytest.raises(DatasetError, match="truncated or damaged after 1024 bytes"):
        list(tar_members(written(bytes(data))))


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_refused(tmp_path, packing):
    path = tmp_path / "all.tar"
    with tarfile.open(path, f"w:{packing}") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(DatasetError, match="must be an uncompressed tar archive"):
        list(tar_members(path))


def test_what_is_missing_or_no_archive_is_an_error(written, tmp_path):
    with pytest.raises(DatasetError, match="must be an uncompressed tar archive"):
        list(tar_members(tmp_path / "none.tar"))
    with pytest.raises(DatasetError, match="must be an uncompressed tar archive"):
        list(tar_members(written(b"text" * 1000)))


def test_names_are_paths(written):
    (member,) = tar_members(written(archive({"./folder//b.txt": b"x"})))
    assert member.name == PurePosixPath("folder/b.txt")
