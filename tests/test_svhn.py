"""SVHN is read through torchvision, from files whose digests are known."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import SVHN

from interpeval.datasets.base import Dataset
from interpeval.datasets.files import DatasetError
from interpeval.datasets.svhn import Svhn

LABELS = [10, 1, 9, 10]  # the files call the digit 0 ten


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Write a small test part whose digest torchvision takes for the right one, and return its images."""
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(LABELS, dtype=np.uint8)[:, None]})
    digest = hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324  # torchvision's choice
    monkeypatch.setitem(SVHN.split_list, "test", [SVHN.split_list["test"][0], path.name, digest])
    return images


def test_samples_are_those_of_the_file_and_ten_is_the_digit_zero(tmp_path, images):
    dataset = Svhn(tmp_path)
    assert isinstance(dataset, Dataset)
    batch = dataset.take(range(4))
    assert torch.equal(batch.images * 255, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float())
    assert [dataset.classes[label] for label in batch.labels] == ["0", "1", "9", "0"]
    assert batch.ids[3] == "svhn-test-00003"


def test_the_file_of_the_split_is_named_where_it_is_missing(tmp_path, images):
    with pytest.raises(DatasetError, match=r"`svhn` is not in .* there is no `train_32x32.mat`.*--download"):
        _ = Svhn(tmp_path, split="train").ids


def test_a_truncated_file_is_an_error(tmp_path, images):
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"cannot read `svhn` in .*corrupted"):
        _ = Svhn(tmp_path).ids
