"""What an explainer is, what a self-explaining model is, and how attributions become heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

Reduction = Literal["max_abs", "sum", "none"]

DEFAULT_THREADS = 2
"""CPU threads that a model is trained with where its recipe names no number."""


@runtime_checkable
class Explainer(Protocol):
    """Anything that attributes a model's output to its input.

    One method is enough. The fields of an explainer are its configuration: the constructor stores them and does
    nothing else, so that an explainer can be printed, compared and recorded. The model is an argument, and
    whatever an explainer hooks or changes in it is given back on exit, also after an exception.

    Optional members, read with their defaults by the engine:

    * `name: ClassVar[str]`, what tables call it (default: the class name);
    * `reduction: Reduction`, how channels become one heatmap (default `"sum"`; see `heatmap`);
    * `rectified: ClassVar[bool]`, whether the method is defined with its negative part cut off (default false);
    * `needs: ClassVar[frozenset[str]]`, further keyword arguments that `attribute` wants:
      `"keys"`, `(B,)` int64 to draw random numbers by (`interpeval.datasets.philox`), and
      `"masks"`, `(B, H, W)` bool object masks of the inputs (controls only);
    * `control: ClassVar[bool]`, true for explainers that only mark a floor or a ceiling;
    * `refuses(model) -> str | None`, the reason why the method does not apply to a model;
    * `needs_gradient: ClassVar[bool]`, whether it differentiates the model (default false: it is then asked about a
      model without gradients as well, and fails with a message if it does differentiate; see `has_gradients`);
    * `sums_to: ClassVar[str | None]`, what the attributions add up to: `"logit"`, the target's logit;
      `"difference"`, what it is above that of the reference input; `None` (default), nothing in particular;
      `"own"`, what the model says in `own_sums_to`;
    * `reference_input: float`, the value of every element of the reference input, normalised (default 0);
    * `target_free: ClassVar[bool]`, whether it explains a model's whole output vector rather than one of its
      elements (default false); it is then asked with targets of 0;
    * `expected_failures: ClassVar[Mapping[str, str]]`, checks of `interpeval conform` that it fails by its nature, with
      the reason (default none).
    """

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Attribute the logits of `targets` to `inputs`.

        Args:
            model: a classifier in evaluation mode, `(B, C, H, W)` to `(B, K)` logits.
            inputs: `(B, C, H, W)` float32, normalised.
            targets: `(B,)` int64, the class to explain for each input.

        Returns:
            `(B, C, h, w)` or `(B, 1, h, w)`; `h, w` may be smaller than `H, W`.
        """
        ...


@runtime_checkable
class SelfExplaining(Protocol):
    """A classifier that explains itself; the explainer `own` hands its explanation to the engine.

    An `nn.Module` whose `forward` returns `(B, K)` logits, and which also has `attribute`. Optional members:
    `own_reduction: Reduction`, how the channels of its attribution become a heatmap (default `"sum"`), and
    `own_sums_to: str | None`, what its attribution adds up to (`Explainer.sums_to`, default `None`).
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits."""
        ...

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return this model's own attribution of the logits of `targets`, `(B, 1|C, h, w)`."""
        ...


class Interpretation(NamedTuple):
    """What the interpreter of a model says about some inputs.

    Attributes:
        logits: `(B, K)` logits of the interpreter g, beside those of the predictor f that the model returns.
        activations: `(B, J)` activations of its attributes.
        weights: `(J, K)` weights by which they enter the logits.
    """

    logits: Tensor
    activations: Tensor
    weights: Tensor


@runtime_checkable
class Interpretable(Protocol):
    """A classifier with an interpreter, a second classifier g made of a few attributes (FLINT).

    An `nn.Module` whose `forward` returns the `(B, K)` logits of the predictor f.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of the predictor."""
        ...

    def interpret(self, inputs: Tensor) -> Interpretation:
        """Return what the interpreter says about `(B, C, H, W)` inputs."""
        ...


class TrainableModel(Protocol):
    """A built-in model: an `nn.Module` that can be built for a dataset and trained on the spot.

    `name: ClassVar[str]` is its name in the catalog. The constructor may have options, keyword-only and with defaults,
    which names set (`site?width=32`). All that is learnt lives in parameters and buffers.

    Optional members, read by the training loop (`interpeval.bench.training`), which seeds torch's global generators
    around all of them; `dataset` is the part that is trained on:

    * `parameter_groups(recipe) -> list[dict]`, the optimiser's groups (default: one of all parameters);
    * `begin_epoch(epoch, recipe, dataset)`, called in training mode before every epoch, counted from 1: set what
      `training_loss` weighs in this epoch, free or freeze parameters (`requires_grad_`). What it sets that is no
      parameter or buffer must follow from its arguments, because a resumed training begins at a later epoch;
    * `end_epoch(epoch, recipe, dataset)`, likewise after every epoch; it leaves training mode as it found it. Shapes
      of parameters stay as they are;
    * `finish(recipe, dataset)`, called once after the last epoch, in evaluation mode;
    * `fit(dataset, recipe, seed)`, in place of `training_loss`, for a model that is fitted in one go;
    * `adapt_to(state)`, for a model with shapes that depend on what it learnt: take those of the tensors of a state
      dict, which is loaded next.
    """

    name: ClassVar[str]

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        """Build the network for `(C, H, W)` inputs and `n_classes` logits."""
        ...

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset.

        `epochs`, `batch_size` and `learning_rate`; optionally `weight_decay`, `optimizer`, `momentum`, `schedule` and
        its numbers (`interpeval.bench.optimisation`), and `threads`, the number of CPU threads while training (default
        2); and whatever else `training_loss` and the optional members read.
        """
        ...

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the scalar loss of one batch and the `(B, K)` logits that accuracy is counted by."""
        ...


def is_encoder(model: nn.Module) -> bool:
    """Whether a model says, by `encoder = True`, that its `(B, D)` output is a representation, not logits of classes.

    It is then scored by metrics with `target="none"` alone, which explain the output as a whole.

    Example:
        >>> network = nn.Flatten()
        >>> network.encoder = True
        >>> is_encoder(network), is_encoder(nn.Flatten())
        (True, False)
    """
    return getattr(model, "encoder", False) is True  # a layer of a classifier may be called so


def has_gradients(model: nn.Module) -> bool:
    """Whether a model's logits can be differentiated; one that cannot, such as a tree, says `differentiable = False`.

    Explainers that state `needs_gradient`, and metrics that need `"gradient"`, do not apply to it.

    Example:
        >>> network = nn.Flatten()
        >>> network.differentiable = False
        >>> has_gradients(network), has_gradients(nn.Flatten())
        (False, True)
    """
    return bool(getattr(model, "differentiable", True))


def model_name(model: nn.Module) -> str:
    """Return the name by which messages speak of a model: its own, or its class's."""
    return str(getattr(model, "name", type(model).__name__))


def heatmap(attributions: Tensor, size: tuple[int, int], reduction: Reduction, *, rectified: bool = False) -> Tensor:
    """Turn attributions into the heatmaps that metrics score.

    Channels are reduced, and maps coarser than the input are enlarged bilinearly (`align_corners=False`).

    Args:
        attributions: `(B, C, h, w)`.
        size: `(H, W)` of the input.
        reduction: `"max_abs"` (largest magnitude over channels), `"sum"` (signed sum) or `"none"` (one channel).
        rectified: cut off the negative part, before enlarging.

    Returns:
        `(B, H, W)` in the floating-point type of `attributions`.

    Raises:
        ValueError: `reduction` is unknown, or `"none"` met more than one channel.

    Example:
        >>> import torch
        >>> heatmap(torch.tensor([[[[1.0]], [[-3.0]]]]), (1, 1), "sum").item()
        -2.0
    """
    if reduction == "max_abs":
        maps = attributions.abs().amax(dim=1, keepdim=True)
    elif reduction == "sum":
        maps = attributions.sum(dim=1, keepdim=True)
    elif reduction == "none":
        if attributions.shape[1] != 1:
            raise ValueError(
                f'`reduction="none"` needs one channel, got {attributions.shape[1]}; use "sum" or "max_abs"'
            )
        maps = attributions
    else:
        raise ValueError(f'`reduction` must be "max_abs", "sum" or "none", was {reduction!r}')
    if rectified:
        maps = maps.clamp(min=0)
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps[:, 0]
