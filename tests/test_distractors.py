"""Distractors depend on seed and sample alone, are of other classes, and are drawn evenly."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from interpeval.datasets.base import ArrayDataset, Arrays, Normalization
from interpeval.datasets.digit_scenes import DigitScenes
from interpeval.datasets.distractors import Distractors


@dataclass(frozen=True, eq=False)
class Numbered(ArrayDataset):
    """One-pixel images, each of another value; classes 0, 1, 2 in turn. `order` is the order they are kept in."""

    name: ClassVar[str] = "numbered"
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    normalization: ClassVar[Normalization] = Normalization((0.0,), (1 / 255,))
    image_shape: ClassVar[tuple[int, int, int]] = (1, 1, 1)
    has_masks: ClassVar[bool] = False

    order: tuple[int, ...]
    split: str = "test"

    def load(self):
        order = np.array(self.order, dtype=np.int64)
        pixels = order.astype(np.uint8).reshape(-1, 1, 1, 1)
        return Arrays(tuple(f"n{i:03d}" for i in self.order), pixels, order % 3, None)


DATASET = Numbered(tuple(range(30)))


def numbers(dataset, batch, count, seed=0):
    """For every sample, which images it was given, by the number in their pixel."""
    images = Distractors(dataset, seed=seed).images(batch, count)
    assert images.shape == (len(batch), count, 1, 1, 1)
    return [tuple(row) for row in images.round().long().flatten(1).tolist()]


def test_classes_differ_from_the_label_and_no_image_comes_twice():
    batch = DATASET.take(range(30))
    drawn = numbers(DATASET, batch, 20)  # all that there are
    for label, row in zip(batch.labels.tolist(), drawn, strict=True):
        assert sorted(row) == [number for number in range(30) if number % 3 != label]


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    batch = DATASET.take(range(5))
    assert numbers(DATASET, batch, 3) == [row[:3] for row in numbers(DATASET, batch, 12)]


def test_the_draw_of_a_sample_depends_on_no_other_sample():
    whole = dict(zip(DATASET.ids, numbers(DATASET, DATASET.take(range(30)), 4), strict=True))
    for rows in ([7], [7, 3], [29, 0, 7], list(range(29, -1, -1))):
        batch = DATASET.take(rows)
        assert numbers(DATASET, batch, 4) == [whole[name] for name in batch.ids]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_draw_does_not_depend_on_the_order_of_the_dataset(seed):
    shuffled = Numbered(tuple(np.random.default_rng(seed).permutation(30).tolist()))
    expected = dict(zip(DATASET.ids, numbers(DATASET, DATASET.take(range(30)), 4), strict=True))
    batch = shuffled.take(range(30))
    assert dict(zip(batch.ids, numbers(shuffled, batch, 4), strict=True)) == expected
    assert shuffled.ids != DATASET.ids


def test_seed_and_sample_change_the_draw():
    batch = DATASET.take([0, 3, 6])  # of one class
    first, second = numbers(DATASET, batch, 6, seed=0), numbers(DATASET, batch, 6, seed=1)
    assert len({*first, *second}) == 6


def test_every_eligible_image_is_drawn_equally_often():
    """3000 samples of class 0, whose names are their only difference, under a fixed seed."""
    template = DATASET.take([0])
    batch = type(template)(
        ids=tuple(f"s{i}" for i in range(3000)),
        images=template.images.expand(3000, -1, -1, -1),
        labels=template.labels.expand(3000),
    )
    drawn = numbers(DATASET, batch, 2)
    eligible = [number for number in range(30) if number % 3]
    for place in (0, 1):
        counts = Counter(row[place] for row in drawn)
        assert set(counts) == set(eligible)
        assert stats.chisquare([counts[number] for number in eligible]).pvalue > 0.01
    pairs = Counter(drawn)  # without replacement, all 380 ordered pairs are equally likely
    assert stats.chisquare([pairs[a, b] for a in eligible for b in eligible if a != b]).pvalue > 0.01
    biased = Counter(min(row) for row in drawn)  # the test finds a bias where there is one
    assert stats.chisquare([biased[number] for number in eligible]).pvalue < 1e-6


def test_images_are_those_of_the_dataset_normalised_alike():
    batch = DATASET.take([4])
    images = Distractors(DATASET, seed=0).images(batch, 3)[0]
    rows = [int(value) for value in images.round().flatten()]
    assert torch.equal(images, DATASET.take(rows).images)


def test_samples_of_one_image_count_once():
    """Scenes of two digits are two samples each: no image comes twice, and none is of a class that it shows."""
    dataset = DigitScenes(objects=2)
    batch = dataset.take(range(0, 300, 7))
    positions = Distractors(dataset, seed=0).positions(batch.keys, batch.labels, 200)
    for row, label in zip(positions.tolist(), batch.labels.tolist(), strict=True):
        names = [dataset.ids[position].partition("#")[0] for position in row]
        assert len({*names}) == 200
        assert not dataset.present[row, label].any()


def test_too_few_images_of_other_classes_are_named():
    dataset = Numbered((0, 3, 6, 1))
    assert numbers(dataset, dataset.take([0]), 1) == [(1,)]
    message = "dataset `numbered` has 1 images without class 0, 3 distractors are needed"
    with pytest.raises(ValueError, match=message):
        numbers(dataset, dataset.take([0]), 3)
