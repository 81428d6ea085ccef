"""ProtoVAE, a variational auto-encoder that classifies by how similar its latent is to prototypes it can draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Reduction
from .composite_relevance import composite_relevance
from .model_checks import check_input_size
from .option_checks import check_counts, check_word
from .prototype_similarity import euclidean_distances, latent_shares, similarity

Form = Literal["mnist", "quickdraw", "cifar", "svhn"]
_FORMS = ("mnist", "quickdraw", "cifar", "svhn")
_LATENT = {"mnist": 256, "quickdraw": 512, "cifar": 512, "svhn": 512}
_PROTOTYPES = {"mnist": 5, "quickdraw": 10, "cifar": 10, "svhn": 5}
_WIDTHS = {"mnist": (32, 64), "quickdraw": (32, 64, 128), "cifar": (32, 64, 128, 256), "svhn": (32, 64, 128, 256)}
_DECODER_WIDTHS = {"mnist": (32, 32), "quickdraw": (64, 32, 32), "cifar": (128, 64, 32, 32), "svhn": (128, 64, 32, 32)}
_LOG_VARIANCE_LIMIT = -math.log(1e-8)
_INITIAL_RANGE = 0.08

_RECIPE = {
    "epochs": 10, "batch_size": 128, "learning_rate": 1e-3, "optimizer": "adam", "schedule": "constant",
    "augment": False,
}  # fmt: skip
_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "cifar10": {"epochs": 36, "augment": True},
    "svhn": {"epochs": 36, "batch_size": 64},
    "digits": {"epochs": 20, "batch_size": 32, "learning_rate": 6e-3, "schedule": "one_cycle"},
    "digit_scenes": {"epochs": 2, "batch_size": 32, "learning_rate": 6e-3, "schedule": "one_cycle"},
}


class ProtoVaeLosses(NamedTuple):
    """The four terms of the loss of a batch, each a scalar; the loss is their sum.

    Attributes:
        classification: cross-entropy.
        reconstruction: mean squared error of the decoded image, pixels in [-1, 1].
        divergence: of the latents' distributions from those around the prototypes of their class.
        orthonormality: how far the prototypes of a class are from orthonormal.
    """

    classification: Tensor
    reconstruction: Tensor
    divergence: Tensor
    orthonormality: Tensor


class ProtoVae(nn.Module):
    """ProtoVAE: a variational auto-encoder whose classes are mixtures of Gaussians around H prototypes each.

    An encoder gives the mean `μ` and variance `σ²` of a latent `z`, a decoder draws an image from `z`. The similarity
    to prototype `p_j` is `s_j = log((d_j + 1) / (d_j + 1e-4))` with the Euclidean distance `d_j = |z - p_j|`, and the
    logits are a linear function of the similarities without a bias, which starts with 1 for prototypes of the class
    and -0.5 for others and is trained. Prototypes are latents, so the decoder draws them (`decoded_prototypes`).

    Training minimises the sum, with equal weights, of `ProtoVaeLosses`: cross-entropy; mean squared error of the
    decoded image; `Σ_j s_j KL(N(μ, σ²) || N(p_j, 1)) / Σ_j s_j` over the prototypes of the true class, the divergence
    being the mean over the elements of the latent; and the mean over classes of `|P̄ P̄ᵀ - 1|_F`, `P̄` being the `(H, L)`
    prototypes of the class less their mean. In training `z = μ + σ ε` with `ε` from a standard normal distribution,
    in evaluation `z = μ`.

    `stochastic=False` is the released code, in which `z = μ` in training as well: its switch between the two is
    always on. That is a deterministic auto-encoder with a penalty; the published accuracies were presumably measured
    with it.

    The own explanation of a class is prototypical relevance propagation: the part `w_cj s_j` that each prototype of
    class c adds to the logit is divided among the elements of `μ` by `1 / ((μ_l - p_jl)² + 1e-4)` and handed down
    through the encoder by the rules of `composite_relevance`. Prototypes of other classes are left out. It departs
    from the released code, which starts from the derivative of those fractions, because it lets autograd run
    through them, and which folds batch normalisation into the convolution before it although a ReLU stands between.
    Here the start is the stated fraction, and batch normalisation, which commutes with the average pooling behind it,
    is put behind it, so that the network explained is the network trained. Released maps are divided by their
    largest magnitude; those of `attribute` are not, `prototype_maps` are.

    Inputs are pixels in [0, 1] (datasets with mean 0 and standard deviation 1) and are mapped to [-1, 1] inside, the
    range of the decoder's tanh. The four published networks are forms of this one; sizes other than the published
    ones follow from the same number of halvings.

    | form | size | encoder | latent L | prototypes H |
    |---|---|---|---|---|
    | `mnist` (also Fashion-MNIST, with H = 10) | multiples of 4, 28 | 32, 64 | 256 | 5 |
    | `quickdraw` | 8 n + 4, 28 | 32, 64, 128 | 512 | 10 |
    | `cifar` | multiples of 16, 32 | 32, 64, 128, 256 | 512 | 10 |
    | `svhn` | multiples of 16, 32 | two convolutions for each of 32, 64, 128, 256 | 512 | 5 |

    Convolutions and linear layers of the encoder start from U(-0.08, 0.08), convolutions of the decoder from Kaiming's
    normal distribution over outputs, transposed ones from U(-0.08, 0.08), biases from 0, prototypes from N(0, 1). The
    decoder's linear layer, of which nothing is recorded, starts as PyTorch's do.

    Args:
        image_shape: `(C, H, W)`, see the table. The network takes this size only.
        n_classes: number of logits.
        form: which of the networks; `None` is `cifar` where both sides are multiples of 16, else `mnist`.
        latent: elements of the latent; `None` is that of the form.
        prototypes_per_class: `None` is that of the form.
        stochastic: draw `z` in training, as published; `False` is the released code.

    Raises:
        ValueError: an argument is not as stated.

    Reference:
        S. Gautam et al., "ProtoVAE: A Trustworthy Self-Explainable Prototypical Variational Model", NeurIPS 2022.

    Example:
        >>> model = ProtoVae((1, 28, 28), 10).eval()
        >>> images = torch.rand(2, 1, 28, 28)
        >>> model(images).shape, model.attribute(images, torch.tensor([3, 7])).shape, model.decoded_prototypes().shape
        (torch.Size([2, 10]), torch.Size([2, 1, 28, 28]), torch.Size([50, 1, 28, 28]))
    """

    name: ClassVar[str] = "protovae"
    cam_layer: ClassVar[str] = "features"
    """The last map of the encoder, after pooling."""
    own_reduction: ClassVar[Reduction] = "sum"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        form: Form | None = None,
        latent: int | None = None,
        prototypes_per_class: int | None = None,
        stochastic: bool = True,
    ) -> None:
        super().__init__()
        form = _form(image_shape) if form is None else form
        check_word("form", form, _FORMS)
        grid = _grid(form, image_shape)
        self.image_shape, self.n_classes, self.stochastic = image_shape, n_classes, stochastic
        self.latent = _LATENT[form] if latent is None else latent
        self.prototypes_per_class = _PROTOTYPES[form] if prototypes_per_class is None else prototypes_per_class
        check_counts(n_classes=n_classes, latent=self.latent, prototypes_per_class=self.prototypes_per_class)
        self.features = _features(form, image_shape[0])
        self.head = _head(_WIDTHS[form][-1] * math.prod(grid), self.latent)
        self.decoder = _decoder(form, self.latent, grid, image_shape[0])
        self.prototypes = nn.Parameter(torch.randn(n_classes * self.prototypes_per_class, self.latent))
        self.classifier = nn.Linear(len(self.prototypes), n_classes, bias=False)
        _initialize(self)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset: published but for `digits` and `digit_scenes`.

        `augment` flips and moves images by up to 2 pixels at random (CIFAR-10).
        """
        return {**_RECIPE, **_RECIPES.get(dataset_name, {})}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs, from the means of their latents.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        return self.classify(self.encode(inputs)[0])

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(B, L)` means and logarithms of variances of the latents, these within ±ln(1e8)."""
        check_input_size(inputs, self.image_shape)
        mean, log_variance = self.head(self.features(_signed(inputs))).chunk(2, dim=1)
        return mean, log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)

    def decode(self, latents: Tensor) -> Tensor:
        """Return `(B, C, H, W)` images of `(B, L)` latents, pixels in [0, 1]."""
        return (self.decoder(latents) + 1) / 2

    def similarities(self, latents: Tensor) -> Tensor:
        """Return `(B, K H)` similarities of `(B, L)` latents to the prototypes."""
        return similarity(euclidean_distances(latents, self.prototypes))

    def classify(self, latents: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, L)` latents."""
        return self.classifier(self.similarities(latents))

    def prototype_classes(self) -> Tensor:
        """Return the `(K H)` int64 classes of the prototypes, H of each class in turn."""
        return torch.arange(len(self.prototypes), device=self.prototypes.device) // self.prototypes_per_class

    @torch.no_grad()
    def decoded_prototypes(self) -> Tensor:
        """Draw the prototypes: `(K H, C, H, W)` images, pixels in [0, 1]. Meant for evaluation mode."""
        return self.decode(self.prototypes)

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the `(B, C, H, W)` relevance of inputs for the prototypes of their `(B,)` targets (see the class)."""
        own = targets[:, None] == self.prototype_classes()

        def weights(latents: Tensor) -> Tensor:
            return self.classifier.weight[targets] * self.similarities(latents) * own

        return self._relevance(inputs, weights)

    def prototype_maps(self, inputs: Tensor, prototypes: Tensor) -> Tensor:
        """Return where inputs resemble a prototype.

        Args:
            inputs: `(B, C, H, W)`.
            prototypes: `(B,)` int64, for each input the prototype, below `K H`.

        Returns:
            `(B, C, H, W)` relevance of the inputs for the similarity to that one prototype, divided by the largest
            magnitude in each map.
        """
        chosen = F.one_hot(prototypes, len(self.prototypes))
        maps = self._relevance(inputs, lambda latents: chosen * self.similarities(latents))
        return maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[ProtoVaeLosses, Tensor]:
        """Return the terms of the loss of a batch (see the class), and its `(B, K)` logits.

        With `stochastic`, noise comes from torch's global generator on the CPU in training mode.
        """
        mean, log_variance = self.encode(images)
        latents = mean
        if self.stochastic and self.training:
            noise = torch.randn(mean.shape, dtype=mean.dtype).to(mean.device)
            latents = mean + (log_variance / 2).exp() * noise
        similarities = self.similarities(latents)
        logits = self.classifier(similarities)
        terms = ProtoVaeLosses(
            F.cross_entropy(logits, labels),
            F.mse_loss(self.decoder(latents), _signed(images)),
            mixture_divergence(
                mean, log_variance, self._by_class(self.prototypes)[labels], _rows(self._of_class(similarities), labels)
            ),
            orthonormality(self._by_class(self.prototypes)),
        )
        return terms, logits

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, the sum of `losses`, and its `(B, K)` logits.

        Raises:
            ValueError: a pixel is outside of [0, 1].
        """
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"`images` must have pixels in [0, 1] to train `protovae`, were in [{images.min():g}, "
                f"{images.max():g}]; use a dataset without normalisation (mean 0, std 1)"
            )
        if recipe.get("augment"):
            images = randomly_flipped_and_moved(images)
        terms, logits = self.losses(images, labels)
        return torch.stack(terms).sum(), logits

    def _relevance(self, inputs: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
        """Hand down what `weights` makes of `(B, L)` latents: `(B, K H)`, how much each prototype counts."""

        def start(outputs: Tensor) -> Tensor:
            latents = outputs[:, : self.latent]
            shares = latent_shares(latents, self.prototypes)
            started = torch.einsum("bp,bpl->bl", weights(latents), shares)
            return torch.cat((started, torch.zeros_like(started)), dim=1)

        encoder = nn.Sequential(_pooled_first(self.features), self.head)
        return composite_relevance(encoder, _signed(inputs), start, bounds=(-1.0, 1.0))

    def _by_class(self, prototypes: Tensor) -> Tensor:
        return prototypes.unflatten(0, (self.n_classes, self.prototypes_per_class))

    def _of_class(self, similarities: Tensor) -> Tensor:
        return similarities.unflatten(1, (self.n_classes, self.prototypes_per_class))


def mixture_divergence(mean: Tensor, log_variance: Tensor, prototypes: Tensor, weights: Tensor) -> Tensor:
    """Compare the distributions of latents with the Gaussians around the prototypes of their class.

    `Σ_j w_j KL(N(μ, σ²) || N(p_j, 1)) / Σ_j w_j`, the divergence being the mean over the elements of the latent.

    Args:
        mean: `(B, L)`.
        log_variance: `(B, L)`, `ln σ²`.
        prototypes: `(B, H, L)`, those of each sample's class.
        weights: `(B, H)`, positive.

    Returns:
        Scalar, the mean over the samples.

    Example:
        >>> zeros = torch.zeros(1, 2)
        >>> mixture_divergence(zeros, zeros, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), torch.tensor([[3.0, 1.0]]))
        tensor(0.3750)
    """
    squares = (mean[:, None] - prototypes).square()
    divergences = ((log_variance.exp() - 1 - log_variance)[:, None] + squares).mean(dim=2) / 2
    return ((weights * divergences).sum(dim=1) / weights.sum(dim=1)).mean()


def orthonormality(prototypes: Tensor) -> Tensor:
    """Return how far the prototypes of the classes are from orthonormal, once their mean is taken off.

    Args:
        prototypes: `(K, H, L)`.

    Returns:
        Scalar, the mean over classes of `|P̄ P̄ᵀ - 1|_F` with `P̄` the `(H, L)` prototypes less their mean. Because
        those add up to 0, it is at least 1, which it reaches where `P̄ P̄ᵀ` is the unit matrix less `1 / H` everywhere.

    Example:
        >>> orthonormality(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor(1.)
    """
    centred = prototypes - prototypes.mean(dim=1, keepdim=True)
    products = centred @ centred.mT
    return torch.linalg.matrix_norm(products - torch.eye(prototypes.shape[1]).to(products)).mean()


def randomly_flipped_and_moved(images: Tensor, padding: int = 2) -> Tensor:
    """Mirror each image with probability 0.5 and move it by up to `padding` pixels both ways, black coming in.

    Random numbers come from torch's global generator on the CPU.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, count, 1))
    columns = torch.where(torch.rand(count, 1) < 0.5, torch.arange(width).flip(0), torch.arange(width)) + left
    rows = torch.arange(height) + top
    samples = torch.arange(count)[:, None, None]
    return padded[samples, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _signed(pixels: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return 2 * pixels - 1


def _rows(values: Tensor, labels: Tensor) -> Tensor:
    """Take from `(B, K, …)` values those of each sample's label."""
    return values[torch.arange(len(labels), device=labels.device), labels]


def _form(image_shape: tuple[int, int, int]) -> Form:
    return "mnist" if any(side % 16 for side in image_shape[1:]) else "cifar"


def _grid(form: Form, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Size of the encoder's last map."""
    halvings = len(_WIDTHS[form])
    step, rest = (8, 4) if form == "quickdraw" else (2**halvings, 0)
    sides = image_shape[1:]
    if min(image_shape) < 1 or any(side < step or side % step != rest for side in sides):
        wanted = "8 n + 4" if rest else f"multiples of {step}"
        raise ValueError(
            f"`image_shape` must be (C, H, W) with H and W {wanted} for form `{form}`, was {tuple(image_shape)}"
        )
    return sides[0] // 2**halvings, sides[1] // 2**halvings


def _features(form: Form, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((channels, *_WIDTHS[form])):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]
        if form == "svhn":
            layers += [nn.Conv2d(outputs, outputs, 4, stride=2, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]
        else:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers)


def _pooled_first(features: nn.Sequential) -> nn.Sequential:
    """Put average pooling before batch normalisation, with which it commutes in evaluation mode.

    It then averages the non-negative outputs of a ReLU, none of which can cancel another.
    """
    layers = list(features)
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.AvgPool2d):
            layers[place - 1], layers[place] = layer, layers[place - 1]
    return nn.Sequential(*layers)


def _head(inputs: int, latent: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 2 * latent), nn.ReLU(), nn.Linear(2 * latent, 2 * latent))


def _decoder(form: Form, latent: int, grid: tuple[int, int], channels: int) -> nn.Sequential:
    width = _WIDTHS[form][-1]
    units = width * math.prod(grid)
    layers: list[nn.Module] = [nn.Linear(latent, units), nn.ReLU(), nn.BatchNorm1d(units)]
    layers.append(nn.Unflatten(1, (width, *grid)))
    for stage, outputs in enumerate(_DECODER_WIDTHS[form]):
        padding = 2 if form == "quickdraw" and stage == 2 else 1  # 12 pixels become 14, which double to 28
        layers += [nn.Conv2d(width, outputs, 3, padding=padding), nn.ReLU(), nn.BatchNorm2d(outputs)]
        layers += [nn.ConvTranspose2d(outputs, outputs, 4, stride=2, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]
        width = outputs
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())


def _initialize(model: ProtoVae) -> None:
    for part in (model.features, model.head, model.decoder):
        for layer in part:
            if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                continue
            if part is not model.decoder or isinstance(layer, nn.ConvTranspose2d):
                nn.init.uniform_(layer.weight, -_INITIAL_RANGE, _INITIAL_RANGE)
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            else:
                continue
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        own = F.one_hot(model.prototype_classes(), model.n_classes).T
        model.classifier.weight.copy_(own * 1.5 - 0.5)
