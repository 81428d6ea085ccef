"""Images of other classes, drawn for a sample by its key alone."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .base import Batch, Dataset
from .philox import random_words

_WORDS_A_ROUND = 32


class Distractors:
    """Draws, for each sample, other images of the dataset in which the class of its label is not present.

    The draw is uniform, without replacement, over all images of the dataset in the order of their names (the part of
    the ids before `#`): it is the same for any batch, any `--limit` and any order of the dataset.
    """

    def __init__(self, dataset: Dataset, *, seed: int) -> None:
        """Store the dataset and the seed of the run."""
        self.dataset = dataset
        self.seed = seed

    @cached_property
    def _images(self) -> Tensor:
        """Where the first sample of each image stands in the dataset, in the order of the images' names."""
        first: dict[str, int] = {}
        for position, name in enumerate(self.dataset.ids):
            first.setdefault(name.partition("#")[0], position)
        return torch.tensor([first[name] for name in sorted(first)])

    def _without(self, label: int) -> Tensor:
        """Bool, in the order of `_images`: which do not show a class."""
        present: Tensor | None = getattr(self.dataset, "present", None)
        shown = self.dataset.labels == label if present is None else present[:, label]
        return ~shown[self._images]

    def positions(self, keys: Tensor, labels: Tensor, count: int) -> Tensor:
        """Return `(B, count)` dataset positions of distractors for samples of these `(B,)` keys and labels.

        Raises:
            ValueError: there are too few images without the class of a label.
        """
        eligible = {label: self._without(label) for label in labels.unique().tolist()}
        drawn = [
            self._draw(key, label, eligible[label], count)
            for key, label in zip(keys.cpu(), labels.tolist(), strict=True)
        ]
        return torch.tensor(drawn, dtype=torch.int64).view(len(keys), count)

    def images(self, batch: Batch, count: int) -> Tensor:
        """Return `(B, count, C, H, W)` images for the samples of `batch`, on its device."""
        images = self.dataset.take(self.positions(batch.keys, batch.labels, count).flatten().tolist()).images
        return images.view(len(batch), count, *images.shape[1:]).to(batch.images.device)

    def _draw(self, key: Tensor, label: int, eligible: Tensor, count: int) -> list[int]:
        available = int(eligible.sum())
        if available < count:
            raise ValueError(
                f"dataset `{self.dataset.name}` has {available} images without class {label}, "
                f"{count} distractors are needed"
            )
        chosen: list[int] = []
        draw = 0
        while len(chosen) < count:
            words = random_words(self.seed, "distractors", key[None], draw, _WORDS_A_ROUND)[0]
            for place in ((words * len(eligible)) >> 32).tolist():
                if eligible[place] and place not in chosen and len(chosen) < count:
                    chosen.append(place)
            draw += 1
        return [int(self._images[place]) for place in chosen]
