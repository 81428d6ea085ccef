"""Composites: an image in one of four cells, images of other classes in the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Dataset, Normalization
from .distractors import Distractors
from .philox import random_words, sample_keys

_OTHERS = 3


@dataclass(frozen=True, eq=False)
class Composites:
    """Composites 2×2 of another dataset's images: each in a random cell, among three images without its class.

    They are the composites that the metric `negative_quadrants_heatmap` makes, under the same seed, for metrics that
    look at masks instead. The mask is that of the image, in its cell; where the other dataset has no masks it is the
    whole cell. Names and labels are those of the image, `present` tells of all four.

    Args:
        of: the dataset whose images these are, with one label per sample; by name, `composites?of=digit_scenes`, with
            `%26` for an `&` that belongs to it: `composites?of=digit_scenes?objects=2%26truth=box`.
        seed: another seed draws other cells and other images.
        resized: false keeps every image at its resolution, so that a composite has twice its sides; true makes
            composites of the size of one image, for networks that refuse others.

    Raises:
        TypeError: `of` is not a dataset.
        ValueError: its samples have several labels, or, when samples are taken, it has too few images.

    Example:
        >>> from interpeval.datasets.digits import Digits
        >>> composites = Composites(of=Digits())
        >>> composites.image_shape, int(composites.take([0]).masks.sum())
        ((1, 56, 56), 784)
    """

    name: ClassVar[str] = "composites"
    has_masks: ClassVar[bool] = True

    of: Dataset
    seed: int = 0
    resized: bool = False

    def __post_init__(self) -> None:
        """Check the configuration."""
        if not hasattr(self.of, "take"):
            raise TypeError(f"`of` must be a dataset, was {self.of!r}")

    @property
    def split(self) -> str:
        """Which part this is: `"train"` or `"test"`."""
        return self.of.split

    @cached_property
    def revision(self) -> str:
        """SHA-256 over the other dataset's revision and what is drawn, shortened to 16 hexadecimal digits."""
        facts = repr((self.of.revision, self.seed, self.resized))
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return self.of.classes

    @property
    def network_classes(self) -> Tensor | None:
        """Which classes of a network count as each class; see `Dataset`."""
        return getattr(self.of, "network_classes", None)

    @property
    def normalization(self) -> Normalization:
        """How pixel values became the model's input."""
        return self.of.normalization

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every composite."""
        channels, height, width = self.of.image_shape
        return (channels, height, width) if self.resized else (channels, 2 * height, 2 * width)

    @property
    def ids(self) -> Sequence[str]:
        """The name of every sample, in dataset order."""
        return self.of.ids

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64 class index of every sample."""
        if self.of.labels.ndim != 1:
            raise ValueError(f"`of` must have one label per sample, `{self.of.name}` has several")
        return self.of.labels

    @cached_property
    def present(self) -> Tensor:
        """`(N, K)` bool, which classes are in any of the four images."""
        given: Tensor | None = getattr(self.of, "present", None)
        present = F.one_hot(self.labels, len(self.classes)).bool() if given is None else given
        others = self._distractors.positions(sample_keys(self.ids), self.labels, _OTHERS)
        return present | present[others].any(dim=1)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.of)

    def take(self, indices: Sequence[int]) -> Batch:
        """Make the composites of the samples at these positions."""
        labels = self.labels[list(indices)]
        own = self.of.take(indices)
        others = self.of.take(self._distractors.positions(own.keys, labels, _OTHERS).flatten().tolist())
        cell, size = composite_cells(own.keys, self.seed), self.image_shape[1:]
        masks = torch.ones_like(own.images[:, 0], dtype=torch.bool) if own.masks is None else own.masks
        everything, theirs = (part.masks if part.all_masks is None else part.all_masks for part in (own, others))
        return Batch(
            ids=own.ids,
            images=composite(_among(own.images, others.images, cell), size),
            labels=labels,
            masks=composite_masks(_among(masks, torch.zeros_like(masks).repeat(_OTHERS, 1, 1), cell), size),
            all_masks=None
            if everything is None or theirs is None
            else composite_masks(_among(everything, theirs, cell), size),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """Make all composites in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    def with_split(self, split: str) -> Self:
        """Return composites of the other dataset's other part."""
        return replace(self, of=self.of.with_split(split))

    @cached_property
    def _distractors(self) -> Distractors:
        return Distractors(self.of, seed=self.seed)


def composite_cells(keys: Tensor, seed: int) -> Tensor:
    """Draw `(B,)` cells for samples of these keys: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    return random_words(seed, "negative_quadrants_heatmap", keys, 0, 1)[:, 0] % 4


def quadrants(height: int, width: int) -> list[tuple[slice, slice]]:
    """Return rows and columns of the four cells, in the order of their numbers.

    Example:
        >>> quadrants(4, 5)[1]  # top right
        (slice(0, 2, None), slice(2, 5, None))
    """
    top, bottom = slice(0, height // 2), slice(height // 2, height)
    left, right = slice(0, width // 2), slice(width // 2, width)
    return [(top, left), (top, right), (bottom, left), (bottom, right)]


def tiles(images: Tensor, others: Tensor, cell: Tensor) -> Tensor:
    """Put `(n, …)` images in their cells and `(n, 3, …)` others in the rest, in their order: `(n, 4, …)`.

    Example:
        >>> tiles(torch.tensor([9]), torch.tensor([[1, 2, 3]]), torch.tensor([2]))
        tensor([[1, 2, 9, 3]])
    """
    place = torch.arange(4, device=cell.device)
    source = torch.where(place == cell[:, None], 0, place + (place < cell[:, None]))
    together = torch.cat((images[:, None], others), dim=1)
    return together[torch.arange(len(cell), device=cell.device)[:, None], source]


def composite(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay out `(n, 4, C, H, W)` tiles as `(n, C, *size)`, reducing those that are larger than their cell.

    Example:
        >>> composite(torch.arange(4.0).view(1, 4, 1, 1, 1), (2, 2))
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    laid_out = parts.new_empty((len(parts), parts.shape[2], *size))
    for index, (rows, columns) in enumerate(quadrants(*size)):
        space = laid_out[..., rows, columns]
        part = parts[:, index]
        if part.shape != space.shape:
            part = F.interpolate(part, size=space.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
        space.copy_(part)
    return laid_out


def composite_masks(parts: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay out `(n, 4, H, W)` bool masks as `(n, *size)`; a reduced pixel is true if any it is made of is.

    Example:
        >>> composite_masks(torch.eye(4, dtype=torch.bool).view(1, 4, 2, 2), (2, 2))
        tensor([[[True, True],
                 [True, True]]])
    """
    laid_out = parts.new_empty((len(parts), *size))
    for index, (rows, columns) in enumerate(quadrants(*size)):
        space = laid_out[:, rows, columns]
        space.copy_(F.adaptive_max_pool2d(parts[:, index].float(), space.shape[-2:]) > 0)
    return laid_out


def _among(own: Tensor, others: Tensor, cell: Tensor) -> Tensor:
    return tiles(own, others.view(len(own), _OTHERS, *own.shape[1:]), cell)
