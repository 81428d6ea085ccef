"""How much faster two processes are than one, each with one thread; printed, in one run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from interpeval.bench.local_workers import Crew
from interpeval.bench.run import run
from process_toys import options, suite


def test_two_workers_beside_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("interpeval.bench.results.Results.publish", lambda self, folder: None)  # the same for both
    chosen = suite("toys.py:Plain", size=5120, metric="self_consistency")
    seconds: dict[int, float] = {}

    def measure(count: int, name: str) -> None:
        start = time.perf_counter()
        assert run(chosen, tmp_path / name, options(), crew=Crew(count)).flawless
        seconds[count] = time.perf_counter() - start

    measure(1, "warm")  # imports, which every later process is a copy of
    benchmark.pedantic(lambda: (measure(1, "one"), measure(2, "two")), rounds=1)
    print(f"\n1 worker {seconds[1]:.1f} s, 2 workers {seconds[2]:.1f} s: {seconds[1] / seconds[2]:.2f} times as fast")
