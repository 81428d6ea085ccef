"""Max-sensitivity: how much can an explanation change when the image hardly does?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.metrics import sensitivity_max
from torch import Tensor

from ..datasets.philox import derived_keys, uniform
from .base import Evidence, Inputs, Metric, Scores, Status, TargetRule, nan_where, status_of
from .infidelity import in_input_space
from .localisation import check_choice


def uniform_noise(images: Tensor, keys: Tensor, draw: int, *, radius: float, seed: int = 0) -> Tensor:
    """Draw independent uniform noise in [-radius, radius] for every element, keyed by (seed, sample key, draw).

    Args:
        images: `(B, C, H, W)`, for shape and type.
        keys: `(B,)` int64 sample keys.
        draw: which Monte Carlo repetition.
        radius: of the L∞ ball.
        seed: the run's seed.

    Returns:
        `(B, C, H, W)` in the type of `images`.
    """
    share = uniform(seed, "max_sensitivity/noise", keys, draw, images[0].numel())
    return (radius * (2 * share - 1)).to(images.dtype).view_as(images)


@dataclass(frozen=True)
class MaxSensitivity(Metric):
    """Max-sensitivity: the largest change of an attribution over perturbed copies of the image; lower is better.

        max over draws of ‖a(x + δ) − a(x)‖ / ‖a(x)‖        from 0

    with the attribution a of all channels as the explainer gave it, the norm that of its elements, the class that is
    explained for x itself, and δ uniform in the L∞ ball of `radius`; computed by `captum.metrics.sensitivity_max`, one
    draw at a time. Where a(x) is 0 throughout, the change is not divided, and the sample is degenerate. It is a maximum
    over the draws, so it grows with `n_draws` and carries no variance.

    Departs from Captum's defaults in the radius, which is in pixel values of [0, 1] and not in the input space of the
    model, so that models of different normalisation are perturbed alike; and every draw is keyed by (seed,
    sample, draw), so that no value depends on the batch.

    Attributes:
        radius: largest change of a pixel value.
        n_draws: perturbed copies per sample.
        target: class explained, `"predicted"` (of the unperturbed image) or `"label"`.

    Example:
        >>> MaxSensitivity(n_draws=2).radius
        0.02
    """

    name: ClassVar[str] = "max_sensitivity"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019"

    radius: float = 0.02
    n_draws: int = 10
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"`radius` must be above 0 and finite, was {self.radius}")
        if self.n_draws < 1:
            raise ValueError(f"`n_draws` must be at least 1, was {self.n_draws}")
        check_choice("target", self.target, ("predicted", "label"))

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        batch, attributions = evidence.batch, evidence.attributions(self.target)
        copies = _Copies(evidence, self.target, radius=self.radius)
        values = sensitivity_max(
            copies.explain,
            (batch.images,),
            copies.perturb,
            n_perturb_samples=self.n_draws,
            max_examples_per_batch=len(batch),  # Captum takes this for one draw at a time
        )
        silent = (attributions == 0).flatten(1).all(dim=1)
        status = status_of(len(batch), values.device, degenerate=silent, invalid=~values.isfinite())
        return {"": Scores(nan_where(values, status >= Status.NO_TRUTH), status)}


class _Copies:
    """The two functions that Captum asks for: they perturb the samples, draw after draw, and explain what they made."""

    def __init__(self, evidence: Evidence, rule: TargetRule, *, radius: float) -> None:
        self._evidence = evidence
        self._rule: TargetRule = rule
        self._radius = radius
        self._draw = -1

    def perturb(self, images: Tensor) -> Tensor:
        """Make the next draw of all samples."""
        evidence = self._evidence
        self._draw += 1
        noise = uniform_noise(images, evidence.batch.keys, self._draw, radius=self._radius, seed=evidence.seed)
        return images + in_input_space(noise, evidence.normalization)

    def explain(self, images: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        """Attributions in float64, NaN where there are none; Captum hands the samples themselves over as a tuple."""
        attributions = self._evidence.attributions(self._rule).double()
        if isinstance(images, tuple):
            return (attributions,)
        result = torch.full_like(attributions, torch.nan)
        for rows, found in self._evidence.attribute(len(images), self._inputs(images)):
            if found.shape[1:] == result.shape[1:]:  # those of a failed call may be of one channel only
                result[rows] = found.double()
        return (result,)

    def _inputs(self, images: Tensor) -> Callable[[Tensor], Inputs]:
        batch, targets = self._evidence.batch, self._evidence.targets(self._rule)
        keys = derived_keys(batch.keys, "max_sensitivity", self._draw)
        return lambda rows: Inputs(
            images[rows], targets[rows], keys[rows], None if batch.masks is None else batch.masks[rows]
        )
