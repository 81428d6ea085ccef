"""Perceptual ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .base import Reduction
from .cam_layer import named_layer
from .layer_outputs import last_of_each_resolution, outputs_of
from .option_checks import check_counts
from .through_captum import gradients_enabled

_LEARNING_RATE = 0.1  # of the root mean square of the perturbation that a linear model would need
_ROUNDS = 15
_STIFFNESS = 10.0


@dataclass(frozen=True)
class PerceptualBall:
    """Attribute by how much each pixel changes in the smallest perceptible change that makes the class lose.

    `a = |x' − x|` with `x' = argmin ‖x' − x‖² + w Σ_l ‖φ_l(x') − φ_l(x)‖²` such that `f_t(x') ≤ max_(j ≠ t) f_j(x')`,
    where `φ_l` is the output of layer `l` and norms are over all of its elements. An input whose target is not the
    highest logit needs no change, and its attribution is 0 everywhere.

    This is our reading of the paper's problem. How it is solved is our own choice, because no released code was at
    hand: an augmented Lagrangian with a multiplier for each sample, the logit gap scaled by its value at `x` and the
    distance by that of the smallest change that would do if the model were linear; Adam, with a rate that falls to 0 by
    a cosine; 15 updates of the multiplier. The search is local: among the classes that may win instead it does not look
    for the nearest. The paper's own solver, the layers it takes, how it weighs them, and whether it wants a margin
    between the logits could not be verified.

    Attributes:
        reduction: how channels become a heatmap.
        layers: names of the layers, as in `model.named_modules()`; by default `last_of_each_resolution`. `()` is the
            plain smallest adversarial perturbation.
        perceptual_weight: `w`.
        n_steps: steps of the optimisation, each a forward and a backward pass.
        batch_size: samples that are optimised at once.

    Raises:
        ValueError: from `attribute`, for a model with one output, an unknown layer, a model without spatial layers
            where none are named, or an option out of its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        >>> explainer = PerceptualBall(layers=())
        >>> explainer.attribute(model, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([0])).round(decimals=2)
        tensor([[[[2., 2.]]]])
    """

    name: ClassVar[str] = "perceptual_ball"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = None
    reference: ClassVar[str] = "Elliott, Law, Russell 2021, arXiv:1912.09405"

    reduction: Reduction = "sum"
    layers: tuple[str, ...] | None = None
    perceptual_weight: float = 1.0
    n_steps: int = 300
    batch_size: int = 4

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the magnitudes of the change, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        check_counts(n_steps=self.n_steps, batch_size=self.batch_size)
        if self.perceptual_weight < 0:
            raise ValueError(f"`perceptual_weight` must be 0 or more, was {self.perceptual_weight}")
        layers = self._layers(model, inputs)
        with gradients_enabled():
            parts = zip(inputs.split(self.batch_size), targets.clone().split(self.batch_size), strict=True)
            return torch.cat([self._change(model, layers, images.detach().clone(), of) for images, of in parts]).abs()

    def _layers(self, model: nn.Module, inputs: Tensor) -> list[nn.Module]:
        """The layers whose outputs are to stay as they are."""
        if isinstance(self.layers, str):
            raise TypeError(f"`layers` must be a tuple of names, such as ({self.layers!r},); was {self.layers!r}")
        if self.layers is not None:
            return [named_layer(model, name) for name in self.layers]
        found = last_of_each_resolution(model, inputs[:1])
        if not found:
            raise ValueError("`layers` must be given: no module of the model has a (B, C, h, w) output; () is none")
        return found

    def _change(self, model: nn.Module, layers: list[nn.Module], images: Tensor, targets: Tensor) -> Tensor:
        """`x' − x` of some samples."""
        problem = _Problem(model, layers, images, targets, self.perceptual_weight)
        scale = problem.scale()
        multiplier = torch.zeros_like(scale.gap)
        units = torch.zeros_like(images).requires_grad_()
        adam = _Adam(units)
        rounds = max(1, self.n_steps // _ROUNDS)
        for step in range(self.n_steps):
            distance, gap = problem.at(scale.length * units)
            lead = gap / scale.gap
            held = (lead + multiplier / _STIFFNESS).clamp(min=0)
            loss = (distance / scale.distance + _STIFFNESS / 2 * held.square()) * scale.wanted
            (gradient,) = torch.autograd.grad(loss.sum(), units)
            rate = _LEARNING_RATE * (1 + math.cos(math.pi * step / self.n_steps)) / 2
            units = (units.detach() - rate * adam.step(gradient)).requires_grad_()
            if (step + 1) % rounds == 0:
                multiplier = (_STIFFNESS * held).detach()
        return (scale.length * units).detach()


class _Adam:
    """The steps of Adam (Kingma, Ba 2015). Of torch's own, the first step takes seconds to import a compiler."""

    def __init__(self, like: Tensor) -> None:
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)
        self._number = 0

    def step(self, gradient: Tensor) -> Tensor:
        """The step for a learning rate of 1."""
        self._number += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient.square()
        mean, square = self._mean / (1 - 0.9**self._number), self._square / (1 - 0.999**self._number)
        return mean / (square.sqrt() + 1e-12)


class _Scale(NamedTuple):
    """What the quantities of each sample are divided by, so that one rate and one stiffness serve for all.

    Attributes:
        gap: `(B,)`, the gap of the logits at `x`.
        distance: `(B,)`, the distance of the change that would close it if the model were linear.
        length: `(B, 1, 1, 1)`, the root mean square of that change.
        wanted: `(B,)`, 1 where a change is wanted and can be had, else 0.
    """

    gap: Tensor
    distance: Tensor
    length: Tensor
    wanted: Tensor


class _Problem:
    """What is to be small and what is to fall below 0, as functions of the change."""

    def __init__(
        self, model: nn.Module, layers: list[nn.Module], images: Tensor, targets: Tensor, weight: float
    ) -> None:
        self._model = model
        self._layers = layers
        self._images = images
        self._targets = targets
        self._weight = weight
        with torch.no_grad(), outputs_of(layers) as outputs:
            model(images)
        self._held = list(outputs)

    def at(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """The `(B,)` distances and gaps of the logits."""
        with outputs_of(self._layers) as outputs:
            logits: Tensor = self._model(self._images + change)
        distance = change.square().flatten(1).sum(dim=1)
        for output, held in zip(outputs, self._held, strict=True):
            distance = distance + self._weight * (output - held).square().flatten(1).sum(dim=1)
        return distance, self._gap(logits)

    def scale(self) -> _Scale:
        """Where the problem starts from."""
        change = torch.zeros_like(self._images).requires_grad_()
        _, gap = self.at(change)
        (gradient,) = torch.autograd.grad(gap.sum(), change)
        steepness = gradient.square().flatten(1).sum(dim=1)
        wanted = (gap > 0) & (steepness > 0)
        linear = (gap / steepness.where(wanted, 1)).view(-1, 1, 1, 1) * gradient
        with torch.no_grad():
            distance, _ = self.at(-linear)
        length = linear.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return _Scale(gap.detach().where(wanted, 1), distance.where(wanted, 1), length, wanted.to(gap.dtype))

    def _gap(self, logits: Tensor) -> Tensor:
        """`(B,)`: by how much the target leads."""
        if logits.shape[1] == 1:
            raise ValueError("`perceptual_ball` needs two classes or more, the model has one output")
        others = logits.scatter(1, self._targets[:, None], -torch.inf).amax(dim=1)
        return logits.gather(1, self._targets[:, None])[:, 0] - others
