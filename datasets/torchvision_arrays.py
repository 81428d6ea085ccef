"""What the small datasets that are read whole from a folder share: `mnist`, `cifar10` and their like."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from .base import ArrayDataset, Arrays, Batch, Normalization
from .files import NORMALIZATIONS, DatasetError

# RuntimeError is torchvision's; LookupError, TypeError and what follows come of files that hold something else.
_OF_READERS = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class FolderArrays(ArrayDataset):
    """Images without masks that are read whole from a folder and may be handed out in another size.

    Args:
        root: the folder.
        split: `"train"` or `"test"`.
        size: side of the images in pixels; `None` leaves them as they are. Images are resized bilinearly (with an
            antialiasing filter where they get smaller) when they are taken, so that memory holds the small ones.
        normalize: `"none"` (pixel values in [0, 1]), `"half"` (mean and standard deviation 0.5: values in [-1, 1]), or
            for colour images `"imagenet"` (what torchvision's networks expect).

    Raises:
        ValueError: an argument is none of these.
    """

    source_shape: ClassVar[tuple[int, int, int]]
    """`(C, H, W)` of the images in the files."""

    root: str | Path = "data"
    split: str = "test"
    size: int | None = None
    normalize: str = "none"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.split not in {"train", "test"}:
            raise ValueError(f'`split` must be "train" or "test", was {self.split!r}')
        if self.size is not None and (not isinstance(self.size, int) or self.size < 1):
            raise ValueError(f"`size` must be a whole number of pixels, at least 1, was {self.size!r}")
        known = ("none", "half", "imagenet") if self.source_shape[0] == 3 else ("none", "half")
        if self.normalize not in known:
            raise ValueError(f"`normalize` of `{self.name}` must be one of {', '.join(known)}, was {self.normalize!r}")

    @property
    def folder(self) -> Path:
        """Where files are looked for."""
        return Path(self.root).expanduser()

    # `ArrayDataset` declares facts of a class, which datasets of one size and normalisation state; here they follow
    # from the configuration.

    @property
    def normalization(self) -> Normalization:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How pixel values became the model's input."""
        channels = self.source_shape[0]
        if self.normalize == "none":
            return Normalization((0.0,) * channels, (1.0,) * channels)
        mean, std = NORMALIZATIONS[self.normalize]
        return Normalization(mean[:channels], std[:channels])

    @property
    def image_shape(self) -> tuple[int, int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`(C, H, W)` of every image."""
        channels, height, width = self.source_shape
        return (channels, height, width) if self.size is None else (channels, self.size, self.size)

    @property
    def revision(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """SHA-256 over names, pixels as in the files, labels, size and normalisation, in 16 hexadecimal digits."""
        return hashlib.sha256(f"{super().revision} {self.size} {self.normalize}".encode()).hexdigest()[:16]

    def take(self, indices: Sequence[int]) -> Batch:
        """Read the samples at these positions."""
        batch = super().take(indices)
        if self.size is None:
            return batch
        shape = (self.size, self.size)
        return replace(batch, images=F.interpolate(batch.images, shape, mode="bilinear", antialias=True))


@dataclass(frozen=True)
class TorchvisionArrays(FolderArrays):
    """A dataset in the folder layout of torchvision, which also knows where it can be downloaded.

    Args:
        root: what torchvision calls `root`.
        split: `"train"` or `"test"`.
        size: as in `FolderArrays`.
        normalize: as in `FolderArrays`.
        download: fetch the files into `root` where they are missing. Nothing is ever downloaded unasked.
    """

    download: bool = False

    @abstractmethod
    def files(self) -> Sequence[str]:
        """Return the files that `read` wants, relative to the folder."""

    @abstractmethod
    def fetch(self) -> None:
        """Let torchvision download the files."""

    @abstractmethod
    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read `(N, C, H, W)` pixels and `(N,)` labels of this split."""

    def load(self) -> Arrays:
        """Read the files of this split, after fetching them where that is wanted.

        Raises:
            DatasetError: files are missing, damaged, or do not hold what they should.
        """
        if self.download and self._missing():
            with failing_as_dataset_error(f"cannot download `{self.name}` to `{self.folder}`"):
                self.fetch()
        missing = self._missing()
        if missing:
            raise DatasetError(
                f"`{self.name}` is not in `{self.folder}` (that is `{self.folder.resolve()}`): there is no "
                f"`{missing[0]}`; name the folder that has it (`{self.name}?root=DIR`), or download it "
                "(`--download`, in Python `download=True`)"
            )
        with failing_as_dataset_error(
            f"cannot read `{self.name}` in `{self.folder}` (remove its files and download them again)"
        ):
            pixels, labels = self.read()
        self._check(pixels, labels)
        ids = tuple(f"{self.name}-{self.split}-{index:05d}" for index in range(len(labels)))
        return Arrays(ids, pixels, labels, masks=None)

    def _missing(self) -> list[str]:
        return [name for name in self.files() if not (self.folder / name).is_file()]

    def _check(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        found = f"{pixels.shape} images and {labels.shape} labels"
        if pixels.shape != (len(labels), *self.source_shape) or not len(labels):
            raise DatasetError(
                f"`{self.name}` in `{self.folder}` must hold images {self.source_shape} with a label each, has {found}"
            )
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise DatasetError(
                f"labels of `{self.name}` in `{self.folder}` must be below {len(self.classes)}, "
                f"are {labels.min()} to {labels.max()}"
            )


@contextmanager
def failing_as_dataset_error(message: str) -> Generator[None]:
    """Turn what readers of damaged files raise into a `DatasetError` that starts with `message`."""
    try:
        yield
    except DatasetError:
        raise
    except _OF_READERS as error:
        raise DatasetError(f"{message}: {error}") from error
