"""Layer-wise relevance propagation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from .base import Reduction
from .gradient_graph import ModuleCalls, module_calls, nodes_between, place, step_kind
from .through_captum import attribute_through, gradients_enabled

# Layers that sum weighted inputs.
_WEIGHING = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Upsample,
)
# Layers that move elements.
_MOVING = (
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.ZeroPad2d,
    nn.Dropout2d,
    nn.Identity,
    nn.Sequential,  # an empty one is the identity
)
_RULED = _WEIGHING + _MOVING
_ELEMENTWISE = (nn.ReLU, nn.Dropout, nn.Tanh)
# Steps of the gradient graph that move elements, whose gradient carries relevance as it should; so does that of ReLU,
# because what it cuts off had no relevance.
_CARRIERS = re.compile(
    "Relu|(Adaptive)?MaxPool2D(WithIndices)?|ConstantPadNd|(Unsafe)?View|ReshapeAlias|Alias|Clone|Copy|Permute|Transpose|T|"
    "Squeeze|Unsqueeze|Cat|Slice|Select|Split|SplitWithSizes|SafeSplit"
)
_TINY = 1e-30  # keeps 0 / 0 from arising where the rule moves elements
_MISSING = object()

Edge = tuple[Node | None, int]
Entries = list[tuple[str, Edge]]


@dataclass(frozen=True)
class Lrp:
    """Attribute by relevance that every layer hands down in proportion to what its inputs contributed.

    With `z_k = Σ_j a_j w_jk + b_k`, `R_j = Σ_k a_j w_jk / (z_k + ε sign z_k) · R_k` (LRP-ε; LRP-0 but for the default
    `ε`), from `R = f_t(x)` at the target's logit down to the input. Average pooling and batch normalisation are layers
    like that; max-pooling hands relevance to the winner, ReLU, tanh and dropout leave it where it is. As `ε → 0`
    relevance is conserved except for what the biases take, so for networks without biases the attributions add up to
    the logit.

    Captum's LRP, where it is exact: networks of layers one after the other, or in branches that are concatenated. It
    returns numbers for other networks as well; they are refused here.

    Attributes:
        reduction: how channels become a heatmap.
        epsilon: `ε` above, for every layer that sums.

    Raises:
        ValueError: from `attribute`, when `epsilon` is not above 0, or naming steps of the model that are not
            covered: a sum of branches, a mean as a function, a layer that is called twice …

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[2.0, -1.0]])
        >>> Lrp().attribute(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[ 6., -4.]]]])
    """

    name: ClassVar[str] = "lrp"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Bach et al. 2015, doi:10.1371/journal.pone.0130140"

    reduction: Reduction = "sum"
    epsilon: float = 1e-9

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        for name, module in model.named_modules():
            if _is_leaf(module) and type(module) not in _RULED + _ELEMENTWISE:
                return f"LRP has no rule for module `{name}`, a `{type(module).__name__}`"
        return None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the relevances, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        if not self.epsilon > 0:
            raise ValueError(f"`epsilon` must be above 0, was {self.epsilon}")
        reason = self.refuses(model) or _uncovered(model, inputs[:1])
        if reason:
            raise ValueError(reason)
        with _rules(model, self.epsilon):
            return attribute_through(LRP(nn.Sequential(model)), inputs, targets)


def _is_leaf(module: nn.Module) -> bool:
    """Whether a module has no modules inside."""
    return next(module.children(), None) is None


def _uncovered(model: nn.Module, row: Tensor) -> str | None:
    """What a forward pass does that Captum's LRP does not cover, or `None`."""
    with gradients_enabled():
        row = row.detach().clone().requires_grad_()
        with module_calls(model) as calls, _entries(model) as entries:
            logits = model(row)
        nodes = {node for node in nodes_between(row, logits) if node.next_functions}
    modules = dict(model.named_modules())
    return _not_layers(nodes, calls, modules) or _called_twice(entries, modules) or _forks(nodes, entries, modules)


@contextmanager
def _entries(model: nn.Module) -> Generator[Entries, None, None]:
    """Note which edges of the gradient graph enter which layers, in the order of their calls."""
    entries: Entries = []
    handles: list[RemovableHandle] = []

    def note(name: str, _: nn.Module, inputs: tuple[object, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor) and value.requires_grad:
                edge = get_gradient_edge(value)
                entries.append((name, (edge.node, edge.output_nr)))

    try:
        for name, module in model.named_modules():
            if _is_leaf(module):
                handles.append(module.register_forward_pre_hook(partial(note, name)))
        yield entries
    finally:
        for handle in handles:
            handle.remove()


def _not_layers(nodes: Collection[Node], calls: ModuleCalls, modules: dict[str, nn.Module]) -> str | None:
    """Why steps that are not made by layers are not covered, or `None`."""
    places: set[str] = set()
    for node in nodes:
        kind = step_kind(node)
        owner = calls.owner(node)
        if not (_CARRIERS.fullmatch(kind) or _is_leaf(modules[owner])):
            places.add(f"`{kind}` in {place(owner)}")
    if not places:
        return None
    return f"LRP does not cover {', '.join(sorted(places)[:3])}; it takes layers one after the other"


def _called_twice(entries: Entries, modules: dict[str, nn.Module]) -> str | None:
    """The first layer whose contributions Captum would have to keep for two calls, or `None`."""
    for name, calls in Counter(name for name, _ in entries).items():
        if calls > 1 and isinstance(modules[name], _RULED):
            return f"LRP needs a layer of its own for every call, and layer `{name}` is called {calls} times"
    return None


def _forks(nodes: Collection[Node], entries: Entries, modules: dict[str, nn.Module]) -> str | None:
    """The first use of one result in several places that Captum gets wrong, or `None`.

    Captum multiplies the whole gradient at the input of a ruled layer by that input. So all that uses a result must be
    such layers, as long as there is more than one.
    """
    uses = Counter(edge for node in nodes for edge in node.next_functions)
    for edge in dict.fromkeys(edge for _, edge in entries):
        layers = [name for name, entered in entries if entered == edge]
        alike = len(layers) == uses[edge] and all(isinstance(modules[name], _RULED) for name in layers)
        if uses[edge] > 1 and not alike:
            return f"LRP does not cover a result that goes several ways, as that which enters layer `{layers[0]}` does"
    return None


@contextmanager
def _rules(model: nn.Module, epsilon: float) -> Generator[None, None, None]:
    """Give every layer its rule; afterwards the layers have what they had, without what Captum leaves behind."""
    leaves = [module for module in model.modules() if _is_leaf(module)]
    before = [{name: vars(leaf).get(name, _MISSING) for name in ("rule", "activations")} for leaf in leaves]
    try:
        for leaf in leaves:
            vars(leaf).pop("rule", None)
            if isinstance(leaf, _RULED):
                leaf.rule = EpsilonRule(epsilon if isinstance(leaf, _WEIGHING) else _TINY)  # type: ignore[assignment]
        yield
    finally:
        for leaf, attributes in zip(leaves, before, strict=True):
            for name, value in attributes.items():
                vars(leaf).pop(name, None)
                if value is not _MISSING:
                    vars(leaf)[name] = value
