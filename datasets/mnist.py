"""MNIST, read from torchvision's folder layout, packed or unpacked."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .files import DatasetError
from .limited_reading import MEBIBYTE
from .torchvision_arrays import TorchvisionArrays

_PART = {"train": "train", "test": "t10k"}
_BYTES = b"\x00\x00\x08"
"""What an IDX file of unsigned bytes begins with; the number of axes follows."""
_MOST = 1024 * MEBIBYTE  # the largest in use has 45


@dataclass(frozen=True)
class Mnist(TorchvisionArrays):
    """Handwritten digits, `(1, 28, 28)`, white ink on black, pixel values in [0, 1] and not normalised.

    The files are those of torchvision (`MNIST/raw/t10k-images-idx3-ubyte`, …); packed ones (`.gz`), which torchvision
    leaves beside them, are read where the others are missing. Only the files of the split are needed.
    `mnist-test-00042` is the image of index 42 of the test part.

    LeNet-5 and others that were trained on 32×32 images want `size=32`.

    Args:
        root: the folder that holds `MNIST/raw`.
        split: `"train"` (60,000 digits) or `"test"` (10,000).
        size: side of the images in pixels; `None` leaves them as they are.
        normalize: `"none"` or `"half"` (values in [-1, 1]).
        download: fetch the files where they are missing.

    Raises:
        ValueError: an argument is none of these.
        DatasetError: (when samples are asked for) files are missing or damaged.

    Reference:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
        Proc. IEEE 86(11), 1998.

    Example:
        >>> Mnist(root="data", size=32, normalize="half").image_shape
        (1, 32, 32)
    """

    name: ClassVar[str] = "mnist"
    has_masks: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    source_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    torchvision_name: ClassVar[str] = "MNIST"
    """The class in torchvision, and the folder within `root`."""

    def files(self) -> Sequence[str]:
        """Return the images' and the labels' file of this split: the packed one where only that exists."""
        return [self._file(f"{_PART[self.split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]

    def _file(self, name: str) -> str:
        plain = f"{self.torchvision_name}/raw/{name}"
        packed = f"{plain}.gz"
        return packed if (self.folder / packed).is_file() and not (self.folder / plain).is_file() else plain

    def fetch(self) -> None:
        """Let torchvision download and unpack the files of both splits."""
        from torchvision import datasets

        getattr(datasets, self.torchvision_name)(self.folder, download=True)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read `(N, 1, 28, 28)` pixels and `(N,)` labels of this split."""
        images, labels = (read_idx(self.folder / name) for name in self.files())
        return images[:, None], labels.astype(np.int64)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, packed where it ends in `.gz`.

    Raises:
        DatasetError: it is no such file, or is shorter or longer than its head says.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:3] != _BYTES:
            raise DatasetError(f"`{path}` must be an IDX file of bytes (beginning with 00 00 08), begins with {head!r}")
        sizes = file.read(4 * head[3])
        shape = tuple(int.from_bytes(sizes[start : start + 4], "big") for start in range(0, 4 * head[3], 4))
        if prod(shape) > _MOST:
            raise DatasetError(f"`{path}` must hold at most {_MOST} bytes, its head says {prod(shape)}: it is damaged")
        data = file.read(prod(shape) + 1)  # no more: an archive may unpack to any size
    if len(data) != prod(shape):
        found = "less" if len(data) < prod(shape) else "more"
        raise DatasetError(
            f"`{path}` must hold {prod(shape)} bytes, as its head says, but holds {found}: it is damaged"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
