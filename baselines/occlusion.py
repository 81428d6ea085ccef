"""Occlusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn

from .base import Reduction
from .option_checks import check_counts
from .through_captum import attribute_through


@dataclass(frozen=True)
class Occlusion:
    """Attribute by how much the logit drops when a square of the image is replaced, averaged over squares.

    `a_ij = mean_{q ∋ (i, j)} (f_t(x) − f_t(x with the reference input in q))` over all squares `q` that cover a pixel.
    Squares start every `stride` pixels from the upper left corner, all channels at once; the last ones are cut off by
    the border.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        window: side of the square in pixels; by default a seventh of the image's shorter side, rounded up.
        stride: steps between squares in pixels; by default half the window, rounded up.
        reference_input: value that replaces the image, in the model's normalised input space. 0 is the mean colour of
            the training data.
        batch_size: how many images are evaluated at once; memory only.

    Raises:
        ValueError: from `attribute`, when `window`, `stride` or `batch_size` is below 1, the window larger than the
            image, or the stride larger than the window.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> Occlusion(window=1).attribute(nn.Flatten(), image, torch.tensor([3]))
        tensor([[[[0., 0.],
                  [0., 4.]]]])
    """

    name: ClassVar[str] = "occlusion"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Zeiler, Fergus 2014, arXiv:1311.2901"

    reduction: Reduction = "none"
    window: int | None = None
    stride: int | None = None
    reference_input: float = 0.0
    batch_size: int = 32

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`."""
        channels, height, width = inputs.shape[1:]
        window = -(-min(height, width) // 7) if self.window is None else self.window
        stride = -(-window // 2) if self.stride is None else self.stride
        check_counts(window=window, stride=stride, batch_size=self.batch_size)
        if window > min(height, width):
            raise ValueError(f"`window` must fit into the image of {height}×{width} pixels, was {window}")
        if stride > window:
            raise ValueError(f"`stride` must be at most the window of {window} pixels, was {stride}")
        parts = zip(inputs.split(self.batch_size), targets.split(self.batch_size), strict=True)
        maps = [
            attribute_through(
                CaptumOcclusion(model),
                images,
                classes,
                sliding_window_shapes=(channels, window, window),
                strides=(channels, stride, stride),
                baselines=self.reference_input,
                perturbations_per_eval=max(1, self.batch_size // len(images)),
            )
            for images, classes in parts
        ]
        return torch.cat(maps)[:, :1].to(inputs.dtype)  # all channels are replaced at once and have the same values
