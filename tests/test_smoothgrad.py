"""`smoothgrad`."""

from __future__ import annotations

import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from interpeval.baselines.gradient import Gradient
from interpeval.baselines.smoothgrad import SmoothGrad, _normal
from small_subject import SmallNet

TARGETS, KEYS = torch.tensor([0, 2]), torch.tensor([11, 12])


def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


class Cubes(nn.Module):
    """Logits `Σ x³` and `Σ 2x³`: the gradient `3x²` has the mean `3 (x² + σ²)` under noise."""

    def forward(self, inputs):
        total = (inputs**3).sum(dim=(1, 2, 3))
        return torch.stack([total, 2 * total], dim=1)


def test_a_linear_model_is_explained_by_its_weights_whatever_the_noise():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).double()
    maps = SmoothGrad(noise=3.0).attribute(model, images(), TARGETS, keys=KEYS)
    torch.testing.assert_close(maps, model[1].weight[TARGETS].view(2, 3, 6, 6).detach())


def test_without_noise_it_is_the_gradient():
    model, inputs = SmallNet().double(), images()
    maps = SmoothGrad(noise=0.0, n_samples=3).attribute(model, inputs, TARGETS, keys=KEYS)
    torch.testing.assert_close(maps, Gradient().attribute(model, inputs, TARGETS))


def test_the_mean_under_noise_is_known_for_cubes_and_scales_with_each_images_own_range():
    inputs = images() * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    maps = SmoothGrad(n_samples=400).attribute(Cubes(), inputs, torch.tensor([0, 1]), keys=KEYS)
    factor = torch.tensor([3.0, 6.0])
    for found, image, scale in zip(maps, inputs, factor, strict=True):
        variance = (0.15 * (image.max() - image.min())) ** 2
        excess = (found / scale - image**2).mean()  # of 108 · 400 draws: error 1 / √(2 · 43200) of σ² and a little more
        assert abs(float(excess / variance) - 1) < 0.05


def test_it_is_what_noise_tunnel_averages_on_the_same_noise(monkeypatch):
    model, inputs = SmallNet().double(), images()
    deviation = 0.15 * (inputs.amax(dim=(1, 2, 3)) - inputs.amin(dim=(1, 2, 3))).view(2, 1, 1, 1)
    noise = torch.stack([deviation * _normal(KEYS, draw, inputs) for draw in range(4)], dim=1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + noise)
    tunnel = NoiseTunnel(Saliency(model))
    bare = tunnel.attribute(inputs.requires_grad_(), nt_samples=4, stdevs=0.15, target=TARGETS, abs=False)
    found = SmoothGrad(n_samples=4).attribute(model, inputs.detach(), TARGETS, keys=KEYS)
    torch.testing.assert_close(found, bare.detach())


def test_noise_is_standard_normal_and_independent_over_samples_and_draws():
    like = torch.zeros(2, 1, 100, 100, dtype=torch.float64)
    first, second = _normal(KEYS, 0, like), _normal(KEYS, 1, like)
    for numbers in (first[0], first[1], second[0]):
        assert abs(float(numbers.mean())) < 0.04  # four standard errors
        assert abs(float(numbers.var()) - 1) < 0.06
        assert abs(float((numbers > 1.959964).double().mean()) - 0.025) < 0.0063
    for one, other in ((first[0], first[1]), (first[0], second[0])):
        assert abs(float((one * other).mean())) < 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "`n_samples` must be at least 1, was 0"),
        ({"noise": -0.1}, "`noise` must be at least 0, was -0.1"),
        ({"noise": float("nan")}, "`noise` must be at least 0, was nan"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SmoothGrad(**options).attribute(SmallNet().double(), images(), TARGETS, keys=KEYS)
