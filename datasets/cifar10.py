"""CIFAR-10, read through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .torchvision_arrays import TorchvisionArrays


@dataclass(frozen=True)
class Cifar10(TorchvisionArrays):
    """Colour photographs of ten kinds of things, `(3, 32, 32)`, pixel values in [0, 1] unless normalised.

    The files are those of torchvision (`cifar-10-batches-py/test_batch`, …), which checks their digests before it
    reads any: they are pickles, and a pickle can run code. `cifar10-test-00042` is the image of index 42.

    The usual CIFAR ResNets expect `normalize="imagenet"`; SITE's network expects this and `size=128`.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        split: `"train"` (50,000 images) or `"test"` (10,000).
        size: side of the images in pixels; `None` leaves them as they are.
        normalize: `"none"`, `"half"` (values in [-1, 1]) or `"imagenet"`.
        download: fetch the files where they are missing.

    Raises:
        ValueError: an argument is none of these.
        DatasetError: (when samples are asked for) files are missing or damaged.

    Reference:
        A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Example:
        >>> Cifar10(root="data", normalize="imagenet").image_shape
        (3, 32, 32)
    """

    name: ClassVar[str] = "cifar10"
    has_masks: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    source_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def files(self) -> Sequence[str]:
        """Return the files of both splits: torchvision wants all of them."""
        from torchvision.datasets import CIFAR10

        listed = [*CIFAR10.train_list, *CIFAR10.test_list]
        return [f"{CIFAR10.base_folder}/{name}" for name in [*(name for name, _ in listed), CIFAR10.meta["filename"]]]

    def fetch(self) -> None:
        """Let torchvision download and unpack the files."""
        from torchvision.datasets import CIFAR10

        CIFAR10(self.folder, download=True)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read `(N, 3, 32, 32)` pixels and `(N,)` labels of this split."""
        from torchvision.datasets import CIFAR10

        source = CIFAR10(self.folder, train=self.split == "train")
        return source.data.transpose(0, 3, 1, 2), np.asarray(source.targets, dtype=np.int64)
