"""Dividing images into segments, the features that LIME and the Shapley values weigh."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .option_checks import check_counts, check_word

Segments = Literal["grid", "superpixels"]


def segment(inputs: Tensor, kind: Segments, *, n_segments: int) -> Tensor:
    """Divide every image into parts, in the same way whatever else is in the batch.

    `"grid"` lays `g × g` rectangles over the image, `g = round(√n_segments)`, at most one for each pixel; their sides
    differ by one pixel at most. `"superpixels"` are those of SLIC (Achanta et al. 2012), as scikit-image has them. SLIC
    sees the normalised image, stretched to the unit interval; three channels are taken as RGB, with a compactness of 10
    in Lab space, other images as they are, with a compactness of 0.1. The number of superpixels differs from image to
    image, and is much below `n_segments` in noise.

    Args:
        inputs: `(B, C, H, W)`.
        kind: `"grid"` or `"superpixels"`.
        n_segments: about how many there are.

    Returns:
        `(B, H, W)` int64 on the device of `inputs`: numbers of segments, for every image `0 … M-1` without a gap.

    Raises:
        ValueError: an argument has no such value.
        ImportError: superpixels are asked for and scikit-image is not installed.

    Example:
        >>> segment(torch.zeros(1, 3, 2, 5), "grid", n_segments=4)
        tensor([[[0, 0, 0, 1, 1],
                 [2, 2, 2, 3, 3]]])
    """
    check_counts(n_segments=n_segments)
    check_word("segments", kind, get_args(Segments))
    if kind == "grid":
        return _grid(inputs, n_segments)
    return torch.stack([_superpixels(image, n_segments) for image in inputs.detach()])


def paint(values: Tensor, labels: Tensor) -> Tensor:
    """Give every pixel the value of its segment.

    Args:
        values: `(M,)`.
        labels: `(H, W)` int64, numbers of segments.

    Returns:
        `(H, W)` in the type of `values`.
    """
    return values[labels]


def share(values: Tensor, labels: Tensor) -> Tensor:
    """Divide the value of every segment equally among its pixels, so that the map adds up to the sum of the values.

    Arguments and result as `paint`.

    Example:
        >>> share(torch.tensor([6.0, 1.0]), torch.tensor([[0, 0, 1]]))
        tensor([[3., 3., 1.]])
    """
    return paint(values / torch.bincount(labels.flatten(), minlength=len(values)), labels)


def _grid(inputs: Tensor, n_segments: int) -> Tensor:
    """`(B, H, W)` numbers of rectangles."""
    batch, _, height, width = inputs.shape
    side = round(math.sqrt(n_segments))
    rows, columns = min(side, height), min(side, width)
    of_row = torch.arange(height, device=inputs.device) * rows // height
    of_column = torch.arange(width, device=inputs.device) * columns // width
    return (of_row[:, None] * columns + of_column).expand(batch, height, width)


def _superpixels(image: Tensor, n_segments: int) -> Tensor:
    """`(H, W)` numbers of superpixels of one image."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            '`segments="superpixels"` needs scikit-image: install `interpeval[superpixels]`, or use "grid"'
        ) from error
    pixels = image.movedim(0, -1).cpu().double().numpy()
    compactness = 10.0 if len(image) == 3 else 0.1  # colours span 100 in Lab, and 1 otherwise
    labels = slic(pixels, n_segments=n_segments, compactness=compactness, channel_axis=-1, start_label=0)
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape)).to(image.device)
