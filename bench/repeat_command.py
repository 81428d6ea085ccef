"""The command `repeat`: a run, done again, and every value compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exits import INTERRUPTED, WORSE, guarded, shown

if TYPE_CHECKING:
    from .repeat import Repeated


@click.command("repeat")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the repetition. [default: DIR-repeat]")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=0.0, show_default=True,
    help="Absolute difference of two numbers that counts as none.",
)  # fmt: skip
@click.option("--device", help="Where to run. [default: the kind of device that the run was on]")
@click.option(
    "--replace", nargs=2, multiple=True, metavar="OLD NEW",
    help="Put NEW for OLD in the names of run.json, such as folders that are elsewhere here; repeat for several.",
)  # fmt: skip
@click.option("--download", is_flag=True, help="Let datasets fetch what is not there yet.")
@click.option("--trust", is_flag=True, help="Unpickle weights files whole, which runs whatever code they hold.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def repeat_command(folder: Path, *, out: Path | None, tolerance: float, as_json: bool, **anew: Any) -> None:
    """Do a run again from its run.json, compare every value, and say in which versions the two differ.

    Suite, seed, options and number of threads are those of the run in DIR, which is left as it is. An interrupted
    repetition goes on when the same command is given again. What lets code run or fetches data has to be given anew:
    --trust and --download.
    Exit codes: 0 equal to the bit (or within --tolerance), 1 something differs, 2 unusable input.
    """
    place = out or folder.resolve().with_name(f"{folder.resolve().name}-repeat")
    try:
        found = guarded(lambda: _repeat(folder, place, tolerance, anew))
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Finished work is kept: give the same command again to go on.", err=True)
        sys.exit(INTERRUPTED)
    click.echo(json.dumps(found.content, indent=2, allow_nan=False) if as_json else _text(found))
    sys.exit(0 if found.values.equal else WORSE)


def _repeat(folder: Path, out: Path, tolerance: float, anew: dict[str, Any]) -> Repeated:
    from .repeat import Anew, repeat
    from .torch_check import check_torchvision

    check_torchvision()
    return repeat(folder, out, anew=Anew(**anew), tolerance=tolerance)


def _text(found: Repeated) -> str:
    from tabulate import tabulate

    from ..leaderboards.repetition_report import as_text

    parts = [as_text(found.values)]
    if found.made_with:
        rows = [[shown(text) for text in (one.fact, one.before, one.after, one.meaning)] for one in found.made_with]
        headers = ("made with other", "then", "now", "what can change")
        parts.append(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    elif not found.values.equal:
        parts.append("Versions, source files, device and threads are the same in both.")
    parts += [f"went wrong this time: {shown(fault)}" for fault in found.new_faults]
    parts += [f"does not go wrong any more: {shown(fault)}" for fault in found.gone_faults]
    return "\n\n".join([*parts, f"The repetition is in {found.folder}."])
