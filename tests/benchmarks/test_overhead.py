"""What the engine costs beside the passes of the model that it cannot do without.

`make bench` prints, for each metric, the time of a whole run divided by the time of as many bare forward and backward
passes as the run counts, in the same micro-batches, measured in turn.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interpeval.bench import evaluate
from interpeval.bench.micro_batch import auto_size
from interpeval.bench.passes import PassCounter, Passes
from interpeval.datasets.base import ArrayDataset, Arrays, Normalization

ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Pictures(ArrayDataset):
    """Images of the folder of real data, of one size, without masks."""

    pixels: NDArray[np.uint8]
    split: str = "test"

    name: ClassVar[str] = "real_pictures"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    normalization: ClassVar[Normalization] = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image_shape: ClassVar[tuple[int, int, int]] = (3, 0, 0)
    has_masks: ClassVar[bool] = False

    def load(self) -> Arrays:
        """Name the images; their labels do not matter here."""
        labels = np.arange(len(self.pixels), dtype=np.int64) % len(self.classes)
        return Arrays(tuple(f"picture-{index}" for index in range(len(labels))), self.pixels, labels, None)


class Photographs(Pictures):
    """Images for a network of the 1000 ImageNet classes."""

    classes: ClassVar[tuple[str, ...]] = tuple(map(str, range(1000)))


def cifar(loaders: ModuleType, real_data: Path) -> tuple[nn.Module, Pictures]:
    """The CIFAR ResNet-20 and 256 lossless test images."""
    with np.load(real_data / "cifar10" / "test_266_lossless.npz") as file:
        pixels = np.ascontiguousarray(file["x"][:256].transpose(0, 3, 1, 2))
    return loaders.load_model("resnet20"), Pictures(pixels)


def photographs(loaders: ModuleType, real_data: Path) -> tuple[nn.Module, Pictures]:
    """An ImageNet SqueezeNet and 8 crops of photographs, 224×224."""
    del real_data
    return loaders.load_model("squeezenet1_0"), Photographs(loaders.coco_crops(224, 8)[0])


@pytest.fixture(scope="module")
def loaders(real_data: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_data_loaders", real_data / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("metric", ["mask_k_pixels", "self_consistency"])
@pytest.mark.parametrize("subject", [cifar, photographs], ids=["ResNet-20 at 32", "SqueezeNet at 224"])
def test_overhead(
    benchmark,
    subject: Callable[[ModuleType, Path], tuple[nn.Module, Pictures]],
    metric: str,
    loaders: ModuleType,
    real_data: Path,
) -> None:
    model, dataset = subject(loaders, real_data)
    images = dataset.take(range(len(dataset))).images.contiguous()
    size = auto_size(model, images[0])

    def whole() -> None:
        evaluate(model, "gradient", dataset, [metric], controls=False, device="cpu")

    with PassCounter(model) as counter:
        whole()
    _report(benchmark, whole, lambda: _bare(model, images, counter.passes, size), counter.passes)


def _bare(model: nn.Module, images: Tensor, passes: Passes, size: int) -> None:
    """As many passes as were counted: those with a gradient, and the forward ones beyond them."""
    for rows in _portions(passes.backward, size):
        inputs = images[torch.arange(rows) % len(images)].requires_grad_()
        torch.autograd.grad(model(inputs).sum(), inputs)
    with torch.no_grad():
        for rows in _portions(passes.forward - passes.backward, size):
            model(images[torch.arange(rows) % len(images)])


def _portions(count: int, size: int) -> list[int]:
    return [min(size, count - start) for start in range(0, count, size)]


def _report(benchmark, whole: Callable[[], None], bare: Callable[[], None], passes: Passes) -> None:
    """Time both in turn, because the machine's speed drifts, and print the median of the ratios."""
    bare()
    ratios = []
    for _ in range(ROUNDS):
        seconds = []
        for call in (whole, bare):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    benchmark.pedantic(whole, rounds=1, iterations=1)
    benchmark.extra_info["ratio"] = statistics.median(ratios)
    print(
        f"\n{passes.forward} forward and {passes.backward} backward passes: whole run / bare passes = "
        f"{statistics.median(ratios):.3f} (median of {ROUNDS}, {min(ratios):.3f} to {max(ratios):.3f}), "
        f"{torch.get_num_threads()} threads"
    )
