"""What the localisation metrics cost a map, beside the same metrics of Quantus.

`make bench` prints, for each metric and for all of them one after the other, the milliseconds a map of 224×224 takes,
and how many times that Quantus takes on a few of the same maps, in the same run. The maps are smooth, as those of deep
layers are, and the masks are boxes.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpeval.metrics.content_heatmap import content_heatmap
from interpeval.metrics.pointing_game import pointing_game
from interpeval.metrics.relevance_rank import relevance_rank
from interpeval.metrics.stochastic_pointing_game import stochastic_pointing_game
from interpeval.metrics.top_k import top_k

ROUNDS = 5
MAPS, THEIR_MAPS = 1000, 20
SIDE = 224

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pointing_game": pointing_game,
    "stochastic_pointing_game": stochastic_pointing_game,
    "content_heatmap": content_heatmap,
    "top_k": top_k,
    "relevance_rank": relevance_rank,
}
THEIRS = {
    "pointing_game": "PointingGame",
    "content_heatmap": "RelevanceMassAccuracy",
    "top_k": "TopKIntersection",
    "relevance_rank": "RelevanceRankAccuracy",
}


@pytest.fixture(scope="module")
def maps_and_masks() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(MAPS, 1, 14, 14, generator=generator)
    heatmap = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0].contiguous()
    mask = torch.zeros(MAPS, SIDE, SIDE, dtype=torch.bool)
    for row, (y, x, height, width) in enumerate(torch.randint(20, 110, (MAPS, 4), generator=generator).tolist()):
        mask[row, y : y + height, x : x + width] = True
    return heatmap, mask


@pytest.mark.parametrize("name", [*METRICS, "together"])
def test_time_a_map(benchmark: Any, maps_and_masks: tuple[Tensor, Tensor], name: str) -> None:
    heatmap, mask = maps_and_masks
    calls = [METRICS[name]] if name in METRICS else list(METRICS.values())

    def ours() -> None:
        for call in calls:
            call(heatmap, mask)

    ours()
    seconds = [_seconds(ours) / MAPS for _ in range(ROUNDS)]
    benchmark.pedantic(ours, rounds=1, iterations=1)
    benchmark.extra_info["ms_a_map"] = 1000 * statistics.median(seconds)
    print(
        f"\n{name}: {1000 * statistics.median(seconds):.4f} ms a map (median of {ROUNDS}, {1000 * min(seconds):.4f} to "
        f"{1000 * max(seconds):.4f}), {torch.get_num_threads()} threads{_beside_quantus(name, heatmap, mask, seconds)}"
    )


def _beside_quantus(name: str, heatmap: Tensor, mask: Tensor, seconds: list[float]) -> str:
    """How many times as long Quantus takes, where it is installed and has this metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import quantus
        except ImportError:
            return ""
        if name not in THEIRS:
            return ""
        metric = getattr(quantus, THEIRS[name])(
            abs=False, normalise=False, disable_warnings=True, display_progressbar=False
        )
        images, labels = np.zeros((THEIR_MAPS, 1, SIDE, SIDE)), np.zeros(THEIR_MAPS, dtype=int)
        maps, masks = heatmap[:THEIR_MAPS, None].numpy(), mask[:THEIR_MAPS, None].numpy()

        def theirs() -> None:
            metric(model=torch.nn.Identity(), x_batch=images, y_batch=labels, a_batch=maps, s_batch=masks)

        theirs()
        ratio = min(_seconds(theirs) for _ in range(2)) / THEIR_MAPS / statistics.median(seconds)
    return f"; Quantus takes {ratio:.0f} times as long"


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
