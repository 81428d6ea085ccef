"""What every dataset hands to the engine: batches of images with labels and, where known, object masks."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .philox import sample_keys


class Normalization(NamedTuple):
    """Mean and standard deviation per channel, in pixel values of [0, 1], that images were normalised with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map `(..., C, H, W)` pixel values in [0, 1] to the model's input space."""
        mean, std = self._as_tensors(pixels)
        return (pixels - mean) / std

    def to_pixels(self, images: Tensor) -> Tensor:
        """Map `(..., C, H, W)` images in the model's input space back to pixel values in [0, 1]."""
        mean, std = self._as_tensors(images)
        return images * std + mean

    def _as_tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.mean).view(-1, 1, 1), like.new_tensor(self.std).view(-1, 1, 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples of a dataset.

    Attributes:
        ids: `B` stable sample names: they key every random draw and name the sample in every table.
        images: `(B, C, H, W)` float32, normalised.
        labels: `(B,)` int64 class indices, or `(B, K)` bool for multi-label data.
        masks: `(B, H, W)` bool, true on the object that the label names; `None` where the dataset has none.
            A mask without a true pixel says that this sample has no annotation.
        all_masks: `(B, H, W)` bool, true on every annotated object, whatever its class; `None` where an image has
            no objects but those of `masks`.
        original_masks: `B` bool masks `(h, w)`, those of `masks` in the size that the image had before it was
            resized as a whole to `(H, W)`; `None` where that is not known or images were cropped.
        backgrounds: `(B, C, H, W)`, the images as they are without the object; `None` where that is not known.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    all_masks: Tensor | None = None
    original_masks: tuple[Tensor, ...] | None = None
    backgrounds: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that all members speak of the same samples."""
        size = len(self.ids)
        if self.images.ndim != 4 or len(self.images) != size:
            raise ValueError(f"`Batch.images` must be ({size}, C, H, W), was {tuple(self.images.shape)}")
        if self.labels.ndim not in {1, 2} or len(self.labels) != size:
            raise ValueError(f"`Batch.labels` must be ({size},) or ({size}, K), was {tuple(self.labels.shape)}")
        self._check_masks()
        if self.backgrounds is not None and self.backgrounds.shape != self.images.shape:
            raise ValueError(
                f"`Batch.backgrounds` must be {tuple(self.images.shape)} like the images, "
                f"was {tuple(self.backgrounds.shape)}"
            )

    def _check_masks(self) -> None:
        expected = (len(self.ids), *self.images.shape[-2:])
        for name, masks in (("masks", self.masks), ("all_masks", self.all_masks)):
            if masks is not None and (tuple(masks.shape) != expected or masks.dtype != torch.bool):
                raise ValueError(f"`Batch.{name}` must be bool {expected}, was {masks.dtype} {tuple(masks.shape)}")
        originals = self.original_masks
        if originals is None:
            return
        if len(originals) != len(self.ids):
            raise ValueError(f"`Batch.original_masks` must be {len(self.ids)} masks, were {len(originals)}")
        for mask in originals:
            if mask.ndim != 2 or mask.dtype != torch.bool:
                raise ValueError(
                    f"`Batch.original_masks` must be bool (h, w), one was {mask.dtype} {tuple(mask.shape)}"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    @cached_property
    def keys(self) -> Tensor:
        """The `(B,)` int64 keys that this batch's random numbers are drawn by."""
        return sample_keys(self.ids, self.images.device)

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch with its tensors on `device`."""
        originals = self.original_masks
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            all_masks=None if self.all_masks is None else self.all_masks.to(device),
            original_masks=None if originals is None else tuple(mask.to(device) for mask in originals),
            backgrounds=None if self.backgrounds is None else self.backgrounds.to(device),
        )


@runtime_checkable
class Dataset(Protocol):
    """Labelled images under stable names, all of one size.

    Members are known without reading every image, so that a run can be planned before it starts.

    A sample is one evaluation item: an image that holds several annotated classes is a sample for each of them,
    with the mask of that class. Names of samples of one image share what stands before a `#`, so that they are
    resampled together. Optional members, read with their defaults by the engine:

    * `present: Tensor`, `(N, K)` bool, which classes are in the image of each sample (default: its label alone);
    * `network_classes: Tensor | None`, `(K, L)` bool, which of the L classes of a network count as each class here
      (default `None`: they are the same);
    * `has_backgrounds: bool`, whether samples come with their images without the object (default false);
    * `skipped: Mapping[str, int]`, how many images or annotations were left out, by reason (default none).
    """

    @property
    def name(self) -> str:
        """The name in the catalog and in every table."""
        ...

    @property
    def split(self) -> str:
        """Which part this is: `"train"` or `"test"`."""
        ...

    @property
    def revision(self) -> str:
        """Digest of what is read: two datasets with the same revision hold the same samples."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        ...

    @property
    def normalization(self) -> Normalization:
        """How pixel values became the model's input; needed for fills and perturbations in pixel space."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every image."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The name of every sample, in dataset order."""
        ...

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64 class index, or `(N, K)` bool, of every sample, in dataset order."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def take(self, indices: Sequence[int]) -> Batch:
        """Read the samples at these positions."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """Read all samples in order, `size` at a time; the last batch may be smaller."""
        ...

    def with_split(self, split: str) -> Self:
        """Return the same dataset's other part."""
        ...


class Arrays(NamedTuple):
    """A whole small dataset in memory.

    Attributes:
        ids: N sample names, all different.
        pixels: `(N, C, H, W)` uint8.
        labels: `(N,)` int64.
        masks: `(N, H, W)` bool, or `None`.
        all_masks: likewise, of every annotated object; see `Batch`.
        backgrounds: `(N, C, H, W)` uint8, the pixels without the objects, or `None`.
        present: `(N, K)` bool, which classes are in the image, or `None` where that is the label alone.
    """

    ids: tuple[str, ...]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    all_masks: NDArray[np.bool_] | None = None
    backgrounds: NDArray[np.uint8] | None = None
    present: NDArray[np.bool_] | None = None


class ArrayDataset(ABC):
    """A dataset small enough for memory: a subclass states its facts and says how to `load`.

    Subclasses are frozen dataclasses; their fields (among them `split`) are the configuration. Nothing is read
    before it is needed.
    """

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    normalization: ClassVar[Normalization]
    image_shape: ClassVar[tuple[int, int, int]]
    has_masks: ClassVar[bool]
    split: str

    @abstractmethod
    def load(self) -> Arrays:
        """Read or make the samples of this split."""

    def with_split(self, split: str) -> Self:
        """Return the same dataset's other part."""
        return replace(self, split=split)  # type: ignore[type-var]  # subclasses are dataclasses

    @cached_property
    def arrays(self) -> Arrays:
        """The samples, read once."""
        return self.load()

    @property
    def ids(self) -> tuple[str, ...]:
        """The name of every sample, in dataset order."""
        return self.arrays.ids

    @cached_property
    def labels(self) -> Tensor:
        """`(N,)` int64 class index of every sample."""
        return torch.from_numpy(self.arrays.labels)

    @property
    def present(self) -> Tensor | None:
        """`(N, K)` bool, which classes are in the image of every sample; `None` where that is its label alone."""
        return None if self.arrays.present is None else torch.from_numpy(self.arrays.present)

    @cached_property
    def revision(self) -> str:
        """SHA-256 over names, pixels, labels, masks and what else there is, shortened to 16 hexadecimal digits."""
        arrays, digest = self.arrays, hashlib.sha256()
        digest.update("\n".join(arrays.ids).encode())
        for part in arrays[1:]:
            if part is not None:
                digest.update(f"{part.dtype.str}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.arrays.ids)

    def take(self, indices: Sequence[int]) -> Batch:
        """Read the samples at these positions."""
        rows = np.asarray(indices, dtype=np.int64)
        arrays = self.arrays
        return Batch(
            ids=tuple(arrays.ids[row] for row in rows),
            images=self._normalized(arrays.pixels[rows]),
            labels=torch.from_numpy(arrays.labels[rows]),
            masks=None if arrays.masks is None else torch.from_numpy(arrays.masks[rows]),
            all_masks=None if arrays.all_masks is None else torch.from_numpy(arrays.all_masks[rows]),
            backgrounds=None if arrays.backgrounds is None else self._normalized(arrays.backgrounds[rows]),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """Read all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    def _normalized(self, pixels: NDArray[np.uint8]) -> Tensor:
        return self.normalization.normalize(torch.from_numpy(pixels).float() / 255)
