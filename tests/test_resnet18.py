"""ResNet-18 is torchvision's, but for how its last map is pooled and, for small images, how it begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from interpeval.baselines.resnet18 import ResNet18
from interpeval.baselines.resnet18_gap import Resnet18Gap
from interpeval.baselines.resnet18_gmp import Resnet18Gmp


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("build", [Resnet18Gap, Resnet18Gmp])
def test_the_numbers_of_parameters_are_the_published_ones(build: type[ResNet18]) -> None:
    """Torchvision's for ImageNet; the small stem has 1,728 weights in place of 9,408."""
    assert parameters_of(build((3, 224, 224), 1000)) == 11_689_512
    assert parameters_of(build((3, 32, 32), 1000)) == 11_689_512 - 9_408 + 1_728
    assert parameters_of(build((1, 28, 28), 10, stem="imagenet")) == 11_689_512 - 9_408 // 3 * 2 - 990 * 513


def test_weights_of_torchvision_fit_and_give_its_answers() -> None:
    theirs = resnet18(weights=None, num_classes=5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs.train()(images)
    ours = Resnet18Gap((3, 64, 64), 5, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_the_maximum_takes_the_place_of_the_mean_and_of_nothing_else() -> None:
    gap, gmp = Resnet18Gap((3, 32, 32), 4).eval(), Resnet18Gmp((3, 32, 32), 4).eval()
    gmp.load_state_dict(gap.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = gap.feature_map(images)
        assert features.shape == (2, 512, 4, 4)
        torch.testing.assert_close(gap(images), gap.fc(features.flatten(2).mean(2)))
        torch.testing.assert_close(gmp(images), gap.fc(features.flatten(2).amax(2)))
        assert not torch.allclose(gmp(images), gap(images))


@pytest.mark.parametrize(
    ("stem", "side", "last"), [("auto", 64, 8), ("auto", 96, 3), ("imagenet", 64, 2), ("small", 96, 12)]
)
def test_the_stem_decides_how_fine_the_last_map_is(stem: str, side: int, last: int) -> None:
    model = Resnet18Gap((1, side, side), 2, stem=stem).eval()
    with torch.no_grad():
        assert tuple(model.feature_map(torch.zeros(1, 1, side, side)).shape[2:]) == (last, last)


def test_the_first_convolution_is_drawn_as_torchvision_draws_its_own() -> None:
    """Normal with variance 2 / (64 k²), the fan of its outputs."""
    for stem, side in (("small", 3), ("imagenet", 7)):
        weight = Resnet18Gap((1, 32, 32), 2, stem=stem).conv1.weight
        assert weight.std().item() == pytest.approx((2 / (64 * side**2)) ** 0.5, rel=0.12)


def test_a_stem_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="`stem` must be one of"):
        Resnet18Gap((3, 32, 32), 2, stem="cifar")


@pytest.mark.parametrize("build", [Resnet18Gap, Resnet18Gmp])
def test_a_consistent_training_step_reaches_every_parameter(build: type[ResNet18]) -> None:
    model = build((1, 16, 16), 3, consistency=25.0).train()
    loss, _ = model.training_loss(torch.rand(6, 1, 16, 16), torch.arange(6) % 3, {})
    loss.backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in model.parameters())


@pytest.mark.parametrize("dataset", ["imagenet", "coco"])
def test_the_published_trainings_are_in_steps(dataset: str) -> None:
    recipe = Resnet18Gmp.recipe(dataset)
    expected = {"imagenet": (90, 0.1, 1e-4, [31, 61]), "coco": (36, 0.01, 5e-4, [25, 31])}[dataset]
    assert (recipe["epochs"], recipe["learning_rate"], recipe["weight_decay"], recipe["milestones"]) == expected
