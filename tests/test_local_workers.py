"""Processes that share a run: the same bytes however many they are, and whatever happens to them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from interpeval.bench.lease import Leases
from interpeval.bench.local_workers import Crew
from interpeval.bench.run import Manifest, Outcome, load_results, run
from interpeval.bench.store import Store
from interpeval.bench.suite import Suite
from process_toys import bytes_of, in_a_process, options, suite

# How many workers and drivers are killed; a run of all 20: INTERPEVAL_TEST_KILLS=20.
KILLS = int(os.environ.get("INTERPEVAL_TEST_KILLS", "2"))
# A driver and its workers finish some four units before they are gone, and those of controls in no time.
MANY = suite("toys.py:Slow", size=64 * max(2, 5 * (KILLS - 2)))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[str]]:
    """What one process finds that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(MANY, folder, options()).flawless
    return bytes_of(folder)


def crewed(folder: Path, chosen: Suite = MANY, count: int = 2, unit_timeout: float | None = None) -> Outcome:
    return run(chosen, folder, options(), crew=Crew(count, unit_timeout))


def finished(folder: Path) -> int:
    return len(list(folder.glob("units/*.json")))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_leaves_the_same_bytes(tmp_path: Path, expected: object, count: int) -> None:
    assert crewed(tmp_path, count=count).flawless
    assert bytes_of(tmp_path) == expected


def test_workers_killed_at_random_moments_lose_nothing(tmp_path: Path, expected: object) -> None:
    left = KILLS
    for folder in runs(tmp_path):
        left -= killing_workers(folder, left)
        assert bytes_of(folder) == expected
        if not left:
            break
    assert not left, "the runs were over before all were killed"


def runs(folder: Path) -> Iterator[Path]:
    """As many folders as it may take, because a run may be over before its workers or driver are killed."""
    return (folder / str(number) for number in range(5 * KILLS))


def killing_workers(folder: Path, most: int) -> int:
    """Run with workers that are killed at random moments; return how many were."""
    killed: set[str] = set()
    over = threading.Event()

    def kill() -> None:
        chance = random.Random(os.getpid())
        while len(killed) < most and not over.is_set():
            for key, (holder, _) in Leases(folder / "units").holders().items():
                if key not in killed and chance.random() < 0.5:  # a unit that kills its worker three times has failed
                    os.kill(holder.pid, signal.SIGKILL)
                    killed.add(key)
                    break
            time.sleep(chance.uniform(0, 0.3))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert crewed(folder).flawless
    finally:
        over.set()
        killer.join()
    return len(killed)


def test_drivers_killed_at_random_moments_lose_nothing(tmp_path: Path, expected: object) -> None:
    left, folders = KILLS, runs(tmp_path)
    folder = next(folders)
    while left:
        before = finished(folder)
        driver = in_a_process(MANY, folder, Crew(2))
        while finished(folder) == before and driver.is_alive():
            time.sleep(0.01)
        time.sleep(random.Random(before).uniform(0, 0.3))
        driver.kill()
        driver.join()
        if driver.exitcode == -signal.SIGKILL:
            left -= 1
        else:
            assert bytes_of(folder) == expected
            folder = next(folders, tmp_path / "none")
            assert folder.name != "none", "the runs were over before all were killed"
    outcome = crewed(folder)
    assert outcome.reused > 0
    assert outcome.flawless
    assert bytes_of(folder) == expected


def test_two_drivers_on_one_folder_share_the_work(tmp_path: Path, expected: object) -> None:
    other = in_a_process(MANY, tmp_path, None)
    deadline = time.monotonic() + 120
    while not finished(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert crewed(tmp_path, count=1).flawless
    other.join()
    assert other.exitcode == 0
    assert bytes_of(tmp_path) == expected


def test_a_driver_told_to_stop_has_its_workers_finish_what_is_in_hand(tmp_path: Path, expected: object) -> None:
    driver = in_a_process(MANY, tmp_path, Crew(2))
    while not finished(tmp_path) and driver.is_alive():
        time.sleep(0.01)
    os.kill(driver.pid or 0, signal.SIGTERM)
    driver.join()
    assert driver.exitcode == 1, "the exception says so; the command turns it into 130"
    assert 0 < finished(tmp_path) < len(expected[2]) // 2  # type: ignore[index]
    assert [path.suffix for path in (tmp_path / "units").iterdir() if path.suffix == ".lease"] == []
    store, keys = Store(tmp_path), [key for row in Manifest.read(tmp_path).content["rows"] for key in row["units"]]
    assert sum(len(store.find(key)) for key in keys) == finished(tmp_path), "all that is there is whole"
    assert crewed(tmp_path).flawless
    assert bytes_of(tmp_path) == expected


def test_an_explainer_that_hangs_fails_alone_and_is_tried_three_times(tmp_path: Path) -> None:
    chosen = suite("process_toys.py:Hangs", "toys.py:Plain")
    outcome = crewed(tmp_path / "hanging", chosen, unit_timeout=4)
    assert [(failure.about["explainer"], failure.message) for failure in outcome.failures] == [
        ("Hangs", "it took longer than `--unit-timeout` 4 s; its worker was killed")
    ]
    key = next(
        key
        for row in Manifest.read(tmp_path / "hanging").content["rows"]
        for key in row["units"]
        if not Store(tmp_path / "hanging").find(key)
    )
    assert len(list((tmp_path / "hanging" / "units").glob(f"{key}.*.failed"))) == 3
    run(suite("toys.py:Plain"), tmp_path / "alone", options())
    others = outcome.results.scores.query("explainer != 'Hangs'").reset_index(drop=True)
    alone = load_results(tmp_path / "alone").scores.reset_index(drop=True)
    pd.testing.assert_frame_equal(others, alone, check_exact=True)


def test_a_model_short_of_memory_is_asked_less_at_a_time_and_what_fits_nowhere_fails_alone(tmp_path: Path) -> None:
    """A real shortage, of address space, in the workers: 512 MiB, and every image takes 32 MiB."""
    outcome = run(
        suite("process_toys.py:Insatiable", "toys.py:Plain", model="process_toys.py:wide"),
        tmp_path / "short",
        options(batch_size=64),
        crew=Crew(1),
    )
    assert {failure.about["explainer"] for failure in outcome.failures} == {"Insatiable"}
    assert all("can't allocate memory" in failure.message for failure in outcome.failures)
    assert len(outcome.failures) == 2
    run(suite("toys.py:Plain"), tmp_path / "plenty", options(batch_size=8))
    columns = ["sample_id", "explainer", "metric", "variant", "value", "status"]
    short, plenty = outcome.results.scores[columns], load_results(tmp_path / "plenty").scores[columns]
    pd.testing.assert_frame_equal(short.reset_index(drop=True), plenty.reset_index(drop=True), check_exact=True)
