"""Samples of one class, to compare a sample of that class with."""

from __future__ import annotations

from torch import Tensor

from ..datasets.base import Dataset
from ..datasets.philox import permutation, sample_keys


def class_members(dataset: Dataset, label: int, count: int, *, seed: int) -> Tensor:
    """Draw images of a class, without replacement, by the seed and the class alone.

    Args:
        dataset: whose other part they are from; its own where it has no other.
        label: the class.
        count: how many; fewer where there are no more.
        seed: of the draw.

    Returns:
        `(n, C, H, W)` images.
    """
    source = _other_part(dataset)
    ids = source.ids
    members = sorted((source.labels == label).nonzero()[:, 0].tolist(), key=ids.__getitem__)
    order = permutation(seed, "class_members", sample_keys([str(label)]), 0, len(members))[0, :count]
    return source.take([members[place] for place in order.tolist()]).images


def _other_part(dataset: Dataset) -> Dataset:
    other = "train" if dataset.split == "test" else "test"
    try:
        source = dataset.with_split(other)
        return source if len(source) else dataset
    except (ValueError, OSError):  # there is no such part, or it is not here
        return dataset
