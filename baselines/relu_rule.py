"""Rules that change the backward pass of ReLU, however the model spells it.

`relu_ruled_gradient` changes it where autograd has recorded a ReLU. Captum's own classes, which users may hand in, see
`nn.ReLU` modules and nothing else: `every_relu_is_a_module` guards those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules import activation
from torch.utils.hooks import RemovableHandle

from .gradient_graph import ModuleCalls, is_custom, module_calls, nodes_between, place
from .through_captum import gradients_enabled

Rule = Literal["guided", "deconvnet"]

# Operations that cut off below 0 if their lower bound is 0; ReLU itself has none.
_BOUNDED = {
    "HardtanhBackward0": "_saved_min_val",
    "ClampMinBackward0": "_saved_min",
    "ClampBackward1": "_saved_min",
    "ThresholdBackward0": "_saved_threshold",
}
# Activations in the place of ReLU for which no rule is published. Sigmoid, tanh and softmax rectify nothing: they keep
# their derivative.
_OTHER_ACTIVATIONS = frozenset({
    "CeluBackward0", "EluBackward0", "GeluBackward0", "GluBackward0", "HardshrinkBackward0", "HardswishBackward0",
    "HardtanhBackward0", "LeakyReluBackward0", "MishBackward0", "PreluKernelBackward0", "RreluWithNoiseBackward0",
    "SiluBackward0", "SoftplusBackward0", "SoftshrinkBackward0",
})  # fmt: skip
_SQUASHING = (nn.Sigmoid, nn.LogSigmoid, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.Tanh)
_NOT_RECTIFYING = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def relu_ruled_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, rule: Rule) -> Tensor:
    """Compute the gradient of the target's logit, with another backward pass of ReLU.

    At a ReLU with input `z` the gradient `g` becomes `max(g, 0) · [z > 0]` (`"guided"`) or `max(g, 0)`
    (`"deconvnet"`). The rule is set on the operations that autograd recorded between the inputs and the logits. It
    therefore holds for `nn.ReLU`, `F.relu`, `torch.relu` and `Tensor.relu` alike, in place or not, re-used or sharing
    its input, and the model is not touched. ReLU6 and the like, which have an upper bound as well, count as ReLU, with
    `[z > 0]` narrowed to where they are not at their bound. So does `clamp` from 0 on, which passes at `z = 0` itself.

    Args:
        model: the model.
        inputs: `(B, C, H, W)` floating point.
        targets: `(B,)` int64.
        rule: `"guided"` or `"deconvnet"`.

    Returns:
        `(B, C, H, W)`, cut off from the gradient graph.

    Raises:
        ValueError: there is no ReLU between the inputs and the logits, or another activation in its place (such as
            GELU), or something that hides what it does: a `torch.autograd.Function` or a change in place of a part of
            a tensor. Sigmoid, tanh and softmax keep their derivative.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> model[2].weight.data = torch.tensor([[1.0, 1.0]])
        >>> inputs, targets = torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([0])
        >>> relu_ruled_gradient(model, inputs, targets, "guided")
        tensor([[[[1., 0.]]]])
        >>> relu_ruled_gradient(model, inputs, targets, "deconvnet")
        tensor([[[[1., 1.]]]])
    """
    with gradients_enabled():
        leaf = inputs.detach().clone().requires_grad_()
        with module_calls(model) as calls:
            # A copy goes in, because a leaf cannot be changed in place.
            logits: Tensor = model(leaf.clone())
        set_rule(nodes_between(leaf, logits), calls, rule)
        (gradient,) = torch.autograd.grad(logits.gather(1, targets.clone()[:, None]).sum(), leaf)
    return gradient


def set_rule(nodes: Collection[Node], calls: ModuleCalls, rule: Rule) -> None:
    """Let the ReLUs among some operations of a forward pass follow a rule in every backward pass through them.

    Args:
        nodes: the operations (`interpeval.baselines.gradient_graph.nodes_between`); others keep their gradient.
        calls: the calls of modules in that pass, for messages.
        rule: see `relu_ruled_gradient`.

    Raises:
        ValueError: as `relu_ruled_gradient`.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> first = x.relu()
        >>> second = first.relu()
        >>> set_rule({second.grad_fn}, ModuleCalls(), "guided")
        >>> second.backward(torch.tensor([1.0, -1.0]))
        >>> x.grad
        tensor([1., 0.])
    """
    for node in _rectifiers(nodes, calls):
        if rule == "guided":
            node.register_prehook(_rectified)
        else:
            node.register_hook(_rectified_instead)


def _rectified(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Cut off the negative part."""
    return tuple(gradient.clamp(min=0) for gradient in gradients)


def _rectified_instead(_: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Put the rectified gradients in place of what the operation made of them."""
    return _rectified(gradients)


def _rectifiers(nodes: Collection[Node], calls: ModuleCalls) -> list[Node]:
    """The ReLUs among some operations, of which none may be another activation."""
    found: list[Node] = []
    for node in nodes:
        name = node.name()
        if name == "ReluBackward0" or (name in _BOUNDED and getattr(node, _BOUNDED[name]) == 0):
            found.append(node)
        elif name in _OTHER_ACTIVATIONS or "Attention" in name:
            raise ValueError(
                f"the rule is defined for ReLU, but {place(calls.owner(node))} has another activation, "
                f"`{name.partition('Backward')[0]}`; use a method that does not depend on the activation"
            )
        elif is_custom(node) or "CopySlices" in name:
            raise ValueError(
                f"what {place(calls.owner(node))} does cannot be seen, so it may hide a ReLU: `{name}`; write it "
                "without `torch.autograd.Function` and without changing a view in place"
            )
    if not found:
        raise ValueError("no ReLU lies between the input and the logits, so this would be the plain gradient")
    return found


def lacks_rule(model: nn.Module) -> str | None:
    """Say why a ReLU rule does not apply to a model: it has other activations, or attention.

    Activations that are called as functions show in the forward pass only, where `relu_ruled_gradient` finds them.
    Sigmoid, tanh and softmax rectify nothing and are let be.

    Example:
        >>> lacks_rule(nn.Sequential(nn.Linear(2, 2), nn.GELU()))
        'the rule is defined for ReLU, and the model has other activations: `1` (GELU)'
        >>> lacks_rule(nn.Sequential(nn.ReLU(), nn.ReLU6(), nn.Softmax(1))) is None
        True
    """
    others = [
        f"`{name}` ({type(module).__name__})"
        for name, module in model.named_modules()
        if type(module).__module__ == activation.__name__ and not _covered(module)
    ]
    if not others:
        return None
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"the rule is defined for ReLU, and the model has other activations: {', '.join(others[:3])}{more}"


def _covered(module: nn.Module) -> bool:
    """Whether an activation module is a ReLU, or rectifies nothing."""
    if isinstance(module, nn.Hardtanh):
        return module.min_val == 0
    if isinstance(module, nn.Threshold):
        return module.threshold == 0
    return isinstance(module, (nn.ReLU, *_SQUASHING))


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
        self.overwritten: list[tuple[Node, int]] = []

    def alias(self, module: nn.ReLU, inputs: tuple[Tensor, ...]) -> Tensor:
        """Before a ReLU: give it a name of its own for its input."""
        # Without a gradient there is no operation to mistake for another: frozen weights have none either.
        if module.inplace and inputs[0].grad_fn is not None:
            self.overwritten.append((inputs[0].grad_fn, inputs[0].output_nr))
        return inputs[0].view_as(inputs[0])

    def remember(self, _: nn.ReLU, __: tuple[Tensor, ...], output: Tensor) -> None:
        """After a ReLU: note which operation it was."""
        self.hooked.add(output.grad_fn)

    def check(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After the whole model: compare with what is in the graph."""
        if not inputs[0].requires_grad:  # a pass whose gradient stops at a layer: Grad-CAM's half of guided Grad-CAM
            return
        nodes = nodes_between(inputs[0], output)
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
