"""What models have in common that another library fits in one go, to the pixels of all images at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.base import Dataset
from .model_checks import check_input_size, single_labels

SMALLEST_SHARE = torch.finfo(torch.float32).eps
"""The smallest probability whose logarithm becomes a logit; anything less counts as this."""
_BATCH = 1024


class TrainingArrays(NamedTuple):
    """A dataset as such libraries take it.

    Attributes:
        pixels: `(N, C * H * W)` float32, normalised as the dataset says.
        labels: `(N,)` int64.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def training_arrays(dataset: Dataset, n_classes: int, image_shape: tuple[int, int, int]) -> TrainingArrays:
    """Read all samples of a dataset into memory.

    Raises:
        ValueError: samples have several labels, a class has no sample, or images are of another shape.
    """
    labels = single_labels(dataset)
    missing = sorted(set(range(n_classes)) - set(labels.tolist()))
    if missing:
        raise ValueError(
            f"`dataset` must have samples of all {n_classes} classes, `{dataset.name}` ({dataset.split}) has none of "
            f"class {', '.join(map(str, missing))}"
        )
    if tuple(dataset.image_shape) != tuple(image_shape):
        raise ValueError(f"`dataset` must have images {tuple(image_shape)}, has {tuple(dataset.image_shape)}")
    images = torch.cat([batch.images for batch in dataset.batches(_BATCH)])
    return TrainingArrays(images.flatten(1).numpy(), labels.numpy())


def check_inputs(inputs: Tensor, image_shape: tuple[int, int, int], *, fitted: bool, name: str) -> None:
    """Raise unless a model has been fitted and `inputs` are images of its shape.

    Raises:
        RuntimeError: the model has not been fitted.
        ValueError: `inputs` are of another shape.
    """
    if not fitted:
        raise RuntimeError(f"`{name}` must be fitted before it is asked: call `fit`, or load weights")
    check_input_size(inputs, image_shape)


def log_share(probabilities: Tensor) -> Tensor:
    """Turn probabilities into logits, `log max(p, ε)` with the ε of float32, so that none is infinite.

    Their softmax gives the probabilities back but for rounding of that size.

    Args:
        probabilities: `(B, K)` floating point, adding up to 1.

    Returns:
        `(B, K)` float32.

    Example:
        >>> log_share(torch.tensor([[0.25, 0.75, 0.0]])).softmax(dim=1)
        tensor([[2.5000e-01, 7.5000e-01, 1.1921e-07]])
    """
    return probabilities.clamp(min=SMALLEST_SHARE).log().float()


def without_gradient(inputs: Tensor, logits: Tensor, name: str) -> Tensor:
    """Return `logits` such that whoever differentiates them by `inputs` is told that this model has no gradients."""
    return _Refusing.apply(inputs, logits, name)  # type: ignore[no-any-return]  # torch does not say what it returns


class _Refusing(torch.autograd.Function):
    """Hands logits through, and raises when their gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, logits: Tensor, name: str) -> Tensor:  # noqa: ARG004
        ctx.name = name
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            f"`{ctx.name}` has no gradients; an explainer that needs them says so by "
            "`needs_gradient: ClassVar[bool] = True`, and is then not asked about this model"
        )
