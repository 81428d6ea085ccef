"""KMEx, which makes a trained network explain itself: k-means in its representation gives prototypes of the classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from ..datasets.base import Dataset
from .base import Reduction
from .cifar_cnn import CifarCnn
from .composite_relevance import composite_relevance
from .model_checks import single_labels
from .option_checks import check_counts, check_word
from .prototype_similarity import euclidean_distances, latent_shares, similarity

_BATCH = 256


class Kmex(nn.Module):
    """A network whose last linear layer gives way to the nearest of H prototypes per class, found by k-means.

    The representation of an image is what the network's last linear layer reads. Once the network is trained,
    `fit_prototypes` runs k-means with H clusters on the representations of each class of the training part; their
    centres are the prototypes. An image is of the class of the prototype that is nearest by Euclidean distance `d`,
    and its similarity to a prototype is `log((d + 1) / (d + 1e-4))`.

    The logit of a class is the similarity to its nearest prototype, so that the largest logit names the published
    prediction. With `class_score="sum"` it is the logarithm of the published class score, the sum over the class's
    prototypes of the softmax of all similarities, so that the softmax of the logits is that score; where a class has
    several prototypes not far away, its prediction can be another one.

    The own explanation of a class is prototypical relevance propagation for its nearest prototype: the similarity is
    divided among the elements of the representation `z` by `1 / ((z_l - p_l)² + 1e-4)` and handed down by the rules of
    `composite_relevance`, batch normalisation being folded into the convolution before it. Elements of
    `z` at which the network is silent hand nothing down, although they count in the similarity. The released code
    starts from ones instead, so that all prototypes of an image have the same map; that is not offered, because it
    explains no class.

    Further departures from the released code: prototypes are fitted on the training part (there, on MNIST, on the
    test part), and predictions are compared with labels as they are (there after the permutation of classes that fits
    best, which can only raise the accuracy). The published networks are ResNet-34 pretrained on ImageNet; by default
    the network here is `cifar_cnn`, trained from nothing as it is by itself.

    Args:
        image_shape: `(C, H, W)` of the images.
        n_classes: number of logits.
        prototypes_per_class: H.
        class_score: `"nearest"` or `"sum"`, see above.
        network: the network, whose last linear layer returns its logits; a copy is taken. `None` is an untrained
            `cifar_cnn`. A trained one needs `fit_prototypes` alone. In names of models it is another model's name:
            `kmex?of=lenet`, `kmex?of=lenet@FILE`; the prototypes are then fitted where the model is first used.

    Raises:
        TypeError: `network` is no module.
        ValueError: an argument is not as stated; from `forward` and `attribute`, when there are no prototypes yet;
            from `attribute` as `composite_relevance`.

    Reference:
        S. Gautam et al., "Prototypical Self-Explainable Models Without Re-training", TMLR 2024.

    Example:
        >>> from interpeval.datasets.digits import Digits
        >>> model = Kmex((1, 28, 28), 10).eval()
        >>> model.fit_prototypes(Digits(split="test"))
        >>> model(torch.zeros(2, 1, 28, 28)).shape, model.prototypes.shape
        (torch.Size([2, 10]), torch.Size([50, 64]))
    """

    name: ClassVar[str] = "kmex"
    own_reduction: ClassVar[Reduction] = "sum"

    prototypes: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        prototypes_per_class: int = 5,
        class_score: Literal["nearest", "sum"] = "nearest",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_counts(n_classes=n_classes, prototypes_per_class=prototypes_per_class)
        check_word("class_score", class_score, ("nearest", "sum"))
        self.n_classes, self.prototypes_per_class, self.class_score = n_classes, prototypes_per_class, class_score
        network = CifarCnn(image_shape, n_classes) if network is None else network
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"`network` must be a torch.nn.Module, was {type(network).__name__}; a name is given as `kmex?of=NAME`"
            )
        self.encoder, self.head = _split(network, image_shape, n_classes)
        missing = torch.full((n_classes * prototypes_per_class, self.head.in_features), math.nan)
        self.register_buffer("prototypes", missing)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train the network on a dataset: as `cifar_cnn`."""
        return CifarCnn.recipe(dataset_name)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs (see the class)."""
        similarities = self.similarities(self.encoder(inputs))
        of_class = similarities.unflatten(1, (self.n_classes, self.prototypes_per_class))
        if self.class_score == "nearest":
            return of_class.amax(dim=2)
        return of_class.logsumexp(dim=2) - similarities.logsumexp(dim=1, keepdim=True)

    def network_logits(self, inputs: Tensor) -> Tensor:
        """Return the `(B, K)` logits of the network itself."""
        return self.head(self.encoder(inputs))

    def similarities(self, latents: Tensor) -> Tensor:
        """Return `(B, K H)` similarities of `(B, D)` representations to the prototypes, H of each class in turn."""
        if bool(self.prototypes[0, 0].isnan()):
            raise ValueError("`kmex` has no prototypes yet: train it, or call `fit_prototypes` with a dataset")
        return similarity(euclidean_distances(latents, self.prototypes))

    def training_loss(
        self,
        images: Tensor,
        labels: Tensor,
        recipe: Mapping[str, Any],  # noqa: ARG002  # other models read theirs
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of the network, and its `(B, K)` logits."""
        logits = self.network_logits(images)
        return F.cross_entropy(logits, labels), logits

    def finish(self, recipe: Mapping[str, Any], dataset: Dataset) -> None:  # noqa: ARG002  # as all hooks are called
        """Fit the prototypes when the network is trained."""
        self.fit_prototypes(dataset)

    def fit_prototypes(self, dataset: Dataset) -> None:
        """Take the centres of k-means, 10 starts of k-means++ from seed 0, in each class of a dataset as prototypes.

        Raises:
            ValueError: the dataset has several labels per sample, or a class fewer samples than prototypes.
        """
        latents, labels = self._embedded(dataset), single_labels(dataset).cpu()
        counts = torch.bincount(labels, minlength=self.n_classes)
        if len(counts) > self.n_classes or int(counts.min()) < self.prototypes_per_class:
            raise ValueError(
                f"`dataset` must have at least {self.prototypes_per_class} samples of each of {self.n_classes} classes "
                f"for as many prototypes, `{dataset.name}` has {counts.tolist()}"
            )
        centres = [_centres(latents[labels == label], self.prototypes_per_class) for label in range(self.n_classes)]
        self.prototypes.copy_(torch.cat(centres))

    def nearest_images(self, dataset: Dataset) -> list[int]:
        """Find for each prototype the position in a dataset of the image of its class that is nearest to it."""
        distances = euclidean_distances(self._embedded(dataset), self.prototypes.cpu())
        of_prototype = torch.arange(len(self.prototypes)) // self.prototypes_per_class
        other = single_labels(dataset).cpu()[:, None] != of_prototype
        return distances.masked_fill(other, math.inf).argmin(dim=0).tolist()

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the `(B, C, H, W)` relevance of inputs for the nearest prototypes of their `(B,)` targets."""

        def start(latents: Tensor) -> Tensor:
            similarities = self.similarities(latents)
            of_class = similarities.unflatten(1, (self.n_classes, self.prototypes_per_class))
            rows = torch.arange(len(targets), device=targets.device)
            nearest = of_class[rows, targets].argmax(dim=1) + targets * self.prototypes_per_class
            return similarities[rows, nearest, None] * latent_shares(latents, self.prototypes)[rows, nearest]

        with torch.inference_mode(False):
            folded = fuse(copy.deepcopy(self.encoder).eval(), inplace=True)
        return composite_relevance(folded, inputs, start)

    @torch.no_grad()
    def _embedded(self, dataset: Dataset) -> Tensor:
        """Return `(N, D)` representations of a whole dataset, on the CPU."""
        training, device = self.encoder.training, self.prototypes.device
        self.encoder.eval()
        try:
            return torch.cat([self.encoder(batch.images.to(device)).cpu() for batch in dataset.batches(_BATCH)])
        finally:
            self.encoder.train(training)


def diversity(prototypes: Tensor) -> Tensor:
    """Say how evenly prototypes are similar to one another.

    The mean over prototypes of `-Σ_j q_j ln q_j / ln P`, `q` being the softmax of the prototype's similarities
    `log((d + 1) / (d + 1e-4))` to all P prototypes, itself included. This is the published definition, by which 1
    counts as diverse. It is 1 where all prototypes are the same, too, and near 0 where all are far apart, because a
    prototype's similarity to itself then outweighs the others.

    Args:
        prototypes: `(P, D)` with `P ≥ 2`.

    Returns:
        Scalar, in (0, 1].

    Example:
        >>> diversity(torch.zeros(4, 2))
        tensor(1.)
    """
    logarithms = similarity(euclidean_distances(prototypes, prototypes)).log_softmax(dim=1)
    return -(logarithms.exp() * logarithms).sum(dim=1).mean() / math.log(len(prototypes))


def _centres(latents: Tensor, count: int) -> Tensor:
    method = cast("Any", KMeans)  # scikit-learn has no types
    return torch.from_numpy(method(count, n_init=10, random_state=0).fit(latents.numpy()).cluster_centers_).to(latents)


def _split(network: nn.Module, image_shape: Sequence[int], n_classes: int) -> tuple[nn.Module, nn.Linear]:
    """Take a network's last linear layer off a copy of it."""
    encoder = copy.deepcopy(network)
    linear = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != n_classes or not linear[-1][0]:
        raise ValueError(
            f"`network` must end in an `nn.Linear` of {n_classes} outputs, `{type(network).__name__}` does not"
        )
    name, head = linear[-1]
    encoder.set_submodule(name, nn.Identity())
    _check_split(network, encoder, head, image_shape)
    return encoder, head


@torch.no_grad()
def _check_split(network: nn.Module, encoder: nn.Module, head: nn.Linear, image_shape: Sequence[int]) -> None:
    """Raise where the last linear layer's outputs are not the logits."""
    whole, parts = copy.deepcopy(network).eval(), nn.Sequential(encoder, head)
    modes = [module.training for module in parts.modules()]
    image = torch.linspace(0, 1, math.prod(image_shape)).view(1, *image_shape).to(head.weight)
    try:
        latents = encoder.eval()(image)
        fits = latents.shape == (1, head.in_features) and torch.allclose(head(latents), whole(image), atol=1e-4)
    finally:
        for module, mode in zip(parts.modules(), modes, strict=True):
            module.training = mode
    if not fits:
        raise ValueError("the logits of `network` must be what its last `nn.Linear` returns")
