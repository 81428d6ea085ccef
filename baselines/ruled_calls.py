"""Running a model while each of its calls of PyTorch follows a rule of our own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .gradient_graph import ModuleCalls, module_calls, place

# Kinds of calls, by `Call.name`.
WEIGHTED = frozenset({
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
})  # fmt: skip
AVERAGES = frozenset({
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "mean", "sum",
})  # fmt: skip
_MOVING = frozenset({
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax", "cat", "channel_shuffle", "chunk",
    "clone", "concat", "concatenate", "contiguous", "double", "expand", "expand_as", "flatten", "flip", "float",
    "getitem", "half", "max", "max_pool1d", "max_pool2d", "max_pool3d", "movedim", "narrow", "permute",
    "pixel_shuffle", "relu", "repeat", "repeat_interleave", "reshape", "roll", "select", "split", "squeeze", "stack",
    "swapaxes", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as",
})  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a PyTorch function or of a method of a tensor.

    Attributes:
        function: what was called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        module: name of the innermost module that is running; `""` is the model itself.
    """

    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    module: str

    @property
    def name(self) -> str:
        """The name of the function without underscores at its ends: `add` for `+`, `+=`, `torch.add` and `add_`."""
        return getattr(self.function, "__name__", type(self.function).__name__).strip("_")

    @property
    def where(self) -> str:
        """The layer in which it happens, for messages."""
        return place(self.module)

    @property
    def in_place(self) -> bool:
        """Whether the call overwrites the tensor it is made on, as `add_` does."""
        name = getattr(self.function, "__name__", "")
        return name.endswith("_") and not name.endswith("__")

    def argument(self, position: int, name: str) -> object:
        """Return the argument at this position or of this name, `None` if it is not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)

    def tensor(self, position: int, name: str) -> Tensor | None:
        """Return the argument at this position or of this name if it is a tensor."""
        found = self.argument(position, name)
        return found if isinstance(found, Tensor) else None

    def run(self) -> object:
        """Make the call."""
        return self.function(*self.args, **self.kwargs)


Rule = Callable[[Call], object]


class _Ruled(TorchFunctionMode):
    """Hands calls whose result will depend on what gradients are recorded of to a rule."""

    def __init__(self, rule: Rule, calls: ModuleCalls) -> None:
        super().__init__()
        self.rule, self.calls = rule, calls

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Make the call, by the rule if a tensor that requires gradients goes in."""
        del types
        call = Call(func, args, kwargs or {}, self.calls.current)
        if call.name == "get" or not depends([*call.args, *call.kwargs.values()]):
            return call.run()
        return self.rule(call)


def depends(value: object) -> bool:
    """Whether a value is a tensor that requires gradients, or a list or tuple with one in it.

    Example:
        >>> import torch
        >>> depends([torch.zeros(1), (torch.zeros(1, requires_grad=True), None)]), depends(torch.zeros(1))
        (True, False)
    """
    if isinstance(value, (list, tuple)):
        return any(depends(part) for part in cast(list[object], value))
    return isinstance(value, Tensor) and value.requires_grad


def moves_values(call: Call) -> bool:
    """Whether a call hands on values, be it all or the largest or the positive ones, and zeros, but changes none.

    Such are max-pooling, ReLU, concatenation, padding with zeros or copies, dropout out of training, and all that
    reshapes or selects.

    Example:
        >>> moves_values(Call(nn.functional.dropout, (), {"training": True}, ""))
        False
    """
    if call.name.endswith("dropout") or "_dropout" in call.name:
        return call.argument(2, "training") is False
    if call.name == "pad":
        return call.argument(3, "value") in {None, 0} or call.argument(2, "mode") not in {None, "constant"}
    if call.name == "max" and call.tensor(1, "other") is not None:
        return False
    return call.name in _MOVING


@contextmanager
def ruled_calls(model: nn.Module, rule: Rule) -> Generator[None, None, None]:
    """Have the calls that a model makes inside answered by a rule.

    The rule sees the functions as the model calls them, be it in a module (`nn.ReLU` calls `F.relu`) or by itself. It
    is asked wherever a tensor that requires gradients goes in, except for attributes such as `x.shape`; what it calls
    itself is not handed to it again.

    Args:
        model: the model.
        rule: takes a `Call` and returns the result of the call.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> def rule(call):
        ...     print(call.name, "in", call.where)
        ...     return call.run()
        >>> with ruled_calls(model, rule):
        ...     output = model(torch.zeros(1, 2))
        linear in layer `0`
        relu in layer `1`
    """
    with module_calls(model) as calls, _Ruled(rule, calls):
        yield
