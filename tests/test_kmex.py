"""KMEx: prototypes from k-means in the representation of a trained network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from interpeval.baselines.cifar_cnn import CifarCnn
from interpeval.baselines.kmex import Kmex, diversity
from interpeval.baselines.own import Own
from interpeval.baselines.prototype_similarity import latent_shares, similarity
from interpeval.bench import weights
from interpeval.bench.conformance import parametrize_with_checks
from interpeval.bench.training import build, train
from interpeval.datasets.base import Batch
from interpeval.datasets.digits import Digits
from reference import kmex as slow
from reference import protovae as slow_latents
from reference import relevance as slow_relevance

SHAPE = (1, 8, 8)


class Points:
    """A dataset of images whose pixels are points of known clusters."""

    name = "points"

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int):
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Batch(tuple(map(str, range(len(self))))[rows], self.images[rows], self.labels[rows])


def clusters(per_class: int = 2, members: int = 40) -> tuple[Points, Tensor]:
    """Three classes of clusters, each of points around a centre; the centres are the means of the points."""
    centres = torch.randn(3 * per_class, 6, generator=torch.Generator().manual_seed(2)) * 10
    offsets = torch.randn(members, 6, generator=torch.Generator().manual_seed(3)) / 10
    points = (centres[:, None] + offsets - offsets.mean(0)).flatten(0, 1)
    labels = torch.arange(3).repeat_interleave(per_class * members)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(4))
    return Points(points[order].view(-1, 1, 2, 3), labels[order]), centres


def flat(**options: object) -> Kmex:
    """The representation is the image itself."""
    options = {"prototypes_per_class": 2, **options}
    return Kmex((1, 2, 3), 3, network=nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), **options)


def random_kmex(network: nn.Module | None = None, **options: object) -> Kmex:
    """A network with random weights and statistics; its prototypes are representations of random images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Kmex(SHAPE, 3, network=network, prototypes_per_class=2, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
                module.weight.normal_(), module.bias.normal_(0, 0.1)
        model.eval()
        model.prototypes.copy_(model.encoder(torch.rand(6, *SHAPE)))
    return model


def test_prototypes_are_the_centres_of_the_clusters_of_each_class() -> None:
    (dataset, centres), model = clusters(), flat()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model.fit_prototypes(dataset)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    for k in range(3):
        found, expected = (own[2 * k : 2 * k + 2] for own in (model.prototypes, centres))
        nearest = torch.cdist(found, expected).argmin(1)
        assert sorted(nearest.tolist()) == [0, 1]
        torch.testing.assert_close(found, expected[nearest], atol=1e-4, rtol=0)


def test_the_class_is_that_of_the_nearest_prototype_and_labels_are_taken_as_they_are() -> None:
    (dataset, _), model = clusters(), flat().eval()
    model.fit_prototypes(dataset)
    assert torch.equal(model(dataset.images).argmax(1), dataset.labels)
    permuted = Points(dataset.images, (dataset.labels + 1) % 3)
    assert not (model(permuted.images).argmax(1) == permuted.labels).any()


def test_the_nearest_image_is_of_the_prototypes_class() -> None:
    """Prototype 0, class 0, is put on an image of class 2: the nearest of class 0 is asked for all the same."""
    (dataset, _), model = clusters(), flat()
    model.fit_prototypes(dataset)
    model.prototypes[0] = dataset.images[dataset.labels == 2][0].flatten()
    found = model.nearest_images(dataset)
    for j, place in enumerate(found):
        own = dataset.labels == j // 2
        distances = (dataset.images.flatten(1) - model.prototypes[j]).norm(dim=1)
        assert dataset.labels[place] == j // 2
        assert distances[place] == distances[own].min()


@pytest.mark.parametrize("class_score", ["nearest", "sum"])
def test_logits_are_the_prediction_and_the_published_scores_restated(class_score: str) -> None:
    model, images = random_kmex(class_score=class_score).double(), torch.rand(20, *SHAPE).double()
    with torch.no_grad():
        latents = model.encoder(images)
        model.prototypes.copy_(latents[14:] + 0.1)
        logits = model(images)
    for latent, row in zip(latents.numpy(), logits, strict=True):
        if class_score == "nearest":
            assert int(row.argmax()) == slow.predicted(latent, model.prototypes.numpy(), 2)
            best = max(slow_latents.similarities(latent, model.prototypes.numpy()))
            assert float(row.max()) == pytest.approx(best)
        else:
            expected = slow.class_scores(latent, model.prototypes.numpy(), 2)
            np.testing.assert_allclose(row.softmax(0), expected, rtol=1e-10)
            np.testing.assert_allclose(row.exp(), expected, rtol=1e-10)


def test_the_two_scores_can_name_different_classes() -> None:
    """A class with one prototype nearest of all, beside one with two that are nearly as near."""
    image = torch.zeros(1, 1, 2, 3)
    for class_score, expected in (("nearest", 0), ("sum", 1)):
        model = flat(class_score=class_score).eval()
        model.prototypes.copy_(torch.tensor([1.0, 50.0, 1.1, 1.1, 60.0, 60.0])[:, None] * torch.eye(6)[0])
        assert int(model(image).argmax()) == expected


def test_diversity_is_the_published_one_restated() -> None:
    prototypes = torch.randn(5, 3, dtype=torch.float64)
    assert float(diversity(prototypes)) == pytest.approx(slow.diversity(prototypes.numpy()), rel=1e-12)


def test_diversity_is_1_for_equal_prototypes_and_small_for_distant_ones() -> None:
    assert float(diversity(torch.ones(4, 3, dtype=torch.float64))) == pytest.approx(1)
    # Far away, all others have similarity 0 and weight 1 beside 1e4.
    share = 1e4 / (1e4 + 3)
    expected = -(share * math.log(share) + 3 * 1 / (1e4 + 3) * math.log(1 / (1e4 + 3))) / math.log(4)
    assert float(diversity(torch.eye(4, dtype=torch.float64) * 1e12)) == pytest.approx(expected, rel=1e-6)


def test_the_similarity_falls_from_the_logarithm_of_1e4_to_0() -> None:
    distances = torch.tensor([0.0, 1.0, 1e9], dtype=torch.float64)
    expected = torch.tensor([math.log(1e4), math.log(2 / 1.0001), 0.0], dtype=torch.float64)
    torch.testing.assert_close(similarity(distances), expected, atol=1e-8, rtol=1e-12)


def test_the_encoder_and_the_head_are_the_network() -> None:
    network = CifarCnn(SHAPE, 3).eval()
    model, images = Kmex(SHAPE, 3, network=network).eval(), torch.rand(4, *SHAPE)
    torch.testing.assert_close(model.network_logits(images), network(images))
    torch.testing.assert_close(model.encoder(images), network.features(images).mean((2, 3)))
    model.head.weight.data.zero_()
    assert (network.classifier.weight != 0).any()  # it was copied


def test_training_is_that_of_the_network() -> None:
    model, images, labels = random_kmex().train(), torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    loss, logits = model.training_loss(images, labels, {})
    torch.testing.assert_close(logits, model.network_logits(images))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    loss.backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())
    assert Kmex.recipe("digits") == CifarCnn.recipe("digits")


def chain() -> nn.Sequential:
    """Small enough to restate."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def test_the_own_explanation_is_the_relevance_of_the_nearest_prototype_restated() -> None:
    model, images = random_kmex(chain()).double(), torch.rand(2, *SHAPE).double() - 0.3
    convolution, norm = model.encoder[0], model.encoder[1]
    assert (norm.weight < 0).any()  # so that folding matters
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = (convolution.weight * scale[:, None, None, None]).detach().numpy()
    targets = torch.tensor([2, 0])
    found = model.attribute(images, targets).numpy()
    for b, target in enumerate(targets.tolist()):
        active = model.encoder[:3](images)[b].detach().numpy()
        latent, prototypes = active.mean((1, 2)), model.prototypes.numpy()
        similarities = slow_latents.similarities(latent, prototypes)
        nearest = max((2 * target, 2 * target + 1), key=similarities.__getitem__)
        counted = [s * (j == nearest) for j, s in enumerate(similarities)]
        start = slow_latents.start_of_relevance(latent, prototypes, counted)
        totals = active.mean((1, 2), keepdims=True) + slow_relevance.EPSILON
        relevance = active / active[0].size / totals * start[:, None, None]
        expected = slow_relevance.convolution(images[b].numpy(), weight, relevance, stride=1, padding=1)
        np.testing.assert_allclose(found[b], expected, rtol=1e-7, atol=1e-10)


@parametrize_with_checks([Own()], random_kmex(), torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(5)))
def test_the_own_explanation_conforms(check) -> None:
    check()


def test_a_resnet_is_explained_as_well() -> None:
    model = Kmex((3, 32, 32), 4, network=resnet18(num_classes=4), prototypes_per_class=2).eval()
    images = torch.rand(2, 3, 32, 32)
    model.prototypes.copy_(torch.rand(8, 512))
    found = model.attribute(images, torch.tensor([1, 3]))
    latents = model.encoder(images)
    nearest = model.similarities(latents).view(2, 4, 2)[[0, 1], [1, 3]].argmax(1) + torch.tensor([2, 6])
    shares = latent_shares(latents, model.prototypes)[[0, 1], nearest]
    expected = model(images)[[0, 1], [1, 3]] * (shares * (latents > 0)).sum(1)
    torch.testing.assert_close(found.sum((1, 2, 3)), expected.detach(), rtol=0.02, atol=0)


def test_prototypes_are_kept_with_the_weights(tmp_path) -> None:
    model, images = random_kmex(), torch.rand(5, *SHAPE)
    weights.save(model, tmp_path / "model.safetensors", {})
    restored = Kmex(SHAPE, 3, prototypes_per_class=2).eval()
    weights.load(restored, tmp_path / "model.safetensors")
    assert torch.equal(restored(images), model(images))


def test_fitting_looks_at_the_network_in_evaluation_mode_and_leaves_its_mode() -> None:
    model = random_kmex().train()
    images, labels = torch.rand(12, *SHAPE), torch.arange(12) % 3
    statistics = model.encoder.features[0][1].running_mean.clone()
    model.finish({}, Points(images, labels))
    assert model.encoder.training
    assert torch.equal(model.encoder.features[0][1].running_mean, statistics)
    latents = model.eval().encoder(images[labels == 1])
    torch.testing.assert_close(  # every cluster's centre is the mean of its members
        model.prototypes[2:4],
        torch.stack([latents[torch.cdist(latents, model.prototypes[2:4]).argmin(1) == j].mean(0) for j in (0, 1)]),
    )


def test_asking_before_there_are_prototypes_is_an_error() -> None:
    model = flat().eval()
    for ask in (model, lambda images: model.attribute(images, torch.tensor([0]))):
        with pytest.raises(ValueError, match="no prototypes yet"):
            ask(torch.zeros(1, 1, 2, 3))


def test_data_without_enough_samples_of_a_class_or_with_several_labels_are_refused() -> None:
    dataset, _ = clusters()
    rows = (dataset.labels != 1) | (torch.arange(len(dataset)) == int((dataset.labels == 1).nonzero()[0]))
    with pytest.raises(ValueError, match=r"at least 2 samples of each of 3 classes .* has \[80, 1, 80\]"):
        flat().fit_prototypes(Points(dataset.images[rows], dataset.labels[rows]))
    with pytest.raises(ValueError, match="must have one label per sample"):
        flat().fit_prototypes(Points(dataset.images, F.one_hot(dataset.labels, 3).bool()))


class Doubled(nn.Sequential):
    """Its last linear layer does not return the logits."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return twice what the layers return."""
        return 2 * super().forward(inputs)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Flatten(), "must end in an `nn.Linear` of 3 outputs"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), "must end in an `nn.Linear` of 3 outputs"),
        (nn.Linear(6, 3), "must end in an `nn.Linear`"),
        (Doubled(nn.Flatten(), nn.Linear(6, 3)), "must be what its last `nn.Linear` returns"),
    ],
)
def test_networks_without_a_last_linear_layer_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kmex((1, 2, 3), 3, network=network)


def test_a_network_cannot_be_given_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"`network` must be a torch.nn.Module, was str"):
        Kmex((1, 2, 3), 3, network="cifar_cnn")


@pytest.mark.slow
def test_it_names_digits_it_has_not_seen_as_well_as_its_network_does() -> None:
    dataset = Digits(split="train")
    model = build(Kmex, dataset, seed=0)
    train(model, dataset, seed=0, recipe=Kmex.recipe("digits"), progress=False)
    test = dataset.with_split("test")
    images = test.take(range(len(test))).images
    with torch.no_grad():
        hits = [
            (logits.argmax(1) == test.labels).float().mean() for logits in (model(images), model.network_logits(images))
        ]
    assert min(hits) >= 0.97
    assert abs(hits[0] - hits[1]) < 0.01
    places = model.nearest_images(dataset)
    assert torch.equal(model(dataset.take(places).images).argmax(1), torch.arange(50) // 5)
