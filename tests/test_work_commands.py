"""`worker` and `status`, and what a run tells about interruptions, damage and folders that cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from interpeval.bench import plan as plan_module
from interpeval.bench.attempts import Attempts
from interpeval.bench.cli import main
from interpeval.bench.lease import Leases
from interpeval.bench.listing import Listing
from interpeval.bench.run import load_results, run
from interpeval.bench.worker import StoreError, Work, starting_at
from process_toys import options, suite

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Units of 20 samples; commands change what a signal does."""
    monkeypatch.setattr(plan_module, "SHARD", 20)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def run_call(folder: Path, explainer: str = f"{HERE}/toys.py:Plain") -> Result:
    return call(
        "run", "--dataset", f"{HERE}/toys.py:Squares", "--model", f"{HERE}/toys.py:network", "--explainer", explainer,
        "--metric", "pointing_game", "--batch-size", 16, "--device", "cpu", "--out", folder,
    )  # fmt: skip


def bytes_of(folder: Path) -> tuple[str, str, list[str]]:
    board = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, dtype=str).drop(columns="seconds")
    names = sorted(path.name for path in (folder / "units").iterdir())
    return board.to_csv(index=False), load_results(folder).scores.to_csv(index=False), names


def keys(folder: Path, explainer: str) -> list[str]:
    rows = json.loads((folder / "run.json").read_text())["rows"]
    return next(row["units"] for row in rows if row["about"]["explainer"] == explainer)


def lose(folder: Path, key: str) -> None:
    for path in (folder / "units").glob(f"{key}-*"):
        path.unlink()


def test_status_tells_what_is_finished_running_failed_and_left(tmp_path: Path) -> None:
    assert run_call(tmp_path).exit_code == 0
    assert "12 of 12 units finished" in call("status", tmp_path).output
    running, failed = keys(tmp_path, "Plain")
    left, _ = keys(tmp_path, "random")
    for key in (running, failed, left):
        lose(tmp_path, key)
    for number in range(3):
        Attempts(Listing(tmp_path / "units")).record(failed, f"ValueError: try {number}\nmore", "Traceback")
    content = json.loads((tmp_path / "run.json").read_text()) | {"finished": None}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with Leases(tmp_path / "units").claimed(running):
        told, as_json = call("status", tmp_path).output, json.loads(call("status", tmp_path, "--json").output)
    assert "9 of 12 units finished" in told
    assert "running: squares · Plain, process " in told
    assert "sign of life 0 s ago" in told or "sign of life 1 s ago" in told
    assert "failed: squares · Plain: ValueError: try 2\n" in told
    assert [row for row in as_json["rows"] if row["explainer"] in ("Plain", "random")] == [
        {"dataset": "squares", "model": "toys.py:network", "explainer": name}
        | dict(zip(("finished", "running", "failed", "left"), counts, strict=True))
        for name, counts in (("Plain", (0, 1, 1, 0)), ("random", (1, 0, 0, 1)))
    ]
    assert as_json["seconds_left"] is None, "nothing was done since run.json was written"


def test_a_worker_finishes_what_is_left_and_the_run_then_takes_it_as_it_is(tmp_path: Path) -> None:
    run_call(tmp_path)
    expected = bytes_of(tmp_path)
    for explainer in ("Plain", "uniform"):
        lose(tmp_path, keys(tmp_path, explainer)[1])
    done = call("worker", tmp_path)
    assert (done.exit_code, done.output) == (0, f"nothing is left to do in {tmp_path}\n")
    assert "240 of its samples taken from earlier work" in run_call(tmp_path).output
    assert bytes_of(tmp_path) == expected


def test_a_worker_with_other_code_or_samples_is_refused_and_told_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    source = "class Mine:\n    def attribute(self, model, inputs, targets):\n        return inputs * {}\n"
    file.write_text(source.format(1))
    run_call(tmp_path / "out", f"{file}:Mine")
    file.write_text(source.format(2))
    refused = call("worker", tmp_path / "out")
    assert refused.exit_code == 2
    assert "explainer_code is `" in refused.output
    content = json.loads((tmp_path / "out" / "run.json").read_text())
    for row in content["rows"]:
        row["determined_by"]["torch"] = "1.0"
    (tmp_path / "out" / "run.json").write_text(json.dumps(content))
    assert "torch is `" in call("worker", tmp_path / "out").output
    del content["options"]
    (tmp_path / "out" / "run.json").write_text(json.dumps(content))
    assert "written by an earlier version" in call("worker", tmp_path / "out").output
    assert call("worker", tmp_path).exit_code == 2


def test_a_unit_that_fails_is_tried_three_times_by_all_workers_together(tmp_path: Path) -> None:
    failed = run_call(tmp_path, f"{HERE}/process_toys.py:Insatiable")
    assert failed.exit_code == 3
    assert failed.output.count("a unit failed: RuntimeError:") == 2
    assert len(list((tmp_path / "units").glob("*.failed"))) == 6
    assert [failure["explainer"] for failure in json.loads((tmp_path / "run.json").read_text())["failures"]] == [
        "Insatiable"
    ] * 2
    assert "Traceback" in json.loads((tmp_path / "run.json").read_text())["failures"][0]["trace"]
    worker = call("worker", tmp_path)
    assert (worker.exit_code, worker.output.count("2 units failed three times")) == (3, 1)
    assert len(list((tmp_path / "units").glob("*.failed"))) == 6, "nobody tries a fourth time"


def test_workers_begin_at_different_places_and_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[Work] = list(range(1000))  # type: ignore[arg-type]
    first = [starting_at(units, rank)[0] for rank in range(64)]
    assert first[0] == 0
    gaps = [later - earlier for earlier, later in zip(sorted(first), [*sorted(first)[1:], 1000], strict=True)]
    assert max(gaps) <= 2 * 1000 / 64
    assert sorted(starting_at(units, 63)) == units


def test_a_rank_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_call(tmp_path)
    monkeypatch.setenv("RANK", "first")
    refused = call("worker", tmp_path)
    assert (refused.exit_code, "must be a whole number, was `first`" in refused.output) == (2, True)


def test_damaged_files_are_done_again_and_told(tmp_path: Path) -> None:
    run_call(tmp_path)
    expected = bytes_of(tmp_path)
    damages: list[Callable[[bytes], bytes]] = [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    ]
    units = sorted((tmp_path / "units").glob("*.json"))
    victims = [*units[:3], *(path.with_suffix(".safetensors") for path in units[3:6])]
    for victim, damage in zip(victims, [*damages, *damages], strict=True):
        victim.write_bytes(damage(victim.read_bytes()))
    with pytest.warns(UserWarning, match="damaged and counts as missing"):
        again = run_call(tmp_path)
    told = [line for line in again.output.splitlines() if line.startswith("a damaged file was done again: ")]
    assert sorted(line.split(": ")[1] for line in told) == [path.name for path in units[:6]]
    assert bytes_of(tmp_path) == expected


def test_a_run_sweeps_what_killed_writers_left_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_call(tmp_path)
    expected = bytes_of(tmp_path)
    left = [folder / f".file.{'0' * 32}.tmp" for folder in (tmp_path, tmp_path / "units")]
    for path in left:
        path.write_bytes(b"half a file")
    run_call(tmp_path)
    assert all(path.exists() for path in left), "they may still be written"
    monkeypatch.setattr("interpeval.leaderboards.files.ABANDONED", 0.0)
    run_call(tmp_path)
    assert not any(path.exists() for path in left)
    assert bytes_of(tmp_path) == expected


@pytest.mark.parametrize(("times", "finished"), [(1, 1), (2, 0)])
def test_a_signal_ends_the_run_after_the_unit_in_hand_and_a_second_one_at_once(
    tmp_path: Path, times: int, finished: int
) -> None:
    stopped = run_call(tmp_path / "out", f"{HERE}/process_toys.py:Interrupts?times={times}")
    assert stopped.exit_code == 130
    assert "Finished work is kept: run the same command again to go on." in stopped.output
    names = {path.suffix for path in (tmp_path / "out" / "units").iterdir()}
    assert names <= {".json", ".safetensors"}, "no lease and no half file is left"
    assert len(list((tmp_path / "out" / "units").glob("*.json"))) == finished


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A small file system of its own, where that is permitted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    chosen = suite("toys.py:Plain")
    run(chosen, tmp_path / "plenty", options())
    with tmpfs(tmp_path / "small", "192k"):
        folder = tmp_path / "small" / "out"
        with pytest.raises(StoreError, match=r"No space left on device.*finished work is kept"):
            run(chosen, folder, options())
        assert list((folder / "units").glob("*.json"))
        assert {path.suffix for path in (folder / "units").iterdir()} <= {".json", ".safetensors"}
        subprocess.run(["mount", "-o", "remount,size=64m", tmp_path / "small"], check=True)
        outcome = run(chosen, folder, options())
        assert outcome.reused > 0
        assert bytes_of(folder) == bytes_of(tmp_path / "plenty")


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "mounted", "1m"):
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "mounted"], check=True)
        refused = run_call(tmp_path / "mounted" / "out")
    assert refused.exit_code == 2
    assert "Read-only file system" in refused.output


def test_a_folder_that_becomes_full_for_a_worker_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_call(tmp_path)
    lose(tmp_path, keys(tmp_path, "Plain")[1])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interpeval.bench.store.write_whole", full)
    refused = call("worker", tmp_path)
    assert refused.exit_code == 2
    assert "cannot be written: [Errno 28] No space left on device; finished work is kept" in refused.output
    assert not list((tmp_path / "units").glob("*.lease"))


@pytest.mark.parametrize(
    "content", [b"{", b"[" * 10**6, b'{"message": [], "trace": "", "host": ""}', b" " * 2**25, None]
)
def test_status_tells_of_a_failure_whose_record_was_damaged_or_forged(tmp_path: Path, content: bytes | None) -> None:
    run_call(tmp_path)
    failed = keys(tmp_path, "Plain")[0]
    lose(tmp_path, failed)
    for number in range(3):
        path = tmp_path / "units" / f"{failed}.{number}-0.failed"
        os.mkfifo(path) if content is None else path.write_bytes(content)
    assert (
        f"failed: squares · Plain: the record `{failed}.2-0.failed` of what went wrong"
        in call("status", tmp_path).output
    )
