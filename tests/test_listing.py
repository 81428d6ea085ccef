"""A listing sees what is there, and asking it for every file does not read the folder every time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interpeval.bench.listing import Listing


def test_what_others_write_or_remove_is_seen(tmp_path: Path) -> None:
    listing = Listing(tmp_path / "units")
    assert listing.of("a") == ()
    (tmp_path / "units").mkdir()
    for number in range(50):  # within one tick of the clock of the file system, too
        (tmp_path / "units" / f"a-{number}.json").touch()
        assert len(listing.of("a")) == number + 1
    (tmp_path / "units" / "a-7.json").unlink()
    assert "a-7.json" not in listing.of("a")


def test_names_belong_to_what_stands_before_the_first_dash_or_dot(tmp_path: Path) -> None:
    for name in ("a-1.json", "a.lease", "ab-1.json", "a.1-x.failed"):
        (tmp_path / name).touch()
    assert sorted(Listing(tmp_path).of("a")) == ["a-1.json", "a.1-x.failed", "a.lease"]


def test_a_folder_that_has_not_changed_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-1.json").touch()
    os.utime(tmp_path, (1, 1))
    reads: list[int] = []
    real = os.scandir
    monkeypatch.setattr("interpeval.bench.listing.os.scandir", lambda path: reads.append(1) or real(path))
    monkeypatch.setattr("interpeval.bench.listing.time.monotonic", iter(range(10_000)).__next__)
    listing = Listing(tmp_path)
    for _ in range(1000):
        assert listing.of("a") == ["a-1.json"]
    assert len(reads) == 2, "the second one for what came within the same tick of the file system's clock"


def test_what_was_just_written_or_removed_by_oneself_need_not_be_looked_for(tmp_path: Path) -> None:
    listing = Listing(tmp_path)
    listing.all()
    listing._not_before = float("inf")
    listing.add("a-1.json")
    listing.add("a-1.json")
    assert listing.of("a") == ["a-1.json"]
    listing.discard("a-1.json")
    assert listing.of("a") == []
