"""The operations of a forward pass, as autograd recorded them, and the modules they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle


def nodes_between(leaf: Tensor, output: Tensor) -> set[Node]:
    """Find the operations through which a tensor depends on another.

    Args:
        leaf: a tensor that requires gradients.
        output: a tensor that was computed while gradients were recorded.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> names = {node.name() for node in nodes_between(x, (2 * x).relu())}
        >>> {"MulBackward0", "ReluBackward0"} <= names
        True
        >>> nodes_between(x, torch.ones(2).requires_grad_())
        set()
    """
    users: dict[Node, list[Node]] = defaultdict(list)
    reached = _reach([get_gradient_edge(output).node], users)
    start = get_gradient_edge(leaf).node
    if start not in reached:
        return set()
    found, ahead = {start}, [start]
    while ahead:
        for user in users.get(ahead.pop(), ()):
            if user not in found:
                found.add(user)
                ahead.append(user)
    return found


def is_custom(node: Node) -> bool:
    """Whether an operation is a `torch.autograd.Function` of someone's own, inside of which nothing can be seen.

    Those that PyTorch inserts for backward hooks of modules hand on what they get, and do not count.

    Example:
        >>> import torch
        >>> is_custom(torch.ones(1, requires_grad=True).relu().grad_fn)
        False
    """
    return isinstance(node, BackwardCFunction) and node.name() != "BackwardHookFunctionBackward"


def step_kind(node: Node) -> str:
    """Return what an operation is called, such as `Mul`.

    Example:
        >>> import torch
        >>> step_kind(torch.ones(1, requires_grad=True).relu().grad_fn)
        'Relu'
    """
    return node.name().rsplit("::")[-1].split("Backward")[0].lstrip("_")


def place(module: str) -> str:
    """Say in a message which module is meant; `""` is the model itself.

    Example:
        >>> place("layer1.0"), place("")
        ('layer `layer1.0`', 'the model itself')
    """
    return f"layer `{module}`" if module else "the model itself"


class _Call(NamedTuple):
    """One call of a module: its name, and the operations that made what went in and what came out."""

    name: str
    entered: frozenset[Node]
    left: tuple[Node, ...]


class ModuleCalls:
    """The calls of a model's modules during a forward pass, in the order in which they finished."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._running: list[tuple[str, frozenset[Node]]] = []

    @property
    def current(self) -> str:
        """The name of the innermost module that is running; `""` is the model itself."""
        return self._running[-1][0] if self._running else ""

    def enter(self, name: str, inputs: tuple[object, ...]) -> None:
        """Note what goes into a module."""
        self._running.append((name, frozenset(_makers(inputs))))

    def leave(self, output: object) -> None:
        """Note what came out of the module entered last."""
        outputs = cast(tuple[object, ...], output) if isinstance(output, tuple) else (output,)
        self._calls.append(_Call(*self._running.pop(), tuple(_makers(outputs))))

    def owner(self, node: Node) -> str:
        """Return the name of the innermost module in which an operation took place; `""` is the model itself."""
        for name, entered, left in self._calls:
            if node not in entered and node in _reach(left, defaultdict(list), stop=entered):
                return name
        return ""


@contextmanager
def module_calls(model: nn.Module) -> Generator[ModuleCalls, None, None]:
    """Record inside which module calls what, so that an operation can be named by its module.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.GELU()))
        >>> with module_calls(model) as calls:
        ...     output = model(torch.zeros(1, 2))
        >>> calls.owner(output.grad_fn), calls.owner(output.grad_fn.next_functions[0][0])
        ('1.0', '0')
    """
    calls = ModuleCalls()
    handles: list[RemovableHandle] = []

    def hook(name: str, module: nn.Module) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, inputs: calls.enter(name, inputs)))
        handles.append(module.register_forward_hook(lambda _, __, output: calls.leave(output)))

    try:
        for name, module in model.named_modules():
            hook(name, module)
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _makers(values: Iterable[object]) -> list[Node]:
    """The operations that made the tensors among some values."""
    return [value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None]


def _reach(roots: Iterable[Node], users: dict[Node, list[Node]], stop: frozenset[Node] = frozenset()) -> set[Node]:
    """The operations that some depend on, not looking past those of `stop`; fill in which use the result of which."""
    ahead = list(roots)
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if node in stop:
            continue
        for source, _ in node.next_functions:
            if source is None:
                continue
            users[source].append(node)
            if source not in seen:
                seen.add(source)
                ahead.append(source)
    return seen
