"""Infidelity: does an attribution foretell what a perturbation of the image does to the output?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from captum.metrics import infidelity
from torch import Tensor

from ..datasets.base import Normalization
from ..datasets.philox import uniform
from .base import Evidence, Metric, Scores, Status, TargetRule, nan_where, predictions, status_of
from .localisation import check_choice
from .monte_carlo import Fill, check_fill, fill_value, mean_over_draws

Perturbation = Literal["gaussian", "square"]


def spread_over_inputs(attributions: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Give every input element an attribution: upsampled as heatmaps are, one channel shared out evenly.

    Args:
        attributions: `(B, C, h, w)` or `(B, 1, h, w)`.
        size: `(C, H, W)` of the images.

    Returns:
        `(B, C, H, W)` float64; a map of one channel is divided by C, so that the channels add up to it.

    Example:
        >>> spread_over_inputs(torch.ones(1, 1, 1, 1), (4, 1, 2)).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    channels, height, width = size
    values = attributions.double()
    if values.shape[-2:] != (height, width):
        values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    return values if values.shape[1] == channels else (values / channels).expand(-1, channels, -1, -1)


def gaussian_noise(images: Tensor, keys: Tensor, draw: int, *, std: float, seed: int = 0) -> Tensor:
    """Draw independent Gaussian noise for every element of every image, keyed by (seed, sample key, draw).

    Args:
        images: `(B, C, H, W)`, for shape and type.
        keys: `(B,)` int64 sample keys.
        draw: which Monte Carlo repetition.
        std: standard deviation.
        seed: the run's seed.

    Returns:
        `(B, C, H, W)` in the type of `images`.
    """
    share = uniform(seed, "infidelity/gaussian", keys, draw, images[0].numel())
    return (std * torch.special.ndtri(share)).to(images.dtype).view_as(images)


def random_square(keys: Tensor, draw: int, *, side: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw a square that lies within the image, all places being equally likely, by (seed, sample key, draw).

    Args:
        keys: `(B,)` int64 sample keys.
        draw: which Monte Carlo repetition.
        side: of the square in pixels, at most the shorter side of the image.
        size: `(H, W)`.
        seed: the run's seed.

    Returns:
        `(B, H, W)` bool, true in the square.

    Example:
        >>> from interpeval.datasets.philox import sample_keys
        >>> int(random_square(sample_keys(["a"]), 0, side=3, size=(5, 9)).sum())
        9
    """
    share = uniform(seed, "infidelity/square", keys, draw, 2)
    inside: list[Tensor] = []
    for axis, length in enumerate(size):
        start = (share[:, axis] * (length - side + 1)).long()[:, None]
        place = torch.arange(length, device=keys.device)
        inside.append((place >= start) & (place < start + side))
    return inside[0][:, :, None] & inside[1][:, None, :]


@dataclass(frozen=True)
class Infidelity(Metric):
    """Infidelity: mean squared error of what an attribution foretells of perturbed outputs (Captum's); lower is better.

    With the logit f of the class explained, the attribution a of every input element, and draws of a perturbation I

        infidelity = mean over draws of (Σ a·I − (f(x) − f(x − I)))²        from 0, in squared logits

    computed by `captum.metrics.infidelity`, one draw at a time,. The perturbations are:

    * `"gaussian"`: I is noise of standard deviation `std` in pixel values of [0, 1], independent for every element.
      It asks for a gradient: attributions that belong to small changes of the input;
    * `"square"`: a random square of `side` times the shorter side, all channels, is replaced by `fill`, and Σ a·I is
      the sum of the attributions in it. It asks for shares of the output: attributions that add up to it.

    `normalize=True` multiplies each sample's attribution by the factor that suits it best (Captum's `normalize`), so
    that only its pattern counts; without, methods of different scale cannot be compared. A map of one channel
    is shared out evenly over the channels. A map that is 0 throughout scores the mean squared change of the logit
    and is degenerate.

    Every draw is keyed by (seed, sample, draw): unlike with Captum's own perturbations, no value depends on the batch.
    The variance is that of the mean over draws; `normalize` fits its factor to all draws, so it has none.

    Attributes:
        perturbation: `"gaussian"` or `"square"`.
        std: standard deviation of the noise, in pixel values; Captum's documentation has 0.003.
        side: of the square, as a share of the shorter side of the image.
        fill: what is in the square: `"black"`, `"mean"` or a pixel value.
        n_draws: perturbations per sample.
        normalize: scale each attribution to fit best.
        target: class explained, `"predicted"` or `"label"`.

    Example:
        >>> Infidelity(n_draws=2).facts("").higher_is_better
        False
    """

    name: ClassVar[str] = "infidelity"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019"

    perturbation: Perturbation = "gaussian"
    std: float = 0.003
    side: float = 0.25
    fill: Fill = "mean"
    n_draws: int = 10
    normalize: bool = False
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        check_choice("perturbation", self.perturbation, ("gaussian", "square"))
        if not 0 < self.std < float("inf"):
            raise ValueError(f"`std` must be above 0 and finite, was {self.std}")
        if not 0 < self.side <= 1:
            raise ValueError(f"`side` must be above 0 and at most 1, was {self.side}")
        check_fill(self.fill)
        if self.n_draws < 1:
            raise ValueError(f"`n_draws` must be at least 1, was {self.n_draws}")
        check_choice("target", self.target, ("predicted", "label"))

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        batch, raw = evidence.batch, evidence.attributions(self.target)
        channels, height, width = batch.images.shape[1:]
        attributions = spread_over_inputs(raw, (channels, height, width))
        ask = partial(
            infidelity,
            partial(_logits, evidence),
            self._perturb(evidence),
            batch.images,
            attributions,
            target=evidence.targets(self.target),
            max_examples_per_batch=len(batch),  # Captum takes this for one draw at a time
        )
        if self.normalize:
            values, variance = ask(n_perturb_samples=self.n_draws, normalize=True), None
            values = values.clamp(min=0)  # the expanded square may come out below 0 by rounding
        else:
            draws = [ask(n_perturb_samples=1) for _ in range(self.n_draws)]
            values, variance = mean_over_draws(torch.stack(draws, dim=1))
        silent = (raw == 0).flatten(1).all(dim=1)
        status = status_of(len(batch), values.device, degenerate=silent, invalid=~values.isfinite())
        return {"": Scores(nan_where(values, status >= Status.NO_TRUTH), status, variance)}

    def _perturb(self, evidence: Evidence) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return what makes Captum's (perturbation, perturbed images): at its first call of draw 0, and so on."""
        keys, normalization, seed, draws = evidence.batch.keys, evidence.normalization, evidence.seed, count()

        def gaussian(images: Tensor) -> tuple[Tensor, Tensor]:
            noise = gaussian_noise(images, keys, next(draws), std=self.std, seed=seed)
            perturbed = images - in_input_space(noise, normalization)
            return images.double() - perturbed.double(), perturbed  # as it was rounded, not as it was drawn

        def square(images: Tensor) -> tuple[Tensor, Tensor]:
            height, width = images.shape[-2:]
            side = max(1, round(self.side * min(height, width)))
            inside = random_square(keys, next(draws), side=side, size=(height, width), seed=seed)[:, None]
            fill = fill_value(self.fill, normalization, images)
            return inside.double().expand_as(images), torch.where(inside, fill, images)

        return gaussian if self.perturbation == "gaussian" else square


def in_input_space(change: Tensor, normalization: Normalization) -> Tensor:
    """Express a `(B, C, H, W)` change of pixel values in the model's input space.

    Example:
        >>> in_input_space(torch.ones(1, 1, 1, 1), Normalization((0.5,), (0.25,))).item()
        4.0
    """
    return change / change.new_tensor(normalization.std).view(-1, 1, 1)


def _logits(evidence: Evidence, images: Tensor) -> Tensor:
    """In float64, because Captum expands squares of differences that nearly cancel."""
    return predictions(evidence, images).double()
