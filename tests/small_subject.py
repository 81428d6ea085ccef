"""A tiny dataset and model, and evidence about them, for tests of metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interpeval.bench.evidence import ModelEvidence
from interpeval.datasets.base import ArrayDataset, Arrays, Batch, Normalization


@dataclass(frozen=True, eq=False)
class Pictures(ArrayDataset):
    """Three-channel noise of any size under the labels 0, 1, 2, 0, 1 …, with a box as the object."""

    name: ClassVar[str] = "pictures"
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    normalization: ClassVar[Normalization] = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    image_shape: ClassVar[tuple[int, int, int]] = (3, 0, 0)
    has_masks: ClassVar[bool] = True

    size: tuple[int, int] = (9, 9)
    count: int = 5
    split: str = field(default="test")

    def load(self) -> Arrays:
        """Draw the pixels."""
        pixels = np.random.default_rng(7).integers(0, 256, (self.count, 3, *self.size), dtype=np.uint8)
        masks: NDArray[np.bool_] = np.zeros((self.count, *self.size), dtype=bool)
        masks[:, 2:6, 3:6] = True
        labels = np.arange(self.count, dtype=np.int64) % 3
        return Arrays(tuple(f"picture {i}" for i in range(self.count)), pixels, labels, masks)


class SmallNet(nn.Module):
    """Convolution, ReLU, mean, linear: weights drawn once, evaluation mode."""

    def __init__(self, kernel: int = 3, n_classes: int = 3) -> None:
        """Draw the weights; a kernel of 1 makes the model blind to where a pixel lies."""
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 6, kernel, padding=kernel // 2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, n_classes)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits."""
        logits: Tensor = self.head(self.relu(self.conv(inputs)).mean(dim=(2, 3)))
        return logits


class Grad:
    """The gradient of the target's logit: depends on model, input and class."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)` gradients times inputs."""
        inputs = inputs.requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)
        return gradient * inputs.detach()


class FromImage:
    """An explainer that is a function of the input alone: `function(inputs) -> (B, 1, H, W)`."""

    def __init__(self, function: Any) -> None:
        """Store the function."""
        self.function = function

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Apply the function."""
        del model, targets
        result: Tensor = self.function(inputs)
        return result


def see(
    explainer: object,
    *,
    batch: Batch | None = None,
    dataset: Pictures | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
    micro_batch: int = 64,
) -> ModelEvidence:
    """Evidence about a whole small dataset, or about `batch`."""
    dataset = Pictures() if dataset is None else dataset
    return ModelEvidence(
        model=SmallNet() if model is None else model,
        explainer=explainer,  # type: ignore[arg-type]
        dataset=dataset,
        batch=dataset.take(range(len(dataset))) if batch is None else batch,
        seed=seed,
        micro_batch=micro_batch,
    )
