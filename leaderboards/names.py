"""How explainers and variants are named, ordered and chosen wherever numbers are shown."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable

from .record import Record
from .series import Identity

CONTROLS = ("random", "uniform", "center", "edges", "truth")
"""Explainers that measure floor and ceiling of a metric instead of competing, in the order they are shown."""
OF_THE_MACHINE = frozenset({"seconds"})
"""Variants that say more about the machine than about the explainer."""


def labels(rows: Iterable[Identity | Record]) -> dict[tuple[str, str], str]:
    """Name every (explainer, explainer_params) of some rows for people, real explainers first, then the controls.

    The parameters are spelled out only where an explainer appears with several.
    """
    params: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        params[row.explainer].add(row.explainer_params)
    ordered = sorted(params, key=lambda name: (CONTROLS.index(name) + 1 if name in CONTROLS else 0, name))
    return {
        (name, text): printable(name if len(params[name]) == 1 else f"{name}?{_arguments(text)}")
        for name in ordered
        for text in sorted(params[name])
    }


def primary_variants(names: Iterable[str]) -> list[str]:
    """Leave out variants that are named after another one of the same configuration.

    `unmasked` is measured against `masked`, `delta_lor` against `lor`, and everything against the nameless variant.
    Configurations of a metric (`tolerance=1`, `tolerance=1/class_mean`) are kept apart.

    Example:
        >>> primary_variants(["lor_area", "delta_lor_area", "accuracy_area", "accuracy_area/class_mean"])
        ['accuracy_area', 'lor_area']
        >>> primary_variants(["", "class_mean", "tolerance=1", "tolerance=1/class_mean"])
        ['', 'tolerance=1']
    """
    split = {name: _configuration(name) for name in names}
    chosen = (
        name
        for name, (configuration, word) in split.items()
        if not any(
            same == configuration and other != word and (word.startswith(other) or word.endswith(other))
            for same, other in split.values()
        )
    )
    return sorted(chosen, key=by_numbers)


def by_numbers(name: str) -> tuple[list[str | float], str]:
    """Return a key that sorts variants by the numbers in them.

    Example:
        >>> sorted(["eps=16", "eps=2", "eps=1e-05", "eps=2.0"], key=by_numbers)
        ['eps=1e-05', 'eps=2', 'eps=2.0', 'eps=16']
    """
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)", name)  # texts and numbers take turns
    return [float(part) if place % 2 else part for place, part in enumerate(parts)], name


def printable(text: str) -> str:
    r"""Escape what does not print: control characters could hide or forge parts of what is shown.

    Example:
        >>> printable("a\x1b[2J")
        'a\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _arguments(params: str) -> str:
    """Canonical JSON text as it is written behind a name: `layer=conv1&n_steps=20`."""
    try:
        return "&".join(f"{name}={value}" for name, value in json.loads(params).items())
    except (ValueError, AttributeError):
        return params


def _configuration(variant: str) -> tuple[str, str]:
    """Split `tolerance=1/class_mean` into how the metric was configured and which of its numbers it is."""
    parts = variant.split("/")
    return "/".join(part for part in parts if "=" in part), "/".join(part for part in parts if "=" not in part)
