"""The network takes images of any size, keeps its ReLUs apart, and learns to name digits it has not seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from interpeval.baselines.cifar_cnn import CifarCnn
from interpeval.bench.training import accuracy, build, train
from interpeval.datasets.digit_scenes import DigitScenes
from interpeval.datasets.digits import Digits


@pytest.mark.parametrize(("side", "last"), [(28, 7), (32, 8), (64, 8), (8, 8)])
def test_the_last_map_is_about_eight_by_eight(side: int, last: int) -> None:
    model = CifarCnn((3, side, side), 10)
    assert tuple(model.features(torch.zeros(2, 3, side, side)).shape[2:]) == (last, last)


def test_logits_of_a_composite_are_those_of_the_mean_over_its_larger_map() -> None:
    torch.manual_seed(0)
    model = CifarCnn((1, 28, 28), 5).eval()
    images = torch.rand(2, 1, 56, 56)
    features = model.features(images)
    assert features.shape[2:] == (14, 14)
    expected = torch.stack([model.classifier(features[i].flatten(1).mean(1)) for i in range(2)])
    torch.testing.assert_close(model(images), expected)


def test_every_relu_is_a_module_that_runs_once_and_not_in_place() -> None:
    model, runs = CifarCnn((3, 64, 64), 10).eval(), []
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]

    def keep(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        runs.append((module, bool((inputs[0] < 0).any()), torch.equal(output, inputs[0].clamp(min=0))))

    for relu in relus:
        relu.register_forward_hook(keep)
    model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert [module for module, *_ in runs] == relus
    # negative inputs are still there after the pass: nothing was overwritten
    assert all(negative and rectified for _, negative, rectified in runs)


def test_the_relu_modules_are_all_that_is_not_affine() -> None:
    """Explainers that hook ReLU modules therefore miss nothing; batch norm is fixed in evaluation mode."""
    torch.manual_seed(0)
    model = CifarCnn((1, 28, 28), 3).eval()
    first, second = torch.randn(2, 1, 1, 28, 28)

    @torch.no_grad()
    def departure_from_affine() -> float:
        return float((model(first + second) - model(first) - model(second) + model(0 * first)).abs().max())

    assert departure_from_affine() > 1e-3
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Identity())
    assert departure_from_affine() < 1e-5


def test_training_loss_is_the_mean_cross_entropy_and_comes_with_its_logits() -> None:
    torch.manual_seed(0)
    model = CifarCnn((1, 28, 28), 4).eval()
    images, labels = torch.rand(3, 1, 28, 28), torch.tensor([0, 3, 1])
    loss, logits = model.training_loss(images, labels, model.recipe("digits"))
    torch.testing.assert_close(logits, model(images))
    by_hand = -sum(F.softmax(logits[i], dim=0)[labels[i]].log() for i in range(3)) / 3
    torch.testing.assert_close(loss, by_hand)


def test_an_image_is_classified_the_same_whatever_batch_it_is_in() -> None:
    torch.manual_seed(0)
    model = CifarCnn((3, 64, 64), 10).eval()
    images = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [Digits(split="train"), DigitScenes(split="train")], ids=lambda d: d.name)
def test_it_names_at_least_95_of_100_digits_it_has_not_seen(dataset: Digits | DigitScenes) -> None:
    model = build(CifarCnn, dataset, seed=0)
    train(model, dataset, seed=0, recipe=CifarCnn.recipe(dataset.name), progress=False)
    assert accuracy(model, dataset.with_split("test")) >= 0.95
