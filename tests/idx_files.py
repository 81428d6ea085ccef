"""Files of the IDX format, written byte by byte, for the tests of datasets in torchvision's layout."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx(values: NDArray[np.uint8]) -> bytes:
    """Two zero bytes, 8 for unsigned bytes, number of axes, their lengths (most significant byte first), the data."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(root: Path, *, folder: str = "MNIST", packed: bool = False, count: int = 7) -> tuple[NDArray, NDArray]:
    """Write both splits of a small MNIST and return images and labels of its test part."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):  # the test part is the last
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(values)
            path = raw / f"{part}-{name}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return images, labels
