"""Score-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bare_passes import without_gradients
from .base import Reduction
from .cam_layer import cam_layer, lacks_feature_map
from .class_score import Score, class_score
from .layer_outputs import outputs_of
from .option_checks import check_counts, check_word

Weights = Literal["increase", "softmax"]


@dataclass(frozen=True)
class ScoreCam:
    """Attribute by the channels of a layer, weighed by what the class gains when the image is seen through them.

    `a = max(0, Σ_k α_k A_k)` with `A` the layer's output and `α_k = s(x0 + H_k ⊙ (x − x0)) − s(x0)`: the score of the
    target when the image shows where channel `k` is active, above that of the reference input `x0`. `H_k` is `A_k`
    enlarged bilinearly to the image and scaled to [0, 1] by its smallest and largest value. A channel that is constant
    over the image says nothing about places and has weight 0.

    The score is the softmax probability, as in the paper's text. The paper's definition of the weights is the one
    above; its algorithm then puts them through a softmax over the channels (`weights="softmax"`). The released code
    does neither: its weight is the probability itself. It also enlarges the maps before it adds and rectifies them;
    here, as in `gradcam`, that comes last.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.
        score: `"softmax"`, `"sigmoid"` or `"logit"`.
        weights: `"increase"` or `"softmax"`.
        reference_input: value of every element of `x0`, normalised; 0 is the mean colour of the training data.
        batch_size: masked images that go through the model at once.

    Raises:
        ValueError: from `attribute`, for an unknown layer or one whose output is not `(B, C, h, w)`, an option out of
            its range, or the softmax of a model with a single output.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> inputs = torch.tensor([[[[4.0, 0.0]]]])  # H = (1, 0), so the logit is 2 with it, and 0 for the reference
        >>> ScoreCam(score="logit").attribute(model, inputs, torch.tensor([0]))
        tensor([[[[8., 0.]]]])
    """

    name: ClassVar[str] = "scorecam"
    rectified: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Wang et al. 2020, arXiv:1910.01279"

    reduction: Reduction = "none"
    layer: str | None = None
    score: Score = "softmax"
    weights: Weights = "increase"
    reference_input: float = 0.0
    batch_size: int = 32

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        return lacks_feature_map(model, self.layer)

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, h, w)`; arguments as `Explainer.attribute`."""
        check_counts(batch_size=self.batch_size)
        check_word("weights", self.weights, ("increase", "softmax"))
        with without_gradients():
            layer = cam_layer(model, inputs, self.layer)
            return torch.stack([self._explain(model, layer, *row) for row in zip(inputs, targets, strict=True)])

    def _explain(self, model: nn.Module, layer: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        """The `(1, h, w)` map of one sample."""
        with outputs_of([layer]) as outputs:
            model(image[None])
        activations = outputs[0]
        if activations.ndim != 4:
            raise ValueError(f"`layer` must have a (B, C, h, w) output; {self.layer!r} gave {tuple(activations.shape)}")
        channels = activations[0]
        weights = self._weights(model, channels, image, target)
        return (weights[:, None, None] * channels).sum(dim=0, keepdim=True).clamp(min=0).to(image.dtype)

    def _weights(self, model: nn.Module, channels: Tensor, image: Tensor, target: Tensor) -> Tensor:
        """The `(K,)` weights of the channels, `batch_size` of which are seen through at once."""
        reference = torch.full_like(image, self.reference_input)
        floor = class_score(model(reference[None]), target, self.score)
        scores = [
            class_score(model(reference + masks[:, None] * (image - reference)), target, self.score)
            for masks in (_enlarged(some, image) for some in channels.split(self.batch_size))
        ]
        increase = torch.cat(scores) - floor
        constant = channels.flatten(1).amax(dim=1) == channels.flatten(1).amin(dim=1)
        if self.weights == "softmax":
            increase = increase.masked_fill(constant, -torch.inf).softmax(dim=0)
        return increase.masked_fill(constant, 0)


def _enlarged(channels: Tensor, image: Tensor) -> Tensor:
    """Channels `(n, h, w)` at the image's size, each scaled to [0, 1]; constant ones are 0."""
    maps = F.interpolate(channels[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)
