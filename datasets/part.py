"""Some samples of a dataset, as a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Self

from torch import Tensor

from .base import Batch, Dataset, Normalization


class Part:
    """The samples at some positions of a dataset, in that order; all else is the dataset's.

    Args:
        whole: the dataset.
        positions: of its samples.

    Example:
        >>> from interpeval.datasets.digits import Digits
        >>> part = Part(Digits(), [4, 2])
        >>> part.ids == (Digits().ids[4], Digits().ids[2]), len(part.with_split("train"))
        (True, 1258)
    """

    def __init__(self, whole: Dataset, positions: Sequence[int]) -> None:
        """Store the dataset and the positions."""
        self.whole = whole
        self.positions = tuple(positions)

    @classmethod
    def spread(cls, whole: Dataset, count: int) -> Self:
        """Take `count` samples that are evenly spread over a dataset, all if it has no more.

        Sample i of n is that at position `floor(i N / n)`, so that a dataset sorted by class loses none.

        Example:
            >>> from interpeval.datasets.digits import Digits
            >>> Part.spread(Digits(), 3).positions
            (0, 179, 359)
        """
        count = min(count, len(whole))
        return cls(whole, [index * len(whole) // count for index in range(count)])

    @property
    def name(self) -> str:
        """The name in the catalog and in every table."""
        return self.whole.name

    @property
    def split(self) -> str:
        """Which part this is of: `"train"` or `"test"`."""
        return self.whole.split

    @property
    def revision(self) -> str:
        """Digest of the dataset's revision and the positions."""
        return hashlib.sha256(f"{self.whole.revision} {self.positions}".encode()).hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return self.whole.classes

    @property
    def normalization(self) -> Normalization:
        """How pixel values became the model's input."""
        return self.whole.normalization

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every image."""
        return self.whole.image_shape

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks."""
        return self.whole.has_masks

    @property
    def network_classes(self) -> Tensor | None:
        """`(K, L)` bool, which classes of a network count as each class here."""
        return getattr(self.whole, "network_classes", None)

    @property
    def ids(self) -> tuple[str, ...]:
        """The name of every sample."""
        ids = self.whole.ids
        return tuple(ids[position] for position in self.positions)

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64 class index, or `(N, K)` bool, of every sample."""
        return self.whole.labels[list(self.positions)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.positions)

    def take(self, indices: Sequence[int]) -> Batch:
        """Read the samples at these positions of the part."""
        return self.whole.take([self.positions[index] for index in indices])

    def batches(self, size: int) -> Iterator[Batch]:
        """Read all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    def with_split(self, split: str) -> Self:
        """Return all samples of the dataset's other part; this one for its own split."""
        if split == self.split:
            return self
        other = self.whole.with_split(split)
        return type(self)(other, range(len(other)))
