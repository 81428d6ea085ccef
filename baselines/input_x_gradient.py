"""Input times gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captum.attr import InputXGradient as CaptumInputXGradient
from torch import Tensor, nn

from .base import Reduction
from .through_captum import attribute_through


@dataclass(frozen=True)
class InputXGradient:
    """Attribute by the input times the gradient of the target's logit, `a = x · ∂f_t(x) / ∂x`.

    `x` is the normalised input, as the model sees it. In a network of linear layers and ReLUs without biases the
    attributions add up to the logit; in general they do not, and nothing is declared.

    Attributes:
        reduction: how channels become a heatmap.

    Example:
        >>> import torch
        >>> InputXGradient().attribute(nn.Flatten(), torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1]))
        tensor([[[[0., 4.]]]])
    """

    name: ClassVar[str] = "input_x_gradient"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Shrikumar, Greenside, Shcherbina, Kundaje 2016, arXiv:1605.01713"

    reduction: Reduction = "sum"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the products, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        return attribute_through(CaptumInputXGradient(model), inputs, targets)
