"""Fashion-MNIST, in the files and the form of MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .mnist import Mnist


@dataclass(frozen=True)
class FashionMnist(Mnist):
    """Photographs of clothes, `(1, 28, 28)`, light on black, pixel values in [0, 1] and not normalised.

    Files, names and arguments are like those of `Mnist`, in the folder `FashionMNIST/raw`.

    Args:
        root: the folder that holds `FashionMNIST/raw`.
        split: `"train"` (60,000 images) or `"test"` (10,000).
        size: side of the images in pixels; `None` leaves them as they are.
        normalize: `"none"` or `"half"` (values in [-1, 1]).
        download: fetch the files where they are missing.

    Raises:
        ValueError: an argument is none of these.
        DatasetError: (when samples are asked for) files are missing or damaged.

    Reference:
        H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
        Algorithms", 2017, arXiv:1708.07747.

    Example:
        >>> FashionMnist(root="data").classes[9]
        'ankle boot'
    """

    name: ClassVar[str] = "fashion_mnist"
    has_masks: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = (
        "t-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    torchvision_name: ClassVar[str] = "FashionMNIST"
