"""Rebuilding the plan of a run elsewhere, from what its `run.json` says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .engine import Options
from .lease import PATIENCE
from .plan import Plan, Row, names_of
from .resolve_suite import make_plans
from .stopping import Stop
from .store import Store
from .suite import Suite
from .worker import Worker, failures, starting_at, works


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """The plan of a run, as this process has it.

    Attributes:
        plans: the rows.
        options: how they are done.
    """

    plans: Sequence[Plan]
    options: Options


def rebuild(content: Mapping[str, Any], *, device: str | None = None, trust: bool = False) -> Rebuilt:
    """Plan the run that a `run.json` tells of, on `device` or the kind of device it was begun on.

    Relative paths in it are those of the current folder. Whether the plan is the same, `differences` says.

    Raises:
        ValueError, TypeError, LookupError, OSError: something that the run is made of is not here.
    """
    stated = content.get("options")
    if not isinstance(stated, dict):
        raise ValueError("`run.json` was written by an earlier version, which did not state `options`: run it again")
    options = Options(
        device=_place(device or stated["device"]),
        batch_size=stated["batch_size"],
        keep_attributions=stated["keep_attributions"],
    )
    suite = Suite.model_validate(content["suite"])
    plans = make_plans(suite, options, dataset_options=stated["dataset_options"], trust=trust)
    return Rebuilt(plans, options)


def differences(plans: Iterable[Plan], content: Mapping[str, Any]) -> list[str]:
    """Return in what a plan differs from that of a `run.json`, each thing once; empty if all keys are the same."""
    planned = {names_of(entry["about"]): entry for entry in content["rows"]}
    found: dict[str, None] = {}
    for row in (row for plan in plans for row in plan.rows):
        entry = planned.get(names_of(row.about))
        lines = [f"{_name(row)}: it is not in run.json"] if entry is None else _row_differences(row, entry)
        found |= dict.fromkeys(lines)
    return list(found)


def drain_here(
    folder: Path,
    content: Mapping[str, Any],
    stop: Stop,
    *,
    device: str | None = None,
    trust: bool = False,
    patience: float = PATIENCE,
) -> int:
    """Take part in a run: drain what is left, beginning where RANK says; return how many units have failed for good.

    Raises:
        ValueError, TypeError, LookupError, OSError: the run cannot be worked on from here.
        StoreError: the store cannot be written.
    """
    with stop.on_signals():
        rebuilt = rebuild(content, device=device, trust=trust)
        if found := differences(rebuilt.plans, content):
            raise ValueError(f"`{folder}` cannot be worked on from here:\n  " + "\n  ".join(found))
        units, store = works(rebuilt.plans), Store(folder)
        for _ in Worker(starting_at(units, _rank()), store, rebuilt.options, stop=stop, patience=patience).drain():
            pass
    return len(failures(units, store))


def _rank() -> int:
    text = os.environ.get("RANK") or os.environ.get("SLURM_ARRAY_TASK_ID") or "0"
    if not text.isdigit():
        raise ValueError(f"RANK or SLURM_ARRAY_TASK_ID must be a whole number, was `{text}`")
    return int(text)


def _row_differences(row: Row, entry: Mapping[str, Any]) -> list[str]:
    stated = entry.get("determined_by", entry["about"])
    lines = [
        f"{name} is `{value}` here, `{stated[name]}` in run.json"
        for name, value in row.determined_by.items()
        if name in stated and stated[name] != value
    ]
    if not lines and [row.key(shard) for shard in row.shards] != entry["units"]:
        lines = [f"{row.about['dataset']}: it has other samples"]
    metrics = [metric.name for key, metric in row.metrics.items() if key not in entry["metrics"]]
    return lines + [f"metric {name}: it has other options or code" for name in metrics]


def _name(row: Row) -> str:
    return " ".join(filter(None, (row.about["dataset"], row.about["model"], row.about["explainer"])))


def _place(device: str) -> torch.device:
    """Return the device of this process: of several GPUs, the one that `LOCAL_RANK` says."""
    from .evaluation import choose_device

    chosen = choose_device(device.partition(":")[0])
    if chosen.type != "cuda":
        return chosen
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank % torch.cuda.device_count())
