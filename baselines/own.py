"""The explanation that a self-explaining model gives of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction, SelfExplaining
from .through_captum import gradients_enabled


@dataclass(frozen=True)
class Own:
    """Hand over what the model itself says: `model.attribute(inputs, targets)`.

    Attributes:
        reduction: how channels become a heatmap; `None` is the model's `own_reduction`, or `"sum"` without one.

    Raises:
        TypeError: from `attribute`, when the model does not explain itself.

    Example:
        >>> import torch
        >>> class Sum(nn.Module):
        ...     def forward(self, inputs):
        ...         return inputs.sum(dim=(1, 2, 3))[:, None]
        ...
        ...     def attribute(self, inputs, targets):
        ...         return inputs
        >>> Own().attribute(Sum(), torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]))
        tensor([[[[3., 4.]]]])
    """

    name: ClassVar[str] = "own"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = "own"
    reference: ClassVar[str] = "the model's"

    reduction: Reduction | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        if isinstance(model, SelfExplaining):
            return None
        return f"`{type(model).__name__}` does not explain itself: it has no `attribute(inputs, targets)`"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the model's attributions, `(B, 1|C, h, w)`; arguments as `Explainer.attribute`."""
        if not isinstance(model, SelfExplaining):
            raise TypeError(self.refuses(model))
        with gradients_enabled():
            return model.attribute(inputs.detach().clone(), targets.clone()).detach()
