"""MNIST is read as torchvision reads it, packed or not; what is missing or damaged is named."""

from __future__ import annotations

import gzip
import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import datasets

from idx_files import idx, write_mnist
from interpeval.datasets.base import Dataset
from interpeval.datasets.files import DatasetError
from interpeval.datasets.mnist import Mnist, read_idx


def damage(path, change):
    """Change the bytes of a file."""
    path.write_bytes(change(path.read_bytes()))


@pytest.fixture(scope="session")
def load(real_data):
    """The loaders and networks of the real data."""
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("packed", [False, True])
def test_samples_are_those_of_the_files_in_their_order(tmp_path, packed):
    images, labels = write_mnist(tmp_path, packed=packed)
    dataset = Mnist(tmp_path)
    assert isinstance(dataset, Dataset)
    batch = dataset.take([5, 2])
    assert batch.ids == ("mnist-test-00005", "mnist-test-00002")
    assert torch.equal(batch.images * 255, torch.from_numpy(images[[5, 2], None]).float())
    assert batch.labels.tolist() == labels[[5, 2]].tolist()
    assert tuple(batch.images.shape[1:]) == dataset.image_shape


@pytest.mark.parametrize(("split", "train"), [("train", True), ("test", False)])
def test_samples_are_those_that_torchvision_reads(tmp_path, split, train):
    write_mnist(tmp_path)
    theirs, ours = datasets.MNIST(tmp_path, train=train), Mnist(tmp_path, split=split).take(range(7))
    assert torch.equal(ours.images[:, 0] * 255, theirs.data.float())
    assert torch.equal(ours.labels, theirs.targets)


def test_the_files_of_the_other_split_are_not_needed_and_unpacked_ones_come_first(tmp_path):
    _, labels = write_mnist(tmp_path)
    for path in (tmp_path / "MNIST" / "raw").glob("train*"):
        path.unlink()
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not read")
    assert Mnist(tmp_path).labels.tolist() == labels.tolist()


def test_packing_does_not_change_the_revision_and_everything_that_changes_samples_does(tmp_path):
    write_mnist(tmp_path / "plain")
    write_mnist(tmp_path / "packed", packed=True)
    same = {Mnist(tmp_path / place).revision for place in ("plain", "packed")}
    others = {
        Mnist(tmp_path / "plain", **change).revision
        for change in ({"split": "train"}, {"size": 32}, {"size": 28}, {"normalize": "half"})
    }
    assert len(same) == 1
    assert len(others | same) == 5


def test_values_are_those_of_the_normalisation(tmp_path):
    images, _ = write_mnist(tmp_path)
    half = Mnist(tmp_path, normalize="half")
    expected = torch.from_numpy(images[:, None]) / 127.5 - 1
    torch.testing.assert_close(half.take(range(7)).images, expected, rtol=0, atol=1e-6)
    back = half.normalization.to_pixels(half.take(range(7)).images)
    torch.testing.assert_close(back * 255, torch.from_numpy(images[:, None]).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("normalize", ["none", "half"])
def test_larger_images_are_the_bilinear_ones_of_the_pixels(tmp_path, normalize):
    images, _ = write_mnist(tmp_path)
    dataset = Mnist(tmp_path, size=32, normalize=normalize)
    pixels = F.interpolate(torch.from_numpy(images[:, None]).double() / 255, (32, 32), mode="bilinear")
    expected = pixels if normalize == "none" else 2 * pixels - 1
    torch.testing.assert_close(dataset.take(range(7)).images.double(), expected, rtol=0, atol=1e-6)
    assert dataset.image_shape == (1, 32, 32)


def test_smaller_images_are_means_of_what_they_cover(tmp_path):
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    stripes = np.zeros((2, 28, 28), dtype=np.uint8)
    stripes[:, ::2] = 255  # without a filter against aliasing, halving such an image gives black, white or a moiré
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(stripes))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2], dtype=np.uint8)))
    images = Mnist(tmp_path, size=7).take([0]).images
    torch.testing.assert_close(images[..., 1:-1, :], torch.full((1, 1, 5, 7), 0.5), rtol=0, atol=1e-6)


def test_a_sample_does_not_depend_on_its_batch(tmp_path):
    write_mnist(tmp_path)
    dataset = Mnist(tmp_path, size=33)
    whole = dataset.take(range(7)).images
    assert all(torch.equal(dataset.take([i]).images[0], whole[i]) for i in range(7))


def test_missing_files_are_named_with_the_folder_and_the_flag(tmp_path):
    with pytest.raises(DatasetError) as raised:
        _ = Mnist(tmp_path / "nowhere").ids
    message = str(raised.value)
    assert str(tmp_path / "nowhere") in message
    assert "MNIST/raw/t10k-images-idx3-ubyte" in message
    assert "--download" in message


def test_nothing_is_downloaded_unasked_or_where_the_files_are(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "MNIST", lambda *args, **kwargs: asked.append((args, kwargs)))
    with pytest.raises(DatasetError, match="is not in"):
        _ = Mnist(tmp_path / "nowhere").ids
    write_mnist(tmp_path / "here", packed=True)
    assert len(Mnist(tmp_path / "here", download=True)) == 7
    assert asked == []
    with pytest.raises(DatasetError, match="is not in"):  # the download that is faked brings nothing
        _ = Mnist(tmp_path / "nowhere", download=True).ids
    assert asked == [((tmp_path / "nowhere",), {"download": True})]


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets, "MNIST", fail)
    with pytest.raises(DatasetError, match=r"cannot download `mnist` to .*: no route to host"):
        _ = Mnist(tmp_path, download=True).ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "holds less: it is damaged"),
        (lambda data: data + b"\0", "holds more: it is damaged"),
        (lambda data: b"", "must be an IDX file"),
        (lambda data: b"\0\0\x0d" + data[3:], "must be an IDX file"),
        (lambda data: data[:7], "holds less: it is damaged|must hold images"),
        (lambda data: idx(np.zeros((7, 27, 28), dtype=np.uint8)), r"must hold images \(1, 28, 28\) with a label each"),
        (lambda data: idx(np.zeros((6, 28, 28), dtype=np.uint8)), r"must hold images \(1, 28, 28\) with a label each"),
    ],
    ids=["truncated", "too long", "empty", "numbers of 4 bytes", "head truncated", "other size", "one image less"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_image_file_is_an_error_that_names_it(tmp_path, change, message, packed):
    write_mnist(tmp_path, packed=packed)
    path = tmp_path / "MNIST" / "raw" / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    damage(path, (lambda data: gzip.compress(change(gzip.decompress(data)))) if packed else change)
    with pytest.raises(DatasetError, match=message):
        _ = Mnist(tmp_path).ids


@pytest.mark.parametrize(
    "change", [lambda data: data[:-9], lambda data: data[:40] + b"\xff\xff" + data[42:], lambda data: b"no archive"]
)
def test_a_damaged_archive_is_an_error(tmp_path, change):
    write_mnist(tmp_path, packed=True)
    damage(tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz", change)
    with pytest.raises(DatasetError, match=r"cannot read `mnist` in .* download them again"):
        _ = Mnist(tmp_path).ids


def test_no_more_of_an_archive_is_unpacked_than_its_head_announces(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((1, 2, 2), dtype=np.uint8)) + bytes(50_000_000)))
    with pytest.raises(DatasetError, match="must hold 4 bytes, as its head says, but holds more"):
        read_idx(path)


def test_labels_out_of_range_and_datasets_without_images_are_errors(tmp_path):
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(7, 10, dtype=np.uint8)))
    with pytest.raises(DatasetError, match="must be below 10, are 10 to 10"):
        _ = Mnist(tmp_path).ids
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, dtype=np.uint8)))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), dtype=np.uint8)))
    with pytest.raises(DatasetError, match="with a label each"):
        _ = Mnist(tmp_path).ids


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("split", "valid", '`split` must be "train" or "test", was \'valid\''),
        ("size", 0, "`size` must be a whole number"),
        ("size", 28.5, "`size` must be a whole number"),
        ("normalize", "imagenet", "`normalize` of `mnist` must be one of none, half, was 'imagenet'"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_read(argument, value, message):
    with pytest.raises(ValueError, match=message):
        Mnist(**{argument: value})


def test_lenet_has_its_known_accuracy_on_the_real_test_digits(real_data, load):
    dataset, network = Mnist(real_data / "mnist", size=32), load.load_model("lenet5")
    with torch.no_grad():
        hits = sum(int((network(batch.images).argmax(1) == batch.labels).sum()) for batch in dataset.batches(500))
    assert (hits, len(dataset)) == (9908, 10_000)  # 99.08 %, as the data's makers measured it
