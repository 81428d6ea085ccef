"""Leases: one holder at a time, none for ever, and no clock is compared with another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from interpeval.bench import lease
from interpeval.bench.lease import Holder, Leases


def lease_of_another_machine(folder: Path, key: str, *, beat: int = 0) -> Path:
    """A lease as a worker elsewhere would write it: whether it is alive cannot be asked."""
    path = folder / f"{key}.lease"
    content = vars(Holder("elsewhere", "other-host", "another boot", 1, beat))
    path.write_bytes(json.dumps(content).encode().ljust(511) + b"\n")
    return path


def test_of_many_who_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    barrier, release, got = threading.Barrier(8), threading.Event(), []

    def ask() -> None:
        barrier.wait()
        with Leases(tmp_path).claimed("unit") as mine:
            got.append(mine)
            release.wait(10)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(got) < 8:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_given_back_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), Leases(tmp_path).claimed("unit"):
        raise RuntimeError("broken")
    assert list(tmp_path.iterdir()) == []


def test_a_holder_killed_on_this_machine_is_known_to_be_gone_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom interpeval.bench.lease import Leases\n"
        "with Leases(Path(sys.argv[1])).claimed('unit') as mine:\n    print(mine, flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    gone: list[tuple[str, int]] = []
    leases = Leases(tmp_path, on_gone=lambda key, by: gone.append((key, by.pid)))
    with leases.claimed("unit") as mine:
        assert not mine, "it lives"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with leases.claimed("unit") as mine:
        assert mine
    assert gone == [("unit", holder.pid)]


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
def test_a_holder_elsewhere_is_gone_when_nothing_has_changed_for_long_whatever_its_clock_says(
    tmp_path: Path, skew: float
) -> None:
    path = lease_of_another_machine(tmp_path, "unit")
    os.utime(path, (time.time() + skew, time.time() + skew))
    gone: list[str] = []
    leases = Leases(tmp_path, patience=0.3, on_gone=lambda key, by: gone.append(by.host))
    with leases.claimed("unit") as mine:
        assert not mine, "one look says nothing about whether it lives"
    time.sleep(0.35)
    with leases.claimed("unit") as mine:
        assert mine
    assert gone == ["other-host"]


@pytest.mark.parametrize("skew", [-86400.0, 86400.0])
def test_a_holder_elsewhere_that_gives_signs_of_life_keeps_its_lease_whatever_its_clock_says(
    tmp_path: Path, skew: float
) -> None:
    leases = Leases(tmp_path, patience=0.3)
    for beat in range(4):
        path = lease_of_another_machine(tmp_path, "unit", beat=beat)
        os.utime(path, (time.time() + skew, time.time() + skew))
        with leases.claimed("unit") as mine:
            assert not mine
        time.sleep(0.2)


def test_a_holder_gives_signs_of_life_until_it_is_as_good_as_gone(tmp_path: Path) -> None:
    alive = threading.Event()
    alive.set()
    with Leases(tmp_path, beat=0.02, alive=alive.is_set).claimed("unit"):
        deadline = time.monotonic() + 10
        while Leases(tmp_path).holders()["unit"][0].beat < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Leases(tmp_path).holders()["unit"][0].beat >= 3
        alive.clear()
        time.sleep(0.1)
        before = Leases(tmp_path).holders()["unit"][0].beat
        time.sleep(0.2)
        assert Leases(tmp_path).holders()["unit"][0].beat == before


def test_a_beat_never_brings_back_a_lease_that_was_taken_away(tmp_path: Path) -> None:
    with Leases(tmp_path, beat=0.02).claimed("unit") as mine:
        assert mine
        assert Leases(tmp_path).take_from(os.getpid()) == ["unit"]
        time.sleep(0.1)
        assert list(tmp_path.iterdir()) == []
        theirs = lease_of_another_machine(tmp_path, "unit")
    assert theirs.exists(), "nor does giving back remove that of the next holder"


def test_a_fresh_lease_that_was_taken_for_the_stale_one_is_put_back(tmp_path: Path) -> None:
    leases = Leases(tmp_path, patience=0.05)
    lease_of_another_machine(tmp_path, "unit")
    with leases.claimed("unit") as mine:
        assert not mine
    time.sleep(0.1)
    real = lease._content

    def replaced_meanwhile(path: Path) -> bytes:
        content = real(path)
        if path.name == "unit.lease":
            path.write_bytes(content.replace(b"elsewhere", b"its-heir!"))
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "_content", replaced_meanwhile)
        with leases.claimed("unit") as mine:
            assert not mine
    assert Leases(tmp_path).holders()["unit"][0].worker == "its-heir!"


FORGED = {"worker": "w", "host": "h", "machine": lease._machine(), "pid": 1, "beat": 0}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"pid": 1}', b"[" * 8000, b" " * 10**6, None]
    + [
        json.dumps(FORGED | change).encode()
        for change in (
            {"pid": 2**40},
            {"pid": "1"},
            {"pid": -1},
            {"pid": 1.5},
            {"pid": True},
            {"beat": "0"},
            {"host": [1]},
        )
    ]
    + ["folder"],
)
def test_a_lease_that_names_nobody_is_taken_in_time(tmp_path: Path, content: bytes | str | None) -> None:
    """One whose writer was killed while writing it, and what somebody forged; `None` is a pipe, which nobody reads."""
    if content == "folder":
        (tmp_path / "unit.lease").mkdir()
    elif content is None:
        os.mkfifo(tmp_path / "unit.lease")
    else:
        (tmp_path / "unit.lease").write_bytes(content)
    assert Leases(tmp_path).holders() == {}
    leases = Leases(tmp_path, patience=0.1)
    with leases.claimed("unit") as mine:
        assert not mine
    time.sleep(0.15)
    with leases.claimed("unit") as mine:
        assert mine


def test_a_full_disk_leaves_no_lease_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"), Leases(tmp_path).claimed("unit"):
        pass
    assert list(tmp_path.iterdir()) == []
