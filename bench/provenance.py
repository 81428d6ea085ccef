"""What a run was made with, and which differences between two runs can explain other values."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

_LIBRARIES = ("numpy", "pillow", "scikit-learn", "scipy")
_LAST_BITS = "other kernels: last bits of any value, and more where a rank or a threshold hangs on them"
_OWN_CODE = "the library itself: any value; `CHANGELOG.md` lists changed numbers"
_EDITED = "its values"
_MEANING = {
    "seed": "every draw: values differ as far as their Monte Carlo errors",
    "device": _LAST_BITS,
    "threads": "sums cut into other parts: last bits of any value",
    "batch_size": "no value depends on it, but for last bits on some devices",
    "torch": _LAST_BITS,
    "torchvision": "its networks, and how images are resized",
    "captum": "the explainers that it computes",
    "python": "no value is known to depend on it",
    "numpy": "how datasets are made, and intervals",
    "pillow": "how image files are decoded and resized",
    "scikit-learn": "the handwritten digits, and classical models",
    "scipy": "some metrics, and intervals of few samples",
    "processor": _LAST_BITS,
    "vectors": "other vector instructions, hence other sums: last bits of any value",
    "interpeval": _OWN_CODE,
    "commit": _OWN_CODE,
    "uncommitted changes": _OWN_CODE,
    "source files": _OWN_CODE,
}


@dataclass(frozen=True)
class Difference:
    """A fact in which two runs differ.

    Attributes:
        fact: what it is, such as `torch` or `code of explainer Mine`.
        before: as it was in the first run.
        after: as it was in the second one.
        meaning: how it can change values.
    """

    fact: str
    before: str
    after: str
    meaning: str


def libraries() -> dict[str, str]:
    """Return versions that numbers hardly depend on, beside those of `interpeval.bench.engine.versions`."""
    return {name: version(name) for name in _LIBRARIES}


def machine() -> dict[str, str]:
    """Return the kind of processor, and which vector instructions PyTorch uses on it."""
    return {"processor": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Compare what the `run.json` of two runs say of how they were made.

    Args:
        before: the first one, perhaps of an earlier version, which said less.
        after: the second one.
    """
    one, two = dict(_facts(before)), dict(_facts(after))
    shared = [name for name in two if name in one and one[name] != two[name]]
    return [Difference(name, one[name], two[name], _MEANING.get(name, _EDITED)) for name in shared]


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("seed", "device", "threads", "batch_size"):
        if name in manifest:
            yield name, str(manifest[name])
    for group in ("versions", "libraries", "machine"):
        for name, value in manifest.get(group, {}).items():
            yield name, str(value)
    source = manifest.get("source") or {}
    if source:
        yield "commit", str(source["commit"])
        yield "uncommitted changes", "yes" if source["dirty"] else "no"
    for row in manifest.get("rows", []):
        yield from _code_of(row)


def _code_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    about, determined_by = row["about"], row.get("determined_by", {})
    if "interpeval" in determined_by:
        yield "source files", str(determined_by["interpeval"])
    for kind in ("model", "explainer"):
        if code := determined_by.get(f"{kind}_code"):
            yield f"code of {kind} {about[kind]}", code if isinstance(code, str) else " ".join(map(str, code))
    for key, metric in row["metrics"].items():
        yield f"code of metric {metric['configuration']}", key
