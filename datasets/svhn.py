"""SVHN, read through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .torchvision_arrays import TorchvisionArrays


@dataclass(frozen=True)
class Svhn(TorchvisionArrays):
    """Photographed house numbers, `(3, 32, 32)` around one digit each, pixel values in [0, 1] unless normalised.

    The files are those of torchvision (`test_32x32.mat`, …), which checks their digests before it reads them, and
    gives the digit 0, which the files call 10, the class 0. The part `extra` is not used. `svhn-test-00042` is the
    image of index 42.

    Args:
        root: the folder that holds `train_32x32.mat` or `test_32x32.mat`.
        split: `"train"` (73,257 digits) or `"test"` (26,032).
        size: side of the images in pixels; `None` leaves them as they are.
        normalize: `"none"`, `"half"` (values in [-1, 1]) or `"imagenet"`.
        download: fetch the files where they are missing.

    Raises:
        ValueError: an argument is none of these.
        DatasetError: (when samples are asked for) files are missing or damaged.

    Reference:
        Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng, "Reading Digits in Natural Images with
        Unsupervised Feature Learning", NIPS Workshop on Deep Learning, 2011.

    Example:
        >>> Svhn(root="data", normalize="half").normalization.mean
        (0.5, 0.5, 0.5)
    """

    name: ClassVar[str] = "svhn"
    has_masks: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    source_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def files(self) -> Sequence[str]:
        """Return the file of this split."""
        from torchvision.datasets import SVHN

        return [SVHN.split_list[self.split][1]]

    def fetch(self) -> None:
        """Let torchvision download the file."""
        from torchvision.datasets import SVHN

        SVHN(self.folder, split=self.split, download=True)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read `(N, 3, 32, 32)` pixels and `(N,)` labels of this split."""
        from torchvision.datasets import SVHN

        source = SVHN(self.folder, split=self.split)
        return source.data, source.labels
