"""Where a training stands after an epoch, in a file that another process can go on from, to the last bit."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..leaderboards.files import write_whole

_FORMAT = 1
NOT_A_PICKLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError,
    OverflowError, MemoryError, struct.error,
)  # fmt: skip
"""What `torch.load` raises for files that hold something else than it expects."""


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training, and what the training is.

    It is read by `torch.load(weights_only=True)`, which makes tensors, numbers, text and lists of them, and runs no
    code from the file.

    Attributes:
        path: the file; its folder must exist when it is written.
        facts: what decides how the training goes on (model, recipe, seed, …), as JSON can say it. A file with other
            facts is refused.
    """

    path: Path
    facts: Mapping[str, Any]

    def read(self) -> Mapping[str, Any] | None:
        """Return the state, `None` where there is no file.

        Raises:
            ValueError: the file cannot be read, or belongs to another training; the differences are named.
        """
        if not self.path.exists():
            return None
        content = self._content()
        found = differences(content["facts"], self.facts)
        if found:
            raise ValueError(
                f"checkpoint `{self.path}` belongs to another training: {'; '.join(found)}; give the same arguments, "
                "or remove it to start anew"
            )
        return content["state"]

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a state, whole or not at all; the earlier one is replaced.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "facts": json.loads(json.dumps(self.facts)), "state": dict(state)}, buffer)
        write_whole(self.path, buffer.getvalue())

    def _content(self) -> Mapping[str, Any]:
        try:
            content: Any = torch.load(self.path, map_location="cpu", weights_only=True)
        except NOT_A_PICKLE as error:
            raise ValueError(f"checkpoint `{self.path}` is damaged, remove it to start anew: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"`{self.path}` is no checkpoint of this version, remove it to start anew")
        return content


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words which facts differ, those of mappings one by one.

    Example:
        >>> differences({"seed": 0, "recipe": {"epochs": 3}}, {"seed": 1, "recipe": {"epochs": 3}})
        ['`seed` was 0, is 1 now']
    """
    earlier, later = _flat(before), _flat(now)
    return [
        f"`{key}` was {_shown(earlier, key)}, is {_shown(later, key)} now"
        for key in [*earlier, *(key for key in later if key not in earlier)]
        if key not in earlier or key not in later or earlier[key] != later[key]
    ]


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(facts)).items():
        flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not set"
