"""SmoothGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from ..datasets.philox import uniform
from .base import Reduction
from .option_checks import check_counts, given_keys
from .through_captum import attribute_through


@dataclass(frozen=True)
class SmoothGrad:
    """Attribute by the gradient averaged over noisy copies of the input.

    `a = mean_s ∂f_t(x + σ ε_s) / ∂x` with standard normal `ε_s` and `σ = noise · (max x − min x)`, the range taken over
    all elements of the image. Gradients keep their sign.

    This is what Captum's NoiseTunnel does around `Saliency(abs=False)`. It is not asked itself, because it draws from
    the global generator, in a way that depends on the batch; here noise is drawn by the sample's key. The copies are
    run one after the other, so memory does not grow with their number.

    Attributes:
        reduction: how channels become a heatmap.
        n_samples: number of noisy copies.
        noise: standard deviation of the noise, as a share of the range of the image.

    Raises:
        ValueError: from `attribute`, without `keys`, when `n_samples` is below 1, or `noise` below 0.

    Example:
        >>> image, keys = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([7])
        >>> SmoothGrad().attribute(nn.Flatten(), image, torch.tensor([1]), keys=keys)
        tensor([[[[0., 1.]]]])
    """

    name: ClassVar[str] = "smoothgrad"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Smilkov, Thorat, Kim, Viégas, Wattenberg 2017, arXiv:1706.03825"

    reduction: Reduction = "max_abs"
    n_samples: int = 25
    noise: float = 0.15

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the mean gradients, `(B, C, H, W)`; arguments as `Explainer.attribute`.

        Args:
            model: the model.
            inputs: `(B, C, H, W)`.
            targets: `(B,)` int64.
            keys: `(B,)` int64 sample keys.
        """
        keys = given_keys(keys, "smoothgrad")
        check_counts(n_samples=self.n_samples)
        if not self.noise >= 0:
            raise ValueError(f"`noise` must be at least 0, was {self.noise}")
        inputs = inputs.detach()
        deviation = self.noise * (inputs.amax(dim=(1, 2, 3), keepdim=True) - inputs.amin(dim=(1, 2, 3), keepdim=True))
        total = torch.zeros_like(inputs)
        for draw in range(self.n_samples):
            noisy = inputs + deviation * _normal(keys.to(inputs.device), draw, inputs)
            total += attribute_through(Saliency(model), noisy, targets, abs=False)
        return total / self.n_samples


def _normal(keys: Tensor, draw: int, like: Tensor) -> Tensor:
    """Standard normal numbers of the shape, type and device of `like`, one draw for each key."""
    numbers = uniform(0, "explainer/smoothgrad", keys, draw, like[0].numel())
    return torch.special.ndtri(numbers).view(like.shape).to(like.dtype)
