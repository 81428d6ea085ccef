"""`interpeval board`: runs and tables merged, and written as CSV, Markdown, LaTeX and a page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..leaderboards.board import Board, Source, merge
from ..leaderboards.cases import cases_of
from ..leaderboards.csv_table import read_csv, write_csv
from ..leaderboards.files import write_whole
from ..leaderboards.latex import latex
from ..leaderboards.markdown import markdown
from ..leaderboards.page import Notes, page
from .run_notes import faults_of, left_out_of, metric_notes, run_facts

if TYPE_CHECKING:
    from .results import Results

_TABLE = "leaderboard.csv"
_MANIFEST = "run.json"  # as `interpeval.bench.run.MANIFEST`, which is not imported where there are only tables
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def write_board(paths: Sequence[Path], folder: Path, *, name: str = "leaderboard", allow_mixed: bool = False) -> Board:
    """Merge runs and write `NAME.csv`, `NAME.md`, `NAME.tex` and `index.html`; the same runs give the same bytes.

    Args:
        paths: folders of runs, folders with a `leaderboard.csv`, or such files. The first one that holds a row
            decides its numbers.
        folder: where to write.
        name: name of the tables.
        allow_mixed: take runs of different revisions, versions or seeds, and keep them apart.

    Returns:
        The board.

    Raises:
        ValueError: if runs must not stand in one table, a table is damaged, or the name is none for a file.
        OSError: if a file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"`--name` must be letters, digits, `.`, `_` and `-`, was `{name}`")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`--out` must be a folder, `{folder}` is a file")
    found = [_read(path) for path in paths]
    board = merge([source for source, _ in found], allow_mixed=allow_mixed)
    runs = [(source.name, results) for source, results in found if results is not None]
    text = page(board, _notes(board, runs, _command(paths, folder, name=name, allow_mixed=allow_mixed), name))
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(board.records, folder / f"{name}.csv")
    write_whole(folder / f"{name}.md", markdown(board, title=name).encode())
    write_whole(folder / f"{name}.tex", latex(board, title=name).encode())
    write_whole(folder / "index.html", text.encode())
    return board


def _read(path: Path) -> tuple[Source, Results | None]:
    """Read a run with its samples, or a table without."""
    if path.is_dir() and (path / _MANIFEST).exists():
        from .run import load_results

        results = load_results(path)
        return Source(str(path), results.records, results.series), results
    table = path / _TABLE if path.is_dir() else path
    if not table.is_file():
        raise FileNotFoundError(
            f"`{path}` must be the folder of a run, or a table: there is no {_MANIFEST} and no {_TABLE} in it"
        )
    return Source(str(path), read_csv(table)), None


def _notes(board: Board, runs: Sequence[tuple[str, Results]], command: str, name: str) -> Notes:
    """What the page says of the runs; heatmaps and faults only where there are runs, and not only tables."""
    metrics = metric_notes(record.metric for record in board.records)
    if not runs:
        return Notes(title=f"interpeval: {name}", commands=[command], metrics=metrics)
    from .gallery import PERCENTILE, case_galleries, galleries, scale_colours

    several = len(runs) > 1
    leads = [f"{place}: " if several else "" for place, _ in runs]
    together = list(zip(leads, (results for _, results in runs), strict=True))
    return Notes(
        title=f"interpeval: {name}",
        commands=[*(results.manifest["command"] for _, results in runs if results.manifest.get("command")), command],
        facts=[(f"{lead}{fact}", value) for lead, run in together for fact, value in run_facts(run.manifest)],
        left_out=[f"{lead}{text}" for lead, run in together for text in left_out_of(run.manifest)],
        faults=[f"{lead}{text}" for lead, run in together for text in faults_of(run)],
        metrics=metrics,
        galleries=galleries([unit for _, run in runs for unit in run.units]),
        cases=case_galleries([unit for _, run in runs for unit in run.pictures], cases_of(board)),
        percentile=PERCENTILE,
        colours=scale_colours(),
    )


def _command(paths: Sequence[Path], folder: Path, *, name: str, allow_mixed: bool) -> str:
    words = ["interpeval", "board", *map(str, paths), "--out", str(folder)]
    words += [] if name == "leaderboard" else ["--name", name]
    return shlex.join([*words, *["--allow-mixed"] * allow_mixed])
