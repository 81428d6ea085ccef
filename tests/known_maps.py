"""An explainer that answers with heatmaps known beforehand."""

from __future__ import annotations

from torch import Tensor

from interpeval.datasets.base import Batch
from small_subject import FromImage


def known_maps(batch: Batch, maps: Tensor) -> FromImage:
    """Give the `(B, H, W)` map of whichever image of the batch it is asked about, in any order and number."""

    def look_up(inputs: Tensor) -> Tensor:
        same = (inputs[:, None] == batch.images).flatten(2).all(dim=2)
        return maps[same.int().argmax(dim=1), None]

    return FromImage(look_up)
