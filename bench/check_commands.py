"""The commands `compare` and `check`: one run against another, or against a baseline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import WORSE, guarded

if TYPE_CHECKING:
    from ..leaderboards.baseline import Baseline
    from ..leaderboards.changes import Changes
    from ..leaderboards.check import Check

FORMATS = ("table", "junit", "github", "summary")


@click.command("compare")
@click.argument("a", metavar="DIR_A", type=click.Path(path_type=Path))
@click.argument("b", metavar="DIR_B", type=click.Path(path_type=Path))
@click.option(
    "--format", "style", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True,
    help="What to print.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the same as --format json.")
@click.option(
    "--samples", type=click.IntRange(min=0), default=10, show_default=True, help="Name so many samples that changed."
)
def compare_command(a: Path, b: Path, *, style: str, as_json: bool, samples: int) -> None:
    """Compare two runs on the same samples: differences, intervals, tests, and the samples that changed most.

    A run is the folder of an `interpeval run`, or a CSV of records with the per-sample scores beside it. Rows are
    compared that speak of the same dataset, model, explainer, metric and variant.
    Exit codes: 0 compared, 2 unusable input: no such run, or one of other samples, dataset or metric.
    """
    from ..leaderboards.changes_report import as_json as json_of
    from ..leaderboards.changes_report import as_markdown, as_text

    found = guarded(lambda: _changes(a, b))
    if as_json or style == "json":
        click.echo(json_of(found))
    else:
        click.echo((as_markdown if style == "markdown" else as_text)(found, samples=samples))


@click.command("check")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--against", required=True, type=click.Path(path_type=Path), help="Baseline: a CSV of records, or another run."
)
@click.option(
    "--alpha", type=click.FloatRange(1e-4, 0.5), default=0.01, show_default=True,
    help="How probable a failure may be though nothing has changed.",
)  # fmt: skip
@click.option(
    "--atol",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How much worse (with --any-change: how far off) a value may be.",
)
@click.option("--any-change", is_flag=True, help="Fail where a number is better, too: bugs can also raise numbers.")
@click.option(
    "--format", "outputs", metavar="FORMAT[=FILE]", multiple=True,
    help=f"Print, or write into FILE: {', '.join(FORMATS)}; repeat for several. [default: table]",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Show the difference, then take this run as the baseline from now on.")
def check_command(
    folder: Path,
    *,
    against: Path,
    alpha: float,
    atol: float,
    any_change: bool,
    outputs: Sequence[str],
    update: bool,
) -> None:
    """Check that no number of a run is worse than in a baseline (with --any-change: that none is another one).

    Equal numbers are demanded where seed, samples, metric version, weights, device and version of PyTorch agree; else
    a paired test decides, if the per-sample scores of both are at hand (`board.scores.csv.gz` beside `board.csv`), or
    a test by value and interval. Of all rows together an unchanged one is called worse with probability --alpha.
    Exit codes: 0 unchanged or better (or --update), 1 something is worse, missing or has changed its meaning,
    2 unusable input.
    """
    wanted = guarded(lambda: [_output(text) for text in outputs or ["table"]])
    found, after = guarded(lambda: _check(folder, against, alpha, atol, any_change=any_change, update=update))
    for name, file in wanted:
        guarded(lambda name=name, file=file: _publish(found, name, file))
    if update:
        guarded(lambda: _update(after, against))
        click.echo(f"{against} and the scores beside it are now those of {folder}", err=True)
        return
    sys.exit(WORSE if found.failures else 0)


def read_side(path: Path) -> Baseline:
    """Return what is known of a run: from its folder, or from a CSV and the scores beside it.

    Raises:
        ValueError, OSError: there is no such thing, or it is damaged.
    """
    from ..leaderboards.baseline import read_baseline

    if not path.is_dir():
        return read_baseline(path)
    from .run import load_results

    return load_results(path).baseline


def _output(text: str) -> tuple[str, Path | None]:
    name, equals, file = text.partition("=")
    if name not in FORMATS or (equals and not file):
        raise ValueError(f"`--format` must be one of {', '.join(FORMATS)}, or one of them with `=FILE`, was `{text}`")
    return name, Path(file) if file else None


def _changes(a: Path, b: Path) -> Changes:
    from ..leaderboards.changes import changes

    return changes(read_side(a), read_side(b))


def _check(
    folder: Path, against: Path, alpha: float, atol: float, *, any_change: bool, update: bool
) -> tuple[Check, Baseline]:
    from ..leaderboards.baseline import Baseline
    from ..leaderboards.check import check

    if update and against.is_dir():
        raise ValueError(f"`--update` writes a CSV of records, `{against}` is the folder of a run")
    after = read_side(folder)
    if not after.records:
        raise ValueError(f"`{folder}` holds no finished work")
    before = Baseline({}) if update and not against.exists() else read_side(against)
    if not before.records and not update:
        raise ValueError(f"`{against}` holds no measured record: there is nothing to check against")
    return check(before, after, alpha=alpha, atol=atol, any_change=any_change), after


def _publish(found: Check, name: str, file: Path | None) -> None:
    from ..leaderboards.check_report import FORMATS as WRITERS
    from ..leaderboards.files import write_whole

    text = WRITERS[name](found)
    if file is None:
        click.echo(text)
    else:
        write_whole(file, f"{text}\n".encode())


def _update(after: Baseline, against: Path) -> None:
    from ..leaderboards.baseline import write_baseline

    write_baseline(after, against)
