"""Completeness: do the attributions add up to what they explain?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Evidence, Metric, Scores, TargetRule, nan_where, status_of


def completeness(attributions: Tensor, expected: Tensor) -> Tensor:
    """Measure how far attributions are from adding up: `|Σ a − Δ| / max(1, |Δ|)`.

    The sum is over all elements, in float64.

    Args:
        attributions: `(B, ...)` as an explainer gave them, before any reduction to a heatmap.
        expected: `(B,)` what those of each sample should add up to, Δ.

    Returns:
        `(B,)` float64, at least 0, which is exact; lower is better. NaN where an attribution or Δ is not finite.

    Raises:
        ValueError: the numbers of samples differ.

    Example:
        >>> import torch
        >>> completeness(torch.tensor([[[1.0, 2.0]], [[0.25, 0.0]]]), torch.tensor([4.0, 0.5]))
        tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    if expected.shape != attributions.shape[:1]:
        raise ValueError(
            f"`expected` must be ({len(attributions)},), one sum for each sample, was {tuple(expected.shape)}"
        )
    total, wanted = attributions.double().flatten(1).sum(dim=1), expected.double()
    error = (total - wanted).abs() / wanted.abs().clamp(min=1)
    return nan_where(error, ~(total.isfinite() & wanted.isfinite()))


@dataclass(frozen=True)
class Completeness(Metric):
    """Completeness: how far the attributions of a class are from adding up to its logit, or to a difference of it.

    `|Σ a − Δ| / max(1, |Δ|)` with Δ = `f_c(x) − f_c(x_0)`, or `f_c(x)` for an explainer that decomposes the logit
    itself; which, the explainer says (`Explainer.sums_to`, and the element values of x_0 in `reference_input`). Lower
    is better, from 0, which is exact (SITE calls it local accuracy). Explainers that promise no sum are not
    applicable.

    A sample is invalid when its attribution, or Δ, is not finite.

    Attributes:
        target: class explained, `"predicted"` or `"label"`.

    Example:
        >>> Completeness(target="label")
        Completeness(target='label')
    """

    name: ClassVar[str] = "completeness"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "sum"})
    reference: ClassVar[str] = "Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, ICML 2017"

    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if self.target not in {"predicted", "label"}:
            raise ValueError(f'`target` must be "predicted" or "label", was {self.target!r}')

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch."""
        values = completeness(evidence.attributions(self.target), evidence.expected_sums(self.target))
        return {"": Scores(values, status_of(len(values), values.device, invalid=values.isnan()))}
