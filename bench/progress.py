"""How far a run has come, told from the names of its files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attempts import Attempts
from .lease import Leases
from .listing import Listing


@dataclass(frozen=True)
class RowProgress:
    """How far a row has come, in units: its dataset, model and explainer, and how many are in which state."""

    dataset: str
    model: str
    explainer: str
    finished: int
    running: int
    failed: int
    left: int


@dataclass(frozen=True)
class Running:
    """A unit that is in hand: its subject, by whom, and how many seconds ago there was a sign of life."""

    subject: str
    worker: str
    heartbeat: float


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        rows: one for each subject.
        running: what is in hand.
        failed: subjects of units that have failed, and what was wrong.
        seconds_left: at the pace of this run up to now; `None` if nothing is left or nothing was done.
    """

    rows: Sequence[RowProgress]
    running: Sequence[Running]
    failed: Sequence[tuple[str, str]]
    seconds_left: float | None


def progress(folder: Path, content: Mapping[str, Any]) -> Progress:
    """Tell how far the run in a folder has come, from its `run.json` and the names of the files of units.

    Whether these are whole is not looked at: that is done by the next run, and by whatever reads their numbers.
    Signs of life are as old as the clock of this machine and that of the file system make them.
    """
    units = folder / "units"
    listing = Listing(units)
    finished = {key for key, names in listing.all().items() if any(name.endswith(".json") for name in names)}
    attempts, holders = Attempts(listing), Leases(units).holders()
    subject_of = {key: _subject(row["about"]) for row in content["rows"] for key in row["units"]}
    failed = [key for key in subject_of if key not in finished and attempts.exhausted(key)]
    in_hand = {key for key in holders if key in subject_of and key not in finished}
    rows = [_row(row, finished, in_hand, set(failed)) for row in content["rows"]]
    now = time.time()
    return Progress(
        rows,
        [Running(subject_of[key], str(holders[key][0]), max(0.0, now - holders[key][1])) for key in sorted(in_hand)],
        [(subject_of[key], attempts.last(key).message.partition("\n")[0]) for key in failed],
        _seconds_left(folder, content, listing, sum(row.running + row.left for row in rows)),
    )


def _row(row: Mapping[str, Any], finished: set[str], in_hand: set[str], failed: set[str]) -> RowProgress:
    keys = set(row["units"])
    about = row["about"]
    return RowProgress(
        about["dataset"],
        about["model"],
        about["explainer"],
        finished=len(keys & finished),
        running=len(keys & in_hand),
        failed=len(keys & failed - in_hand),
        left=len(keys - finished - in_hand - failed),
    )


def _subject(about: Mapping[str, Any]) -> str:
    return f"{about['dataset']} · {about['explainer'] or about['model']}"


def _seconds_left(folder: Path, content: Mapping[str, Any], listing: Listing, left: int) -> float | None:
    """Estimate by the pace since `run.json` was written; all times are those of the one file system."""
    if not left or content["finished"]:
        return None
    begun = (folder / "run.json").stat().st_mtime
    times = [
        (listing.folder / name).stat().st_mtime
        for names in listing.all().values()
        for name in names
        if name.endswith(".json")
    ]
    done = [moment - begun for moment in times if moment >= begun]
    return left * max(done) / len(done) if done else None
