"""CIFAR-10 is read through torchvision, from files whose digests are known."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from interpeval.datasets.base import Dataset
from interpeval.datasets.cifar10 import Cifar10
from interpeval.datasets.files import DatasetError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write images as the test part of a small CIFAR-10 whose digests torchvision takes for the right ones."""

    def write(images, labels):
        folder = tmp_path / CIFAR10.base_folder
        folder.mkdir()
        batch = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "labels": [int(i) for i in labels]}
        contents = {"data_batch_1": batch, "test_batch": batch, "batches.meta": {"label_names": list("abcdefghij")}}
        if len(images) > 1:  # so that the parts differ
            contents["data_batch_1"] = {"data": batch["data"][:1], "labels": batch["labels"][:1]}
        digests = {}
        for name, content in contents.items():
            data = pickle.dumps(content)
            (folder / name).write_bytes(data)
            digests[name] = hashlib.md5(data).hexdigest()  # noqa: S324  # torchvision's choice
        monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", digests["data_batch_1"]]])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": digests["batches.meta"]})
        return tmp_path

    return write


def some_images(count=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)


def test_samples_are_those_of_the_files(write):
    images, labels = some_images()
    dataset = Cifar10(write(images, labels))
    assert isinstance(dataset, Dataset)
    batch = dataset.take([2, 0])
    assert batch.ids == ("cifar10-test-00002", "cifar10-test-00000")
    assert torch.equal(batch.images * 255, torch.from_numpy(images[[2, 0]].transpose(0, 3, 1, 2)).float())
    assert batch.labels.tolist() == labels[[2, 0]].tolist()
    assert len(dataset.with_split("train")) == 1


def test_classes_are_those_of_the_data(real_data):
    assert Cifar10.classes == tuple((real_data / "cifar10" / "classes.txt").read_text().split())


def test_imagenets_normalisation_is_torchvisions(write):
    images, labels = some_images()
    dataset = Cifar10(write(images, labels), normalize="imagenet")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(dataset.take(range(3)).images.numpy(), expected, rtol=0, atol=1e-5)


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no `cifar-10-batches-py/data_batch_1`.*--download"):
        _ = Cifar10(tmp_path).ids


def test_a_file_with_another_digest_is_not_unpickled(write, tmp_path):
    write(*some_images())

    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").mkdir, ())

    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DatasetError, match=r"cannot read `cifar10` in .*corrupted"):
        _ = Cifar10(tmp_path).ids
    assert not (tmp_path / "sprung").exists()


def test_resnet20_has_its_known_accuracy_on_the_real_lossless_images(real_data, write):
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    dataset = Cifar10(write(*load.cifar10_test266()), normalize="imagenet")
    network = load.load_model("resnet20")
    with torch.no_grad():
        hits = sum(int((network(batch.images).argmax(1) == batch.labels).sum()) for batch in dataset.batches(100))
    assert (hits, len(dataset)) == (240, 266)  # 90.2 %, as the data's makers measured it
