"""NAM, a neural additive model: a sum of curves, one for each pixel and class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.base import Dataset
from .model_checks import check_input_size
from .option_checks import check_counts, check_numbers, check_word

Units = Literal["linrelu", "exu"]

_RECIPE: Mapping[str, Any] = {
    "epochs": 20,
    "batch_size": 128,
    "learning_rate": 1e-2,
    "optimizer": "adam",
    "schedule": "one_cycle",
    "output_penalty": 0.1,
}


class Nam(nn.Module):
    """Neural additive model for images: every element of the input has a small network of its own.

        logit_c(x) = b_c + Σ_i f_ic(x_i)

    Nothing couples two pixels, so the model can be read off its curves `f_ic`, and what a pixel adds to a logit is
    known exactly. The network of an element has one layer of U units of its value v, and weights to each class:

    * `units="linrelu"`: `relu((v − c) w)`;
    * `units="exu"`: `min(relu((v − c) exp(w)), 1)`, which can bend sharply; w is drawn from N(4, 0.5) and c from
      N(0, 0.5), both cut off at two deviations.

    All of them are computed side by side. Elements that are the same in all training samples, such as the margin of
    MNIST, are left out; which ones they are is found at the start of training and kept in the state
    (`begin_epoch`).

    The explanation that this model gives of itself is `a_i = f_ic(x_i) + b_c / n` for the n elements that are not left
    out, and 0 for the others: `Σ f_ic(x_i)` is the logit without its bias, and because the bias belongs to no pixel,
    each gets the same small part of it, so that the elements add up to the logit. `contributions` has the bare
    `f_ic(x_i)`.

    The loss of a batch is `CE(f(x), y) + λ · mean of f_ic(x_i)²` over samples, elements and classes. While training,
    units are dropped, and whole elements (with probability `dropout`).

    Published for tables with one output; several outputs, and the narrow layer, are ours. The released code
    (AmrMKayid/nam) takes the decay of the learning rate, 0.995, for the weight decay, and drops the values of f as well
    as its units; neither is imitated.

    Args:
        image_shape: `(C, H, W)`.
        n_classes: number of logits.
        units: `"linrelu"` or `"exu"`.
        width: U; 1000 in the paper, for a few features.
        dropout: probability with which units, and elements, are dropped while training.

    Raises:
        TypeError: `width` is no whole number, or `dropout` no number.
        ValueError: an option is not as stated.

    Reference:
        R. Agarwal et al., "Neural Additive Models: Interpretable Machine Learning with Neural Nets", NeurIPS 2021.

    Example:
        >>> model = Nam((1, 8, 8), 3).eval()
        >>> images, targets = torch.rand(2, 1, 8, 8), torch.tensor([2, 0])
        >>> explanation = model.attribute(images, targets)
        >>> torch.allclose(explanation.sum((1, 2, 3)), model(images)[[0, 1], targets], atol=1e-5)
        True
    """

    name: ClassVar[str] = "nam"
    own_sums_to: ClassVar[str | None] = "logit"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        units: Units = "linrelu",
        width: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_word("units", units, ("linrelu", "exu"))
        check_counts(width=width)
        check_numbers(dropout=dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, was {dropout}")
        self.image_shape = tuple(image_shape)
        self.curves = _Curves(math.prod(image_shape), n_classes, units=units, width=width, dropout=dropout)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset; `output_penalty` is the λ of the loss."""
        epochs = 1 if dataset_name == "digit_scenes" else _RECIPE["epochs"]  # 12,288 networks take their time
        return {**_RECIPE, "epochs": epochs}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        return self.contributions(inputs).sum(dim=1) + self.curves.bias

    def contributions(self, inputs: Tensor) -> Tensor:
        """Return `(B, C·H·W, K)`, what each element adds to each logit, `f_ic(x_i)`."""
        check_input_size(inputs, self.image_shape)
        return self.curves(inputs.flatten(1))

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, C, H, W)`, what each element adds to the logits of `targets`; see the class."""
        rows = torch.arange(len(inputs), device=inputs.device)
        own = self.contributions(inputs)[rows, :, targets]
        kept = self.curves.varies.to(own)
        return (own + self.curves.bias[targets, None] * kept / kept.sum().clamp(min=1)).view_as(inputs)

    def begin_epoch(self, epoch: int, recipe: Mapping[str, Any], dataset: Dataset) -> None:
        """Find out, before the first epoch, which elements vary in the training samples."""
        del recipe
        if epoch == 1:
            self.curves.varies.copy_(varying_elements(dataset))

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and its `(B, K)` logits."""
        parts = self.contributions(images)
        logits = parts.sum(dim=1) + self.curves.bias
        return F.cross_entropy(logits, labels) + recipe["output_penalty"] * parts.square().mean(), logits


def varying_elements(dataset: Dataset, *, batch_size: int = 512) -> Tensor:
    """Return `(C·H·W,)` bool: which elements are not the same in all samples of a dataset."""
    low = high = None
    for batch in dataset.batches(batch_size):
        least, most = batch.images.flatten(1).aminmax(dim=0)
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
    if low is None or high is None:
        raise ValueError(f"`dataset` must hold at least one sample, `{dataset.name}` is empty")
    return low < high


class _Curves(nn.Module):
    """`(B, P)` to `(B, P, K)`: P networks side by side."""

    varies: Tensor

    def __init__(self, count: int, n_classes: int, *, units: Units, width: int, dropout: float) -> None:
        super().__init__()
        self.units: Units = units
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(count, width))
        self.centre = nn.Parameter(torch.empty(count, width))
        self.output = nn.Parameter(torch.empty(count, width, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.register_buffer("varies", torch.ones(count, dtype=torch.bool))
        if units == "exu":
            nn.init.trunc_normal_(self.weight, 4.0, 0.5, 3.0, 5.0)
            nn.init.trunc_normal_(self.centre, 0.0, 0.5, -1.0, 1.0)
        else:
            nn.init.xavier_uniform_(self.weight)
            nn.init.trunc_normal_(self.centre, 0.0, 0.5, -1.0, 1.0)
        nn.init.uniform_(self.output, -1 / math.sqrt(width * count), 1 / math.sqrt(width * count))

    def forward(self, values: Tensor) -> Tensor:
        away = values[:, :, None] - self.centre
        hidden = (away * self.weight.exp()).clamp(0, 1) if self.units == "exu" else (away * self.weight).relu()
        hidden = F.dropout(hidden, self.dropout, self.training)
        parts = torch.einsum("bpu,puk->bpk", hidden, self.output)
        keep = self.varies.to(parts).expand(len(values), -1)
        return parts * F.dropout(keep, self.dropout, self.training)[:, :, None]
