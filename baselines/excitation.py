"""The probabilities by which excitation backpropagation reaches the units of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from .cam_layer import cam_layer
from .gradient_graph import is_custom, nodes_between
from .ruled_calls import AVERAGES, WEIGHTED, Call, depends, moves_values, ruled_calls
from .through_captum import gradients_enabled

_WEIGHTED_MODULES = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


def excitation(
    model: nn.Module, inputs: Tensor, targets: Tensor, layer: nn.Module, *, contrastive: bool = False
) -> Tensor:
    """Propagate probabilities of "winning" from the targets down to the output of a layer.

    The target's logit starts with probability 1. A unit of a convolution or linear layer hands its probability to
    the units `x_i ≥ 0` it reads, in proportion to what they excite it by:

        p_i = Σ_j p_j · x_i w⁺_ij / Σ_k x_k w⁺_kj,    w⁺ = max(w, 0)

    without its bias. Averages and sums over positions do so with equal weights, and sums of two branches in
    proportion to the positive parts of their values. Batch normalisation hands everything on; maxima, ReLU and all
    that moves values about follow their derivative, ReLU6 that of ReLU. In place or not, as modules or functions,
    makes no difference. Probabilities therefore keep their sum from layer to layer, except where a unit is excited by
    its bias alone or the target by nothing: what arrives there is lost.

    The contrastive form subtracts the probabilities by which "not the target" is reached: those that start through
    the negated weights of the last weighted layer. They add up to 0. All rules are linear in the probabilities, so it
    does not matter at which layer below that one the difference is taken.

    The rule is applied above the layer only, so what lies below need not have one.

    Args:
        model: the model.
        inputs: `(B, C, H, W)` floating point.
        targets: `(B,)` int64.
        layer: the module whose output is meant, at its last call.
        contrastive: subtract the probabilities of the dual unit.

    Returns:
        Of the shape of the layer's output: probabilities, or their differences.

    Raises:
        ValueError: something above the layer has no rule or is given negative values by units it should choose among,
            or the logits do not depend on the layer, or `contrastive` finds no weighted layer above it.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1))
        >>> model[1].weight.data = torch.tensor([[1.0, 3.0, -2.0]])
        >>> inputs, targets = torch.tensor([[[[2.0, 2.0, 5.0]]]]), torch.tensor([0])
        >>> excitation(model, inputs, targets, model[0])
        tensor([[0.2500, 0.7500, 0.0000]])
        >>> excitation(model, inputs, targets, model[0], contrastive=True)
        tensor([[ 0.2500,  0.7500, -1.0000]])
    """
    rule, outputs = _Rule(), list[Tensor]()
    with gradients_enabled():
        # Without the parameters' gradients, a tensor requires gradients if and only if it depends on the layer.
        frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
        handle = layer.register_forward_hook(lambda _, __, output: _start(output, outputs))
        try:
            with ruled_calls(model, rule):
                logits: Tensor = functional_call(model, frozen, (inputs.detach().clone(),))
        finally:
            handle.remove()
        if not logits.requires_grad:
            raise ValueError("`layer` must be one that the logits depend on")
        _refuse_custom(outputs[-1], logits)
        onehot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        (found,) = torch.autograd.grad(logits, outputs[-1], onehot, retain_graph=contrastive)
        if contrastive:
            rule.negate_last()
            (dual,) = torch.autograd.grad(logits, outputs[-1], onehot)
            found = found - dual
    return found


def excitation_map(
    model: nn.Module, inputs: Tensor, targets: Tensor, layer: str | None, *, contrastive: bool = False
) -> Tensor:
    """Add up, at each position of a layer, what `excitation` finds in its channels.

    Args:
        model: the model.
        inputs: `(B, C, H, W)` floating point.
        targets: `(B,)` int64.
        layer: name of the layer; see `excitation_layer` for what `None` means.
        contrastive: subtract the probabilities of the dual unit.

    Returns:
        `(B, 1, h, w)`.

    Raises:
        ValueError: as `excitation`; or there is no such layer, or its output is not `(B, C, h, w)`.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
        >>> model[3].weight.data.fill_(1.0)
        tensor([[1.]])
        >>> excitation_map(model, torch.tensor([[[[1.0, -5.0], [0.0, 3.0]]]]), torch.tensor([0]), None)
        tensor([[[[0.2500, 0.0000],
                  [0.0000, 0.7500]]]])
    """
    chosen = excitation_layer(model, inputs, layer)
    found = excitation(model, inputs, targets, chosen, contrastive=contrastive)
    if found.ndim != 4:
        raise ValueError(f"`layer` must have a (B, C, h, w) output; {layer!r} gave {tuple(found.shape)}")
    return found.sum(dim=1, keepdim=True)


def excitation_layer(model: nn.Module, inputs: Tensor, name: str | None = None) -> nn.Module:
    """Find the layer at which excitations are read.

    The module called `name`, or the `cam_layer` that the model states. Else the last module with a `(B, C, h, w)`
    output of more than one position to finish before the last convolution or linear module begins: below the weights
    that the contrastive form negates. It is `layer4` of a torchvision ResNet, `avgpool` of a VGG and the dropout after
    `features` of a SqueezeNet. Zhang et al. read lower layers (`layer3` of a ResNet-50, `pool4` of a VGG-16).

    Args:
        model: the model; it is run on one row for the last rule.
        inputs: `(B, C, H, W)`.
        name: a module's name, as in `model.named_modules()`.

    Raises:
        ValueError: there is no module of that name, or none with such an output.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> excitation_layer(model, torch.zeros(1, 1, 8, 8))
        ReLU()
    """
    if name is not None or getattr(model, "cam_layer", None) is not None:
        return cam_layer(model, inputs, name)
    latest: list[nn.Module] = []
    below: list[nn.Module] = []

    def finished(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            latest[:] = [module]

    handles: list[RemovableHandle] = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_hook(finished))
            if isinstance(module, _WEIGHTED_MODULES):
                handles.append(module.register_forward_pre_hook(lambda _, __: below.__setitem__(slice(None), latest)))
        with torch.no_grad():
            model(inputs[:1].detach().clone())
    finally:
        for handle in handles:
            handle.remove()
    if not below:
        raise ValueError("`layer` must be given: no (B, C, h, w) output larger than 1×1 lies below the last weights")
    return below[0]


def _start(output: object, outputs: list[Tensor]) -> Tensor:
    """Cut the layer's output off from what is below, and remember where the cut was."""
    if not isinstance(output, Tensor):
        raise ValueError(f"`layer` must return a tensor, was {type(output).__name__}")
    outputs.append(output.detach().requires_grad_())
    return outputs[-1].clone()  # which may then be overwritten in place


def _refuse_custom(leaf: Tensor, logits: Tensor) -> None:
    """Refuse operations that do not call PyTorch through its functions."""
    ours = {f"{function.__name__}Backward" for function in (_Choose, _Divide, _HandOn)}
    for node in nodes_between(leaf, logits):
        if is_custom(node) and node.name() not in ours:
            raise ValueError(f"there is no rule for `{node.name()}`, a `torch.autograd.Function` above the layer")


@dataclass
class _Weights:
    """A convolution or linear layer with weights of one sign only, and without its bias."""

    call: Call
    negated: bool = False

    def __call__(self, x: Tensor) -> object:
        """Apply it."""
        weight = self.call.tensor(1, "weight")
        if weight is None or weight.requires_grad:
            raise _no_rule(self.call)
        weight = (-weight if self.negated else weight).clamp(min=0)
        others = {name: value for name, value in self.call.kwargs.items() if name not in {"input", "weight", "bias"}}
        return self.call.function(x, weight, None, *self.call.args[3:], **others)


class _Rule:
    """Answers the calls of a model by functions whose backward pass hands down probabilities."""

    def __init__(self) -> None:
        self.weighted: list[_Weights] = []

    def negate_last(self) -> None:
        """Propagate through the negated weights of the last weighted layer from now on."""
        if not self.weighted:
            raise ValueError("the contrast needs a convolution or linear layer above `layer`: choose a lower one")
        self.weighted[-1].negated = True

    def __call__(self, call: Call) -> object:
        """Make one call."""
        if call.name in WEIGHTED:
            self.weighted.append(_Weights(call))
            return _choose(call, self.weighted[-1])
        if call.name in AVERAGES:
            return _choose(call, lambda x: call.function(x, *call.args[1:], **_without_input(call)))
        if call.name == "add":
            return _add(call)
        if call.name == "batch_norm":
            return _HandOn.apply(call.argument(0, "input"), call.run, False)
        if call.name == "relu6" or (call.name == "hardtanh" and call.argument(1, "min_val") == 0):
            return _bounded(call)
        result = call.run()
        if depends(result) and not moves_values(call):
            raise _no_rule(call)
        return result


def _no_rule(call: Call) -> ValueError:
    """What to say where there is no rule."""
    return ValueError(
        f"excitation backpropagation has no rule for `{call.name}` in {call.where}; name a `layer` above it"
    )


def _without_input(call: Call) -> dict[str, object]:
    """The keyword arguments besides the input."""
    return {name: value for name, value in call.kwargs.items() if name != "input"}


def _choose(call: Call, excite: Callable[[Tensor], object]) -> object:
    """A weighted layer or an average: choose among its inputs in proportion to what each adds."""
    x = call.tensor(0, "input")
    if x is None or not x.requires_grad:
        raise _no_rule(call)
    if bool((x.detach() < 0).any()):
        raise ValueError(
            f"excitation backpropagation chooses among non-negative values, but `{call.name}` in {call.where} is given "
            "negative ones; name a `layer` above it"
        )
    return _Choose.apply(x, call.run, excite)


def _add(call: Call) -> object:
    """A sum: split between two branches; a summand of another shape is a bias and gets nothing."""
    left, right = call.tensor(0, "input"), call.tensor(1, "other")
    if call.kwargs.get("alpha", 1) != 1:
        raise _no_rule(call)
    if left is None or right is None or left.shape != right.shape:
        biased = [tensor for tensor in (left, right) if tensor is not None and tensor.requires_grad]
        result = call.run()
        if len(biased) != 1 or not isinstance(result, Tensor) or result.shape != biased[0].shape:
            raise _no_rule(call)
        return result
    total: object = _Divide.apply(left, right)
    return left.copy_(total) if call.in_place and isinstance(total, Tensor) else total


def _bounded(call: Call) -> object:
    """ReLU6 and its like."""
    x = cast(Tensor, call.argument(0, "input"))
    bound = 6.0 if call.name == "relu6" else cast(float, call.argument(2, "max_val"))
    inplace = call.argument(1 if call.name == "relu6" else 3, "inplace")
    result = cast(Tensor, _HandOn.apply(x, lambda: x.clamp(0, bound), True))
    return x.copy_(result) if inplace is True else result


class _Choose(torch.autograd.Function):
    """Hands down probabilities in proportion to what each input adds to what `excite` makes of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Tensor], excite: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.excite = excite
        return run()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (p,) = grad_outputs
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            total = ctx.excite(leaf)
            (weights,) = torch.autograd.grad(total, leaf, torch.where(total > 0, p / total, 0))
        return x * weights, None, None


class _Divide(torch.autograd.Function):
    """Adds two branches, and divides probabilities between them in proportion to their positive parts."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        parts = left.clamp(min=0), right.clamp(min=0)
        total = parts[0] + parts[1]
        # The shares are kept instead of the branches, one of which may be overwritten.
        ctx.save_for_backward(*(torch.where(total > 0, part / total, 0) for part in parts))
        return left + right

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (p,) = grad_outputs
        left, right = ctx.saved_tensors
        return p * left, p * right


class _HandOn(torch.autograd.Function):
    """Hands on probabilities, all of them or those of positive results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Tensor], positive_only: bool) -> Tensor:
        del x
        result = run()
        ctx.positive = result > 0 if positive_only else None
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (p,) = grad_outputs
        return p if ctx.positive is None else p * ctx.positive, None, None
