"""DeepLift with the rescale rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import Node

from .base import Reduction
from .gradient_graph import ModuleCalls, module_calls, nodes_between, place, step_kind
from .ruled_calls import Call, ruled_calls
from .through_captum import gradients_enabled

# Functions of one element each, by `Call.name`.
_ACTIVATIONS = re.compile(
    "celu|clamp(_min|_max)?|elu|gelu|hardshrink|hardsigmoid|hardswish|hardtanh|leaky_relu|logsigmoid|mish|prelu|relu|"
    "relu6|rrelu|selu|sigmoid|silu|softplus|softshrink|softsign|tanh|tanhshrink"
)
_POOLINGS = {"max_pool2d": F.max_pool2d, "adaptive_max_pool2d": F.adaptive_max_pool2d}
# Steps of the gradient graph that are linear in all of their operands together.
_LINEAR = re.compile(
    "Add|Sub|Rsub|Neg|Sum|Mean|Cat|Stack|(Unsafe)?View|ReshapeAlias|Alias|Clone|Copy|ToCopy|Permute|Transpose|T|Squeeze|"
    "Unsqueeze|Slice|Select|Split|SplitWithSizes|SafeSplit|Unbind|Index|IndexSelect|Expand|Repeat|Roll|Flip|AsStrided|"
    "CopySlices|Unfold|Im2Col|Pixel(Uns|S)huffle|(Mkldnn)?(Adaptive)?AvgPool2D|ConstantPadNd|Re(flec|plica)tionPad2D|"
    "Upsample(Nearest|Bilinear|Bicubic)2D"
)
# Steps that are linear in each operand alone, while the others are constant.
_PRODUCTS = re.compile(
    "Mul|Div|Mm|Bmm|Mv|Dot|Addmm|Addmv|Addbmm|Baddbmm|Linear|(Mkldnn)?Convolution(Overrideable)?|"
    "(Native|Cudnn|Miopen)BatchNorm"
)
_DONE = frozenset({"Rescale", "RescalePool"})
_BATCHES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_STATISTICS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention)
_NEAR = 1e-5  # relative to the two values; below it their difference has lost half of its digits in single precision


@dataclass(frozen=True)
class DeepLift:
    """Attribute by multipliers that carry the difference from a reference input through every non-linearity.

    The gradient of the logit, in which each activation function `y = σ(z)` has the slope `Δy / Δz` in place of its
    derivative (the rescale rule), times `x − x0`. `Δ` is the difference between the values for `x` and for the
    reference input `x0`; where it vanishes, the derivative remains. A max-pooling hands on `max(y, y0) − y0` to the
    element that wins for `x` and `y − max(y, y0)` to the one that wins for `x0`. The attributions add up to
    `f_t(x) − f_t(x0)`.

    The rules act on calls, so it does not matter whether an activation is a module, used once or often, a function, or
    in place. Captum's DeepLift, whose rules these are, hooks modules: it fails for those that are used twice and does
    not see functions. Its max-pooling keeps only one of the windows that share a winner, takes the gradients of the
    batch's first sample where differences vanish, and is skipped behind a ReLU; so it is not used.

    Attributes:
        reduction: how channels become a heatmap.
        reference_input: value of every element of `x0`, in the model's normalised input space.

    Raises:
        ValueError: from `attribute`, naming steps of the model without a rule: products of two things that
            depend on the input (gates, attention), softmax, normalisation by statistics of the input …

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU())
        >>> model[1].weight.data, model[1].bias.data = torch.tensor([[1.0, 1.0]]), torch.tensor([-3.0])
        >>> DeepLift().attribute(model, torch.tensor([[[[4.0, 2.0]]]]), torch.tensor([0]))
        tensor([[[[2., 1.]]]])
    """

    name: ClassVar[str] = "deeplift"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = "difference"
    reference: ClassVar[str] = "Shrikumar, Greenside, Kundaje 2017, arXiv:1704.02685"

    reduction: Reduction = "sum"
    reference_input: float = 0.0

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        for name, module in model.named_modules():
            by_batch = isinstance(module, _BATCHES) and not module.track_running_stats
            if by_batch or isinstance(module, _STATISTICS):
                return f"there is no rescale rule for module `{name}`, a `{type(module).__name__}`"
        return None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the contributions, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        with gradients_enabled():
            inputs = inputs.detach().clone().requires_grad_()
            reference = torch.full_like(inputs, self.reference_input)
            with module_calls(model) as calls, ruled_calls(model, partial(_answer, 2 * len(inputs))):
                logits = model(torch.cat([inputs, reference]))
            _check(inputs, logits, calls)
            chosen = logits[: len(inputs)].gather(1, targets.clone()[:, None])
            (multipliers,) = torch.autograd.grad(chosen.sum(), inputs)
        return multipliers * (inputs.detach() - reference)


def _check(inputs: Tensor, logits: Tensor, calls: ModuleCalls) -> None:
    """Stop where differences do not pass a step exactly."""
    between = nodes_between(inputs, logits)
    uncovered = [node for node in between if node.next_functions and not _is_covered(node, between)]
    places = sorted({f"`{step_kind(node)}` in {place(calls.owner(node))}" for node in uncovered})
    if places:
        raise ValueError(f"DeepLift has no rule for {', '.join(places[:3])}")


def _is_covered(node: Node, between: Collection[Node]) -> bool:
    """Whether differences pass a step exactly."""
    kind = step_kind(node)
    if kind in _DONE or _LINEAR.fullmatch(kind):
        return True
    operands = sum(source in between for source, _ in node.next_functions)
    return operands == 1 and _PRODUCTS.fullmatch(kind) is not None


class Rescale(torch.autograd.Function):
    """An activation function on the rows of inputs and, after them, of references."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the function, and keep the slopes."""
        with torch.enable_grad():
            argument = values.detach().requires_grad_()
            results = function(argument)
            (derivative,) = torch.autograd.grad(results.sum(), argument)
        results = results.detach()
        before, after = _difference(values), _difference(results)
        ctx.save_for_backward(torch.where(_vanishes(values), derivative.chunk(2)[0], after / before))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Multiply by the slopes; nothing is asked about the references."""
        (slopes,) = ctx.saved_tensors
        return _for_inputs(gradients[0].chunk(2)[0] * slopes), None


class RescalePool(torch.autograd.Function):
    """A max-pooling on the rows of inputs and, after them, of references."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Apply the pooling, and keep who won."""
        results, winners = function(values)
        ctx.save_for_backward(values, results, winners)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Give every winner its part of the difference."""
        values, results, winners = ctx.saved_tensors
        gradient = gradients[0].chunk(2)[0]
        (result, at_reference), (winner, there) = results.chunk(2), winners.chunk(2)
        larger = torch.maximum(result, at_reference)
        plain = _scatter(values, winner, gradient)
        parts = _scatter(values, winner, gradient * (larger - at_reference))
        parts = parts + _scatter(values, there, gradient * (result - larger))
        return _for_inputs(torch.where(_vanishes(values), plain, parts / _difference(values))), None


def _difference(values: Tensor) -> Tensor:
    """The first half of the rows minus the second."""
    first, second = values.chunk(2)
    return first - second


def _vanishes(values: Tensor) -> Tensor:
    """Where both halves of the rows are the same, up to rounding."""
    first, second = values.chunk(2)
    return (first - second).abs() <= _NEAR * (first.abs() + second.abs())


def _for_inputs(gradient: Tensor) -> Tensor:
    """A gradient for the inputs, and 0 for the references."""
    return torch.cat([gradient, torch.zeros_like(gradient)])


def _scatter(values: Tensor, places: Tensor, parts: Tensor) -> Tensor:
    """Add up parts at their places in images like the first half of `values`."""
    images = torch.zeros_like(values.chunk(2)[0]).flatten(2)
    return images.scatter_add(2, places.flatten(2), parts.flatten(2)).view(-1, *values.shape[1:])


def _answer(rows: int, call: Call) -> object:
    """Make a call, under its rule if it has one and is made on so many rows."""
    values = call.tensor(0, "input")
    if values is None or not values.requires_grad or len(values) != rows:
        return call.run()
    further, options = call.args[1:], {name: value for name, value in call.kwargs.items() if name != "input"}
    if _ACTIVATIONS.fullmatch(call.name):
        return _activate(values, partial(_call_on, call.function, further, options))
    if call.name in _POOLINGS and not options.get("return_indices"):
        options["return_indices"] = True
        return RescalePool.apply(values, partial(_call_on, _POOLINGS[call.name], further, options))
    return call.run()


def _call_on(function: Callable[..., Any], further: tuple[object, ...], options: dict[str, object], on: Tensor) -> Any:
    """Call a function on another first argument."""
    return function(on, *further, **options)


def _activate(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Call an activation function under its rule; in place, if it works in place."""
    in_place = False

    def of_a_copy(argument: Tensor) -> Tensor:
        nonlocal in_place
        copy = argument.clone()
        results = function(copy)
        in_place = results is copy
        return results

    results: Tensor = Rescale.apply(values, of_a_copy)  # type: ignore[assignment]
    return values.copy_(results) if in_place else results
