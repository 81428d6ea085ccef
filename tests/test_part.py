"""A part of a dataset holds the samples at its positions, and is otherwise the dataset."""

from __future__ import annotations

import pytest
import torch

from interpeval.datasets.base import Dataset
from interpeval.datasets.part import Part
from toys import Squares


def test_a_part_holds_the_samples_at_its_positions_in_their_order() -> None:
    whole, part = Squares(), Part(Squares(), [7, 3, 12])
    assert isinstance(part, Dataset)
    assert part.ids == ("square-007", "square-003", "square-012")
    assert part.labels.tolist() == [3, 3, 0]
    assert len(part) == 3
    assert torch.equal(part.take([2, 0]).images, whole.take([12, 7]).images)
    assert [batch.ids for batch in part.batches(2)] == [("square-007", "square-003"), ("square-012",)]


def test_everything_else_is_that_of_the_dataset() -> None:
    whole, part = Squares(), Part(Squares(), [0])
    for member in ("name", "split", "classes", "normalization", "image_shape", "has_masks"):
        assert getattr(part, member) == getattr(whole, member)
    assert part.network_classes is None


def test_the_revision_follows_the_samples() -> None:
    revisions = [
        Part(Squares(), [1, 2]).revision,
        Part(Squares(), [2, 1]).revision,
        Part(Squares(reversed_order=True), [1, 2]).revision,
        Squares().revision,
    ]
    assert len(set(revisions)) == 4
    assert Part(Squares(), [1, 2]).revision == revisions[0]


def test_the_other_part_is_whole_and_its_own_stays() -> None:
    part = Part(Squares(), [5])
    assert part.with_split("test") is part
    assert part.with_split("train").ids == Squares(split="train").ids
    assert part.with_split("train").split == "train"


@pytest.mark.parametrize(("count", "positions"), [(1, (0,)), (4, (0, 10, 20, 30)), (40, tuple(range(40)))])
def test_samples_are_spread_evenly(count: int, positions: tuple[int, ...]) -> None:
    assert Part.spread(Squares(), count).positions == positions
    assert Part.spread(Squares(), 1000).positions == tuple(range(40))
