"""LeNet is FLINT's predictor: its size, its order of layers, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from interpeval.baselines.lenet import Lenet
from interpeval.bench.training import build
from interpeval.datasets.digits import Digits


def test_the_network_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in Lenet((1, 28, 28), 10).parameters()) == 809_034


def test_the_network_is_the_published_one_restated() -> None:
    model, images = Lenet((1, 12, 8), 3).eval(), torch.rand(2, 1, 12, 8)
    names = ("features.conv1", "features.conv2", "classifier.1", "classifier.4")
    (c1, d1), (c2, d2), (w1, b1), (w2, b2) = (
        (model.get_submodule(name).weight, model.get_submodule(name).bias) for name in names
    )
    hidden = F.max_pool2d(F.conv2d(F.conv2d(images, c1, d1, padding=1).relu(), c2, d2, padding=1), 2).relu()
    assert hidden.shape == (2, 32, 6, 4)
    torch.testing.assert_close(model(images), F.linear(F.linear(hidden.flatten(1), w1, b1).relu(), w2, b2))


def test_dropout_is_active_while_training_only() -> None:
    model, images = Lenet((1, 8, 8), 3), torch.rand(2, 1, 8, 8)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match=r"H and W even, was \(1, 27, 28\)"):
        Lenet((1, 27, 28), 10)


def test_a_handful_of_samples_is_learnt() -> None:
    batch = Digits(split="train").take(range(20))
    model = build(Lenet, Digits(), 0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        loss, logits = model.training_loss(batch.images, batch.labels, {})
        torch.testing.assert_close(loss, F.cross_entropy(logits, batch.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model.eval()(batch.images).argmax(1), batch.labels)
