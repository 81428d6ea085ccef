"""FGSM: one step against the model in pixel space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interpeval.datasets.base import Batch, Normalization
from interpeval.metrics.accuracy import Accuracy
from interpeval.metrics.base import Status
from interpeval.metrics.fgsm_accuracy import FgsmAccuracy, fgsm
from reference import fgsm_accuracy as slow
from small_subject import Pictures, SmallNet, see

MEAN, STD = Pictures.normalization


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1 / 255, 8 / 255, 0.5, 2.0]), st.booleans())
def test_it_is_the_step_written_out_pixel_by_pixel(seed: int, epsilon: float, inverted: bool) -> None:
    std = (-0.2, 0.25, -0.3) if inverted else STD  # inverted: inputs that rise as pixels fall
    generator = torch.Generator().manual_seed(seed)
    normalization = Normalization(MEAN, std)
    images = normalization.normalize(torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64))
    gradient = torch.randint(-1, 2, images.shape, generator=generator).double() * 1e-30
    expected = [slow.fgsm(x, g, epsilon, MEAN, std) for x, g in zip(images.numpy(), gradient.numpy(), strict=True)]
    np.testing.assert_allclose(fgsm(images, gradient, epsilon, normalization).numpy(), expected, atol=1e-12)


def test_a_pixel_stays_within_reach_and_range_and_where_its_gradient_is_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    normalization = Pictures.normalization
    pixels = torch.rand(3, 3, 6, 6, generator=generator)
    gradient = torch.randn(3, 3, 6, 6, generator=generator) * 1e-20
    gradient[:, :, 0] = 0.0
    moved = normalization.to_pixels(fgsm(normalization.normalize(pixels), gradient, 0.1, normalization))
    step = (moved - pixels)[:, :, 1:]
    free = ((pixels > 0.1) & (pixels < 0.9))[:, :, 1:]
    assert torch.allclose(step[free], 0.1 * gradient[:, :, 1:].sign()[free], atol=1e-6)
    assert torch.allclose(moved[:, :, 0], pixels[:, :, 0], atol=1e-6)
    assert -1e-6 < float(moved.min()) < float(moved.max()) < 1 + 1e-6
    assert float(step.abs().max()) < 0.1 + 1e-6


class TwoClasses(nn.Module):
    """The mean pixel against a half, sharpened: brighter images are of class 1."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 2)`."""
        bright = Pictures.normalization.to_pixels(inputs).mean(dim=(1, 2, 3)) - 0.5
        return self.sharpness * torch.stack([-bright, bright], dim=1)


def grey(*levels: float) -> Batch:
    """Uniform pictures of these pixel values, the darker half of class 0."""
    pixels = torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 9, 9)
    labels = (torch.tensor(levels) > 0.5).long()
    ids = tuple(f"grey {level}" for level in levels)
    return Batch(ids, Pictures.normalization.normalize(pixels), labels)


LEVELS = (0.5 - 3.5 / 255, 0.5 + 3.5 / 255, 0.5 - 12 / 255, 0.5 + 12 / 255, 0.1)


@pytest.mark.parametrize("sharpness", [1.0, 1e5])
def test_accuracy_falls_where_the_step_reaches_the_boundary_also_for_a_model_that_is_sure(sharpness: float) -> None:
    model = TwoClasses(sharpness)
    evidence = see(None, model=model, batch=grey(*LEVELS))
    assert Accuracy().score(evidence)[""].values.tolist() == [1] * 5
    scores = FgsmAccuracy(epsilons=(0, 3, 4, 11, 13)).score(evidence)
    assert {name: score.values.tolist() for name, score in scores.items()} == {
        "eps=0": [1, 1, 1, 1, 1],
        "eps=3": [1, 1, 1, 1, 1],
        "eps=4": [0, 0, 1, 1, 1],
        "eps=11": [0, 0, 1, 1, 1],
        "eps=13": [0, 0, 0, 0, 1],
    }


def test_the_cross_entropy_of_a_model_that_is_sure_would_not_move_a_pixel() -> None:
    """The case that the log-odds are there for: in float32, this gradient is zero throughout."""
    batch = grey(*LEVELS)
    images = batch.images.requires_grad_()
    loss = F.cross_entropy(TwoClasses(1e5)(images), batch.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    assert not bool(gradient.any())


def test_the_gradient_is_that_of_the_cross_entropy_but_for_rounding() -> None:
    pictures, model = Pictures(count=12), SmallNet()
    batch = pictures.take(range(12))
    images = batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), batch.labels, reduction="sum"), images)
    scores = FgsmAccuracy(epsilons=(2, 16)).score(see(None, model=model, dataset=pictures))
    for epsilon in (2, 16):
        moved = fgsm(batch.images.detach(), gradient, epsilon / 255, Pictures.normalization)
        expected = (model(moved).argmax(dim=1) == batch.labels).double()
        assert torch.equal(scores[f"eps={epsilon}"].values, expected)
    assert scores["eps=16"].values.sum() < Accuracy().score(see(None, model=model, dataset=pictures))[""].values.sum()


def test_a_step_along_the_gradient_is_worse_than_a_step_against_it() -> None:
    batch, model = Pictures(count=40).take(range(40)), SmallNet()
    images = batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), batch.labels, reduction="sum"), images)
    along, against = (
        F.cross_entropy(model(fgsm(images, sign * gradient, 2 / 255, Pictures.normalization)), batch.labels)
        for sign in (1, -1)
    )
    assert along > F.cross_entropy(model(images), batch.labels) > against


def test_the_model_sees_one_backward_pass_and_one_forward_pass_for_each_step() -> None:
    with see(None) as evidence:
        FgsmAccuracy(epsilons=(1, 2, 4)).score(evidence)
        passes = evidence.spent().passes
    assert (passes.forward, passes.backward) == (5 * (1 + 3), 5)


def test_nothing_depends_on_the_batch() -> None:
    pictures = Pictures(count=20)
    whole, small = (FgsmAccuracy().score(see(None, dataset=pictures, micro_batch=size)) for size in (64, 3))
    assert set(whole) == {f"eps={epsilon}" for epsilon in (1, 2, 8, 16, 32, 64)}
    assert all(torch.equal(whole[variant].values, small[variant].values) for variant in whole)


def test_a_nan_makes_only_its_sample_invalid() -> None:
    batch = grey(*LEVELS)
    batch.images[1, 0, 0, 0] = torch.nan
    scores = FgsmAccuracy(epsilons=(4,)).score(see(None, model=TwoClasses(), batch=batch))["eps=4"]
    np.testing.assert_equal(scores.values.numpy(), [0, np.nan, 1, 1, 1])
    assert scores.status.tolist() == [0, Status.INVALID, 0, 0, 0]


def test_what_has_no_meaning_is_refused() -> None:
    for epsilons in ((), (-1.0,)):
        with pytest.raises(ValueError, match="`epsilons` must be one or more numbers of at least 0"):
            FgsmAccuracy(epsilons=epsilons)
    images = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="`epsilon` must be at least 0, was -1"):
        fgsm(images, images, -1, Pictures.normalization)
    with pytest.raises(ValueError, match=r"`gradient` must be \(1, 3, 2, 2\) like the images, was \(3, 2, 2\)"):
        fgsm(images, images[0], 0.1, Pictures.normalization)
    several = Batch(("a",), torch.zeros(1, 3, 9, 9), torch.ones(1, 3).bool())
    with pytest.raises(ValueError, match="samples of several labels"):
        FgsmAccuracy().score(see(None, batch=several))
