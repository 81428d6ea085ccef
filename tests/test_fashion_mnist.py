"""Fashion-MNIST is read like MNIST, from its own folder and with its own names."""

from __future__ import annotations

import torch
from torchvision import datasets

from idx_files import write_mnist
from interpeval.datasets.fashion_mnist import FashionMnist


def test_samples_are_those_that_torchvision_reads(tmp_path):
    write_mnist(tmp_path, folder="FashionMNIST")
    theirs, ours = datasets.FashionMNIST(tmp_path, train=False), FashionMnist(tmp_path).take(range(7))
    assert torch.equal(ours.images[:, 0] * 255, theirs.data.float())
    assert torch.equal(ours.labels, theirs.targets)
    assert ours.ids[0] == "fashion_mnist-test-00000"


def test_classes_are_torchvisions():
    assert FashionMnist.classes == tuple(name.lower() for name in datasets.FashionMNIST.classes)


def test_the_real_files_hold_as_many_images_of_every_class(real_data):
    for split, each in (("train", 6000), ("test", 1000)):
        assert FashionMnist(real_data / "fashion", split=split).labels.bincount().tolist() == [each] * 10
