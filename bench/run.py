"""Running a suite into a folder: everything is checked first, finished work is used again, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..leaderboards.files import sweep, write_whole
from ..leaderboards.names import printable
from .attempts import Attempts
from .cases import explain_cases
from .engine import Failure, Options, device_name, versions
from .local_workers import Crew, LocalWorkers
from .plan import Inapplicable, Plan, Row, names_of
from .provenance import libraries, machine
from .resolve_suite import make_plans
from .results import Results
from .stopping import Stop
from .store import Store, Unit
from .stored import check_manifest, read_object
from .suite import Suite
from .worker import Work, Worker, failures, works

if TYPE_CHECKING:
    from .ray_cluster import Cluster

SCHEMA = 1
MANIFEST = "run.json"


class ExistingError(RuntimeError):
    """The folder holds finished work of this run, and `--existing fail` was asked for."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a run.

    Attributes:
        results: everything the folder's leaderboard is made of.
        failures: shards that could not be scored.
        left_out: by dataset, how many images or annotations were left out, and why.
        damaged: damaged files of units, which were done again, and what was wrong with each.
        reused: samples × subjects that were taken from earlier work.
        seconds: wall time.
    """

    results: Results
    failures: Sequence[Failure]
    left_out: Mapping[str, Mapping[str, int]]
    damaged: Mapping[str, str]
    reused: int
    seconds: float

    @property
    def flawless(self) -> bool:
        """Whether every sample of every subject was scored without a fault."""
        return not self.failures and not self.results.faults


def run(
    suite: Suite,
    folder: Path,
    options: Options,
    *,
    command: str = "",
    dataset_options: Mapping[str, object] = {},
    trust: bool = False,
    crew: Crew | None = None,
    cluster: Cluster | None = None,
) -> Outcome:
    """Run a suite and leave its store, `run.json`, `leaderboard.csv` and pictures in `folder`.

    Every name is resolved before anything is trained or written. `dataset_options` are arguments for the datasets
    that take them; `trust` lets pickled weights files run their code (`interpeval.bench.weights.load`). A `crew` of
    processes or a Ray `cluster` (`interpeval.bench.ray_cluster.connected`) does the work, this process only watches;
    without them it does the work, and others may join (`interpeval worker`).

    Raises:
        ValueError, TypeError, LookupError, OSError: something is not what it must be; nothing was written.
        ExistingError: finished work is there and must not be.
        StoreError, WorkerError: the folder cannot be written, or the crew cannot go on; finished work is kept.
        KeyboardInterrupt: SIGINT or SIGTERM; what was in hand is finished, and kept.
    """
    start = time.perf_counter()
    if options.existing == "redo" and crew is not None:
        raise ValueError("`--existing redo` is done by one process: leave out --workers and --unit-timeout")
    if crew is not None and cluster is not None:
        raise ValueError("the units are done by local workers or by a Ray cluster, not both: leave one of them out")
    plans = make_plans(
        suite, options, dataset_options=dataset_options, trust=trust, check=lambda: _check_folder(folder)
    )
    store, units = Store(folder), works(plans)
    reused = _count_finished(units, store) if options.existing != "redo" else 0
    if reused and options.existing == "fail":
        raise ExistingError(
            f"`{folder}` holds finished work of this run; choose another --out, or --existing skip or redo"
        )
    manifest = Manifest.begin(
        folder, suite, plans, options, command, dataset_options=dataset_options, threads=crew and crew.threads
    )
    for place in (folder, store.folder):
        sweep(place, now=(folder / MANIFEST).stat().st_ctime)
    attempts = Attempts(store.listing)
    attempts.forget(unit.key for unit in units)
    damaged = store.discard_damaged()

    def drain(watched: Options, stop: Stop) -> Iterable[Work]:
        if crew is not None:
            return LocalWorkers(crew, folder, manifest.content, store, stop=stop).drain(units)
        if cluster is not None:
            return cluster.drain(suite, plans, store, watched, stop=stop, dataset_options=dataset_options)
        return Worker(units, store, watched, stop=stop).drain()

    results = _drained(units, drain, options, store, manifest)
    if store.damaged:  # while others were being written
        damaged |= store.discard_damaged()
        results = _drained(units, drain, options, store, manifest)
    failed = failures(units, store)
    attempts.forget(unit.key for unit in units if store.holds(unit.key, unit.row.metrics))
    results.pictures[:0] = explain_cases(plans, results, store, options)
    manifest.finish(failed, results)  # before the page is made, which says what went wrong
    results.publish(folder)
    return Outcome(results, failed, manifest.content["left_out"], damaged, reused, time.perf_counter() - start)


def load_results(folder: Path) -> Results:
    """Return the results that a run left in `folder`, finished or not.

    Raises:
        FileNotFoundError: no run was started there.
    """
    return Manifest.read(folder).results(Store(folder))


class Manifest:
    """`run.json`: the configuration and provenance of a folder, and which units its leaderboard is made of.

    A second run into the same folder adds its rows; a row that it plans again (same dataset, model and explainer)
    takes the place of the earlier one, unless samples and code are the same: then its metrics are added to it.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        """Store where it is and what stands in it."""
        self.folder = folder
        self.content = content

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"`{folder}` holds no run: there is no {MANIFEST} in it")
        try:
            content = read_object(path, schema=SCHEMA)
            check_manifest(content)
        except ValueError as error:
            raise ValueError(f"`{path}` cannot be read: {error}; move it away to start anew") from error
        return cls(folder, content)

    @classmethod
    def begin(
        cls,
        folder: Path,
        suite: Suite,
        plans: Sequence[Plan],
        options: Options,
        command: str,
        *,
        dataset_options: Mapping[str, object] = {},
        threads: int | None = None,
    ) -> Manifest:
        """Write down what a run is about to do."""
        folder.mkdir(parents=True, exist_ok=True)
        earlier = cls.read(folder).content if (folder / MANIFEST).exists() else {}
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "suite": suite.model_dump(),
            "options": {
                "dataset_options": dict(dataset_options),
                "keep_attributions": options.keep_attributions,
                "batch_size": options.batch_size,
                "device": str(options.device),
            },
            "earlier": _asked_earlier(earlier, suite),
            "command": command,
            "seed": suite.seed,
            "started": _utc(),
            "finished": None,
            "versions": versions(),
            "libraries": libraries(),
            "machine": machine(),
            "source": _source(),
            "device": device_name(options.device),
            "threads": threads or torch.get_num_threads(),
            "batch_size": options.batch_size or "auto",
            "rows": _merged(earlier.get("rows", []), [_row(row) for plan in plans for row in plan.rows]),
            "not_applicable": _merged_reasons(
                earlier.get("not_applicable", []), [_reason(item) for plan in plans for item in plan.inapplicable]
            ),
            "left_out": earlier.get("left_out", {}) | _left_out(plans),
            "faults": [],
            "failures": [],
        }
        manifest = cls(folder, content)
        manifest._write()
        return manifest

    def finish(self, failures: Iterable[Failure], results: Results) -> None:
        """Write down how it ended."""
        self.content["finished"] = _utc()
        self.content["faults"] = results.faults
        self.content["failures"] = [
            {**failure.about, "message": failure.message, "trace": failure.trace} for failure in failures
        ]
        self._write()

    def results(self, store: Store) -> Results:
        """Return what is finished of the planned rows."""
        units: list[Unit] = []
        metric_keys: set[str] = set()
        for row in self.content["rows"]:
            metric_keys |= row["metrics"].keys()
            for key in row["units"]:
                units += [unit for unit in store.find(key) if unit.metrics.keys() & row["metrics"].keys()]
        left_out = [
            Inapplicable(item["about"], item["metric"], item["version"], item["higher_is_better"], item["reason"])
            for item in self.content["not_applicable"]
        ]
        keys = [row["pictures"] for row in self.content["rows"] if "pictures" in row]
        pictures = [unit for key in keys for unit in store.find_pictures(key)]
        return Results(units, left_out, self.content["seed"], frozenset(metric_keys), self.content, pictures)

    def _write(self) -> None:
        payload = json.dumps(self.content, indent=1, sort_keys=True, default=str)
        write_whole(self.folder / MANIFEST, payload.encode())


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`--out` must be a folder, `{folder}` is a file")
    if (folder / MANIFEST).exists():
        Manifest.read(folder)


def _count_finished(units: Sequence[Work], store: Store) -> int:
    return sum(
        len(unit.shard)
        for unit in units
        if any(found.metrics.keys() & unit.row.metrics.keys() for found in store.find(unit.key))
    )


def _drained(
    units: Sequence[Work],
    drain: Callable[[Options, Stop], Iterable[Work]],
    options: Options,
    store: Store,
    manifest: Manifest,
) -> Results:
    """Have all units finished or failed for good, show how far that is, and return what was found."""
    total, stop = sum(len(unit.shard) for unit in units), Stop()
    with (
        tqdm(total=total, unit="img", desc="scoring", file=sys.stderr, dynamic_ncols=True, smoothing=0.1) as bar,
        stop.on_signals(),
    ):

        def name(row: Row) -> None:
            bar.set_postfix_str(printable(f"{row.about['model']} {row.about['explainer']}".strip()))

        for unit in drain(replace(options, on_start=name), stop):
            bar.update(len(unit.shard))
    if stop.requested:
        raise KeyboardInterrupt
    return manifest.results(store)


def _row(row: Row) -> dict[str, Any]:
    return {
        "about": row.about,
        "determined_by": row.determined_by,
        "units": [row.key(shard) for shard in row.shards],
        "pictures": row.key(()),
        "metrics": {key: {"name": metric.name, "configuration": repr(metric)} for key, metric in row.metrics.items()},
    }


def _asked_earlier(content: Mapping[str, Any], suite: Suite) -> list[dict[str, Any]]:
    """Return what earlier runs into the folder were asked for, so that `run.json` says where all its rows are from."""
    if not content:
        return []
    asked = [*content.get("earlier", []), {name: content[name] for name in ("suite", "options") if name in content}]
    return [one for one in asked if one["suite"] != suite.model_dump(mode="json")]


def _left_out(plans: Iterable[Plan]) -> dict[str, dict[str, int]]:
    datasets = {str(row.about["dataset"]): row.dataset for plan in plans for row in plan.rows}
    counts = {name: dict(getattr(dataset, "skipped", {})) for name, dataset in datasets.items()}
    return {name: found for name, found in counts.items() if found}


def _reason(item: Inapplicable) -> dict[str, Any]:
    return dict(vars(item))


def _merged(earlier: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = {names_of(row["about"]): row for row in earlier}
    for row in new:
        names = names_of(row["about"])
        before = rows.get(names)
        if before is not None and before["units"] == row["units"]:
            row = {**row, "metrics": {**before["metrics"], **row["metrics"]}}  # noqa: PLW2901
        rows[names] = row
    return list(rows.values())


def _merged_reasons(earlier: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    reasons = {(*names_of(item["about"]), item["metric"]): item for item in earlier}
    reasons |= {(*names_of(item["about"]), item["metric"]): item for item in new}
    return list(reasons.values())


def _source() -> dict[str, Any]:
    """Return the commit of the library and whether its files differ from it; nothing where it is not a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603  # fixed words
    return done.stdout.strip()


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
