"""Shapley values of segments, by sampling orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from captum.attr import ShapleyValueSampling as CaptumShapleyValueSampling
from torch import Tensor, nn

from ..datasets.philox import permutation
from .base import Reduction
from .option_checks import check_counts, given_keys
from .segments import Segments, segment, share
from .through_captum import attribute_through


@dataclass(frozen=True)
class ShapleySampling:
    """Attribute by what each segment adds to the logit on being put into the image, averaged over random orders.

    `φ_j = mean_π (f_t(x_{P + j}) − f_t(x_P))`, where `P` holds the segments before `j` in the order `π`, and `x_P`
    shows them and the reference input elsewhere. For every number of orders the values add up to
    `f_t(x) − f_t(x0)`. A segment's value is divided equally among its pixels, so that the map adds up to that too;
    Captum gives the whole value to each of them. Costs `n_samples · M + 1` evaluations for `M` segments.

    The orders are drawn by the sample's key and handed to Captum, one sample after the other, so no value depends on
    the batch.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        segments: `"grid"` or `"superpixels"`, see `segment`.
        n_segments: about how many there are.
        n_samples: number of orders.
        reference_input: value of every element of `x0`, in the model's normalised input space.
        batch_size: how many images are evaluated at once; memory only.

    Raises:
        ValueError: from `attribute`, without `keys` or with an argument that has no such value.
        ImportError: from `attribute`, see `segment`.

    Example:
        >>> explainer = ShapleySampling(n_segments=4)
        >>> image, keys = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([7])
        >>> explainer.attribute(nn.Flatten(), image, torch.tensor([3]), keys=keys)
        tensor([[[[0., 0.],
                  [0., 4.]]]])
    """

    name: ClassVar[str] = "shapley_sampling"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = "difference"
    reference: ClassVar[str] = "Castro, Gómez, Tejada 2009, doi:10.1016/j.cor.2008.04.004"

    reduction: Reduction = "none"
    segments: Segments = "grid"
    n_segments: int = 49
    n_samples: int = 25
    reference_input: float = 0.0
    batch_size: int = 32

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`.

        Args:
            model: the model.
            inputs: `(B, C, H, W)`.
            targets: `(B,)` int64.
            keys: `(B,)` int64 sample keys.
        """
        keys = given_keys(keys, "shapley_sampling")
        check_counts(n_samples=self.n_samples, batch_size=self.batch_size)
        labels = segment(inputs, self.segments, n_segments=self.n_segments)
        rows = zip(inputs.split(1), targets.split(1), labels, keys.to(inputs.device).split(1), strict=True)
        return torch.stack([self._map(model, *row) for row in rows])

    def _map(self, model: nn.Module, image: Tensor, target: Tensor, labels: Tensor, key: Tensor) -> Tensor:
        """`(1, H, W)` of one image."""
        n_segments, draws = int(labels.max()) + 1, torch.arange(self.n_samples, device=key.device)
        orders = permutation(0, "explainer/shapley_sampling", key.expand(self.n_samples), draws, n_segments)
        method = CaptumShapleyValueSampling(model)
        method.permutation_generator = partial(_given, orders)  # instead of the global generator
        values = attribute_through(
            method,
            image,
            target,
            baselines=self.reference_input,
            feature_mask=labels.expand(image.shape).contiguous(),
            n_samples=self.n_samples,
            perturbations_per_eval=self.batch_size,
        )
        # Captum repeats a segment's value in each of its elements: one of them is read back.
        by_segment = values.new_zeros(n_segments).scatter(0, labels.flatten(), values[0, 0].flatten())
        return share(by_segment, labels)[None].to(image.dtype)


def _given(orders: Tensor, num_features: int, num_samples: int) -> Sequence[Sequence[int]]:
    """The orders, for Captum, which asks for so many of so many features."""
    del num_features, num_samples
    return orders.tolist()
