"""Contrastive excitation backpropagation (contrastive marginal winning probability, cMWP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .base import Reduction
from .cam_layer import lacks_feature_map
from .excitation import excitation_map


@dataclass(frozen=True)
class ContrastiveExcitationBackprop:
    """Attribute by how much likelier a random walk from the target gets there than one from "not the target".

    `a_ij = max(0, Σ_k (p − p̄)^k_ij)` with the probabilities of `excitation` from the target (`p`) and from a dual
    unit whose weights in the last weighted layer are the negated ones (`p̄`). The difference is cut off at 0 at the
    very end and nowhere before, as in the code released with TorchRay. There the two are subtracted at a contrast
    layer (`avgpool` of a ResNet-50, `relu7` of a VGG-16) and the difference is propagated on; since all rules are
    linear this is the same. See `ExcitationBackprop` for sums of branches.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `excitation_layer`.

    Raises:
        ValueError: there is no such layer, its output is not `(B, C, h, w)`, no weighted layer is above it, or
            something that is has no rule (`excitation`).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(3, 1))
        >>> model[2].weight.data = torch.tensor([[1.0, 3.0, -2.0]])
        >>> inputs = torch.tensor([[[[2.0, 2.0, 5.0]]]])
        >>> ContrastiveExcitationBackprop().attribute(model, inputs, torch.tensor([0]))
        tensor([[[[0.2500, 0.7500, 0.0000]]]])
    """

    name: ClassVar[str] = "contrastive_excitation_backprop"
    rectified: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Zhang et al. 2018, arXiv:1608.00507"

    reduction: Reduction = "none"
    layer: str | None = None

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        return excitation_map(model, inputs, targets, self.layer, contrastive=True).clamp(min=0)
