"""Checks of what models are built for, asked about and fitted to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..datasets.base import Dataset


def check_sides(image_shape: tuple[int, int, int], multiple: int, *, least: int = 1) -> None:
    """Check that the sides of the images that a network is built for can be halved as often as it does.

    Raises:
        ValueError: H or W is no multiple of `multiple` or below `least`, or there is no channel.

    Example:
        >>> check_sides((1, 30, 28), 4)
        Traceback (most recent call last):
        ValueError: `image_shape` must be (C, H, W) with H and W multiples of 4, was (1, 30, 28)
    """
    channels, *sides = image_shape
    if channels < 1 or any(side % multiple or side < least for side in sides):
        condition = f" and at least {least}" if least > 1 else ""
        raise ValueError(
            f"`image_shape` must be (C, H, W) with H and W multiples of {multiple}{condition}, was {tuple(image_shape)}"
        )


def check_input_size(inputs: Tensor, image_shape: Sequence[int]) -> None:
    """Check that `(B, C, H, W)` inputs are of the size that a network was built for.

    Raises:
        ValueError: they are not.

    Example:
        >>> import torch
        >>> check_input_size(torch.zeros(2, 1, 8, 8), (1, 28, 28))
        Traceback (most recent call last):
        ValueError: `inputs` must be (B, 1, 28, 28), was (2, 1, 8, 8)
    """
    if tuple(inputs.shape[1:]) != tuple(image_shape):
        expected, found = (", ".join(str(size) for size in shape) for shape in (image_shape, inputs.shape))
        raise ValueError(f"`inputs` must be (B, {expected}), was ({found})")


def single_labels(dataset: Dataset) -> Tensor:
    """Return the `(N,)` labels of a dataset whose samples have one each.

    Raises:
        ValueError: they have several.
    """
    if dataset.labels.ndim != 1:
        raise ValueError(f"`dataset` must have one label per sample, `{dataset.name}` has several")
    return dataset.labels
