"""The page of a run: what a board shows, with heatmaps, what went wrong, and how to do it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..leaderboards.cases import cases_of
from ..leaderboards.files import write_whole
from ..leaderboards.page import Notes, page
from .gallery import PERCENTILE, case_galleries, galleries, scale_colours
from .run_notes import faults_of, left_out_of, metric_notes, run_facts, suite_toml

if TYPE_CHECKING:
    from .results import Results


def write_report(results: Results, path: Path) -> None:
    """Write the page of a run; the same store and `run.json` give the same bytes.

    Raises:
        OSError: if the folder cannot be written to.
    """
    board = results.board
    manifest = results.manifest
    suite = manifest.get("suite", {})
    notes = Notes(
        title=f"interpeval: {suite.get('name', 'results')}",
        commands=[manifest["command"]] if manifest.get("command") else [],
        suite=suite_toml(suite) if suite else "",
        facts=run_facts(manifest),
        left_out=left_out_of(manifest),
        faults=faults_of(results),
        metrics=metric_notes(record.metric for record in board.records),
        galleries=galleries(results.units),
        cases=case_galleries(results.pictures, cases_of(board)),
        percentile=PERCENTILE,
        colours=scale_colours(),
    )
    write_whole(path, page(board, notes).encode())
