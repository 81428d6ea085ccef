"""The commands `worker` and `status`: taking part in a run, and looking how far it has come."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exits import FAULTY, INTERRUPTED, guarded, shown

if TYPE_CHECKING:
    from .progress import Progress


@click.command("worker")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--device", help="`auto`, `cpu`, `cuda`. [default: as the run was begun; LOCAL_RANK picks the GPU]")
@click.option("--trust", is_flag=True, help="Unpickle weights files whole, which runs whatever code they hold.")
@click.option(
    "--patience", type=click.FloatRange(min=1), default=60, show_default=True,
    help="Seconds without a sign of life after which another worker counts as gone.",
)  # fmt: skip
def worker_command(folder: Path, *, device: str | None, trust: bool, patience: float) -> None:
    """Take part in the run in DIR, from anywhere that sees this folder, until nothing is left to do.

    The run must have been begun (`interpeval run … --out DIR`), and code, versions, data and weights must be the same
    here; relative paths are those of the current folder. RANK or SLURM_ARRAY_TASK_ID say where to begin, LOCAL_RANK
    which GPU to take. The table is written by `interpeval run`, which waits for all workers or is run again.
    Exit codes: 0 nothing is left to do, 2 unusable input or the folder cannot be written, 3 some units failed three
    times, 130 interrupted after the unit in hand.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    try:
        failed = guarded(lambda: _work(folder, device, trust=trust, patience=patience))
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Finished work is kept: `interpeval worker {folder}` goes on.", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"nothing is left to do in {folder}" + (f", {failed} units failed three times" if failed else ""))
    sys.exit(FAULTY if failed else 0)


def _work(folder: Path, device: str | None, *, trust: bool, patience: float) -> int:
    from .rebuild import drain_here
    from .run import Manifest
    from .stopping import Stop
    from .torch_check import check_torchvision

    check_torchvision()
    content, stop = Manifest.read(folder).content, Stop()
    failed = drain_here(folder, content, stop, device=device, trust=trust, patience=patience)
    if stop.requested:
        raise KeyboardInterrupt
    return failed


@click.command("status")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_command(folder: Path, *, as_json: bool) -> None:
    """Say how much of a run is finished, what is running, what failed, and how long the rest may take."""
    found, content = guarded(lambda: _progress(folder))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    _print_progress(found, content)


def _progress(folder: Path) -> tuple[Progress, dict[str, Any]]:
    from .progress import progress
    from .run import Manifest

    content = Manifest.read(folder).content
    return progress(folder, content), content


def _print_progress(found: Progress, content: dict[str, Any]) -> None:
    from tabulate import tabulate

    rows = [{name: shown(str(value)) for name, value in asdict(row).items()} for row in found.rows]
    click.echo(tabulate(rows, headers="keys", tablefmt="simple"))
    finished = sum(row.finished for row in found.rows)
    left = sum(row.left + row.running for row in found.rows)
    total = finished + left + sum(row.failed for row in found.rows)
    ended = content["finished"] or "not yet"
    click.echo("\n" + shown(f"{finished} of {total} units finished; started {content['started']}, ended {ended}"))
    for unit in found.running:
        click.echo(f"running: {shown(unit.subject)}, {shown(unit.worker)}, sign of life {unit.heartbeat:.0f} s ago")
    for subject, message in found.failed:
        click.echo(f"failed: {shown(subject)}: {shown(message)}")
    if found.seconds_left is not None:
        click.echo(f"left: {left} units, about {timedelta(seconds=round(found.seconds_left))} at this pace")
