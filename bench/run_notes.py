"""What a page says of runs: their metrics, how they were made, what was left out and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..leaderboards.page_notes import MetricNote
from .catalog import entries

if TYPE_CHECKING:
    from .results import Results

_IN_ROWS = frozenset({"interpeval", "torch", "captum"})  # versions that every row states


def metric_notes(names: Iterable[str]) -> dict[str, MetricNote]:
    """Return what the catalog says of metrics, those that are in it."""
    known = entries("metrics")
    return {
        name: MetricNote(
            known[name].summary.replace("`", ""),
            _open_ends(known[name].facts.get("range", (None, None))),
            known[name].facts.get("reference", ""),
        )
        for name in set(names) & known.keys()
    }


def run_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what `run.json` says of how a run was made; not when, so that the same store gives the same page."""
    facts: list[tuple[str, str]] = []
    source = manifest.get("source", {})
    if source:
        facts.append(("commit", source["commit"] + (" with changes" if source["dirty"] else "")))
    for name, title in (("threads", "threads"), ("batch_size", "batch size")):
        if name in manifest:
            facts.append((title, str(manifest[name])))
    versions: Mapping[str, Any] = manifest.get("versions", {})
    facts += [(name, str(version)) for name, version in sorted(versions.items()) if name not in _IN_ROWS]
    return facts


def left_out_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return how many samples were left out of each dataset, and why."""
    counts: Mapping[str, Mapping[str, int]] = manifest.get("left_out", {})
    return [f"{name}: {count} × {reason}" for name, found in counts.items() for reason, count in sorted(found.items())]


def faults_of(results: Results) -> list[str]:
    """Return what explainers did wrong, and units that failed."""
    faults = [
        f"{fault['dataset']} · {fault['explainer'] or fault['model']}: {fault['kind']}"
        + (f" on {len(fault['ids'])} samples" if fault["ids"] else "")
        + f": {fault['message']}"
        for fault in results.faults
    ]
    return faults + [
        f"{failure['dataset']} · {failure['explainer'] or failure['model']}: a unit failed: {failure['message']}"
        for failure in results.manifest.get("failures", ())
    ]


def suite_toml(suite: Mapping[str, Any]) -> str:
    """Return a suite as the TOML file that `interpeval run` reads.

    Example:
        >>> print(suite_toml({"name": "mine", "seed": 0, "experiments": [{"dataset": "digits", "limit": None}]}))
        name = "mine"
        seed = 0
        <BLANKLINE>
        [[experiments]]
        dataset = "digits"
    """
    lines = [f"{name} = {_toml(value)}" for name, value in suite.items() if name != "experiments"]
    for experiment in suite.get("experiments", ()):
        lines += ["", "[[experiments]]"]
        lines += [f"{name} = {_toml(value)}" for name, value in experiment.items() if value is not None]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Strings, whole numbers and lists of them are the same in JSON, but for one control character."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _open_ends(ends: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = (None if end is None or abs(end) == float("inf") else end for end in ends)
    return low, high
