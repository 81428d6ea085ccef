"""Element-wise Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from .base import Reduction
from .cam_layer import lacks_feature_map
from .gradient_x_activation import gradient_x_activation


@dataclass(frozen=True)
class ElementwiseGradCam:
    """Attribute by the activations of a layer, each weighed by its own gradient, added up and rectified.

    `a_ij = max(0, Σ_k A^k_ij ∂f_t / ∂A^k_ij)` with `A` the layer's output: Grad-CAM without its mean over positions.
    Where `A` is averaged over positions to give the features of a linear classifier, the gradient is the same at all
    of them, and this is Grad-CAM; where their maximum is taken it is not. The map has the resolution of the layer and
    is enlarged bilinearly when it becomes a heatmap.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.
        relu: what is cut off at 0, the `"sum"` over channels, as by Pillai and Pirsiavash, or each of its `"terms"`
            before they are added, as in the `GradCAMElementWise` of the package grad-cam.

    Raises:
        ValueError: there is no such layer, or its output is not `(B, C, h, w)`; or `relu` is neither.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
        >>> model[2].weight.data = torch.tensor([[2.0, -1.0]])
        >>> ElementwiseGradCam().attribute(model, torch.tensor([[[[4.0, 3.0]]]]), torch.tensor([0]))
        tensor([[[[8., 0.]]]])
    """

    name: ClassVar[str] = "elementwise_gradcam"
    rectified: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Pillai, Pirsiavash 2021, Explainable Models with Consistent Interpretations (AAAI)"

    reduction: Reduction = "none"
    layer: str | None = None
    relu: Literal["sum", "terms"] = "sum"

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        if self.relu not in {"sum", "terms"}:
            raise ValueError(f'`relu` must be "sum" or "terms", was {self.relu!r}')
        terms = gradient_x_activation(model, inputs, targets, self.layer)
        if self.relu == "terms":
            terms = terms.clamp(min=0)
        return terms.sum(dim=1, keepdim=True).clamp(min=0)
