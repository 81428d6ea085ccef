"""FullGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from .base import Reduction
from .gradient_graph import is_custom, nodes_between
from .ruled_calls import AVERAGES, WEIGHTED, Call, depends, moves_values, ruled_calls
from .through_captum import gradients_enabled

# Besides those that `ruled_calls` knows: scaling the input by a positive number scales the result.
_HOMOGENEOUS = frozenset({"interpolate", "leaky_relu", "prelu"})
_SHIFTING = frozenset({"add", "sub", "rsub", "batch_norm", "cat", "concat", "concatenate", "stack"})
_NOT_COVERED = (
    nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.GroupNorm, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LayerNorm,
    nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.MultiheadAttention, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softmax,
    nn.Softmax2d, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip


class FullGradient(NamedTuple):
    """A logit taken apart; the sum of all elements of `inputs` and `biases` is the logit.

    Attributes:
        inputs: `x ⊙ ∂f_t/∂x`, `(B, C, H, W)`.
        biases: `b_l ⊙ ∂f_t/∂z_l` for each layer with an offset `b_l` and an output `z_l`, in the order of the forward
            pass, each of the shape of the output.
        logits: the logits of the targets, `(B,)`.
    """

    inputs: Tensor
    biases: tuple[Tensor, ...]
    logits: Tensor


def full_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> FullGradient:
    """Take the target's logit apart into what the inputs and what the biases contribute.

    `f_t(x) = Σ x ⊙ ∂f_t/∂x + Σ_l Σ b_l ⊙ ∂f_t/∂z_l`, exactly, for a network of layers that are linear plus an offset
    (counted in `b_l`) or positively homogeneous. Offsets are the biases of convolutions, transposed convolutions and
    linear layers; what batch normalisation maps 0 to, `β − γμ / √(σ² + ε)`; and constants that are added, subtracted
    or concatenated. Positively homogeneous are ReLU, LeakyReLU, PReLU, maximum and average pooling, means and sums,
    residual sums, concatenation, padding with zeros, enlargement, multiplication by constants, and whatever only moves
    values. Everything else that depends on the input is refused, among it ReLU6, GELU, SiLU, sigmoid, softmax,
    attention and layer normalisation. Offsets of zeros have no part.

    Args:
        model: the model.
        inputs: `(B, C, H, W)` floating point.
        targets: `(B,)` int64.

    Returns:
        The parts, cut off from the gradient graph.

    Raises:
        ValueError: a layer is none of these (the message names it), or the logits do not depend on the inputs.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
        >>> model[1].weight.data, model[1].bias.data = torch.tensor([[1.0, -1.0]]), torch.tensor([5.0])
        >>> parts = full_gradient(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]))
        >>> parts.inputs, parts.biases, parts.logits
        (tensor([[[[ 3., -4.]]]]), (tensor([[5.]]),), tensor([4.]))
    """
    offsets = _Offsets()
    with gradients_enabled():
        # Without the parameters' gradients, a tensor requires gradients if and only if it depends on the input.
        frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
        leaf = inputs.detach().clone().requires_grad_()
        entering = leaf.clone()  # which may be changed in place
        with ruled_calls(model, offsets):
            logits: Tensor = functional_call(model, frozen, (entering,))
        if not logits.requires_grad:
            raise ValueError("`model` must return logits that depend on its inputs by differentiable operations")
        for node in nodes_between(leaf, logits):
            if is_custom(node):
                raise ValueError(f"FullGrad cannot see into `{node.name()}`, a `torch.autograd.Function` of the model")
        chosen = logits.gather(1, targets.clone()[:, None])[:, 0]
        edges = [get_gradient_edge(leaf), *offsets.edges]
        # `None` for layers that the logits do not depend on.
        found = cast(list[Tensor | None], torch.autograd.grad(chosen.sum(), edges, allow_unused=True))
    parts = [
        value * gradient
        for value, gradient in zip([leaf.detach(), *offsets.values], found, strict=True)
        if gradient is not None
    ]
    return FullGradient(parts[0], tuple(parts[1:]), chosen.detach())


class _Offsets:
    """Remembers, during a forward pass, the offsets of a model's layers and where their outputs are."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.edges: list[GradientEdge] = []

    def __call__(self, call: Call) -> object:
        """Make one call, and note the offset if there is one."""
        if call.name in WEIGHTED and not depends(call.argument(1, "weight")):
            return self._weighted(call)
        if call.name in _SHIFTING:
            return self._shifted(call)
        result = call.run()
        if (depends(result) or call.name == "setitem") and not _homogeneous(call):
            raise ValueError(
                f"FullGrad does not cover `{call.name}` in {call.where}: it is neither linear with a bias nor "
                "positively homogeneous"
            )
        return result

    def _weighted(self, call: Call) -> object:
        """A convolution or linear layer."""
        result, bias = call.run(), call.tensor(2, "bias")
        if bias is not None and not bias.requires_grad and isinstance(result, Tensor):
            spatial = 0 if call.name == "linear" else result.ndim - 2
            self._note(result, bias.view(-1, *[1] * spatial))
        return result

    def _shifted(self, call: Call) -> object:
        """Batch normalisation, a sum or a concatenation: the offset is what zeros are mapped to."""
        args = [_zeros(value) for value in call.args]
        offset = call.function(*args, **{name: _zeros(value) for name, value in call.kwargs.items()})
        if isinstance(offset, Tensor) and call.in_place:
            offset = offset.clone()  # or it may be the very tensor that is now overwritten
        result = call.run()
        if isinstance(result, Tensor) and isinstance(offset, Tensor) and bool(offset.any()):
            self._note(result, offset)
        return result

    def _note(self, result: Tensor, offset: Tensor) -> None:
        """Remember an offset and the operation that it belongs to, even if its result is overwritten later."""
        self.values.append(offset)
        self.edges.append(get_gradient_edge(result))


def _zeros(value: object) -> object:
    """Zeros in place of what depends on the input, also in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return [_zeros(part) for part in cast(list[object], value)]
    return torch.zeros_like(value) if isinstance(value, Tensor) and value.requires_grad else value


def _homogeneous(call: Call) -> bool:
    """Whether scaling what depends on the input by a positive number scales the result."""
    if call.name in {"mul", "div", "truediv", "true_divide"}:
        return not (depends(call.argument(0, "input")) and depends(call.argument(1, "other"))) and (
            call.name == "mul" or depends(call.argument(0, "input"))
        )
    if call.name == "prelu" and depends(call.argument(1, "weight")):
        return False
    return call.name in _HOMOGENEOUS | AVERAGES or moves_values(call)


def _rescaled(part: Tensor) -> Tensor:
    """Magnitudes, scaled to [0, 1] over all channels and positions of each sample."""
    magnitudes = part.abs()
    low, high = magnitudes.amin(dim=(1, 2, 3), keepdim=True), magnitudes.amax(dim=(1, 2, 3), keepdim=True)
    return (magnitudes - low) / (high - low + 1e-6)


@dataclass(frozen=True)
class FullGrad:
    """Attribute by the input times its gradient, and every layer's biases times theirs, in one map.

    With the parts `P_0 = x ⊙ ∂f_t/∂x` and `P_l = b_l ⊙ ∂f_t/∂z_l` of `full_gradient`, of which those with positions
    count (not the biases of linear layers):

    * `"released"`: `a = Σ_l enlarge(Σ_c ψ(P_l))` with `ψ(P) = (|P| − min |P|) / (max |P| − min |P| + 1e-6)`, extrema
      over all channels and positions of a layer. This is the authors' code; the paper's formula rescales each channel
      by itself.
    * `"signed"`: `a = Σ_l (h_l w_l / HW) enlarge(Σ_c P_l)`: nothing is rescaled, so that each part keeps its share
      of the logit.

    Parts coarser than the input are enlarged bilinearly (`align_corners=True`, as in the authors' code). Which layers
    are covered, and that others are refused, is said in `full_gradient`.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        form: `"released"` or `"signed"`.

    Raises:
        ValueError: a layer is not covered; or `form` is unknown.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data.fill_(2.0), model[0].bias.data.fill_(1.0)
        (tensor([[[[2.]]]]), tensor([1.]))
        >>> FullGrad(form="signed").attribute(model, torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([0]))
        tensor([[[[3.5000, 0.0000]]]])
    """

    name: ClassVar[str] = "fullgrad"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Srinivas, Fleuret 2019, arXiv:1905.00780"

    reduction: Reduction = "none"
    form: Literal["released", "signed"] = "released"

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`; `full_gradient` finds what is called as function."""
        for name, module in model.named_modules():
            if isinstance(module, _NOT_COVERED):
                return f"FullGrad does not cover layer `{name}` ({type(module).__name__})"
        return None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`."""
        if self.form not in {"released", "signed"}:
            raise ValueError(f'`form` must be "released" or "signed", was {self.form!r}')
        parts = full_gradient(model, inputs, targets)
        maps = [self._map(part, inputs) for part in (parts.inputs, *parts.biases) if part.ndim == 4]
        return torch.stack(maps).sum(dim=0)

    def _map(self, part: Tensor, inputs: Tensor) -> Tensor:
        """One part as a map of the size of the inputs."""
        size, coarse = inputs.shape[-2:], part.shape[-2:]
        if self.form == "released":
            shares = _rescaled(part).sum(dim=1, keepdim=True)
        else:
            shares = part.sum(dim=1, keepdim=True) * (coarse.numel() / size.numel())
        return shares if coarse == size else F.interpolate(shares, size=size, mode="bilinear", align_corners=True)
