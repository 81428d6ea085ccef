"""Guided backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction
from .relu_rule import lacks_rule, relu_ruled_gradient


@dataclass(frozen=True)
class GuidedBackprop:
    """Attribute by the gradient whose negative part is cut off wherever it passes a ReLU.

    At a ReLU with input `z` the gradient `g` becomes `max(g, 0) · [z > 0]`. ReLU may be spelt as a
    module or a function; `relu_ruled_gradient` says which other layers are refused.

    Attributes:
        reduction: how channels become a heatmap.

    Raises:
        ValueError: the model has no ReLU, or other activations, or hides what it does (`relu_ruled_gradient`).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> model[2].weight.data = torch.tensor([[1.0, -1.0]])
        >>> GuidedBackprop().attribute(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[1., 0.]]]])
    """

    name: ClassVar[str] = "guided_backprop"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Springenberg, Dosovitskiy, Brox, Riedmiller 2015, arXiv:1412.6806"

    reduction: Reduction = "max_abs"

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_rule(model)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the changed gradients, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        return relu_ruled_gradient(model, inputs, targets, "guided")
