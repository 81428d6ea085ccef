"""Shared set-up of the test suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

import interpeval.bench  # noqa: F401  # asks MKL for repeatable products, which it hears before the first one only

sys.path.insert(0, str(Path(__file__).parent))  # for `from reference.<metric> import …`

# Small tensors gain nothing from threads, and threads of several processes on one machine get in each other's way.
torch.set_num_threads(1)

DATA_VARIABLE = "INTERPEVAL_TEST_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and trained networks; tests that want it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, default))
    if not (folder / "load.py").exists():
        pytest.skip(f"real data not found: set {DATA_VARIABLE} to its folder")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """No test depends on which ran before it."""
    torch.manual_seed(0)
