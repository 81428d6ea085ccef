"""Activation maximisation with partial initialisation: pictures of what an attribute responds to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from .base import Interpretable
from .lent_model import lent
from .option_checks import check_counts
from .through_captum import gradients_enabled

Activation = Callable[[Tensor], Tensor]


def maximise(
    activation: Activation,
    inputs: Tensor,
    *,
    factor: float = 0.1,
    activation_weight: float = 2.0,
    bound_weight: float = 10.0,
    variation_weight: float = 6.0,
    bounds: tuple[float, float] = (0.0, 1.0),
    n_stages: int = 6,
    n_iterations: int = 50,
    learning_rate: float = 0.05,
) -> Tensor:
    """Change faint copies of images until they activate something strongly: AM+PI.

    From `x = factor · input` on, every image maximises

        C·activation(x) − λ_bo·Bo(x) − λ_tv·TV(x)

    with `Bo` the mean over all elements of `|x|·[x outside of the bounds]` and `TV` the mean magnitude of vertical
    differences plus that of horizontal ones. The inputs decide which of many maxima is found: what of an image excites
    the attribute comes forward, the rest stays faint. `x` is not clamped: where the activation rises faster than the
    penalties, values leave the bounds.

    The optimiser is Adam, begun anew in every stage with half the rate of the last one. Samples do not influence each
    other.

    The defaults are those of the paper: 6 stages, factor 0.1. The released script for MNIST and QuickDraw has 12 stages
    and 0.3, its notebook for MNIST 0.2; those for CIFAR-10 have weights 2, 20 and 20, bounds −2.5 and 2.5, and 0.4 to
    0.6.

    Args:
        activation: differentiable, from `(B, C, H, W)` to `(B,)`, each from its own image alone.
        inputs: `(B, C, H, W)` floating point, H and W at least 2.
        factor: how much of the input remains at the start.
        activation_weight: C.
        bound_weight: λ_bo.
        variation_weight: λ_tv.
        bounds: least and greatest value of a pixel.
        n_stages: how often the rate begins anew.
        n_iterations: steps of a stage.
        learning_rate: of the first stage.

    Returns:
        `(B, C, H, W)`, cut off from the gradient graph.

    Raises:
        ValueError: a number is not as stated.

    Reference:
        J. Parekh, P. Mozharovskyi, F. d'Alché-Buc, "A Framework to Learn with Interpretation", NeurIPS 2021; A.
        Mahendran, A. Vedaldi, "Visualizing Deep Convolutional Neural Networks Using Natural Pre-images", IJCV 2016.

    Example:
        >>> wanted = torch.tensor([[[[0.25, 0.5], [0.5, 0.75]]]])
        >>> nearness = lambda x: -(x - wanted).square().sum(dim=(1, 2, 3))
        >>> found = maximise(nearness, torch.zeros(1, 1, 2, 2), variation_weight=0.0)
        >>> torch.allclose(found, wanted, atol=1e-3)
        True
    """
    check_counts(n_stages=n_stages, n_iterations=n_iterations)
    if inputs.ndim != 4 or min(inputs.shape[2:]) < 2:
        raise ValueError(f"`inputs` must be (B, C, H, W) with H and W at least 2, was {tuple(inputs.shape)}")
    if not bounds[0] < bounds[1]:
        raise ValueError(f"`bounds` must be two numbers, ascending, was {bounds}")
    with gradients_enabled():
        images = (factor * inputs.detach()).clone().requires_grad_()
        for stage in range(n_stages):
            optimizer = Adam([images], lr=learning_rate * 0.5**stage)
            for _ in range(n_iterations):
                penalty = bound_weight * outside(images, bounds) + variation_weight * variation(images)
                loss = (penalty - activation_weight * activation(images)).sum()
                (images.grad,) = torch.autograd.grad(loss, images)
                optimizer.step()
    return images.detach()


def maximise_attributes(model: nn.Module, inputs: Tensor, attributes: Tensor, **options: Any) -> Tensor:
    """Apply `maximise` to attributes of a model's interpreter, in evaluation mode.

    Args:
        model: a model with an interpreter (`interpeval.baselines.base.Interpretable`), given back as it was.
        inputs: `(B, C, H, W)`, such as maximum activating samples.
        attributes: `(B,)` int64, which attribute each image is to activate.
        options: those of `maximise`.

    Returns:
        `(B, C, H, W)`.

    Raises:
        TypeError: the model has no interpreter.

    Example:
        >>> from interpeval.baselines.flint import Flint
        >>> images = torch.rand(2, 1, 8, 8)
        >>> maximise_attributes(Flint((1, 8, 8), 3), images, torch.tensor([0, 4]), n_stages=1).shape
        torch.Size([2, 1, 8, 8])
    """
    if not isinstance(model, Interpretable):
        raise TypeError(f"`model` must have an interpreter, `interpret(inputs)`; {type(model).__name__} has none")

    def activation(images: Tensor) -> Tensor:
        return model.interpret(images).activations.gather(1, attributes[:, None])[:, 0]

    with lent(model):
        model.eval()
        return maximise(activation, inputs, **options)


def outside(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return `(B,)`, the mean over the elements of `|x|·[x outside of the bounds]`.

    Example:
        >>> outside(torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]]]), (0.0, 1.0))
        tensor([1.])
    """
    beyond = (images < bounds[0]) | (images > bounds[1])
    return (images.abs() * beyond).flatten(1).mean(dim=1)


def variation(images: Tensor) -> Tensor:
    """Return `(B,)`, the mean magnitude of vertical differences plus that of horizontal ones.

    Example:
        >>> variation(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]]))  # (0 + 2)/2 + (1 + 3)/2
        tensor([3.])
    """
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.abs().flatten(1).mean(dim=1) + across.abs().flatten(1).mean(dim=1)
