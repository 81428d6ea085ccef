"""scikit-learn's handwritten digits, enlarged to 28×28: real images that come with an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from .base import ArrayDataset, Arrays, Normalization
from .philox import random_words, sample_keys

CLASSES = tuple("0123456789")
INK_LEVELS = 16
"""The source images hold whole numbers from 0 (paper) to this one (ink)."""
TEST_SHARE = 0.3


class SourceDigits(NamedTuple):
    """The source of `digits` and `digit_scenes`, in scikit-learn's order.

    Attributes:
        images: `(1797, 8, 8)` int64, amount of ink from 0 to 16.
        labels: `(1797,)` int64, the digit.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]


@cache
def source_digits() -> SourceDigits:
    """Read the 1797 digits that scikit-learn carries; nothing is downloaded. The arrays are read-only."""
    bunch = cast("Any", load_digits())  # scikit-learn has no types
    digits = SourceDigits(bunch.images.astype(np.int64), bunch.target.astype(np.int64))
    for array in digits:
        array.setflags(write=False)
    return digits


@cache
def source_split() -> Mapping[str, NDArray[np.int64]]:
    """Divide the source digits: 30 % of every class are for testing, the others for training.

    `digits` and `digit_scenes` share this split, so that a model trained on either has seen none of the test
    digits of the other. It is drawn by source index and is the same everywhere. The source does not say who
    wrote a digit, hence one writer's digits may be in both parts.

    Returns:
        `"train"` and `"test"`, each with its source indices as int64 in ascending order, read-only.

    Example:
        >>> parts = source_split()
        >>> len(parts["train"]), len(parts["test"]), set(parts["train"]) & set(parts["test"])
        (1258, 539, set())
    """
    labels = source_digits().labels
    words = random_words(0, "digits/split", sample_keys(range(len(labels))), 0, 1)[:, 0].numpy()
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        drawn = members[np.argsort(words[members], kind="stable")]
        is_test[drawn[: round(TEST_SHARE * len(members))]] = True
    parts = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
    for indices in parts.values():
        indices.setflags(write=False)
    return MappingProxyType(parts)


def check_split(split: str) -> None:
    """Raise `ValueError` unless `split` names a part of `source_split`."""
    if split not in source_split():
        allowed = " or ".join(f'"{name}"' for name in source_split())
        raise ValueError(f"`split` must be {allowed}, was {split!r}")


def bilinear(
    images: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Read images between their pixels, at the crossings of the given rows and columns.

    Only elementwise float64 arithmetic is used (no matrix product), so that all machines agree to the last bit.

    Args:
        images: `(N, h, w)`, at least two pixels each way.
        rows: `(N, H)` or `(1, H)` positions in pixels, 0 being the centre of the first row. Positions outside
            of the image read its border.
        columns: `(N, W)` or `(1, W)` likewise.

    Returns:
        `(N, H, W)`.

    Example:
        >>> bilinear(np.array([[[0.0, 1.0], [2.0, 3.0]]]), np.array([[0.5]]), np.array([[0.0, 0.5, 9.0]]))
        array([[[1. , 1.5, 2. ]]])
    """
    return _read_rows(_read_rows(images, rows).swapaxes(1, 2), columns).swapaxes(1, 2)


def enlarge(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Enlarge square `(N, n, n)` images to `(N, size, size)` bilinearly; image borders fall on image borders."""
    length = images.shape[1]
    positions = ((np.arange(size, dtype=np.float64) + 0.5) * length / size - 0.5)[None, :]
    return bilinear(images, positions, positions)


@dataclass(frozen=True)
class Digits(ArrayDataset):
    """Real handwritten digits, `(1, 28, 28)`, white ink on black, pixel values in [0, 1] and not normalised.

    The 8×8 images of scikit-learn's `load_digits`, enlarged bilinearly. A sample's name is the index of its source
    digit: `digits-0042` is `load_digits().images[42]`.

    Args:
        split: `"train"` (1258 digits) or `"test"` (539); see `source_split`.

    Raises:
        ValueError: `split` is none of these.

    Reference:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
        (its test part is what scikit-learn carries).

    Example:
        >>> batch = Digits(split="train").take([0])
        >>> batch.ids, tuple(batch.images.shape), batch.labels
        (('digits-0000',), (1, 1, 28, 28), tensor([0]))
    """

    name: ClassVar[str] = "digits"
    classes: ClassVar[tuple[str, ...]] = CLASSES
    normalization: ClassVar[Normalization] = Normalization(mean=(0.0,), std=(1.0,))
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    has_masks: ClassVar[bool] = False

    split: str = "test"

    def __post_init__(self) -> None:
        """Check the split's name."""
        check_split(self.split)

    def load(self) -> Arrays:
        """Enlarge the source digits of this split."""
        source, indices = source_digits(), source_split()[self.split]
        ink = enlarge(source.images[indices] / INK_LEVELS, self.image_shape[-1])
        return Arrays(
            ids=tuple(f"digits-{index:04d}" for index in indices),
            pixels=np.rint(ink * 255).astype(np.uint8)[:, None],
            labels=source.labels[indices],
            masks=None,
        )


def _read_rows(images: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate `(N, h, w)` images at fractional rows `(N, H)` to `(N, H, w)`."""
    last = images.shape[1] - 1
    at = np.broadcast_to(np.clip(at, 0, last), (len(images), at.shape[1]))
    above = np.minimum(np.floor(at).astype(np.int64), last - 1)
    weight = (at - above)[:, :, None]
    sample = np.arange(len(images))[:, None]
    return images[sample, above] * (1 - weight) + images[sample, above + 1] * weight
