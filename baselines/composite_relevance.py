"""Relevance of an encoder's input for its output, by the composite rule of prototypical relevance propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .gradient_graph import is_custom, nodes_between
from .ruled_calls import AVERAGES, Call, depends, moves_values, ruled_calls
from .through_captum import gradients_enabled

_EPSILON = 1e-6

Parts = tuple[list[Tensor], Tensor]
"""Tensors, and the total that is linear (at least piecewise) in them."""


def composite_relevance(
    encoder: nn.Module,
    inputs: Tensor,
    start: Callable[[Tensor], Tensor],
    *,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Hand relevance down from an encoder's output to its input, layer by layer.

    Every layer hands the relevance `R_k` of its outputs to its inputs `a_j`, in proportion to what these add:

    * linear layers, averages and sums of two branches by LRP-ε,
      `R_j = Σ_k a_j w_jk / (z_k + ε sign z_k) R_k` with `z_k = Σ_j a_j w_jk + b_k` and `ε = 1e-6`;
    * convolutions by LRP-α1β0, `(a_j w_jk)⁺` in place of `a_j w_jk`, without the bias: positive inputs through
      positive weights, and negative inputs through negative ones;
    * with `bounds = (l, h)`, convolutions of the input itself by `z^B`, `a_j w_jk - l w⁺_jk - h w⁻_jk`, without bias;
    * batch normalisation hands all of it to its only input, as if it had no shift; ReLU and whatever moves values
      about follow their derivative, so that max-pooling hands it to the winner.

    A batch normalisation right behind a convolution can turn the sign of its output: fold it into the convolution
    first (`torch.nn.utils.fusion.fuse_conv_bn_eval`).

    Args:
        encoder: a network in evaluation mode of the layers named above, as modules or as functions.
        inputs: `(B, C, H, W)` floating point.
        start: takes the encoder's output and returns its relevance, of the same shape.
        bounds: smallest and largest value that an element of the input can have.

    Returns:
        `(B, C, H, W)` relevance of the inputs, cut off from the gradient graph.

    Raises:
        ValueError: the encoder does something that none of the rules covers; the message names it.

    Reference:
        G. Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019; for the choice of rules S. Gautam
        et al., "This looks more like that", Pattern Recognition 136, 2023.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> encoder[1].weight.data = torch.tensor([[2.0, -1.0]])
        >>> composite_relevance(encoder, torch.tensor([[[[3.0, 4.0]]]]), torch.ones_like).round(decimals=3)
        tensor([[[[ 3., -2.]]]])
    """
    with gradients_enabled():
        # Without the parameters' gradients, a tensor requires gradients if and only if it depends on the input.
        frozen = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
        leaf = inputs.detach().clone().requires_grad_()
        with ruled_calls(encoder, _Rules(leaf, bounds)):
            outputs: Tensor = functional_call(encoder, frozen, (leaf,))
        _refuse_custom(leaf, outputs)
        relevance = start(outputs.detach()).detach()
        return torch.autograd.grad(outputs, leaf, relevance)[0]


class _Rules:
    """Answers the calls of a network by functions whose backward pass hands down relevance."""

    def __init__(self, inputs: Tensor, bounds: tuple[float, float] | None) -> None:
        self.inputs, self.bounds = inputs, bounds

    def __call__(self, call: Call) -> object:
        """Make one call."""
        if call.name == "linear" or call.name in AVERAGES:
            return _share(call, lambda x: _linear(call, x))
        if call.name == "conv2d":
            if self.bounds is not None and call.argument(0, "input") is self.inputs:
                bounds = self.bounds
                return _share(call, lambda x: _bounded(call, x, bounds))
            return _share(call, lambda x: _one_signed(call, x))
        if call.name == "add":
            return _add(call)
        if call.name == "batch_norm":
            if call.argument(5, "training"):
                raise ValueError(f"`encoder` must be in evaluation mode, {call.where} normalises by the batch")
            return _HandOn.apply(call.argument(0, "input"), call.run)
        result = call.run()
        if depends(result) and not moves_values(call):
            raise _no_rule(call)
        return result


def _no_rule(call: Call) -> ValueError:
    return ValueError(f"there is no rule that hands relevance down through `{call.name}` in {call.where}")


def _refuse_custom(leaf: Tensor, outputs: Tensor) -> None:
    """Refuse operations that do not call PyTorch through its functions."""
    ours = {f"{function.__name__}Backward" for function in (_Share, _Add, _HandOn)}
    for node in nodes_between(leaf, outputs):
        if is_custom(node) and node.name() not in ours:
            raise ValueError(f"there is no rule for `{node.name()}`, a `torch.autograd.Function` of the encoder")


def _share(call: Call, parts: Callable[[Tensor], Parts]) -> object:
    x = call.tensor(0, "input")
    if x is None or not x.requires_grad:
        raise _no_rule(call)
    return _Share.apply(x, call.run, parts)


def _run_on(call: Call, x: Tensor) -> Tensor:
    """Repeat a call on another input."""
    others = {name: value for name, value in call.kwargs.items() if name != "input"}
    result: Any = call.function(x, *call.args[1:], **others)
    return result


def _convolved(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    """Repeat a convolution with other weights and without its bias."""
    others = {name: value for name, value in call.kwargs.items() if name not in {"input", "weight", "bias"}}
    result: Any = call.function(x, weight, None, *call.args[3:], **others)
    return result


def _weight(call: Call) -> Tensor:
    weight = call.tensor(1, "weight")
    if weight is None or weight.requires_grad:
        raise _no_rule(call)
    return weight


def _linear(call: Call, x: Tensor) -> Parts:
    return [x], _run_on(call, x)


def _one_signed(call: Call, x: Tensor) -> Parts:
    weight = _weight(call)
    positive = _convolved(call, x.clamp(min=0), weight.clamp(min=0))
    return [x], positive + _convolved(call, x.clamp(max=0), weight.clamp(max=0))


def _bounded(call: Call, x: Tensor, bounds: tuple[float, float]) -> Parts:
    weight = _weight(call)
    low, high = (torch.full_like(x, -bound).requires_grad_() for bound in bounds)
    total = _convolved(call, x, weight) + _convolved(call, low, weight.clamp(min=0))
    return [x, low, high], total + _convolved(call, high, weight.clamp(max=0))


def _add(call: Call) -> object:
    """A sum: split between two branches; a summand of another shape or without gradients is a bias and gets nothing."""
    left, right = call.tensor(0, "input"), call.tensor(1, "other")
    if call.kwargs.get("alpha", 1) != 1 or left is None or right is None or left.shape != right.shape:
        raise _no_rule(call)
    total: Any = _Add.apply(left, right)
    return left.copy_(total) if call.in_place else total


def _divided(relevance: Tensor, total: Tensor) -> Tensor:
    """`R / (z + ε sign z)`, with the sign of 0 taken as positive."""
    return relevance / (total + torch.where(total < 0, -_EPSILON, _EPSILON))


class _Share(torch.autograd.Function):
    """Hands down relevance in proportion to what each part of an input adds to a total."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Tensor], parts: Callable[[Tensor], Parts]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.parts = parts
        return run()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (relevance,) = grad_outputs
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaves, total = ctx.parts(x.detach().requires_grad_())
            found = torch.autograd.grad(total, leaves, _divided(relevance, total.detach()))
        handed = [leaf.detach() * gradient for leaf, gradient in zip(leaves, found, strict=True)]
        return torch.stack(handed).sum(dim=0), None, None


class _Add(torch.autograd.Function):
    """Adds two branches, and divides relevance between them in proportion to their values."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        total = left + right
        # The shares are kept instead of the branches, one of which may be overwritten.
        ctx.save_for_backward(_divided(left, total), _divided(right, total))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (relevance,) = grad_outputs
        left, right = ctx.saved_tensors
        return relevance * left, relevance * right


class _HandOn(torch.autograd.Function):
    """Hands all relevance to the only input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Tensor]) -> Tensor:
        del ctx, x
        return run()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grad_outputs[0], None
