"""The control that looks at the image but not at the model: edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Reduction


@dataclass(frozen=True)
class Edges:
    """Attribute by the Sobel magnitude of the grey image.

    Grey is the mean over channels of the normalised input, and the image is continued by its border pixels, so
    that the border is no edge. The kernels are `[1, 2, 1]` across `[−1, 0, 1]`, without a factor.

    Attributes:
        reduction: how channels become a heatmap; there is one already.

    Example:
        >>> import torch
        >>> Edges().attribute(nn.Identity(), torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]), torch.tensor([0]))
        tensor([[[[0., 4., 4., 0.]]]])
    """

    name: ClassVar[str] = "edges"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "control; Adebayo et al. 2018, arXiv:1810.03292"

    reduction: Reduction = "none"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the magnitudes, `(B, 1, H, W)`; the model and the target are ignored."""
        del model, targets
        grey = F.pad(inputs.detach().mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        # Sums of slices, not a convolution: exact on every device, so that a flat image is exactly 0.
        down = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
        across = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
        return torch.hypot(down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :])
