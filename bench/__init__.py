"""The engine: what to run, running it, keeping the results, and the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# MKL's matrix products round a row differently by its place in the batch (for instance with 25 inputs), unless they
# are asked for the same code path everywhere. It is read once, at the first product, hence here. See Intel's
# "Conditional Numerical Reproducibility".
os.environ.setdefault("MKL_CBWR", "AUTO")

if TYPE_CHECKING:
    from .evaluation import evaluate
    from .results import Results

__all__ = ["Results", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command line answers `--help` without importing torch."""
    if name == "evaluate":
        from .evaluation import evaluate

        return evaluate
    if name == "Results":
        from .results import Results

        return Results
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
