"""FGSM accuracy: how good the model is when every pixel moves a little against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..datasets.base import Normalization
from .base import Evidence, Metric, Scores, nan_where, status_of
from .mask_k_pixels import log_odds


def fgsm(images: Tensor, gradient: Tensor, epsilon: float, normalization: Normalization) -> Tensor:
    """Move every pixel by `epsilon` in the direction that raises the loss: `clamp(p + ε · sign(∂L/∂p), 0, 1)`.

    The step is taken in pixel space, so `epsilon` means the same for every normalisation. A pixel stays where its
    gradient is exactly 0, and nowhere else.

    Args:
        images: `(B, C, H, W)` normalised.
        gradient: `(B, C, H, W)` gradient of the loss by the normalised images.
        epsilon: length of the step in pixel values of [0, 1], at least 0.
        normalization: how pixel values became model inputs.

    Returns:
        `(B, C, H, W)` normalised.

    Raises:
        ValueError: shapes differ, or `epsilon` is negative.

    Example:
        >>> images = torch.tensor([[[[0.0, 1.0, 0.0]]]])  # the pixels are 0.5, 1.0, 0.5
        >>> fgsm(images, torch.tensor([[[[-3.0, 1e-9, 0.0]]]]), 0.25, Normalization((0.5,), (0.5,)))
        tensor([[[[-0.5000,  1.0000,  0.0000]]]])
    """
    if images.shape != gradient.shape:
        raise ValueError(f"`gradient` must be {tuple(images.shape)} like the images, was {tuple(gradient.shape)}")
    if not epsilon >= 0:
        raise ValueError(f"`epsilon` must be at least 0, was {epsilon}")
    # By pixels instead of inputs, the gradient is divided by the deviation, whose sign is all that matters here.
    direction = gradient.sign() * images.new_tensor(normalization.std).sign().view(-1, 1, 1)
    moved = normalization.to_pixels(images) + epsilon * direction
    return normalization.normalize(moved.clamp(0, 1))


@dataclass(frozen=True)
class FgsmAccuracy(Metric):
    """FGSM accuracy: top-1 accuracy on images moved one step against the model, no pixel further than ε.

    `[argmax f(x_ε) = y]` with x_ε from `fgsm`, the loss being the cross-entropy of the label; higher is better, in
    [0, 1]. A statement about the model, not about an explanation.

    Variants: `"eps=1"`, `"eps=2"` …, one for each of `epsilons`.

    The gradient is that of minus the log-odds of the label, `−(z_y − logsumexp over j ≠ y of z_j)`, in float64 from
    the logits on: the cross-entropy rises with it, so the signs are the same, but they do not drown in rounding where
    the model is sure (in float32 the cross-entropy's gradient is then 0, and the attack does nothing).

    A sample is invalid when its gradient or a logit is NaN.

    Attributes:
        epsilons: steps, in 1/255 of the range of pixel values.

    Example:
        >>> FgsmAccuracy(epsilons=(0.5, 4))
        FgsmAccuracy(epsilons=(0.5, 4))
    """

    name: ClassVar[str] = "fgsm_accuracy"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"label", "gradient"})
    reference: ClassVar[str] = "Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015"

    epsilons: tuple[float, ...] = (1, 2, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        """Check the configuration."""
        object.__setattr__(self, "epsilons", tuple(self.epsilons))  # a list, from the command line or a suite
        if not self.epsilons or not all(epsilon >= 0 for epsilon in self.epsilons):
            raise ValueError(f"`epsilons` must be one or more numbers of at least 0, was {self.epsilons}")

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch, for each ε."""
        labels, images, normalization = evidence.targets("label"), evidence.batch.images, evidence.normalization
        gradient = evidence.differentiate(lambda logits, rows: -log_odds(logits, labels[rows]))

        def score_at(epsilon: float) -> Scores:
            parts = evidence.predict(
                len(images), lambda rows: fgsm(images[rows], gradient[rows], epsilon / 255, normalization)
            )
            logits = torch.cat([part for _, part in parts])
            invalid = logits.isnan().any(dim=1) | gradient.flatten(1).isnan().any(dim=1)
            correct = logits.argmax(dim=1) == labels
            return Scores(nan_where(correct, invalid), status_of(len(labels), labels.device, invalid=invalid))

        return {f"eps={epsilon:g}": score_at(epsilon) for epsilon in self.epsilons}
