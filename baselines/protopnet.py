"""ProtoPNet, a classifier by patches of the image that look like patches of training images."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.base import Dataset
from .base import Reduction
from .model_checks import single_labels
from .option_checks import check_counts
from .prototype_similarity import similarity

_LARGEST_MAP = 7
_CLUSTER, _SEPARATION, _SPARSITY = 0.8, -0.08, 1e-4
_BATCH = 256

_RECIPE = {
    "epochs": 20, "batch_size": 64, "learning_rate": 3e-3, "features_rate": 1e-3, "classifier_rate": 1e-3,
    "features_decay": 1e-3, "optimizer": "adam", "schedule": "constant", "warm_up": 1, "push_from": 8, "push_every": 8,
    "last_layer_epochs": 2, "prune_nearest": 6, "prune_least": 3,
}  # fmt: skip
_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "cifar10": {"epochs": 40, "push_from": 18, "push_every": 18},
    "digits": {"epochs": 16, "batch_size": 32, "push_from": 6, "push_every": 6},
    "digit_scenes": {"epochs": 4, "push_from": 3, "push_every": 3, "last_layer_epochs": 1},
}


class Phase(NamedTuple):
    """What is done in an epoch.

    Attributes:
        trained: `"warm_up"` (add-on layers and prototypes), `"joint"` (those and the features), or `"last_layer"`
            (the last layer alone).
        push: whether prototypes are replaced by patches after it.
    """

    trained: Literal["warm_up", "joint", "last_layer"]
    push: bool


class ProtoPnet(nn.Module):
    """ProtoPNet: classes by how much some patch of the image resembles each of their prototypes.

    A backbone and two 1×1 convolutions with a sigmoid at the end give a map of vectors `z` with D elements in (0, 1),
    one for each patch of the image. Prototype `p_j` is such a vector, too; its similarity to the image is the largest
    `log((d + 1) / (d + 1e-4))` over the map, `d = |z - p_j|²`. The logits are a linear function of the similarities
    without a bias, which starts with 1 for the prototypes of the class and -0.5 for others.

    Training minimises

        cross-entropy + 0.8 Clst - 0.08 Sep + 1e-4 |w⁻|_1

    `Clst` being the mean over samples of the smallest `d` from a patch to a prototype of the true class, `Sep` that to
    a prototype of another class, and `w⁻` the last layer's weights of other classes' prototypes. Epochs differ in what
    is trained (`phase`): first add-on layers and prototypes only, then the features as well; every few epochs each
    prototype is replaced by the nearest patch of a training image of its class (`push`), after which the last layer
    alone is trained for some epochs. What is not trained does not change, its batch normalisation included. In the end
    prototypes without enough of their own class among their nearest images are left out (`prune`), and the last layer
    is fitted to those that are left (`fit_last_layer`), because classes that lost more than others have lower logits.
    `pushed_images` and `pushed_places` say which patches the prototypes are.

    The own explanation of a class is the sum over prototypes of the map of similarities times the last layer's weight
    for the class, enlarged bicubically.

    Departures from the released code: the backbone is a small network for small images, trained from nothing, where
    the published ones were pretrained on ImageNet; hence its rate is higher, and there are fewer epochs. The rate does
    not fall (`recipe` can say so), images are not augmented, and frozen batch normalisation keeps its statistics.
    Pruning marks prototypes in `kept`, so that shapes stay. As there, a class can lose all of its prototypes.

    Args:
        image_shape: `(C, H, W)`; sides are halved until none is longer than 7 (28 to 7, 32 and 64 to 4).
        n_classes: number of logits.
        prototypes_per_class: how many of each class.
        depth: D.

    Raises:
        ValueError: an argument is not as stated.

    Reference:
        C. Chen et al., "This Looks Like That: Deep Learning for Interpretable Image Recognition", NeurIPS 2019.

    Example:
        >>> model = ProtoPnet((1, 28, 28), 10).eval()
        >>> images = torch.rand(2, 1, 28, 28)
        >>> model(images).shape, model.similarity_maps(images).shape
        (torch.Size([2, 10]), torch.Size([2, 100, 7, 7]))
        >>> model.attribute(images, torch.tensor([3, 7])).shape
        torch.Size([2, 1, 28, 28])
    """

    name: ClassVar[str] = "protopnet"
    cam_layer: ClassVar[str] = "features"
    own_reduction: ClassVar[Reduction] = "none"

    kept: Tensor
    """`(P,)` bool, false for prototypes that were pruned."""
    pushed_images: Tensor
    """`(P,)` int64, the position in the training part of the image that a prototype is from; -1 before a push."""
    pushed_places: Tensor
    """`(P, 2)` int64, row and column of its patch in the map."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        prototypes_per_class: int = 10,
        depth: int = 128,
    ) -> None:
        super().__init__()
        check_counts(
            n_classes=n_classes, prototypes_per_class=prototypes_per_class, depth=depth, image_shape=min(image_shape)
        )
        count = n_classes * prototypes_per_class
        self.prototypes_per_class = prototypes_per_class
        self.features = _backbone(image_shape)
        self.add_on = nn.Sequential(nn.Conv2d(64, depth, 1), nn.ReLU(), nn.Conv2d(depth, depth, 1), nn.Sigmoid())
        self.prototypes = nn.Parameter(torch.rand(count, depth))
        self.classifier = nn.Linear(count, n_classes, bias=False)
        self.register_buffer("kept", torch.ones(count, dtype=torch.bool))
        self.register_buffer("pushed_images", torch.full((count,), -1))
        self.register_buffer("pushed_places", torch.full((count, 2), -1))
        with torch.no_grad():
            self.classifier.weight.copy_(self._own().T * 1.5 - 0.5)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset.

        `learning_rate` is that of add-on layers and prototypes, `features_decay` the weight decay of features and
        add-on layers; `phase` reads `warm_up`, `push_from`, `push_every` and `last_layer_epochs`, `prune` the rest.
        Published for CUB-200, with networks pretrained on ImageNet: `features_rate` and `classifier_rate` 1e-4,
        `warm_up` 5, `push_from` and `push_every` 10, `last_layer_epochs` 20, `batch_size` 80, and joint rates that
        fall by 0.1 every 5 epochs.
        """
        return {**_RECIPE, **_RECIPES.get(dataset_name, {})}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs."""
        return self._logits(self.distances(inputs).amin(dim=(2, 3)))

    def distances(self, inputs: Tensor) -> Tensor:
        """Return `(B, P, h, w)` squared distances of the patches of inputs to the prototypes."""
        return squared_distances(self.patches(inputs), self.prototypes)

    def patches(self, inputs: Tensor) -> Tensor:
        """Return the `(B, D, h, w)` map that prototypes are compared with."""
        return self.add_on(self.features(inputs))

    def similarity_maps(self, inputs: Tensor) -> Tensor:
        """Return `(B, P, h, w)`: where, and how much, inputs resemble the prototypes."""
        return similarity(self.distances(inputs))

    def prototype_classes(self) -> Tensor:
        """Return the `(P,)` int64 classes of the prototypes, as many of each class in turn."""
        return torch.arange(len(self.prototypes), device=self.prototypes.device) // self.prototypes_per_class

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, H, W)`, the similarity maps weighted for the `(B,)` targets, enlarged bicubically."""
        weights = self.classifier.weight[targets] * self.kept
        maps = torch.einsum("bp,bphw->bhw", weights, self.similarity_maps(inputs))[:, None]
        return F.interpolate(maps, size=inputs.shape[2:], mode="bicubic", align_corners=False)

    def training_loss(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Mapping[str, Any],  # noqa: ARG002  # other models read theirs
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and its `(B, K)` logits."""
        smallest = self.distances(images).amin(dim=(2, 3))
        logits = self._logits(smallest)
        own = self._own()
        cluster, separation = nearest_distances(smallest, own[:, labels].T)
        loss = F.cross_entropy(logits, labels) + _CLUSTER * cluster + _SEPARATION * separation
        return loss + _SPARSITY * self._off_class(), logits

    def parameter_groups(self, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the optimiser's groups: features, add-on layers, prototypes and last layer."""
        decay = recipe["features_decay"]
        return [
            {"params": list(self.features.parameters()), "lr": recipe["features_rate"], "weight_decay": decay},
            {"params": list(self.add_on.parameters()), "lr": recipe["learning_rate"], "weight_decay": decay},
            {"params": [self.prototypes], "lr": recipe["learning_rate"]},
            {"params": list(self.classifier.parameters()), "lr": recipe["classifier_rate"]},
        ]

    def begin_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:  # noqa: ARG002
        """Freeze what this epoch does not train, statistics of batch normalisation included."""
        trained = phase(epoch, recipe).trained
        self.features.requires_grad_(trained == "joint").train(trained == "joint")
        self.add_on.requires_grad_(trained != "last_layer")
        self.prototypes.requires_grad_(trained != "last_layer")
        self.classifier.requires_grad_(trained == "last_layer")

    def end_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        """Push where it is time to."""
        if phase(epoch, recipe).push:
            self.push(dataset)

    def finish(self, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        """Free all parameters, push if prototypes were trained since the last push, prune, and fit the last layer."""
        last = phase(recipe["epochs"], recipe)
        if last.trained != "last_layer" and not last.push:
            self.push(dataset)
        self.requires_grad_(requires_grad=True)
        self.prune(dataset, nearest=recipe["prune_nearest"], least=recipe["prune_least"])
        self.fit_last_layer(dataset)

    @torch.no_grad()
    def push(self, dataset: Dataset) -> None:
        """Replace each prototype by the nearest patch of the images of its class.

        Raises:
            ValueError: the dataset has several labels per sample.
        """
        best = torch.full((len(self.prototypes),), math.inf, device=self.prototypes.device)
        replaced = self.prototypes.detach().clone()
        for start, patches, labels in self._patches_of(dataset):
            distances = squared_distances(patches, self.prototypes)
            others = ~self._own()[:, labels].T
            width = distances.shape[3]
            found = distances.masked_fill(others[:, :, None, None], math.inf).permute(1, 0, 2, 3).flatten(1).min(dim=1)
            nearer = found.values < best
            image, place = found.indices // distances[0, 0].numel(), found.indices % distances[0, 0].numel()
            rows, columns = place // width, place % width
            best = torch.where(nearer, found.values, best)
            replaced[nearer] = patches[image, :, rows, columns][nearer]
            self.pushed_images[nearer] = (start + image)[nearer]
            self.pushed_places[nearer] = torch.stack((rows, columns), dim=1)[nearer]
        self.prototypes.copy_(replaced)

    @torch.no_grad()
    def prune(self, dataset: Dataset, *, nearest: int = 6, least: int = 3) -> None:
        """Leave out prototypes that are near to images of other classes.

        A prototype stays if, of the `nearest` images with the smallest distance from any patch to it, at least `least`
        are of its class. The published choice is 3 of 6.

        Raises:
            ValueError: the dataset has several labels per sample.
        """
        distances, labels = self._smallest_of(dataset)
        chosen = distances.topk(min(nearest, len(distances)), dim=0, largest=False).indices
        self.kept.copy_((labels[chosen] == self.prototype_classes()).sum(dim=0) >= least)

    def fit_last_layer(self, dataset: Dataset, *, steps: int = 200, rate: float = 0.01) -> None:
        """Train the last layer alone on a whole dataset at once, by steps of Adam on the loss of the class.

        Raises:
            ValueError: the dataset has several labels per sample.
        """
        smallest, labels = self._smallest_of(dataset)
        optimizer = torch.optim.Adam(self.classifier.parameters(), lr=rate)
        for _ in range(steps):
            loss = F.cross_entropy(self._logits(smallest), labels) + _SPARSITY * self._off_class()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.classifier.zero_grad()

    @torch.no_grad()
    def _smallest_of(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """Return the `(N, P)` smallest distances of all images of a dataset to the prototypes, and its labels."""
        found = [
            (squared_distances(patches, self.prototypes).amin(dim=(2, 3)), labels)
            for _, patches, labels in self._patches_of(dataset)
        ]
        return torch.cat([distances for distances, _ in found]), torch.cat([labels for _, labels in found])

    def _patches_of(self, dataset: Dataset) -> Generator[tuple[int, Tensor, Tensor], None, None]:
        """Yield position of the first image, patches and labels of all batches, in evaluation mode."""
        single_labels(dataset)
        modes = [module.training for module in self.modules()]
        self.eval()
        try:
            for number, batch in enumerate(dataset.batches(_BATCH)):
                moved = batch.to(self.prototypes.device)
                yield number * _BATCH, self.patches(moved.images), moved.labels
        finally:
            for module, mode in zip(self.modules(), modes, strict=True):
                module.training = mode

    def _own(self) -> Tensor:
        """Which prototype is of which class: `(P, K)` bool."""
        classes = torch.arange(self.classifier.out_features, device=self.prototypes.device)
        return self.prototype_classes()[:, None] == classes

    def _off_class(self) -> Tensor:
        """Sum of the magnitudes of the last layer's weights of other classes' prototypes."""
        return self.classifier.weight[~self._own().T].abs().sum()

    def _logits(self, smallest: Tensor) -> Tensor:
        return self.classifier(similarity(smallest) * self.kept)


def phase(epoch: int, recipe: Mapping[str, Any]) -> Phase:
    """Say what is done in an epoch, counted from 1.

    The first `warm_up` epochs warm up, the others are joint. From the `push_from`-th of them on there is a push after
    every one whose number is a multiple of `push_every`, and `last_layer_epochs` epochs that train the last layer
    follow, which these numbers do not count.

    Example:
        >>> recipe = {"warm_up": 1, "push_from": 2, "push_every": 2, "last_layer_epochs": 1}
        >>> [phase(epoch, recipe).trained for epoch in range(1, 7)]
        ['warm_up', 'joint', 'last_layer', 'joint', 'joint', 'last_layer']
    """
    number = left = 0
    found = Phase("joint", push=False)
    for _ in range(epoch):
        if left:
            left -= 1
            found = Phase("last_layer", push=False)
            continue
        number += 1
        push = number >= recipe["push_from"] and number % recipe["push_every"] == 0
        left = recipe["last_layer_epochs"] if push else 0
        found = Phase("warm_up" if number <= recipe["warm_up"] else "joint", push)
    return found


def squared_distances(patches: Tensor, prototypes: Tensor) -> Tensor:
    """Return `(B, P, h, w)` squared Euclidean distances of `(B, D, h, w)` patches to `(P, D)` prototypes, at least 0.

    Example:
        >>> squared_distances(torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([[1.0, 0.0], [1.0, 2.0]])).flatten()
        tensor([4., 0.])
    """
    products = F.conv2d(patches, prototypes[:, :, None, None])
    lengths = prototypes.square().sum(dim=1)[:, None, None]
    return (patches.square().sum(dim=1, keepdim=True) - 2 * products + lengths).clamp(min=0)


def nearest_distances(smallest: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return `Clst` and `Sep`.

    Args:
        smallest: `(B, P)`, the smallest squared distance of a patch of each sample to each prototype.
        own: `(B, P)` bool, whether the prototype is of the sample's class.

    Returns:
        The means over the samples of the smallest distance to a prototype of their class, and to one of another.

    Example:
        >>> own = torch.tensor([[True, True, False, False]])
        >>> nearest_distances(torch.tensor([[3.0, 1.0, 4.0, 2.0]]), own)
        (tensor(1.), tensor(2.))
    """
    cluster = smallest.masked_fill(~own, math.inf).amin(dim=1).mean()
    return cluster, smallest.masked_fill(own, math.inf).amin(dim=1).mean()


def percentile_box(maps: Tensor, percentile: float = 95.0) -> Tensor:
    """Find the smallest boxes around what is highest in maps, by which prototypes and their likes are shown.

    Args:
        maps: `(B, H, W)`.
        percentile: pixels of at least this percentile of the map, interpolated linearly, are in the box.

    Returns:
        `(B, 4)` int64: top, left, bottom and right, the last two exclusive, so that `image[top:bottom, left:right]` is
        the box.

    Example:
        >>> maps = torch.zeros(1, 10, 10)
        >>> maps[0, 2:4, 5:7] = 1
        >>> percentile_box(maps, 97)
        tensor([[2, 5, 4, 7]])
    """
    high = maps >= maps.flatten(1).quantile(percentile / 100, dim=1)[:, None, None]
    edges: list[Tensor] = []
    for side in (high.any(dim=2).int(), high.any(dim=1).int()):
        edges += [side.argmax(dim=1), side.shape[1] - side.flip(1).argmax(dim=1)]
    return torch.stack(edges, dim=1)[:, [0, 2, 1, 3]]


def _backbone(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """Blocks of 3×3 convolution, batch normalisation, ReLU and halving, and one more without halving."""
    halvings = max(0, math.ceil(math.log2(max(image_shape[1:]) / _LARGEST_MAP)))
    width, layers = image_shape[0], list[nn.Module]()
    for number in range(halvings + 1):
        outputs = 32 if number == 0 else 64
        outputs = 64 if number == halvings else outputs
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        if number < halvings:
            layers.append(nn.MaxPool2d(2))
        width = outputs
    return nn.Sequential(*layers)
