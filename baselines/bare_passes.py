"""Forward passes of a model without a gradient, in full or in half precision."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from .option_checks import check_word

Precision = Literal["full", "bfloat16", "float16"]
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@contextmanager
def without_gradients() -> Generator[None, None, None]:
    """Record no gradients inside, and make ordinary tensors even where the caller is under `torch.inference_mode`."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def in_precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Run the model's forward passes inside in this precision (`torch.autocast`); its weights stay as they are.

    Args:
        precision: `"full"`, the model's own; `"bfloat16"` or `"float16"`.
        device: where the model is.

    Raises:
        ValueError: `precision` is unknown.
    """
    check_word("precision", precision, ("full", *_TYPES))
    return nullcontext() if precision == "full" else torch.autocast(device.type, dtype=_TYPES[precision])
