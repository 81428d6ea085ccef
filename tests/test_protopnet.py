"""The self-explaining model ProtoPNet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines.own import Own
from interpeval.baselines.protopnet import ProtoPnet, nearest_distances, percentile_box, phase, squared_distances
from interpeval.bench import weights
from interpeval.bench.conformance import parametrize_with_checks
from interpeval.bench.training import train
from interpeval.datasets.base import Batch
from reference import protopnet as slow

SHAPE = (1, 8, 8)
RECIPE = {**ProtoPnet.recipe("digits"), "warm_up": 1, "push_from": 2, "push_every": 2, "last_layer_epochs": 1}


class Images:
    """A dataset of images in memory."""

    name, split, classes, image_shape = "images", "train", ("0", "1", "2"), SHAPE

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: list[int]) -> Batch:
        return Batch(tuple(map(str, rows)), self.images[rows], self.labels[rows])

    def batches(self, size: int):
        for start in range(0, len(self), size):
            yield self.take(list(range(start, min(start + size, len(self)))))


def random_images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def some_data(count: int = 30) -> Images:
    return Images(random_images(count).double(), torch.arange(count) % 3)


def small(seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: int) -> ProtoPnet:
    """Random weights, among them of the last layer, and random statistics of batch normalisation."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ProtoPnet(shape, 3, **{"prototypes_per_class": 2, "depth": 5, **options})
        model.classifier.weight.add_(torch.randn_like(model.classifier.weight) / 10)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                module.weight.mul_(5)  # else all patches are alike
    return model


@pytest.mark.parametrize(("side", "last"), [(28, 7), (32, 4), (64, 4), (8, 4), (7, 7)])
def test_the_map_has_4_to_7_patches_a_side(side: int, last: int) -> None:
    model = ProtoPnet((3, side, side), 2)
    assert model.patches(torch.zeros(2, 3, side, side)).shape == (2, 128, last, last)


def test_the_layers_above_the_backbone_are_as_published() -> None:
    model = ProtoPnet((1, 28, 28), 10)
    assert sum(parameter.numel() for parameter in model.add_on.parameters()) == (64 + 1) * 128 + (128 + 1) * 128
    assert [type(layer).__name__ for layer in model.add_on] == ["Conv2d", "ReLU", "Conv2d", "Sigmoid"]
    assert tuple(model.prototypes.shape) == (100, 128)
    assert 0 <= model.prototypes.min() < 0.001 < 0.999 < model.prototypes.max() <= 1
    assert model.classifier.bias is None
    for k in range(10):
        assert model.classifier.weight[k].tolist() == [1.0 if j // 10 == k else -0.5 for j in range(100)]


def test_logits_and_loss_are_the_published_ones_restated() -> None:
    model, images, labels = small().double().eval(), random_images(4).double(), torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        patches = model.patches(images).numpy()
        loss, logits = model.training_loss(images, labels, {})
    prototypes, classifier = model.prototypes.detach().numpy(), model.classifier.weight.detach().numpy()
    expected = [slow.logits(one, prototypes, classifier) for one in patches]
    np.testing.assert_allclose(logits, expected, rtol=1e-9)
    torch.testing.assert_close(logits, model(images).detach())
    assert float(loss) == pytest.approx(slow.loss(patches, labels.tolist(), prototypes, classifier, 2), rel=1e-9)


def test_near_prototypes_of_the_class_lower_the_loss_and_near_ones_of_others_raise_it() -> None:
    """With the last layer silent, what is left are the two distances, with their signs and weights."""
    model, images, labels = small().double().eval(), random_images(2).double(), torch.tensor([0, 0])
    model.classifier.weight.data.zero_()
    smallest = torch.tensor([[4.0, 3.0, 2.0, 5.0, 7.0, 9.0], [1.0, 2.0, 6.0, 8.0, 7.0, 9.0]]).double()
    model.distances = lambda _: smallest[:, :, None, None]
    loss, _ = model.training_loss(images, labels, {})
    assert loss.item() == pytest.approx(math.log(3) + 0.8 * (3 + 1) / 2 - 0.08 * (2 + 6) / 2)


def test_distances_are_squares_of_differences_and_never_negative() -> None:
    patches, prototypes = torch.randn(3, 5, 2, 4), torch.randn(6, 5)
    expected = (patches[:, None] - prototypes[:, :, None, None]).square().sum(2)
    torch.testing.assert_close(squared_distances(patches, prototypes), expected)
    same = squared_distances(prototypes[:, :, None, None] * 100, prototypes * 100).diagonal()
    assert (same >= 0).all()


def test_cluster_and_separation_look_at_own_and_other_prototypes() -> None:
    own = torch.tensor([[True, False, True], [False, True, False]])
    cluster, separation = nearest_distances(torch.tensor([[5.0, 1.0, 3.0], [2.0, 8.0, 4.0]]), own)
    assert (float(cluster), float(separation)) == ((3 + 8) / 2, (1 + 2) / 2)


def test_epochs_warm_up_then_train_jointly_and_the_last_layer_after_each_push() -> None:
    recipe = {"warm_up": 2, "push_from": 4, "push_every": 3, "last_layer_epochs": 2}
    found = [phase(epoch, recipe) for epoch in range(1, 14)]
    assert [one.trained[0] for one in found] == list("wwjjjjlljjjll")
    assert [epoch for epoch, one in enumerate(found, 1) if one.push] == [6, 11]


@pytest.mark.parametrize("dataset", ["digits", "digit_scenes", "cifar10", "mnist"])
def test_recipes_end_with_the_last_layer_trained_on_pushed_prototypes(dataset: str) -> None:
    recipe = ProtoPnet.recipe(dataset)
    assert phase(recipe["epochs"], recipe).trained == "last_layer"


@pytest.mark.parametrize(
    ("epoch", "trained"),
    [(1, {"add_on", "prototypes"}), (2, {"features", "add_on", "prototypes"}), (3, {"classifier"})],
)
def test_what_a_phase_does_not_train_stays_as_it_is_and_all_else_moves(epoch: int, trained: set[str]) -> None:
    model = small().train()
    optimizer = torch.optim.Adam(model.parameter_groups(RECIPE), lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    images, labels = random_images(6), torch.tensor([0, 1, 2, 0, 1, 2])
    model.training_loss(images, labels, RECIPE)[0].backward()
    optimizer.step()  # so that there is momentum, which must not move frozen parameters
    optimizer.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.begin_epoch(epoch, RECIPE, some_data())
    loss, _ = model.training_loss(images, labels, RECIPE)
    loss.backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        part = name.split(".")[0]
        if part in trained:
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == trained


def test_groups_hold_every_parameter_once_with_its_rate_and_decay() -> None:
    model = small()
    groups = model.parameter_groups({**RECIPE, "features_rate": 1e-4, "learning_rate": 3e-3, "classifier_rate": 2e-4})
    assert [group["lr"] for group in groups] == [1e-4, 3e-3, 3e-3, 2e-4]
    assert [group.get("weight_decay", 0) for group in groups] == [1e-3, 1e-3, 0, 0]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


def test_a_push_puts_the_nearest_patch_of_a_training_image_of_its_class() -> None:
    model, dataset = small().double().train(), some_data()
    before = model.prototypes.detach().clone()
    with torch.no_grad():
        patches = model.eval().patches(dataset.images)
    expected = slow.pushed(patches.numpy(), dataset.labels.tolist(), before.numpy(), 2)
    model.train()
    model.push(dataset)
    assert model.training
    assert all(module.training for module in model.modules())
    assert model.pushed_images.tolist() == [image for image, _ in expected]
    assert model.pushed_places.tolist() == [list(place) for _, place in expected]
    for j, (image, (row, column)) in enumerate(expected):
        assert torch.equal(model.prototypes[j], patches[image, :, row, column])
        assert dataset.labels[image] == j // 2
    with torch.no_grad():
        distances = model.eval().distances(dataset.images[model.pushed_images])
    own = [distances[j, j, row, column].item() for j, (_, (row, column)) in enumerate(expected)]
    assert max(own) < 1e-12
    assert not torch.equal(model.prototypes, before)


def test_a_push_over_several_batches_is_that_over_one(monkeypatch) -> None:
    dataset, results = some_data(), []
    for size in (256, 7):
        monkeypatch.setattr("interpeval.baselines.protopnet._BATCH", size)
        model = small().double()
        model.push(dataset)
        model.prune(dataset)
        results.append([model.prototypes, model.pushed_images, model.pushed_places, model.kept])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("nearest", "least"), [(6, 3), (3, 2), (6, 2)])
def test_pruning_keeps_prototypes_with_enough_of_their_class_among_their_nearest(nearest: int, least: int) -> None:
    model, dataset = small(prototypes_per_class=4).double().eval(), some_data()
    with torch.no_grad():
        patches = model.patches(dataset.images).numpy()
    prototypes = model.prototypes.detach().numpy()
    expected = slow.kept(patches, dataset.labels.tolist(), prototypes, 4, nearest, least)
    model.prune(dataset, nearest=nearest, least=least)
    assert model.kept.tolist() == expected
    assert 0 < sum(expected) < 12  # so that the case tells something


def test_the_last_layer_is_fitted_by_the_gradient_of_the_loss_over_all_data_and_nothing_else_is() -> None:
    """The first step of Adam is the rate in the direction of each derivative's sign."""
    model, dataset = small().double(), some_data()
    model.kept[2] = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval().training_loss(dataset.images, dataset.labels, {})[0].backward()
    expected = before["classifier.weight"] - 0.01 * model.classifier.weight.grad.sign()
    model.zero_grad()
    model.train().fit_last_layer(dataset, steps=1, rate=0.01)
    torch.testing.assert_close(model.classifier.weight.detach(), expected, rtol=0, atol=1e-6)
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items() if "classifier" not in name
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pruned_prototypes_count_neither_in_logits_nor_in_explanations() -> None:
    model, images, targets = small().double().eval(), random_images(3).double(), torch.tensor([0, 1, 2])
    model.kept[[1, 4]] = False
    pruned = model(images), model.attribute(images, targets)
    model.prototypes.data[[1, 4]] += 0.3
    assert torch.equal(model(images), pruned[0])
    assert torch.equal(model.attribute(images, targets), pruned[1])
    model.kept.fill_(value=True)
    assert not torch.allclose(model(images), pruned[0])
    assert not torch.allclose(model.attribute(images, targets), pruned[1])


def test_the_own_explanation_is_the_weighted_sum_of_similarity_maps() -> None:
    model, images, targets = small().double().eval(), random_images(2).double(), torch.tensor([2, 0])
    with torch.no_grad():
        patches, weight = model.patches(images).numpy(), model.classifier.weight.numpy()
        found = model.attribute(images, targets)
    maps = np.zeros((2, 1, *patches.shape[2:]))
    for b, target in enumerate(targets.tolist()):
        for row, column in np.ndindex(*patches.shape[2:]):
            for j, prototype in enumerate(model.prototypes.detach().numpy()):
                d = slow.distance(patches[b, :, row, column], prototype)
                maps[b, 0, row, column] += weight[target, j] * slow.similarity(d)
    expected = F.interpolate(torch.from_numpy(maps), size=(8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_the_largest_of_a_similarity_map_is_what_the_logits_are_made_of() -> None:
    model, images = small().double().eval(), random_images(3).double()
    with torch.no_grad():
        largest = model.similarity_maps(images).amax((2, 3))
        torch.testing.assert_close(model(images), largest @ model.classifier.weight.T)


@parametrize_with_checks([Own()], small().eval(), random_images(4))
def test_the_own_explanation_conforms(check) -> None:
    check()


def test_a_box_holds_the_highest_five_percent() -> None:
    maps = torch.zeros(3, 20, 30)
    maps[0, 4:7, 10:20] = 1  # 30 of 600 pixels: exactly 5 %
    maps[1] = torch.arange(600.0).view(20, 30)  # the last 30: one row
    maps[2, 0, 0] = maps[2, 19, 29] = 5
    assert percentile_box(maps).tolist()[:2] == [[4, 10, 7, 20], [19, 0, 20, 30]]
    assert percentile_box(maps, 99.8).tolist()[2] == [0, 0, 20, 30]
    for b, percentile in ((0, 95), (1, 90), (2, 99.8)):
        rows, columns = np.nonzero(maps[b].numpy() >= np.percentile(maps[b].numpy(), percentile))
        expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert percentile_box(maps[b : b + 1], percentile)[0].tolist() == expected


def bars() -> Images:
    """Three kinds of bars at several places; which bar it is can be seen in a patch."""
    images, labels = torch.zeros(24, *SHAPE), torch.arange(24) % 3
    for i in range(24):
        at = 1 + i // 3 % 5
        if labels[i] == 0:
            images[i, 0, at, 1:7] = 1
        elif labels[i] == 1:
            images[i, 0, 1:7, at] = 1
        else:
            images[i, 0, at : at + 2, 2:4] = 1
    return Images(images, labels)


def test_bars_are_learnt_with_patches_of_their_class_and_kept_with_the_weights(tmp_path) -> None:
    dataset, model = bars(), ProtoPnet(SHAPE, 3, prototypes_per_class=2, depth=16)
    recipe = {**RECIPE, "epochs": 26, "batch_size": 12, "push_from": 12, "push_every": 12, "threads": 1}
    train(model, dataset, seed=0, recipe=recipe, progress=False)
    assert (model(dataset.images).argmax(1) == dataset.labels).float().mean() >= 0.95
    assert torch.equal(dataset.labels[model.pushed_images], model.prototype_classes())
    with torch.no_grad():
        distances = model.distances(dataset.images[model.pushed_images])
        rows, columns = model.pushed_places.T
        assert distances[torch.arange(6), torch.arange(6), rows, columns].max() < 1e-5
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.kept[3] = False
    weights.save(model, tmp_path / "model.safetensors", {})
    restored = ProtoPnet(SHAPE, 3, prototypes_per_class=2, depth=16).eval()
    weights.load(restored, tmp_path / "model.safetensors")
    assert torch.equal(restored(dataset.images), model(dataset.images))
    assert torch.equal(restored.pushed_places, model.pushed_places)
    assert restored.kept.tolist() == model.kept.tolist()


def test_a_training_that_ends_before_a_push_is_finished_with_one() -> None:
    dataset, model = bars(), ProtoPnet(SHAPE, 3, prototypes_per_class=2, depth=4)
    model.finish({**RECIPE, "epochs": 3}, dataset)  # after a push, the last layer was trained
    assert (model.pushed_images == -1).all()
    model.finish({**RECIPE, "epochs": 4}, dataset)
    assert (model.pushed_images >= 0).all()


def test_data_with_several_labels_is_refused() -> None:
    dataset = Images(random_images(3), torch.eye(3).bool())
    for ask in (small().push, small().prune):
        with pytest.raises(ValueError, match="must have one label per sample"):
            ask(dataset)
    with pytest.raises(ValueError, match="`depth` must be at least 1"):
        ProtoPnet(SHAPE, 2, depth=0)
