"""What RISE and RELAX cost beside the passes of the model that they cannot do without.

`make bench` prints, for each, the time of an explanation divided by the time of as many bare forward passes, in the
same micro-batches, measured in turn. It is the processor's time, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.relax import Relax
from interpeval.baselines.rise import Rise

ROUNDS = 7


def cifar(loaders: Any) -> tuple[nn.Module, Tensor]:
    """The CIFAR ResNet-20 and a test image."""
    image = torch.from_numpy(loaders.cifar10_test266()[0][:1]).permute(0, 3, 1, 2)
    return loaders.load_model("resnet20"), image.contiguous() / 255 - 0.5


def photograph(loaders: Any) -> tuple[nn.Module, Tensor]:
    """An ImageNet SqueezeNet and a crop of a photograph, 224×224."""
    return loaders.load_model("squeezenet1_0"), torch.from_numpy(loaders.coco_crops(224, 1)[0]).contiguous() / 255 - 0.5


@pytest.mark.parametrize("kind", [Rise, Relax])
@pytest.mark.parametrize(
    ("subject", "n_masks"), [(cifar, 3000), (photograph, 64)], ids=["ResNet-20 at 32", "SqueezeNet at 224"]
)
def test_perturbation_overhead(
    benchmark, subject: Callable[[Any], tuple[nn.Module, Tensor]], n_masks: int, kind: type, real_data: Path
) -> None:
    spec = importlib.util.spec_from_file_location("real_data_loaders", real_data / "load.py")
    assert spec is not None
    assert spec.loader is not None
    loaders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaders)
    model, image = subject(loaders)
    explainer = kind(n_masks=n_masks)
    keys, target = torch.tensor([7]), torch.tensor([0])
    masked = (image * torch.rand(explainer.batch_size, 1, *image.shape[-2:])).contiguous()

    def whole() -> None:
        explainer.attribute(model, image, target, keys=keys)

    def bare() -> None:
        with torch.no_grad():
            for start in range(0, n_masks, explainer.batch_size):
                model(masked[: n_masks - start])

    _report(benchmark, whole, bare, n_masks)


def _report(benchmark, whole: Callable[[], None], bare: Callable[[], None], n_masks: int) -> None:
    """Time both in turn, because the machine's speed drifts, and print the ratio of the medians."""
    bare()
    seconds: dict[Callable[[], None], list[float]] = {whole: [], bare: []}
    for _ in range(ROUNDS):
        for call, times in seconds.items():
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    benchmark.pedantic(whole, rounds=1, iterations=1)
    ratio = statistics.median(seconds[whole]) / statistics.median(seconds[bare])
    benchmark.extra_info["ratio"] = ratio
    ratios = sorted(one / other for one, other in zip(seconds[whole], seconds[bare], strict=True))
    print(
        f"\n{n_masks} masks: explanation / bare passes = {ratio:.3f} (medians of {ROUNDS} rounds; single rounds "
        f"{ratios[0]:.3f} to {ratios[-1]:.3f}), {torch.get_num_threads()} threads"
    )
