"""Doing a run again from what its `run.json` says, and comparing every value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..leaderboards.csv_table import read_csv
from ..leaderboards.files import write_whole
from ..leaderboards.repetition import Repetition, Side, compare
from ..leaderboards.repetition_report import as_dict
from .engine import Options
from .evaluation import choose_device
from .provenance import Difference, differences
from .run import MANIFEST, Manifest, load_results, run
from .run_notes import faults_of
from .suite import Suite, checked_suite

REPORT = "repeat.json"
"""What a repetition says of itself, in its folder."""
_SCHEMA = 1
_TABLE = "leaderboard.csv"
_STRICT = ConfigDict(strict=True, frozen=True)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Anew:
    """What is not taken from `run.json`.

    Attributes:
        device: where to run; as the run did if left out.
        replace: texts in names of datasets, models, explainers and metrics, and what stands for them here.
        download: let datasets fetch what is not there yet.
        trust: let pickled weights files run their code.
    """

    device: str | None = None
    replace: Sequence[tuple[str, str]] = ()
    download: bool = False
    trust: bool = False


@dataclass(frozen=True, eq=False)
class Repeated:
    """A run, done again.

    Attributes:
        folder: where the repetition is.
        values: what became of every value.
        made_with: differences that can explain other values.
        new_faults: what went wrong in the repetition alone.
        gone_faults: what went wrong in the run alone.
    """

    folder: Path
    values: Repetition
    made_with: Sequence[Difference]
    new_faults: Sequence[str]
    gone_faults: Sequence[str]

    @property
    def content(self) -> dict[str, Any]:
        """All of it, as what JSON can say."""
        return {
            **as_dict(self.values),
            "made_with": [vars(one) for one in self.made_with],
            "new_faults": list(self.new_faults),
            "gone_faults": list(self.gone_faults),
        }


class _RunOptions(BaseModel):
    """The entry `options` of a `run.json`."""

    model_config = _STRICT

    dataset_options: dict[str, bool | int | float | str] = {}
    keep_attributions: bool = False
    batch_size: int | None = Field(default=None, ge=1)
    device: str = "auto"


class _Recorded(BaseModel):
    """What of a `run.json` a repetition needs beside its suites; all but `device` has appeared after the first one."""

    model_config = _STRICT

    device: str
    threads: int | None = Field(default=None, ge=1, le=4096)
    options: _RunOptions = _RunOptions()


@dataclass(frozen=True)
class _Asked:
    """One run into the folder, as it was asked for."""

    suite: Suite
    options: _RunOptions


def repeat(folder: Path, out: Path, *, anew: Anew = Anew(), tolerance: float = 0.0) -> Repeated:
    """Do a run again in another folder, and compare every value with the first one.

    A repetition that was interrupted goes on from where it was. `out` gets all that a run leaves, and `repeat.json`
    with the comparison. `folder` is only read.

    Args:
        folder: of the run.
        out: folder of the repetition; must not exist, be empty, or hold an interrupted repetition of the same run.
        anew: what is not taken from `run.json`.
        tolerance: absolute difference of two numbers that counts as none.

    Raises:
        ValueError, TypeError, LookupError, OSError: `folder` holds no finished run, something that it names is not
            here, or `out` is in use; nothing was written.
    """
    manifest = Manifest.read(folder)
    asked = _asked(manifest, anew.replace)
    before = _side(folder)
    recorded = _checked(manifest)
    device = _device(recorded, anew.device)
    fingerprint = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    with _begun(out, folder, fingerprint), _threads(recorded.threads):
        for one in asked:
            _run_again(one, out, device, anew)
    values = compare(before, _side(out), tolerance=tolerance)
    faults = [faults_of(load_results(side)) for side in (folder, out)]
    repeated = Repeated(
        out,
        values,
        differences(manifest.content, Manifest.read(out).content),
        [one for one in faults[1] if one not in faults[0]],
        [one for one in faults[0] if one not in faults[1]],
    )
    _write(out, {"of": fingerprint, "finished": True, **repeated.content})
    return repeated


def _asked(manifest: Manifest, replace: Sequence[tuple[str, str]]) -> list[_Asked]:
    """Return the runs into a folder, in their order."""
    path, content = manifest.folder / MANIFEST, manifest.content
    earlier = content.get("earlier", [])
    if content.get("finished") is None:
        raise ValueError(
            f"the run in `{manifest.folder}` is not finished: finish it first (`{content.get('command')}`)"
        )
    if not isinstance(earlier, list) or not all(isinstance(one, dict) for one in earlier):
        raise ValueError(f"`{path}` is damaged: `earlier` must be a list of runs")
    return [
        _Asked(checked_suite(_replaced(one.get("suite"), replace), path), _validated(_RunOptions, one, path, "options"))
        for one in (*earlier, content)
    ]


def _checked(manifest: Manifest) -> _Recorded:
    return _validated(_Recorded, {"whole": manifest.content}, manifest.folder / MANIFEST, "whole")


def _validated(kind: type[M], content: Mapping[str, Any], path: Path, entry: str) -> M:
    try:
        return kind.model_validate(content.get(entry, {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or entry
        raise ValueError(f"`{path}` is damaged: `{place}`: {first['msg']}, was {first['input']!r}") from error


def _replaced(thing: Any, replace: Sequence[tuple[str, str]]) -> Any:
    """Put texts in the places of others in every name of a suite."""
    if isinstance(thing, dict):
        return {key: value if key == "name" else _replaced(value, replace) for key, value in thing.items()}
    if isinstance(thing, list):
        return [_replaced(one, replace) for one in thing]
    if isinstance(thing, str):
        for old, new in replace:
            thing = thing.replace(old, new)
    return thing


def _side(folder: Path) -> Side:
    """Read what a run found."""
    return Side(load_results(folder).series, read_csv(folder / _TABLE))


def _device(recorded: _Recorded, wanted: str | None) -> torch.device:
    """Return where to run: the kind of device that the run was on, unless another one is asked for."""
    if wanted is not None:
        return choose_device(wanted)
    if recorded.device == "cpu":
        return torch.device("cpu")
    try:
        return choose_device(recorded.options.device if recorded.options.device.startswith("cuda") else "cuda")
    except ValueError as error:
        raise ValueError(f"the run was on `{recorded.device}`: {error}; --device names another one") from error


@contextmanager
def _threads(number: int | None) -> Generator[None]:
    """Compute on as many threads as the run did: sums are cut into as many parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _begun(out: Path, folder: Path, fingerprint: str) -> Generator[None]:
    """Claim the folder of a repetition; where nothing came of it, leave nothing behind."""
    if out.resolve() == folder.resolve():
        raise ValueError(f"`--out` must be another folder than that of the run, was `{out}`")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"`--out` must be a folder, `{out}` is a file")
    content = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    if content and not _interrupted(out, fingerprint):
        raise FileExistsError(
            f"`{out}` is in use, and not by an interrupted repetition of this run: give another --out"
        )
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    _write(out, {"of": fingerprint, "finished": False})
    try:
        yield
    finally:
        if not (out / MANIFEST).exists():
            with suppress(OSError):
                (out / REPORT).unlink()
                if fresh:
                    out.rmdir()


def _interrupted(out: Path, fingerprint: str) -> bool:
    try:
        content = json.loads((out / REPORT).read_bytes())
        return content["schema"] == _SCHEMA and content["of"] == fingerprint and not content["finished"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(out: Path, content: Mapping[str, Any]) -> None:
    payload = json.dumps({"schema": _SCHEMA, **content}, indent=1, allow_nan=False)
    write_whole(out / REPORT, payload.encode())


def _run_again(asked: _Asked, out: Path, device: torch.device, anew: Anew) -> None:
    recorded = asked.options
    further = {name: value for name, value in recorded.dataset_options.items() if name != "download"}
    options = Options(
        device=device,
        batch_size=recorded.batch_size,
        keep_attributions=recorded.keep_attributions,
    )
    try:
        run(
            asked.suite,
            out,
            options,
            command=f"interpeval repeat, suite {asked.suite.name}",
            dataset_options=further | ({"download": True} if anew.download else {}),
            trust=anew.trust,
        )
    except (LookupError, FileNotFoundError, NotADirectoryError, ImportError) as error:
        raise ValueError(
            f"{error} (names and files are those that {MANIFEST} states: `--replace OLD NEW` says what stands for a "
            "part of them here, and PYTHONPATH where modules are)"
        ) from error
