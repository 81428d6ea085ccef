"""Training a network so that its explanation of an image stays the same among distractors: the consistency loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.composites import composite, quadrants, tiles
from .option_checks import check_numbers, check_word

ConsistencyMap = Literal["elementwise", "gradcam"]
ConsistencyReduction = Literal["mean", "norm"]
_DISTRACTORS = 3


class FeatureClassifier(Protocol):
    """A network in two parts, whose last feature map is twice as large for images of twice the sides."""

    def feature_map(self, inputs: Tensor) -> Tensor:
        """Return `(B, D, h, w)`, the last feature map of `(B, C, H, W)` inputs."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Return `(B, K)` logits of feature maps of any size."""
        ...


@dataclass(frozen=True)
class Consistency:
    """How a network is held to consistent explanations while it is trained; part of a model's options.

    Attributes:
        weight: λ, by which the consistency loss is added to the classification loss; 0 leaves it out. The released
            code takes 25 for ImageNet and 1 for COCO, both with `reduction="mean"`.
        map: how the explanation is made (`class_activation`): `"elementwise"` as in the released training, or
            `"gradcam"`. Where features are averaged over positions both are the same after normalisation.
        reduction: `"mean"` over batch and cells, as released, or `"norm"`, the printed L1 norm of each sample, averaged
            over the batch: as many times the mean as the composite's map has cells.

    Raises:
        TypeError: `weight` is no number.
        ValueError: `weight` is negative, or an option is none of its words.
    """

    weight: float = 0.0
    map: ConsistencyMap = "elementwise"
    reduction: ConsistencyReduction = "mean"

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(consistency=self.weight)
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"`consistency` must be a number of at least 0, was {self.weight}")
        check_word("consistency_map", self.map, get_args(ConsistencyMap))
        check_word("consistency_reduction", self.reduction, get_args(ConsistencyReduction))


def consistent_training_loss(
    model: FeatureClassifier, images: Tensor, labels: Tensor, consistency: Consistency, *, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the loss of one batch, `classification + λ · consistency`, and the logits of its images.

    Each image is put into a random cell of a 2×2 composite of twice its sides, among three images of the batch that do
    not show its class. The network's explanation of the class on the composite is to be that on the image alone,
    pasted into the same cell. Both passes are made in training mode, each with batch statistics of its own; only the
    single images are classified. The gradient flows through both explanations.

    Departs from the released training in that distractors are images of the same batch instead of the whole training
    part, and cells are not cropped at random one by one. With several labels the class to explain is drawn among those
    present; released, among the annotated objects, so that classes with many objects are favoured.

    Args:
        model: the network, in two parts.
        images: `(B, C, H, W)`, normalised.
        labels: `(B,)` int64, or `(B, K)` bool for images that show several classes.
        consistency: weight and form.
        share: for how many images of the batch a composite is made, at least for one; all as published. Composites
            take four times the time of single images.

    Returns:
        The scalar loss and `(B, K)` logits. Random numbers come from torch's global generator on the CPU.

    Raises:
        ValueError: the map of a composite has not twice the sides of the map of an image.

    Reference:
        V. Pillai, H. Pirsiavash, "Explainable Models with Consistent Interpretations", AAAI 2021.
    """
    features = model.feature_map(images)
    logits = model.classify(features)
    loss = classification_loss(logits, labels)
    if consistency.weight == 0:
        return loss, logits
    rows, targets = drawn_targets(labels)
    count = math.ceil(share * len(rows))
    rows, targets, others = drawn_distractors(labels, rows[:count], targets[:count])
    if len(rows) == 0:
        return loss, logits
    cell = torch.randint(4, (len(rows),)).to(images.device)
    height, width = images.shape[-2:]
    combined = model.feature_map(composite(tiles(images[rows], images[others], cell), (2 * height, 2 * width)))
    alone = class_activation(features, logits, rows, targets, kind=consistency.map)
    together = class_activation(
        combined, model.classify(combined), torch.arange(len(rows)).to(rows), targets, kind=consistency.map
    )
    return loss + consistency.weight * consistency_loss(alone, together, cell, reduction=consistency.reduction), logits


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of `(B,)` labels, or `K` times the mean binary one of `(B, K)` bool labels.

    Binary cross-entropies are thereby added up over the classes, 80 in COCO, as released.

    Example:
        >>> classification_loss(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)) / torch.tensor(2.0).log()
        tensor(4.)
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return labels.shape[1] * F.binary_cross_entropy_with_logits(logits, labels.to(logits))


def class_activation(
    features: Tensor, logits: Tensor, rows: Tensor, targets: Tensor, *, kind: ConsistencyMap = "elementwise"
) -> Tensor:
    """Explain the logits of `targets` by a feature map, so that the explanation can be trained.

    `m_ij = max(0, Σ_k A^k_ij ∂f_t/∂A^k_ij)`; for `kind="gradcam"` the gradient is averaged over positions first. The
    graph through the gradient is kept.

    Args:
        features: `(B, D, h, w)`, what `logits` were computed from.
        logits: `(B, K)`.
        rows: `(n,)` rows of the batch to explain, each once.
        targets: `(n,)` the class to explain of each.
        kind: which explanation.

    Returns:
        `(n, h, w)`, at least 0.

    Example:
        >>> features = torch.tensor([[[[1.0, -2.0]]]], requires_grad=True)
        >>> class_activation(features, features.sum((2, 3)), torch.tensor([0]), torch.tensor([0]))
        tensor([[[1., 0.]]], grad_fn=<ClampBackward1>)
    """
    (gradient,) = torch.autograd.grad(logits[rows, targets].sum(), features, create_graph=True)
    if kind == "gradcam":
        gradient = gradient.mean(dim=(2, 3), keepdim=True)
    return (features * gradient).sum(dim=1)[rows].clamp(min=0)


def consistency_loss(
    alone: Tensor, together: Tensor, cell: Tensor, *, reduction: ConsistencyReduction = "mean"
) -> Tensor:
    """Compare the explanation of an image alone with that among distractors: `|g̃ − g|`, g being pasted into its cell.

    Both maps are divided by their sums (plus 1e-8) before. The released code adds 1e-8 to every cell of each map
    afterwards, which shifts the loss by less than that and is left out.

    Args:
        alone: `(B, h, w)` maps of the images, at least 0.
        together: `(B, 2h, 2w)` maps of the composites, at least 0.
        cell: `(B,)` where the image is: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
        reduction: `"mean"` over batch and cells, as released; `"norm"`, the sum over cells, as printed (eq. 5).

    Returns:
        A scalar: 0 where the maps agree; at most 2 for `"norm"`, where no part of them does.

    Raises:
        ValueError: `together` has not twice the sides of `alone`. (The released code then enlarges both maps to the
            size of the images, for AlexNet; that form is not offered.)

    Example:
        >>> alone = torch.tensor([[[3.0]]])
        >>> together = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])
        >>> consistency_loss(alone, together, torch.tensor([1])), consistency_loss(
        ...     alone, together, torch.tensor([1]), reduction="norm"
        ... )
        (tensor(0.2500), tensor(1.))
    """
    expected = (len(alone), 2 * alone.shape[1], 2 * alone.shape[2])
    if tuple(together.shape) != expected:
        raise ValueError(
            f"`together` must be {expected}, twice the sides of `alone`, was {tuple(together.shape)}; take images "
            "whose sides the network halves without remainder"
        )
    difference = (_normalized(together) - pasted(_normalized(alone), cell)).abs()
    return difference.mean() if reduction == "mean" else difference.sum(dim=(1, 2)).mean()


def pasted(maps: Tensor, cell: Tensor) -> Tensor:
    """Lay `(B, h, w)` maps into their cells of `(B, 2h, 2w)`, zeros elsewhere.

    Example:
        >>> pasted(torch.tensor([[[7.0]]]), torch.tensor([2]))
        tensor([[[0., 0.],
                 [7., 0.]]])
    """
    height, width = maps.shape[1:]
    inside = F.one_hot(cell, 4).to(maps)
    parts = maps[:, None] * inside[:, :, None, None]
    laid_out = maps.new_zeros(len(maps), 2 * height, 2 * width)
    for index, (rows, columns) in enumerate(quadrants(2 * height, 2 * width)):
        laid_out[:, rows, columns] = parts[:, index]
    return laid_out


def drawn_targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a batch that have a label and the class of each to explain, one of those present.

    Args:
        labels: `(B,)` int64, or `(B, K)` bool.
    """
    if labels.ndim == 1:
        return torch.arange(len(labels), device=labels.device), labels
    rows = labels.any(dim=1).nonzero()[:, 0]
    if len(rows) == 0:
        return rows, rows
    return rows, torch.multinomial(labels[rows].float().cpu(), 1)[:, 0].to(labels.device)


def drawn_distractors(labels: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each sample three images of the batch that do not show its class, with replacement.

    With one label each, a class is drawn uniformly among the others in the batch, then one of its images, as
    published; with several, an image uniformly.

    Args:
        labels: `(B,)` int64, or `(B, K)` bool, of the whole batch.
        rows: `(n,)` the samples.
        targets: `(n,)` the class of each.

    Returns:
        `rows` and `targets` of the `m` samples that have distractors at all, and their `(m, 3)` rows in the batch.
    """
    if labels.ndim == 1:
        others = (labels != targets[:, None]).float()
        weights = others / (labels[:, None] == labels).sum(dim=1)
    else:
        weights = (~labels[:, targets].T).float()
    possible = weights.sum(dim=1) > 0
    rows, targets, weights = rows[possible], targets[possible], weights[possible]
    if len(rows) == 0:
        return rows, targets, rows.new_zeros(0, _DISTRACTORS)
    return rows, targets, torch.multinomial(weights.cpu(), _DISTRACTORS, replacement=True).to(rows.device)


def _normalized(maps: Tensor) -> Tensor:
    return maps / (maps.sum(dim=(1, 2), keepdim=True) + 1e-8)
