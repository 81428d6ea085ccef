"""The global random generators: seen through, seeded for a moment, and always put back."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class GeneratorState:
    """Where the global generators of Python, NumPy and torch stand."""

    def __init__(self, device: torch.device) -> None:
        """Look at them now; on a GPU, at that device's generator too."""
        self._device = device if device.type == "cuda" else None
        self._python = random.getstate()
        self._numpy: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]  # noqa: NPY002
        self._torch = torch.get_rng_state()
        self._cuda = None if self._device is None else torch.cuda.get_rng_state(self._device)

    def restore(self) -> bool:
        """Put them back there, and return whether any had moved."""
        now = GeneratorState(self._device or torch.device("cpu"))
        moved = not self._same(now)
        if moved:
            random.setstate(self._python)
            np.random.set_state(self._numpy)  # noqa: NPY002
            torch.set_rng_state(self._torch)
            if self._cuda is not None and self._device is not None:
                torch.cuda.set_rng_state(self._cuda, self._device)
        return moved

    def _same(self, other: GeneratorState) -> bool:
        cuda = self._cuda is None or other._cuda is None or torch.equal(self._cuda, other._cuda)
        numpy = all(np.array_equal(one, two) for one, two in zip(self._numpy, other._numpy, strict=True))
        return cuda and numpy and self._python == other._python and torch.equal(self._torch, other._torch)


def read_generators(device: torch.device) -> dict[str, Any]:
    """Return where the global generators stand, and on a GPU that device's, in what `torch.save` can keep without code.

    Example:
        >>> cpu = torch.device("cpu")
        >>> state = read_generators(cpu)
        >>> first = torch.rand(1)
        >>> write_generators(state, cpu)
        >>> torch.equal(first, torch.rand(1))
        True
    """
    version, words, place, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (str(version), [int(word) for word in words], int(place), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def write_generators(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the global generators where `read_generators` found them."""
    random.setstate(state["python"])
    version, words, *rest = state["numpy"]
    np.random.set_state((version, np.array(words, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Generator[None]:
    """Seed every global generator, and put all of them back afterwards."""
    state = GeneratorState(device)
    # Not torch.manual_seed, which would also seed the GPUs that are not given back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        state.restore()
