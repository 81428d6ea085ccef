"""Composites are those of the metric, their masks lie where their images do, and no class comes in twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpeval.bench import evaluate
from interpeval.bench.resolve import resolve_dataset
from interpeval.datasets.base import Batch, Dataset
from interpeval.datasets.composites import Composites, composite_masks, quadrants
from interpeval.datasets.digit_scenes import DigitScenes
from interpeval.datasets.digits import Digits
from interpeval.metrics.base import Inputs
from interpeval.metrics.negative_quadrants_heatmap import NegativeQuadrantsHeatmap
from small_subject import FromImage, Pictures, SmallNet, see

SCENES = DigitScenes()
PAIRS = DigitScenes(objects=2)


@dataclass(frozen=True, eq=False)
class Bare(DigitScenes):
    """Scenes without masks."""

    has_masks = False

    def take(self, indices: Sequence[int]) -> Batch:
        return replace(super().take(indices), masks=None)


ONES = FromImage(lambda inputs: torch.ones_like(inputs[:, :1]))


@dataclass(frozen=True, eq=False)
class Sized(Pictures):
    """Pictures that know their size."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *self.size)


class FixedNet(SmallNet):
    """Refuses any input but of the size it was made for."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        if tuple(inputs.shape[-2:]) != self.size:
            raise RuntimeError("wrong size")
        return super().forward(inputs)


@dataclass(frozen=True, eq=False)
class MoreThanOne(Pictures):
    """Several labels per sample."""

    @property
    def labels(self) -> Tensor:
        return torch.ones(self.count, 3, dtype=torch.bool)


def cells(images: Tensor) -> Tensor:
    """`(B, 4, …)`: the four quarters of something with even sides."""
    height, width = images.shape[-2:]
    return torch.stack([images[..., rows, columns] for rows, columns in quadrants(height, width)], dim=1)


def where_shown(composites: Batch, images: Tensor) -> list[list[int]]:
    """In which cells each image stands."""
    same = (cells(composites.images) == images[:, None]).flatten(2).all(dim=2)
    return [row.nonzero().flatten().tolist() for row in same]


def test_composites_are_a_dataset_that_tells_its_members_truly() -> None:
    composites = Composites(of=SCENES)
    assert isinstance(composites, Dataset)
    batch = composites.take([3, 1])
    assert tuple(batch.images.shape[1:]) == composites.image_shape == (3, 128, 128)
    assert batch.ids == (SCENES.ids[3], SCENES.ids[1])
    assert batch.labels.tolist() == SCENES.labels[[3, 1]].tolist()
    assert composites.with_split("train").split == "train"
    assert len(composites) == len(SCENES)


def test_an_image_stands_whole_in_one_cell_and_its_mask_with_it() -> None:
    rows = range(60)
    own, batch = SCENES.take(rows), Composites(of=SCENES).take(rows)
    places = where_shown(batch, own.images)
    assert [len(place) for place in places] == [1] * 60
    assert batch.masks is not None
    assert own.masks is not None
    masks = cells(batch.masks)
    for row, (place,) in enumerate(places):
        assert torch.equal(masks[row, place], own.masks[row])
        assert masks[row].sum() == own.masks[row].sum()
    assert {place for (place,) in places} == {0, 1, 2, 3}


def test_the_other_cells_show_different_images_without_the_class() -> None:
    composites = Composites(of=PAIRS)
    batch = composites.take(range(0, 300, 5))
    pixels = {image.numpy().tobytes(): row for row, image in reversed([*enumerate(PAIRS.take(range(1078)).images)])}
    assert len(pixels) == 539
    for row, parts in enumerate(cells(batch.images)):
        shown = [pixels[part.contiguous().numpy().tobytes()] for part in parts]
        assert len({*shown}) == 4
        label = int(batch.labels[row])
        assert PAIRS.present[shown, label].sum() == 1
        assert torch.equal(composites.present[5 * row], PAIRS.present[shown].any(dim=0))


def test_all_masks_are_those_of_all_four_images() -> None:
    rows = range(0, 40, 3)
    batch = Composites(of=PAIRS).take(rows)
    every = PAIRS.take(range(1078))
    pixels = {image.numpy().tobytes(): row for row, image in enumerate(every.images)}
    assert batch.all_masks is not None
    assert every.all_masks is not None
    for images, masks in zip(cells(batch.images), cells(batch.all_masks), strict=True):
        shown = [pixels[image.contiguous().numpy().tobytes()] for image in images]
        assert torch.equal(masks, every.all_masks[shown])


def test_without_masks_the_whole_cell_is_the_mask() -> None:
    digits = Digits()
    rows = range(20)
    batch = Composites(of=digits).take(rows)
    assert batch.masks is not None
    assert batch.all_masks is None
    for (place,), masks in zip(where_shown(batch, digits.take(rows).images), cells(batch.masks), strict=True):
        assert masks.flatten(1).sum(dim=1).tolist() == [784 * (place == index) for index in range(4)]


@pytest.mark.parametrize("resized", [False, True])
def test_composites_are_those_of_the_metric(resized: bool) -> None:
    """Under one seed, the metric has exactly these inputs explained, with these masks."""
    pictures = Sized(size=(9, 8), count=12)
    evidence = see(ONES, dataset=pictures, model=FixedNet((9, 8)) if resized else None, seed=5)
    asked: list[Inputs] = []

    def explain(count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        asked.append(build(torch.arange(count)))
        yield torch.arange(count), asked[0].images[:, 0]

    evidence.explain = explain  # type: ignore[method-assign]
    NegativeQuadrantsHeatmap().score(evidence)
    batch = Composites(of=pictures, seed=5, resized=resized).take(range(12))
    assert batch.masks is not None
    assert asked[0].masks is not None
    assert torch.equal(asked[0].images, batch.images)
    assert torch.equal(asked[0].masks, batch.masks)
    other = Composites(of=pictures, seed=6, resized=resized).take(range(12))
    assert not torch.equal(other.images, batch.images)


def test_outside_of_its_cell_the_heatmap_of_a_label_is_the_metric_of_the_image() -> None:
    """Two ways to one number: the metric on images, and one minus the content heatmap on composites of whole cells."""
    network = SmallNet(n_classes=10)

    def scores(dataset: Dataset, metric: str) -> pd.DataFrame:
        found = evaluate(network, "gradient", dataset, [metric], limit=6, seed=2, controls=False, device="cpu")
        return found.scores.sort_values("sample_id")

    metric = scores(SCENES, "negative_quadrants_heatmap")
    content = scores(Composites(of=Bare(), seed=2), "content_heatmap")
    assert len(metric) == len(content) == 6
    assert metric["value"].std() > 0.01
    np.testing.assert_allclose(metric["value"], 1 - content["value"], atol=1e-6)


def test_composites_do_not_depend_on_order_or_batch() -> None:
    composites = Composites(of=PAIRS, resized=True)
    whole = composites.take(range(12))
    for rows in ([5], [11, 0, 5], [5, 5]):
        some = composites.take(rows)
        assert torch.equal(some.images, whole.images[rows])
        assert torch.equal(some.masks, whole.masks[rows])  # type: ignore[arg-type,index]
    batches = [batch.images for batch, _ in zip(composites.batches(5), range(2), strict=False)]
    assert torch.equal(torch.cat(batches), whole.images[:10])


def test_resized_composites_have_the_size_of_one_image_and_keep_every_object() -> None:
    small, large = Composites(of=SCENES, resized=True), Composites(of=SCENES)
    assert small.image_shape == SCENES.image_shape
    reduced, whole = small.take(range(8)), large.take(range(8))
    expected = F.interpolate(
        cells(whole.images).flatten(0, 1), (32, 32), mode="bilinear", antialias=True, align_corners=False
    ).view(8, 4, 3, 32, 32)
    torch.testing.assert_close(cells(reduced.images), expected)
    assert whole.masks is not None
    assert reduced.masks is not None
    assert torch.equal(F.max_pool2d(whole.masks.float(), 2) > 0, reduced.masks)


def test_composite_masks_of_odd_sides_lose_no_object() -> None:
    parts = torch.zeros(25, 4, 5, 5, dtype=torch.bool)
    for row, (y, x) in enumerate((y, x) for y in range(5) for x in range(5)):
        parts[row, row % 4, y, x] = True
    small = composite_masks(parts, (5, 5))
    for row, (rows, columns) in enumerate(quadrants(5, 5) * 6):
        assert small[row, rows, columns].any()
        assert small[row].sum() == small[row, rows, columns].sum()


def test_every_part_of_the_configuration_changes_the_revision() -> None:
    some = [
        Composites(of=SCENES),
        Composites(of=SCENES, seed=1),
        Composites(of=SCENES, resized=True),
        Composites(of=DigitScenes(seed=1)),
    ]
    assert len({each.revision for each in some}) == 4
    assert Composites(of=DigitScenes()).revision == some[0].revision


def test_composites_of_a_dataset_by_its_name() -> None:
    assert resolve_dataset("composites?of=digits&seed=3").revision == Composites(of=Digits(), seed=3).revision
    nested = resolve_dataset("composites?of=digit_scenes?objects=2%26truth=box&resized=true")
    assert nested.revision == Composites(of=DigitScenes(objects=2, truth="box"), resized=True).revision


def test_what_is_no_dataset_of_one_label_per_sample_is_refused() -> None:
    with pytest.raises(TypeError, match="`of` must be a dataset, was 'digits'"):
        Composites(of="digits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`of` must have one label per sample, `pictures` has several"):
        Composites(of=MoreThanOne()).take([0])
