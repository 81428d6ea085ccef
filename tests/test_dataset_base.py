"""Batches say what is wrong with them, and datasets in memory hand out the same samples however they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.datasets.base import ArrayDataset, Arrays, Batch, Dataset, Normalization
from interpeval.datasets.philox import sample_keys

N, SIZE = 7, (5, 4)


def some_arrays(masked: bool = True) -> Arrays:
    rng = np.random.default_rng(0)
    return Arrays(
        ids=tuple(f"sample-{i}" for i in range(N)),
        pixels=rng.integers(0, 256, (N, 2, *SIZE), dtype=np.uint8),
        labels=rng.integers(0, 3, N),
        masks=rng.random((N, *SIZE)) < 0.5 if masked else None,
    )


def more_arrays() -> Arrays:
    """The same with all that there may be."""
    rng = np.random.default_rng(1)
    return some_arrays()._replace(
        all_masks=rng.random((N, *SIZE)) < 0.5,
        backgrounds=rng.integers(0, 256, (N, 2, *SIZE), dtype=np.uint8),
        present=rng.random((N, 3)) < 0.5,
    )


@dataclass(frozen=True, eq=False)
class InMemory(ArrayDataset):
    """The least that a dataset has to say."""

    name: ClassVar[str] = "in_memory"
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    normalization: ClassVar[Normalization] = Normalization((0.4, 0.6), (0.2, 0.5))
    image_shape: ClassVar[tuple[int, int, int]] = (2, *SIZE)
    has_masks: ClassVar[bool] = True

    split: str = "test"
    given: Arrays = field(default_factory=some_arrays)

    def load(self) -> Arrays:
        """Return what was given."""
        return self.given


def changed(arrays: Arrays, part: str) -> Arrays:
    """Change one element of one part."""
    if part == "ids":
        return arrays._replace(ids=("renamed", *arrays.ids[1:]))
    values = getattr(arrays, part).copy()
    values.flat[3] = ~values.flat[3] if values.dtype == np.bool_ else values.flat[3] ^ 1
    return arrays._replace(**{part: values})


def good_batch() -> dict[str, Any]:
    return {
        "ids": ("a", "b"),
        "images": torch.zeros(2, 3, 4, 5),
        "labels": torch.zeros(2, dtype=torch.int64),
        "masks": torch.zeros(2, 4, 5, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("images", torch.zeros(2, 4, 5), r"`Batch.images` must be \(2, C, H, W\), was \(2, 4, 5\)"),
        ("images", torch.zeros(3, 3, 4, 5), r"`Batch.images` must be \(2, C, H, W\), was \(3, 3, 4, 5\)"),
        ("labels", torch.zeros(3), r"`Batch.labels` must be \(2,\) or \(2, K\), was \(3,\)"),
        ("labels", torch.zeros(2, 1, 1), r"`Batch.labels` must be \(2,\) or \(2, K\), was \(2, 1, 1\)"),
        ("masks", torch.zeros(2, 5, 4) > 0, r"`Batch.masks` must be bool \(2, 4, 5\), was torch.bool \(2, 5, 4\)"),
        ("masks", torch.zeros(2, 4, 5), r"`Batch.masks` must be bool \(2, 4, 5\), was torch.float32 \(2, 4, 5\)"),
    ],
)
def test_a_batch_says_which_member_has_the_wrong_shape(member: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch(**(good_batch() | {member: value}))


def test_a_batch_may_do_without_masks_and_may_have_several_labels_per_sample() -> None:
    batch = Batch(**(good_batch() | {"masks": None, "labels": torch.zeros(2, 6, dtype=torch.bool)}))
    assert len(batch) == 2
    assert batch.to("cpu").masks is None


def test_a_batch_draws_by_the_keys_of_its_names_also_after_a_move() -> None:
    batch = Batch(**good_batch())
    assert torch.equal(batch.keys, sample_keys(["a", "b"]))
    assert torch.equal(batch.to("cpu").keys, batch.keys)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_moves_as_a_whole() -> None:
    moved = Batch(**good_batch()).to("cuda")
    assert {moved.images.device.type, moved.labels.device.type, moved.keys.device.type} == {"cuda"}
    assert moved.masks is not None
    assert moved.masks.device.type == "cuda"


def test_normalisation_is_by_channel() -> None:
    pixels = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).expand(3, 2, *SIZE)
    normalised = InMemory.normalization.normalize(pixels + torch.tensor([0.2, 1.0]).view(2, 1, 1))
    torch.testing.assert_close(normalised[:, 0], torch.ones(3, *SIZE))
    torch.testing.assert_close(normalised[:, 1], torch.full((3, *SIZE), 2.0))


@settings(deadline=None, max_examples=25)
@given(mean=st.floats(0, 1), std=st.floats(0.05, 2), value=st.floats(0, 1))
def test_to_pixels_undoes_normalize(mean: float, std: float, value: float) -> None:
    normalization = Normalization((mean, 0.5), (std, 1.0))
    pixels = torch.full((1, 2, 2, 2), value, dtype=torch.float64)
    torch.testing.assert_close(normalization.to_pixels(normalization.normalize(pixels)), pixels)


def test_an_array_dataset_is_a_dataset() -> None:
    assert isinstance(InMemory(), Dataset)
    assert len(InMemory()) == N
    assert InMemory().with_split("train").split == "train"


def test_take_reads_the_named_samples_and_normalises_them() -> None:
    arrays, batch = some_arrays(), InMemory().take([4, 0])
    assert batch.ids == ("sample-4", "sample-0")
    expected = (arrays.pixels[[4, 0]] / 255 - np.array([0.4, 0.6])[:, None, None]) / np.array([0.2, 0.5])[:, None, None]
    np.testing.assert_allclose(batch.images.numpy(), expected, rtol=0, atol=1e-6)
    assert batch.labels.tolist() == [arrays.labels[4], arrays.labels[0]]
    assert batch.masks is not None
    assert arrays.masks is not None
    assert np.array_equal(batch.masks.numpy(), arrays.masks[[4, 0]])


def test_take_reads_what_else_there_is() -> None:
    arrays, dataset = more_arrays(), InMemory(given=more_arrays())
    batch = dataset.take([5, 2])
    assert arrays.backgrounds is not None
    assert arrays.all_masks is not None
    assert batch.backgrounds is not None
    assert batch.all_masks is not None
    assert dataset.present is not None
    shown = torch.from_numpy(arrays.backgrounds[[5, 2]])
    torch.testing.assert_close(dataset.normalization.to_pixels(batch.backgrounds) * 255, shown.float())
    assert np.array_equal(batch.all_masks.numpy(), arrays.all_masks[[5, 2]])
    assert np.array_equal(dataset.present.numpy(), arrays.present)
    plain = InMemory()
    assert plain.present is None
    assert plain.take([0]).all_masks is None
    assert plain.take([0]).backgrounds is None


@pytest.mark.parametrize("size", [1, 3, N, N + 5])
def test_batches_hand_out_all_samples_in_order_whatever_their_size(size: int) -> None:
    dataset, whole = InMemory(), InMemory().take(range(N))
    batches = list(dataset.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert sum((batch.ids for batch in batches), ()) == whole.ids == dataset.ids
    assert torch.equal(torch.cat([batch.images for batch in batches]), whole.images)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), dataset.labels)
    assert torch.equal(torch.cat([batch.masks for batch in batches if batch.masks is not None]), whole.masks)


def test_what_a_batch_is_changed_to_does_not_reach_the_dataset() -> None:
    dataset = InMemory()
    batch = dataset.take([1])
    before = dataset.take([1])
    batch.images.zero_()
    batch.labels.fill_(2)
    assert torch.equal(dataset.take([1]).images, before.images)
    assert torch.equal(dataset.take([1]).labels, before.labels)


def test_a_dataset_without_masks_gives_batches_without_masks() -> None:
    assert InMemory(given=some_arrays(masked=False)).take([0]).masks is None


@pytest.mark.parametrize("part", Arrays._fields)
def test_revision_changes_with_one_element_of_any_part(part: str) -> None:
    same, other = InMemory(given=more_arrays()), InMemory(given=changed(more_arrays(), part))
    assert same.revision == InMemory(given=more_arrays()).revision
    assert other.revision != same.revision


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays._replace(masks=None),
        lambda arrays: arrays._replace(all_masks=arrays.masks),
        lambda arrays: arrays._replace(pixels=arrays.pixels.swapaxes(2, 3)),
        lambda arrays: arrays._replace(pixels=arrays.pixels.reshape(N, 1, 10, 4)),
    ],
    ids=["masks left out", "all masks given", "turned", "other shape, same bytes"],
)
def test_revision_changes_with_the_shape_of_what_is_read(change: Callable[[Arrays], Arrays]) -> None:
    assert InMemory(given=change(some_arrays())).revision != InMemory().revision


def test_revision_does_not_depend_on_memory_layout() -> None:
    arrays = some_arrays()
    turned = arrays._replace(pixels=np.asfortranarray(arrays.pixels))
    assert InMemory(given=turned).revision == InMemory().revision
