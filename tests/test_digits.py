"""The digits are scikit-learn's, enlarged as the definition says, and no source digit is on both sides of the split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from interpeval.datasets.base import Dataset
from interpeval.datasets.digits import (
    TEST_SHARE,
    Digits,
    SourceDigits,
    bilinear,
    enlarge,
    source_digits,
    source_split,
)

SOURCE = load_digits()


def slow_bilinear(image: NDArray[np.float64], row: float, column: float) -> float:
    """Weigh the four nearest pixels by the area that is opposite to them; beyond the border, the border counts."""
    height, width = image.shape
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    total = 0.0
    for y in (math.floor(row), math.ceil(row)):
        for x in (math.floor(column), math.ceil(column)):
            share_y = 1.0 if row.is_integer() else 1 - abs(row - y)
            share_x = 1.0 if column.is_integer() else 1 - abs(column - x)
            repeats = (1 + row.is_integer()) * (1 + column.is_integer())
            total += float(image[y, x]) * share_y * share_x / repeats
    return total


position = st.floats(-3, 9, allow_nan=False) | st.integers(-2, 8).map(float)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(position, min_size=1, max_size=4),
    columns=st.lists(position, min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_bilinear_agrees_with_the_definition(rows: list[float], columns: list[float], seed: int) -> None:
    images = np.random.default_rng(seed).random((2, 4, 6))
    read = bilinear(images, np.array([rows]), np.array([columns]))
    slow = [[[slow_bilinear(image, row, column) for column in columns] for row in rows] for image in images]
    np.testing.assert_allclose(read, slow, rtol=0, atol=1e-12)


def test_bilinear_reads_every_image_at_its_own_rows_and_columns() -> None:
    images = np.random.default_rng(0).random((3, 4, 5))
    rows, columns = np.array([[0.5], [1.0], [2.5]]), np.array([[3.25], [0.0], [1.5]])
    each = [bilinear(images[[i]], rows[[i]], columns[[i]])[0] for i in range(3)]
    assert np.array_equal(bilinear(images, rows, columns), np.stack(each))


@pytest.mark.parametrize("size", [8, 13, 28, 64])
def test_enlarge_agrees_with_torch(size: int) -> None:
    images = SOURCE.images[:50]
    torchs = F.interpolate(torch.from_numpy(images)[:, None], (size, size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(enlarge(images, size), torchs[:, 0].numpy(), rtol=0, atol=1e-12)


def test_a_sample_is_the_source_digit_of_its_name_enlarged_to_bytes() -> None:
    for split in source_split():
        dataset = Digits(split=split)
        indices = [int(name.removeprefix("digits-")) for name in dataset.ids]
        ink = torch.from_numpy(SOURCE.images[indices])[:, None] / 16
        torchs = 255 * F.interpolate(ink, (28, 28), mode="bilinear", align_corners=False)
        difference = np.abs(dataset.arrays.pixels - torchs.numpy())
        assert difference.max() <= 0.5 + 1e-9  # bytes are the nearest ones
        assert dataset.labels.tolist() == SOURCE.target[indices].tolist()


def test_images_are_the_bytes_as_shares_of_full_ink() -> None:
    dataset = Digits()
    images = dataset.take(range(len(dataset))).images
    assert torch.equal(images * 255, torch.from_numpy(dataset.arrays.pixels).float())
    assert (images.min(), images.max()) == (0, 1)


def test_digits_is_a_dataset_that_tells_its_members_truly() -> None:
    dataset = Digits()
    assert isinstance(dataset, Dataset)
    batch = dataset.take([0, 1])
    assert tuple(batch.images.shape[1:]) == dataset.image_shape
    assert batch.masks is None
    assert set(dataset.labels.tolist()) == set(range(len(dataset.classes)))


def test_every_source_digit_is_in_one_part_exactly_and_named_once() -> None:
    parts = source_split()
    assert sorted([*parts["train"], *parts["test"]]) == list(range(len(SOURCE.target)))
    names = [*Digits(split="train").ids, *Digits(split="test").ids]
    assert len(set(names)) == len(names) == len(SOURCE.target)


def test_the_test_part_has_its_share_of_every_class() -> None:
    in_test = np.bincount(SOURCE.target[source_split()["test"]], minlength=10)
    np.testing.assert_array_less(np.abs(in_test - TEST_SHARE * np.bincount(SOURCE.target)), 0.5 + 1e-9)


def test_the_split_is_drawn_and_not_a_prefix() -> None:
    test = source_split()["test"]
    # 539 of 1797 drawn at random: their mean is 898 with a standard deviation of 18.7; a prefix has 269.
    assert abs(test.mean() - 898) < 4 * 18.7


def test_a_digit_of_one_part_has_no_identical_twin_in_the_other() -> None:
    images = source_digits().images
    train, test = ({images[i].tobytes() for i in source_split()[part]} for part in ("train", "test"))
    assert not train & test


def test_the_shared_source_cannot_be_written_to() -> None:
    for array in (*source_digits(), *source_split().values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert isinstance(source_digits(), SourceDigits)


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'`split` must be "train" or "test", was \'valid\''):
        Digits(split="valid")
    with pytest.raises(ValueError, match=r'"train" or "test"'):
        Digits().with_split("both")


def test_parts_and_only_parts_have_different_revisions() -> None:
    assert Digits(split="train").revision != Digits(split="test").revision
    assert Digits(split="train").with_split("test").revision == Digits(split="test").revision
