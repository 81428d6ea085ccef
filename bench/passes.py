"""Counting what an explanation costs: forward- and backward-equivalent passes of the model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Passes:
    """Rows that went through the model, forward and backward."""

    forward: int
    backward: int

    def __add__(self, other: Passes) -> Passes:
        """Return both together."""
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Passes) -> Passes:
        """Return what was added since `other`."""
        return Passes(self.forward - other.forward, self.backward - other.backward)


class PassCounter:
    """Count the rows that pass through `model`, forward and backward, while the context is open.

    A pass counts when the model itself is called. A self-explaining model may explain itself without calling its
    own `forward`; such a pass counts when the first layer that has parameters is called.
    """

    def __init__(self, model: nn.Module) -> None:
        """Store the model; nothing is hooked before the context is entered."""
        self.model = model
        self._forward = 0
        self._backward = 0
        self._depth = 0
        self._handles: list[RemovableHandle] = []

    @property
    def passes(self) -> Passes:
        """What was counted so far."""
        return Passes(self._forward, self._backward)

    def __enter__(self) -> Self:
        """Hook the model."""
        stem = next((m for m in self.model.modules() if next(m.parameters(recurse=False), None) is not None), None)
        self._handles = [
            self.model.register_forward_pre_hook(self._enter_model, with_kwargs=True),
            self.model.register_forward_hook(self._leave_model, always_call=True),
        ]
        if stem is not None and stem is not self.model:
            self._handles.append(stem.register_forward_hook(self._stem))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the model back without hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def discounting(self, count: int, padded: int) -> Generator[None]:
        """Count only `count` of every `padded` rows that pass through the model inside: the others fill up a batch."""
        before = self.passes
        try:
            yield
        finally:
            added = self.passes - before
            self._forward = before.forward + added.forward * count // padded
            self._backward = before.backward + added.backward * count // padded

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._depth += 1
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(inputs, Tensor):
            self._forward += len(inputs)

    def _leave_model(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        del module, args
        self._depth = max(0, self._depth - 1)  # another hook may have raised before this call was counted
        self._watch_backward(output)

    def _stem(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        del module, args
        if self._depth == 0 and isinstance(output, Tensor):
            self._forward += len(output)
            self._watch_backward(output)

    def _watch_backward(self, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self._backward += len(gradient)
