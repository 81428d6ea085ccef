"""Images of other classes, drawn for a sample by its key alone."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..datasets.base import Batch, Dataset
from ..datasets.philox import random_words

_WORDS_A_ROUND = 32


class Distractors:
    """Draws, for each sample, other images of the dataset in which the class of its label is not present.

    The draw is uniform, without replacement, over the whole dataset in the order of its ids: it is the same for
    any batch, any `--limit` and any order of the dataset.
    """

    def __init__(self, dataset: Dataset, *, seed: int) -> None:
        """Store the dataset and the seed of the run."""
        self.dataset = dataset
        self.seed = seed

    @cached_property
    def _order(self) -> Tensor:
        """Dataset positions in the order of ids."""
        ids = self.dataset.ids
        return torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))

    def _without(self, label: int) -> Tensor:
        """`(N,)` bool, in the order of ids: which images do not show a class."""
        present: Tensor | None = getattr(self.dataset, "present", None)
        shown = self.dataset.labels == label if present is None else present[:, label]
        return ~shown[self._order]

    def images(self, batch: Batch, count: int) -> Tensor:
        """Return `(B, count, C, H, W)` images for the samples of `batch`, on its device."""
        positions = [
            self._positions(key, int(label), count)
            for key, label in zip(batch.keys.cpu(), batch.labels.cpu(), strict=True)
        ]
        flat = [int(position) for row in positions for position in row]
        images = self.dataset.take(flat).images
        return images.view(len(batch), count, *images.shape[1:]).to(batch.images.device)

    def _positions(self, key: Tensor, label: int, count: int) -> list[int]:
        eligible = self._without(label)
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
        return [int(self._order[place]) for place in chosen]
