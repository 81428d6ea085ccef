"""The store: one folder of finished units, each written whole under a name made of what determines its numbers."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..datasets.limited_reading import MEBIBYTE, read_bytes
from ..leaderboards.files import write_whole
from ..leaderboards.names import printable
from ..metrics.base import Facts, Scores
from .listing import Listing
from .stored import check_description, check_unit, read_object

SCHEMA = 1
_MOST = 16384 * MEBIBYTE  # what kept attributions of a shard of large images may have
_SCORE_ARRAYS = ("values", "status", "variance")


@dataclass(frozen=True, eq=False)
class MetricResult:
    """What one metric found on the samples of a unit.

    Attributes:
        name: the metric.
        version: its version.
        configuration: its fields that differ from their defaults, as text in names of variants; empty by default.
        aggregations: how samples are averaged.
        facts: direction, range and chance level of every variant.
        scores: per-sample scores of every variant.
        seconds: time this metric took, the explanations that all metrics share included if it reads them.
        passes: forward and backward passes it took, likewise.
        target: which class it explains, as a `TargetRule`; empty if it has no such field.
    """

    name: str
    version: int
    configuration: str
    aggregations: tuple[str, ...]
    facts: Mapping[str, Facts]
    scores: Mapping[str, Scores]
    seconds: float
    passes: int
    target: str = ""


@dataclass(frozen=True, eq=False)
class Unit:
    """One finished unit of work: a subject scored on some samples.

    Attributes:
        key: identifies subject, samples and seed; together with the metrics' keys, everything that determines
            the numbers.
        about: dataset, dataset_revision, model, model_digest, explainer, explainer_params, seed, and the versions
            and the device it was computed with.
        ids: the samples.
        classes: `(n,)` int64, their labels.
        metrics: results by metric key.
        faults: what the explainer did wrong, as `{"kind", "message", "ids"}`.
        previews: images and heatmaps of some samples, for the gallery.
        attributions: kept attributions by target rule, if asked for.
    """

    key: str
    about: Mapping[str, Any]
    ids: tuple[str, ...]
    classes: Tensor
    metrics: Mapping[str, MetricResult]
    faults: tuple[Mapping[str, Any], ...] = ()
    previews: Mapping[str, Tensor] = field(default_factory=dict)
    attributions: Mapping[str, Tensor] = field(default_factory=dict)


class Store:
    """Finished units in `folder/units`.

    A unit is two files with one stem: the arrays (`.safetensors`), and a description (`.json`) that is written
    last and holds the digests of the arrays and of itself. A unit exists when its description does, and is whole
    when both digests agree; what is torn or damaged counts as missing and is computed again.

    Attributes:
        folder: where the files are.
        listing: what is in the folder.
        damaged: what `find` has come upon: names of descriptions, and what is wrong with each.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when something is written."""
        self.folder = folder / "units"
        self.damaged: dict[str, str] = {}
        self.listing = Listing(self.folder)

    def write(self, unit: Unit) -> None:
        """Write a unit, all or nothing."""
        self._write(unit, _stem(unit.key, unit.metrics))

    def _write(self, unit: Unit, name: str) -> None:
        arrays, description = _to_parts(unit)
        payload = save_tensors(arrays)
        description |= {"written": time.time_ns(), "arrays_sha256": hashlib.sha256(payload).hexdigest()}
        description["sha256"] = _digest(description)
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / name
        write_whole(stem.with_suffix(".safetensors"), payload)
        write_whole(stem.with_suffix(".json"), json.dumps(description, indent=1, sort_keys=True).encode())
        self.listing.add(f"{stem.name}.json")
        self.damaged.pop(f"{stem.name}.json", None)

    def write_pictures(self, unit: Unit) -> None:
        """Write a unit without metrics, which holds the heatmaps of some samples in its previews."""
        self._write(unit, f"{unit.key}-{digest_of({'ids': unit.ids, 'target': unit.about['target']})[:12]}")

    def find_pictures(self, key: str) -> list[Unit]:
        """Return the whole units without metrics under this key, the latest first."""
        whole = sorted(self._whole(key), key=lambda read: -read[0])
        return [unit for _, unit in whole if not unit.metrics]

    def find(self, key: str) -> list[Unit]:
        """Return the whole units under this key, the latest first.

        There are several when metrics were added later. A metric that two of them hold, as after
        `--existing redo`, is that of the later one.
        """
        found: list[Unit] = []
        held: set[str] = set()
        for _, unit in sorted(self._whole(key), key=lambda read: -read[0]):
            fresh = {name: result for name, result in unit.metrics.items() if name not in held}
            held |= fresh.keys()
            if fresh:
                found.append(replace(unit, metrics=fresh))
        return found

    def _whole(self, key: str) -> list[tuple[int, Unit]]:
        """The units under a key that are whole, with the times they were written."""
        return [read for name in self._names(key) if (read := self._read(name)) is not None]

    def holds(self, key: str, metrics: Collection[str], *, look: bool = False) -> bool:
        """Return whether all these metrics of a unit are finished, by the names of the files as far as that will do.

        `look` asks the file system for what the last listing of the folder may not have seen yet. Whether the
        files are whole is what `find` says.
        """
        if look and (self.folder / (name := f"{_stem(key, metrics)}.json")).exists():
            self.listing.add(name)
        names = self._names(key)
        if not names or f"{_stem(key, metrics)}.json" in names:
            return bool(names)
        held = {metric for unit in self.find(key) for metric in unit.metrics}  # some of them were added later
        return held >= set(metrics)

    def discard_damaged(self) -> dict[str, str]:
        """Remove the damaged units that `find` has come upon; return their names and what was wrong."""
        found, self.damaged = self.damaged, {}
        for name in found:
            path = self.folder / name
            path.unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)
            self.listing.discard(name)
        return found

    def _names(self, key: str) -> list[str]:
        return sorted(name for name in self.listing.of(key) if name.endswith(".json"))

    def _read(self, name: str) -> tuple[int, Unit] | None:
        """Read a unit, with the time it was written; `None` if it is not whole."""
        try:
            return _read(self.folder / name)
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            warnings.warn(printable(f"unit `{name}` is damaged and counts as missing: {error}"), stacklevel=5)
            self.damaged[name] = str(error)
            return None


class PackedUnit(NamedTuple):
    """A unit as bytes, to be sent to another process.

    Attributes:
        arrays: as safetensors.
        description: as JSON.
    """

    arrays: bytes
    description: bytes


def packed(unit: Unit) -> PackedUnit:
    """Return a unit as bytes."""
    arrays, description = _to_parts(unit)
    return PackedUnit(save_tensors(arrays), json.dumps(description).encode())


def unpacked(content: PackedUnit) -> Unit:
    """Return the unit that was packed."""
    return _from_parts(load_tensors(content.arrays), json.loads(content.description))


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return 20 hexadecimal digits that stand for these JSON-able facts."""
    return hashlib.sha256(_canonical(facts)).hexdigest()[:20]


def _read(path: Path) -> tuple[int, Unit]:
    """Read a unit, with the time it was written; raises what damaged files may lead to."""
    description = read_object(path, schema=SCHEMA)
    if description["sha256"] != _digest(description):
        raise ValueError("the description does not match its digest")
    check_description(description)
    payload = read_bytes(path.with_suffix(".safetensors"), most=_MOST)
    if description["arrays_sha256"] != hashlib.sha256(payload).hexdigest():
        raise ValueError("the arrays do not match their digest")
    unit = _from_parts(load_tensors(payload), description)
    check_unit(unit)
    return description["written"], unit


def _digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a description says, but for this digest itself."""
    content = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def _stem(key: str, metrics: Iterable[str]) -> str:
    return f"{key}-{digest_of({'metrics': sorted(metrics)})[:12]}"


def _to_parts(unit: Unit) -> tuple[dict[str, Tensor], dict[str, Any]]:
    arrays: dict[str, Tensor] = {"classes": unit.classes}
    metrics: dict[str, Any] = {}
    for key, result in unit.metrics.items():
        entry = {name: value for name, value in vars(result).items() if name not in {"scores", "facts"}}
        entry["variants"] = {}
        for variant, scores in result.scores.items():
            facts = result.facts[variant]
            entry["variants"][variant] = {
                "facts": (facts.higher_is_better, facts.chance),
                "range": [end if math.isfinite(end) else None for end in facts.range],  # JSON has no infinity
                "steps": scores.steps,
            }
            for part in _SCORE_ARRAYS:
                tensor = getattr(scores, part)
                if tensor is not None:
                    arrays[f"{key}/{variant}/{part}"] = tensor
        metrics[key] = entry
    arrays |= {f"preview/{name}": tensor for name, tensor in unit.previews.items()}
    arrays |= {f"attributions/{rule}": tensor for rule, tensor in unit.attributions.items()}
    description = {
        "schema": SCHEMA,
        "key": unit.key,
        "about": dict(unit.about),
        "ids": unit.ids,
        "metrics": metrics,
        "faults": [dict(fault) for fault in unit.faults],
    }
    # Copies: variants may share one tensor of statuses, which the format does not allow.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in arrays.items()}, description


def _scores(arrays: Mapping[str, Tensor], prefix: str, *, steps: tuple[float, ...]) -> Scores:
    values, status = arrays[f"{prefix}/values"], arrays[f"{prefix}/status"]
    return Scores(values, status, arrays.get(f"{prefix}/variance"), steps)


def _facts(variant: Mapping[str, Any]) -> Facts:
    higher_is_better, chance = variant["facts"]
    low, high = variant.get("range", (None, None))  # earlier units do not state it
    return Facts(higher_is_better, (-math.inf if low is None else low, math.inf if high is None else high), chance)


def _from_parts(arrays: Mapping[str, Tensor], description: Mapping[str, Any]) -> Unit:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if name.startswith(prefix)}

    metrics: dict[str, MetricResult] = {}
    for key, entry in description["metrics"].items():
        variants = entry["variants"]
        metrics[key] = MetricResult(
            name=entry["name"],
            version=entry["version"],
            configuration=entry["configuration"],
            aggregations=tuple(entry["aggregations"]),
            facts={variant: _facts(facts) for variant, facts in variants.items()},
            scores={
                variant: _scores(arrays, f"{key}/{variant}", steps=tuple(facts["steps"]))
                for variant, facts in variants.items()
            },
            seconds=entry["seconds"],
            passes=entry["passes"],
            target=entry.get("target", ""),  # earlier units do not state it
        )
    return Unit(
        key=description["key"],
        about=description["about"],
        ids=tuple(map(sys.intern, description["ids"])),  # other subjects have the same ones
        classes=arrays["classes"],
        metrics=metrics,
        faults=tuple(description["faults"]),
        previews=under("preview/"),
        attributions=under("attributions/"),
    )
