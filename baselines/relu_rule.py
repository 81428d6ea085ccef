"""Guarding the methods that change the backward pass of ReLU: they see `nn.ReLU` modules and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.modules import activation
from torch.utils.hooks import RemovableHandle

_NOT_RECTIFYING = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def lacks_relu(model: nn.Module) -> str | None:
    """Say why a ReLU rule does not apply to a model: it has no `nn.ReLU`, so the rule would change nothing.

    Example:
        >>> lacks_relu(nn.Sequential(nn.Linear(2, 2), nn.ReLU6()))
        'the model has no `nn.ReLU` module (its activations: ReLU6), so this would be the plain gradient'
        >>> lacks_relu(nn.ReLU()) is None
        True
    """
    modules = list(model.modules())
    if any(isinstance(module, nn.ReLU) for module in modules):
        return None
    others = sorted(
        {
            type(module).__name__
            for module in modules
            if type(module).__module__ == activation.__name__ and not isinstance(module, _NOT_RECTIFYING)
        }
    )
    found = f" (its activations: {', '.join(others)})" if others else ""
    return f"the model has no `nn.ReLU` module{found}, so this would be the plain gradient"


@contextmanager
def every_relu_is_a_module(model: nn.Module) -> Generator[None, None, None]:
    """Let Captum change the backward pass of ReLU inside, and stop with an error where it would miss one.

    Captum hooks `nn.ReLU` modules. A ReLU that is called as a function keeps its plain gradient, so the result
    would be neither the method nor the gradient. It is found in the gradient graph of the model's own forward
    pass: no further pass is made. ReLUs through which the logits do not depend on the input do not matter.
    A ReLU spelt otherwise, such as `x.clamp(min=0)`, is not recognised.

    Captum's hooks also act on the whole gradient at the input of a ReLU. Where that tensor is used elsewhere too
    (a residual block that rectifies first), or one module serves several branches, they would change the gradient
    of the other path. Here every call of a ReLU is given an alias of its own. What remains is an in-place ReLU
    whose input is used elsewhere: under the hooks that input is no longer overwritten, so it is an error.

    Raises:
        ValueError: in the model's forward pass, when a ReLU is called as a function, no `nn.ReLU` is called, or an
            in-place one shares its input.
    """
    watch = _Watch()
    handles: list[RemovableHandle] = []
    try:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                handles.append(module.register_forward_pre_hook(watch.alias))
                handles.append(module.register_forward_hook(watch.remember))
        handles.append(model.register_forward_hook(watch.check))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """What a model does with its ReLUs during a forward pass, as seen by hooks that run before Captum's."""

    def __init__(self) -> None:
        self.hooked: set[Node | None] = set()
        self.overwritten: list[tuple[Node | None, int]] = []

    def alias(self, module: nn.ReLU, inputs: tuple[Tensor, ...]) -> Tensor:
        """Before a ReLU: give it a name of its own for its input."""
        if module.inplace:
            self.overwritten.append((inputs[0].grad_fn, inputs[0].output_nr))
        return inputs[0].view_as(inputs[0])

    def remember(self, _: nn.ReLU, __: tuple[Tensor, ...], output: Tensor) -> None:
        """After a ReLU: note which operation it was."""
        self.hooked.add(output.grad_fn)

    def check(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After the whole model: compare with what is in the graph."""
        if not inputs[0].requires_grad:  # a pass whose gradient stops at a layer: Grad-CAM's half of guided Grad-CAM
            return
        nodes = _nodes_between(inputs[0], output)
        if any(node.name() == "ReluBackward0" and node not in self.hooked for node in nodes):
            raise ValueError(
                "the model calls ReLU as a function (`torch.relu`, `F.relu` or `Tensor.relu`), whose backward pass "
                "cannot be changed; use `nn.ReLU` modules instead"
            )
        if not self.hooked & nodes:
            raise ValueError("no `nn.ReLU` module lies between the input and the logits, so this is the plain gradient")
        uses = Counter(edge for node in nodes for edge in node.next_functions)
        if any(uses[edge] > 1 for edge in self.overwritten):
            raise ValueError(
                "the input of an in-place `nn.ReLU` is used elsewhere too, where Captum's hooks would change it; give "
                "the module `inplace=False` if that leaves the logits as they are"
            )


def _nodes_between(leaf: Tensor, output: Tensor) -> set[Node]:
    """The operations through which `output` depends on `leaf`."""
    users: dict[Node, list[Node]] = defaultdict(list)
    _reach(get_gradient_edge(output).node, users)
    start = get_gradient_edge(leaf).node
    found, ahead = {start}, [start]
    while ahead:
        for user in users.get(ahead.pop(), ()):
            if user not in found:
                found.add(user)
                ahead.append(user)
    return found


def _reach(root: Node, users: dict[Node, list[Node]]) -> None:
    """Fill in which operations use the result of each operation that `root` depends on."""
    seen, ahead = {root}, [root]
    while ahead:
        node = ahead.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            users[source].append(node)
            if source not in seen:
                seen.add(source)
                ahead.append(source)
