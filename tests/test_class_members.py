"""Samples of a class are drawn from the part that is not scored, by seed and class alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from interpeval.bench.class_members import class_members
from interpeval.datasets.base import Arrays
from small_subject import Pictures


@dataclass(frozen=True, eq=False)
class Halves(Pictures):
    """Pictures of two parts; the pixels of the training part are all below 100, those of the test part above 150."""

    split: str = field(default="test")
    parts: tuple[str, ...] = ("train", "test")
    reverse: bool = False

    def load(self) -> Arrays:
        if self.split not in self.parts:
            raise ValueError("there is no such part")
        arrays = super().load()
        pixels = arrays.pixels // 3 + (0 if self.split == "train" else 160)
        order = slice(None, None, -1 if self.reverse else 1)
        return Arrays(arrays.ids[order], pixels[order].copy(), arrays.labels[order].copy(), None)


def pixels(dataset: Pictures, label: int, count: int, seed: int = 0) -> torch.Tensor:
    return dataset.normalization.to_pixels(class_members(dataset, label, count, seed=seed)) * 255


def test_they_come_from_the_other_part_where_there_is_one() -> None:
    assert pixels(Halves(count=12), 1, 3).max() < 100
    assert pixels(Halves(count=12, split="train"), 1, 3).min() > 150
    assert pixels(Halves(count=12, parts=("test",)), 1, 3).min() > 150


@pytest.mark.parametrize("label", [0, 1, 2])
def test_they_are_of_the_class_each_once_and_no_more_than_there_are(label: int) -> None:
    dataset = Halves(count=14)
    train = dataset.with_split("train")
    found = class_members(dataset, label, 100, seed=0)
    expected = train.take([row for row in range(14) if row % 3 == label]).images
    assert sorted(found.flatten(1).sum(dim=1).tolist()) == sorted(expected.flatten(1).sum(dim=1).tolist())


def test_they_depend_on_seed_and_class_and_not_on_the_order_of_the_dataset() -> None:
    dataset = Halves(count=40)
    assert torch.equal(pixels(dataset, 1, 5), pixels(replace(dataset, reverse=True), 1, 5))
    assert torch.equal(pixels(dataset, 1, 5), pixels(dataset, 1, 9)[:5])
    assert not torch.equal(pixels(dataset, 1, 5), pixels(dataset, 1, 5, seed=1))
