"""Linear approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction
from .cam_layer import lacks_feature_map
from .gradient_x_activation import gradient_x_activation


@dataclass(frozen=True)
class LinearApproximation:
    """Attribute by the linear approximation of the logit in the activations of a layer, with its sign.

    `a_ij = Σ_k A^k_ij ∂f_t / ∂A^k_ij`: what the first-order Taylor expansion around the layer's output `A` takes away
    from the logit where `A_ij` is set to zero. At the same layer it is element-wise Grad-CAM without its ReLU. The map
    has the resolution of the layer and is enlarged bilinearly when it becomes a heatmap.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.

    Raises:
        ValueError: there is no such layer, or its output is not `(B, C, h, w)`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
        >>> model[2].weight.data = torch.tensor([[2.0, -1.0]])
        >>> LinearApproximation().attribute(model, torch.tensor([[[[4.0, 3.0]]]]), torch.tensor([0]))
        tensor([[[[ 8., -3.]]]])
    """

    name: ClassVar[str] = "linear_approximation"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Fong, Patrick, Vedaldi 2019, arXiv:1910.08485 (TorchRay)"

    reduction: Reduction = "none"
    layer: str | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        return gradient_x_activation(model, inputs, targets, self.layer).sum(dim=1, keepdim=True)
