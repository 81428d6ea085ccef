"""Small models that can be trained: with dropout, with every hook, fitted in one go, and one that is cut off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.datasets.base import Dataset


class Dropped(nn.Module):
    """One hidden layer behind dropout; `stop_at` is the step, counted over all trainings, that is interrupted."""

    name: ClassVar[str] = "dropped"
    steps: ClassVar[int] = 0
    stop_at: ClassVar[int] = 0

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, width: int = 4) -> None:
        super().__init__()
        self.hidden = nn.Linear(math.prod(image_shape), width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, n_classes)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        return {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.3, "threads": 1}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.norm(self.hidden(inputs.flatten(1))).relu())

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        Dropped.steps += 1
        if Dropped.steps == Dropped.stop_at:
            raise KeyboardInterrupt
        logits = self(F.dropout(images, recipe["dropout"], training=True))
        return F.cross_entropy(logits, labels), logits


class Hooked(Dropped):
    """Uses every hook: a loss weight of the epoch, a layer freed later, a buffer of a shape that data decides."""

    name: ClassVar[str] = "hooked"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, *, width: int = 4) -> None:
        super().__init__(image_shape, n_classes, width=width)
        self.called: list[tuple[str, bool, int]] = []
        self.hidden.requires_grad_(False)
        self.register_buffer("noise", torch.zeros(1))
        self.register_buffer("kept", torch.zeros(0, n_classes))

    def parameter_groups(self, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
        last = list(self.last.parameters())
        return [{"params": [*self.hidden.parameters(), *self.norm.parameters()]}, {"params": last, "lr": 0.02}]

    def begin_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        self.called.append((f"begin {epoch}", self.training, len(dataset)))
        self.weight = 1 / epoch
        if epoch == 2:
            self.hidden.requires_grad_(True)

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        loss, logits = super().training_loss(images, labels, recipe)
        return loss * self.weight, logits

    def end_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        self.called.append((f"end {epoch}", self.training, len(dataset)))
        self.noise += torch.rand(1)

    def finish(self, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        self.called.append(("finish", self.training, len(dataset)))
        with torch.no_grad():
            logits = self(dataset.take(range(len(dataset))).images)
        self.kept = logits[logits.argmax(1) == dataset.labels] + self.noise

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        self.kept = torch.zeros_like(state["kept"])


class Means(nn.Module):
    """Nearest class mean, fitted without gradients."""

    name: ClassVar[str] = "means"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(n_classes, math.prod(image_shape)))
        self.register_buffer("draw", torch.zeros(1))

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        return {}

    def forward(self, inputs: Tensor) -> Tensor:
        return -torch.cdist(inputs.flatten(1), self.means)

    def fit(self, dataset: Dataset, recipe: Mapping[str, Any], seed: int) -> None:
        images = dataset.take(range(len(dataset))).images.flatten(1)
        self.means = torch.stack([images[dataset.labels == label].mean(0) for label in range(len(self.means))])
        self.draw = torch.rand(1) + seed
