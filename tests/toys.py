"""Small things to run: a dataset with masks, networks with fixed weights, and explainers that misbehave."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from interpeval.datasets.base import ArrayDataset, Arrays, Normalization


@dataclass(frozen=True)
class Squares(ArrayDataset):
    """A bright 5×5 square in one of four quarters of a noisy 16×16 colour image; the quarter is the class."""

    size: int = 40
    reversed_order: bool = False
    split: str = "test"

    name: ClassVar[str] = "squares"
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d")
    normalization: ClassVar[Normalization] = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    image_shape: ClassVar[tuple[int, int, int]] = (3, 16, 16)
    has_masks: ClassVar[bool] = True

    def load(self) -> Arrays:
        """Draw the images, the same for any size."""
        images, labels, masks = [], [], []
        for index in range(self.size):
            draw = np.random.default_rng(index)
            image = draw.integers(0, 120, (3, 16, 16)).astype(np.uint8)
            label = index % 4
            top, left = 8 * (label // 2) + draw.integers(0, 3), 8 * (label % 2) + draw.integers(0, 3)
            mask = np.zeros((16, 16), dtype=bool)
            mask[top : top + 5, left : left + 5] = True
            image[:, mask] = draw.integers(180, 255, (3, 25))
            images.append(image)
            labels.append(label)
            masks.append(mask)
        order = range(self.size)[:: -1 if self.reversed_order else 1]
        return Arrays(
            tuple(f"square-{index:03d}" for index in order),
            np.stack([images[index] for index in order]),
            np.array([labels[index] for index in order], dtype=np.int64),
            np.stack([masks[index] for index in order]),
        )


def network() -> nn.Module:
    """A small network with fixed random weights, batch norm and dropout, which accepts any size."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


def pair() -> nn.Module:
    """The same network for two classes."""
    model = network()
    model[-1] = nn.Linear(32, 2)
    with torch.no_grad():
        model[-1].weight.copy_(torch.linspace(-1, 1, 64).view(2, 32))
        model[-1].bias.zero_()
    return model


class Plain:
    """The gradient, in five lines, as a user would write it."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs.requires_grad_()
        score = model(inputs).gather(1, targets[:, None]).sum()
        return torch.autograd.grad(score, inputs)[0]


def plain_function(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return Plain().attribute(model, inputs, targets)


class Slow(Plain):
    """Takes its time, so that a test can end the run half-way."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(0.05)
        return super().attribute(model, inputs, targets)


class Raises:
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("out of ideas")


class RaisesForClassB(Plain):
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if (targets == 1).any():
            raise RuntimeError("cannot explain b")
        return super().attribute(model, inputs, targets)


class NotFinite(Plain):
    """One NaN pixel in the maps of bright images."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(model, inputs, targets).clone()
        maps[inputs.detach()[:, 0, 0, 0] > 0, 0, 3, 3] = torch.nan
        return maps


class WrongShape:
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return inputs.mean(dim=(1, 2, 3))


class LeavesTrainingMode(Plain):
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(model, inputs, targets)
        model.train()
        return maps


class LeavesHook(Plain):
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        model[0].register_forward_hook(lambda module, args, output: output * 0)
        return super().attribute(model, inputs, targets)


class ChangesWeights(Plain):
    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(model, inputs, targets)
        next(model.parameters()).data.mul_(2)
        return maps


class Draws:
    """Noise from torch's global generator."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.rand_like(inputs)
