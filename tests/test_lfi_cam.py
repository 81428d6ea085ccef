"""The model LFI-CAM, whose attention is its explanation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.base import SelfExplaining
from interpeval.baselines.cifar_cnn import CifarCnn
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.lfi_cam import LfiCam, unit_range
from interpeval.baselines.own import Own
from interpeval.bench.conformance import check_explainer, parametrize_with_checks
from reference import lfi_cam as slow

SMALL = (3, 16, 16)


def small_model(seed: int = 0) -> LfiCam:
    """With statistics of batch normalisation as after some training."""
    torch.manual_seed(seed)
    model = LfiCam(SMALL, 3)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, *SMALL))
    return model.eval()


def random_images(count: int) -> Tensor:
    return torch.rand(count, *SMALL, generator=torch.Generator().manual_seed(1))


def test_the_importance_network_is_four_convolutions_with_relu_after_the_second_and_the_fourth() -> None:
    kinds = [type(module).__name__ for module in LfiCam(SMALL, 3).importance]
    pair = ["Conv2d", "BatchNorm2d"] * 2 + ["ReLU"]
    assert kinds == [*pair, *pair, "AdaptiveAvgPool2d", "Flatten", "Softmax"]


def test_attention_and_logits_are_the_published_ones_restated() -> None:
    model, images = small_model().double(), random_images(3).double()
    with torch.no_grad():
        maps, found, logits = model.features(images), model.attribute(images, torch.zeros(3)), model(images)
        before_softmax = model.importance[:-1]
        for sample in range(3):
            # 16 pixels to 8 cells: bilinear without corners aligned is the mean of each 2×2 square.
            seen = images[sample].mean(dim=0).view(8, 2, 8, 2).mean(dim=(1, 3)).numpy()

            def scores(read: np.ndarray) -> list[float]:
                return before_softmax(torch.from_numpy(read)[None])[0].tolist()

            expected = slow.attention(maps[sample].numpy(), seen, scores)
            np.testing.assert_allclose(found[sample, 0].numpy(), expected, rtol=1e-9, atol=1e-12)
            pooled = (maps[sample] * (1 + torch.from_numpy(expected))).mean(dim=(1, 2))
            torch.testing.assert_close(logits[sample], model.classifier(pooled))


def test_the_attention_is_between_0_and_1_reaches_both_and_is_the_same_for_every_target() -> None:
    model, images = small_model(), random_images(4)
    assert isinstance(model, SelfExplaining)
    with torch.no_grad():
        first, second = (model.attribute(images, torch.full((4,), target)) for target in (0, 2))
    assert torch.equal(first, second)
    assert first.shape == (4, 1, 8, 8)
    assert first.amin(dim=(1, 2, 3)).tolist() == [0.0] * 4
    assert first.amax(dim=(1, 2, 3)).tolist() == [1.0] * 4


def test_an_image_without_features_gets_no_attention_and_a_finite_gradient() -> None:
    model = small_model()
    last = [module for module in model.features.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    last.weight.data.zero_()
    last.bias.data.fill_(-1)
    images = random_images(2).requires_grad_()
    assert not model.attribute(images, torch.tensor([0, 1])).any()
    model(images).sum().backward()
    assert images.grad.isfinite().all()


def test_a_map_of_equal_values_is_scaled_to_0() -> None:
    maps = torch.tensor([[[[2.0, 4.0], [3.0, 2.0]], [[7.0, 7.0], [7.0, 7.0]]]])
    assert unit_range(maps).tolist() == [[[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]]


def test_training_reaches_the_importance_network_through_the_attention() -> None:
    model = small_model()
    model.training_loss(random_images(6), torch.arange(6) % 3, {})[0].backward()
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


def test_the_backbone_is_that_of_the_cifar_cnn() -> None:
    """Same number of parameters in the features; four convolutions and norms of 64 channels more."""
    own, plain = LfiCam((3, 32, 32), 10), CifarCnn((3, 32, 32), 10)
    count = sum(parameter.numel() for parameter in own.parameters())
    assert count == sum(parameter.numel() for parameter in plain.parameters()) + 4 * (9 * 64 * 64 + 2 * 64)


def test_published_settings() -> None:
    recipe = LfiCam.recipe("cifar10")
    facts = ("epochs", "learning_rate", "optimizer", "weight_decay", "schedule", "milestones", "factor")
    assert [recipe[fact] for fact in facts] == [300, 0.1, "sgd", 1e-4, "steps", [151, 226], 0.1]


def test_a_handful_of_samples_is_learnt() -> None:
    images, labels = random_images(9), torch.arange(9) % 3
    model = small_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        loss, _ = model.training_loss(images, labels, {})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(images).argmax(1), labels)


def test_an_explanation_does_not_depend_on_the_rest_of_the_batch() -> None:
    model, images, targets = small_model(), random_images(4), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        alone = torch.cat([model.attribute(images[i : i + 1], targets[:1]) for i in range(4)])
        torch.testing.assert_close(model.attribute(images, targets), alone, rtol=0, atol=1e-5)
        model.train()
        assert not torch.allclose(
            model.attribute(images, targets)[:1], model.attribute(images[:1], targets[:1]), atol=1e-3
        )


def test_its_explanation_conforms_but_for_the_target_that_it_does_not_know() -> None:
    results = check_explainer(Own(), small_model(), random_images(4))
    assert {result.name for result in results if result.outcome == "failed"} == {"target_sensitivity"}
    assert {result.outcome for result in results} <= {"passed", "failed"}


@parametrize_with_checks([GradCam()], small_model(), random_images(4))
def test_grad_cam_on_it_conforms(check: Any) -> None:
    check()


def test_a_state_dict_restores_it() -> None:
    first, second, images = small_model(0), small_model(1), random_images(3)
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))


@pytest.mark.parametrize(("shape", "side"), [((1, 28, 28), 7), ((3, 64, 64), 8)])
def test_it_is_built_for_other_sizes(shape: tuple[int, int, int], side: int) -> None:
    model, images = LfiCam(shape, 4).eval(), torch.rand(2, *shape)
    with torch.no_grad():
        assert model(images).shape == (2, 4)
        assert model.attribute(images, torch.tensor([0, 1])).shape == (2, 1, side, side)
