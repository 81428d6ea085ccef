"""DeconvNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum.attr import Deconvolution
from torch import Tensor, nn

from .base import Reduction
from .relu_rule import every_relu_is_a_module, lacks_relu
from .through_captum import attribute_through


@dataclass(frozen=True)
class DeconvNet:
    """Attribute by the gradient that passes every ReLU by being rectified itself.

    At a ReLU the gradient `g` becomes `max(g, 0)`, whatever the sign of the ReLU's input. Only `nn.ReLU` modules can
    be treated so; other activations keep their gradient, and max-pooling its own.

    Attributes:
        reduction: how channels become a heatmap.

    Raises:
        ValueError: the model calls ReLU as a function, or otherwise in a way that `every_relu_is_a_module` refuses.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> model[2].weight.data = torch.tensor([[1.0, -1.0]])
        >>> DeconvNet().attribute(model, torch.tensor([[[[-3.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[1., 0.]]]])
    """

    name: ClassVar[str] = "deconvnet"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Zeiler, Fergus 2014, arXiv:1311.2901"

    reduction: Reduction = "max_abs"

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_relu(model)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the changed gradients, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        with every_relu_is_a_module(model):
            return attribute_through(Deconvolution(model), inputs, targets)
