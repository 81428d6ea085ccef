"""Series and records to build leaderboards from in tests."""

from typing import Any

import numpy as np

from interpeval.leaderboards.record import Record
from interpeval.leaderboards.series import NotApplicable, Series

ABOUT: dict[str, Any] = {
    "dataset": "digits",
    "dataset_revision": "5a",
    "model": "lenet",
    "model_digest": "7c",
    "explainer": "gradient",
    "explainer_params": "{}",
    "metric": "pointing_game",
    "metric_version": 1,
    "variant": "",
    "higher_is_better": True,
    "chance": None,
    "seed": 0,
    "seconds": 1.5,
    "passes": 12.0,
    "interpeval": "0.1.0",
    "torch": "2.9.0",
    "captum": "0.9.0",
    "device": "cpu",
}


def series(values: Any, **changes: Any) -> Series:
    """A series of these values, all of them valid and of class 0, with some fields changed."""
    values = np.asarray(values, dtype=np.float64)
    size = len(values)
    parts: dict[str, Any] = {
        "ids": tuple(f"sample/{i}" for i in range(size)),
        "values": values,
        "status": np.zeros(size, np.uint8),
        "variance": None,
        "classes": np.zeros(size, np.int64),
    }
    return Series(**{**ABOUT, **parts, **changes})


def not_applicable(reason: str, **changes: Any) -> NotApplicable:
    """A metric that does not apply."""
    return NotApplicable(**{**ABOUT, "reason": reason, **changes})


def record(value: float | None = None, **changes: Any) -> Record:
    """A measured record, with some fields changed."""
    counts = {"n": 100, "n_invalid": 0, "n_degenerate": 0, "n_no_truth": 0, "kind": "measured"}
    return Record(**{**ABOUT, **counts, "value": value, **changes})
