"""Attributors and composites of zennit: layer-wise relevance propagation by many rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.autograd.graph import Node

from .base import Reduction
from .gradient_graph import nodes_between
from .lent_model import lent
from .through_captum import gradients_enabled

Start = Literal["logit", "one"]
# Composites that change gradients and hand down no relevance.
_OF_GRADIENTS = frozenset({"DeconvNet", "GuidedBackprop", "ExcitationBackprop"})
# Steps that join branches without adding them up.
_JOINS = ("CatBackward", "StackBackward")


@dataclass(frozen=True)
class FromZennit:
    """An attributor of zennit under a composite of rules as an explainer.

    Batch norms are merged into the layers before them, and the residual sums of torchvision's ResNets are made layers
    with a rule (zennit's `ResNetCanonizer`), for the time of the call. Zennit leaves to the plain gradient whatever has
    no rule; that is right for ReLU and for what moves elements, and would count relevance twice where branches are
    added or multiplied outside of a layer. Such models are refused when they are asked about, with the step's name.

    Attributes:
        composite: a composite of zennit, its class, or its name in `zennit.composites.COMPOSITES`; `"epsilon"` is LRP-ε
            in every convolutional and linear layer; `None` leaves the attributor alone.
        options: arguments of the composite's class; of `"epsilon"`, `epsilon` and `zero_params`. Where there is no
            composite, of the attributor's class.
        attributor: the attributor's class; by default `zennit.attribution.Gradient`.
        start: what is handed down from the target, `"logit"` or `"one"`; by default the logit for composites that
            propagate relevance, else one.
        reduction: how channels become a heatmap.

    Raises:
        ImportError: zennit is not installed (`pip install interpeval[zennit]`).
        ValueError: the composite is unknown, or the model has a step that no rule covers.

    Reference: Anders et al. 2021, arXiv:2106.13200.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[2.0, -1.0]])
        >>> FromZennit().attribute(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0])).round()
        tensor([[[[ 6., -4.]]]])
    """

    package: ClassVar[str] = "zennit"
    needs_gradient: ClassVar[bool] = True

    composite: Any = "epsilon"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    attributor: type | None = None
    start: Start | None = None
    reduction: Reduction = "sum"

    @property
    def name(self) -> str:
        """`zennit_` and the composite's or the attributor's name."""
        thing = self.attributor if self.composite is None else self.composite
        return f"zennit_{thing if isinstance(thing, str) else _class_of(thing).__name__}"

    @property
    def adapted(self) -> object:
        """What is adapted."""
        thing = self.attributor if self.composite is None else self.composite
        return thing if isinstance(thing, type) else type(thing)

    @property
    def configuration(self) -> dict[str, object]:
        """What was chosen, as results record it."""
        attributor = None if self.attributor is None else self.attributor.__name__
        return {"reduction": self.reduction, "attributor": attributor, "start": self.start, **self.options}

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the relevances, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        from zennit.attribution import Gradient

        composite = self._composite()
        build: Callable[..., Any] = Gradient if self.attributor is None else self.attributor
        attributor: Any = build(model, composite, **(self.options if self.composite is None else {}))
        from_logit = self._starts_at_logit(composite)

        def handed_down(logits: Tensor) -> Tensor:
            chosen = nn.functional.one_hot(targets, logits.shape[1]).to(logits)
            return chosen * logits.detach() if from_logit else chosen

        with gradients_enabled(), lent(model):
            model.requires_grad_(False)
            try:
                if composite is not None:
                    composite.register(model)
                    _check_joins(model, inputs[:1])
                _, relevance = attributor(inputs.detach().clone().requires_grad_(), handed_down)
            finally:
                if composite is not None:
                    composite.remove()
            return relevance.detach()

    def _starts_at_logit(self, composite: object) -> bool:
        if self.start not in {None, "logit", "one"}:
            raise ValueError(f'`start` must be "logit" or "one", was {self.start!r}')
        by_default = composite is not None and type(composite).__name__ not in _OF_GRADIENTS
        return by_default if self.start is None else self.start == "logit"

    def _composite(self) -> Any:
        """The composite, with a canonizer for batch norms and ResNets where it was not built by the caller."""
        from zennit import composites
        from zennit.torchvision import ResNetCanonizer

        chosen = self.composite
        if chosen == "epsilon":
            return _epsilon(canonizers=[ResNetCanonizer()], **self.options)
        if isinstance(chosen, str):
            known: dict[str, Any] = composites.COMPOSITES
            if chosen not in known:
                raise ValueError(f"`composite` must be one of epsilon, {', '.join(known)}; was {chosen!r}")
            chosen = known[chosen]
        return chosen(**{"canonizers": [ResNetCanonizer()], **self.options}) if isinstance(chosen, type) else chosen


def is_of_zennit(thing: object) -> bool:
    """Whether something is a composite or attributor of zennit, or a class of them; it need not be installed."""
    return any(
        base.__module__.partition(".")[0] == "zennit" and base.__name__ in {"Composite", "Attributor"}
        for base in _class_of(thing).__mro__
    )


def from_zennit(
    thing: Any, *, reduction: Reduction = "sum", start: Start | None = None, **options: object
) -> FromZennit:
    """Make an explainer of a composite, of its class, or of the class of an attributor.

    Args:
        thing: the composite or class.
        reduction: how channels become a heatmap.
        start: as for `FromZennit`.
        options: arguments of the class; a composite takes none.

    Raises:
        TypeError: an attributor that is bound to a model, or options for a composite that is built already.
    """
    is_attributor = any(base.__name__ == "Attributor" for base in _class_of(thing).__mro__)
    if not isinstance(thing, type):
        if is_attributor:
            raise TypeError(f"`{type(thing).__name__}` is no explainer; it is bound to one model: give its class")
        if options:
            raise TypeError(f"`{type(thing).__name__}` is built already and takes no parameters: give its class")
    if is_attributor:
        return FromZennit(None, options, attributor=thing, start=start, reduction=reduction)
    return FromZennit(thing, options, start=start, reduction=reduction)


def _class_of(thing: object) -> type:
    return thing if isinstance(thing, type) else type(thing)


def _epsilon(*, epsilon: float = 1e-6, zero_params: object = None, canonizers: list[Any]) -> Any:
    """LRP-ε in every layer that weighs its inputs."""
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.types import Linear

    rule = Epsilon(epsilon=epsilon, zero_params=zero_params)
    return LayerMapComposite([*layer_map_base(epsilon), (Linear, rule)], canonizers=canonizers)


def _check_joins(model: nn.Module, row: Tensor) -> None:
    """Refuse a model in which branches meet outside of a layer that has a rule."""
    row = row.detach().clone().requires_grad_()
    nodes = nodes_between(row, model(row))
    joins = sorted({node.name() for node in nodes if _is_join(node, nodes)})
    if joins:
        step = joins[0].removesuffix("0").removesuffix("Backward")
        raise ValueError(
            f"zennit has no rule for `{step}`, by which branches of `{type(model).__name__}` meet; make it a layer "
            "(`zennit.layer.Sum`), or give a composite with a canonizer that does"
        )


def _is_join(node: Node, nodes: set[Node]) -> bool:
    branches = [source for source, _ in node.next_functions if source in nodes]
    return len(branches) > 1 and not node.name().startswith(_JOINS)
