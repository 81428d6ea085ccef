"""FGSM against Captum's, with the cross-entropy as its loss and no gradient called too small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from captum.robust import FGSM
from torch import Tensor, nn

from interpeval.datasets.base import Normalization
from interpeval.metrics.fgsm_accuracy import fgsm
from small_subject import Pictures, SmallNet

BATCH = Pictures(count=8).take(range(8))
NORMALIZATION: Normalization = Pictures.normalization


def test_adversarial_images_are_captums() -> None:
    model, pixels = SmallNet(), NORMALIZATION.to_pixels(BATCH.images)
    for epsilon in (1 / 255, 8 / 255, 64 / 255):
        expected = _captums(model, epsilon, zero_thresh=0.0)
        found = NORMALIZATION.to_pixels(fgsm(BATCH.images, _gradient(model), epsilon, NORMALIZATION))
        assert torch.allclose(found, expected, atol=1e-6)
        assert float((expected - pixels).abs().max()) > 0.9 * epsilon


def test_captums_default_passes_over_small_gradients_and_ours_does_not() -> None:
    model = SmallNet()
    model.head.weight.data *= 1e-6
    pixels, epsilon = NORMALIZATION.to_pixels(BATCH.images), 8 / 255
    assert torch.equal(_captums(model, epsilon, zero_thresh=1e-6), pixels)
    found = NORMALIZATION.to_pixels(fgsm(BATCH.images, _gradient(model), epsilon, NORMALIZATION))
    assert torch.allclose(found, _captums(model, epsilon, zero_thresh=0.0), atol=1e-6)


def _captums(model: nn.Module, epsilon: float, *, zero_thresh: float) -> Tensor:
    theirs = FGSM(
        lambda pixels: model(NORMALIZATION.normalize(pixels)),
        nn.CrossEntropyLoss(reduction="none"),
        lower_bound=0.0,
        upper_bound=1.0,
    )
    theirs.zero_thresh = zero_thresh
    pixels = NORMALIZATION.to_pixels(BATCH.images).requires_grad_()
    moved: Tensor = theirs.perturb(pixels, epsilon=epsilon, target=BATCH.labels)
    return moved.detach()


def _gradient(model: nn.Module) -> Tensor:
    images = BATCH.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), BATCH.labels, reduction="sum"), images)
    return gradient
