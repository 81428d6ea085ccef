"""torchrun as the launcher of `interpeval worker`: it starts workers, and starts them again when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interpeval.bench.lease import Leases
from interpeval.bench.run import Manifest, run
from process_toys import bytes_of, options, suite

MANY = suite("toys.py:Slow", size=64 * 8)


def in_hand(folder: Path) -> dict[int, str]:
    return {holder.pid: key for key, (holder, _) in Leases(folder / "units").holders().items()}


def kill_a_worker(folder: Path, launcher: subprocess.Popen[str]) -> str:
    """Kill a worker over a unit; return the unit."""
    while launcher.poll() is None:
        for pid in in_hand(folder):
            os.kill(pid, signal.SIGSTOP)
            held = in_hand(folder)
            # One that is written and only waits for its lease to be given back would be nobody's any more.
            if pid in held and not list((folder / "units").glob(f"{held[pid]}-*.json")):
                os.kill(pid, signal.SIGKILL)
                return held[pid]
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError(f"all was done before a worker could be killed: {launcher.communicate()[0]}")


@pytest.mark.slow
def test_workers_that_torchrun_starts_and_starts_again_do_all_that_is_left(tmp_path: Path) -> None:
    run(MANY, tmp_path, options())
    expected = bytes_of(tmp_path)
    keys = [key for row in Manifest.read(tmp_path).content["rows"] for key in row["units"]]
    for key in keys:
        for path in (tmp_path / "units").glob(f"{key}-*"):
            path.unlink()
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3",
         "-m", "interpeval.bench.cli", "worker", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as launcher:  # fmt: skip
        killed = kill_a_worker(tmp_path, launcher)
        said = launcher.communicate()[0]
    assert launcher.returncode == 0, said
    assert said.count("nothing is left to do") == 2, said
    assert [path.name.partition(".")[0] for path in (tmp_path / "units").glob("*.failed")] == [killed]
    outcome = run(MANY, tmp_path, options())
    assert outcome.flawless
    assert outcome.reused == 64 * len(keys)
    assert bytes_of(tmp_path) == expected
