"""Self-consistency: is the explanation of a moved image the moved explanation of the image?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..datasets.philox import derived_keys
from .base import Evidence, Inputs, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of
from .monte_carlo import Fill, check_fill, fill_value, mean_over_draws, repeat_draws
from .warps import WarpFamily, Warps, as_family


def masked_cosine(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Measure the cosine between two maps over the pixels of a mask: `⟨m⊙a, m⊙b⟩ / (‖m⊙a‖ ‖m⊙b‖)`.

    Computed in float64 after dividing each map by its largest magnitude, so that neither tiny nor huge maps
    underflow or overflow. Pixels outside the mask have no influence.

    Args:
        a: `(B, H, W)` maps, floating point.
        b: `(B, H, W)` maps.
        mask: `(B, H, W)` bool.

    Returns:
        `(B,)` float64 in [-1, 1]; 0 where a map is 0 throughout the mask, or the mask is empty; NaN where a map
        holds NaN or an infinite value inside the mask.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> a, b = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
        >>> masked_cosine(a, b, torch.tensor([[[True, True]]]))
        tensor([0.9600], dtype=torch.float64)
    """
    if not a.shape == b.shape == mask.shape:
        raise ValueError(
            f"`a`, `b` and `mask` must have one shape, were {tuple(a.shape)}, {tuple(b.shape)}, {tuple(mask.shape)}"
        )
    return _cosine(_unit(a, mask), _unit(b, mask))


@dataclass(frozen=True)
class SelfConsistency(Metric):
    """Masked self-consistency: cosine between the moved explanation and the explanation of the moved image.

    `v̂ = mean over β of cos(m_β ⊙ T_β(I(x)), m_β ⊙ I(T_β(x)))`, over all pixels, with random warps `T_β` and
    `m_β = [T_β(1) > 0.999]`, so that no pixel into which padding mixes is compared (SITE, eq. 8). Higher is better,
    in [-1, 1]. A constant explainer scores 1: read it beside the other metrics.

    Variants, from the same draws: `"masked"` (v̂) and `"unmasked"` (`m = 1`; outside, the moved explanation is 0).

    A draw in which a compared map is 0 throughout scores 0 and marks the sample degenerate. A draw whose valid region
    is empty (impossible in the default family) has nothing to compare: the masked variant leaves it out, and a
    sample without any other draw is `NO_TRUTH` there. A sample is invalid when any map it needs is.

    The variance of a value is that of the mean over its draws.

    Attributes:
        transform: the family of warps.
        n_draws: warps per sample.
        target: class explained: `"predicted"`, of each input its own prediction; `"original"`, for both inputs
            the class predicted for the unmoved one; `"label"`, for both the label.
        fill: what surrounds the moved image: `"black"`, `"mean"` (of the normalisation) or a pixel value.

    Example:
        >>> SelfConsistency(n_draws=2, transform=WarpFamily(rotation=30.0)).n_draws
        2
    """

    name: ClassVar[str] = "self_consistency"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer"})
    reference: ClassVar[str] = (
        "Wang & Wang, Self-Interpretable Model with Transformation Equivariant Interpretation, NeurIPS 2021, eq. 8"
    )

    transform: WarpFamily = field(default_factory=WarpFamily)
    n_draws: int = 8
    target: Literal["predicted", "original", "label"] = "predicted"
    fill: Fill = "black"

    def __post_init__(self) -> None:
        """Check the configuration."""
        object.__setattr__(self, "transform", as_family(self.transform))
        if self.n_draws < 1:
            raise ValueError(f"`n_draws` must be at least 1, was {self.n_draws}")
        if self.target not in {"predicted", "original", "label"}:
            raise ValueError(f'`target` must be "predicted", "original" or "label", was {self.target!r}')
        check_fill(self.fill)

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: variants `"masked"` and `"unmasked"`."""
        keys, draws = repeat_draws(evidence.batch.keys, self.n_draws)
        height, width = evidence.batch.images.shape[-2:]
        warps = self.transform.draw(evidence.seed, self.name, keys, draws, size=(height, width))
        maps = evidence.heatmaps(self._rule)
        targets = None if self.target == "predicted" else evidence.targets(self._rule)
        moved = _MovedInputs(evidence, warps, derived_keys(keys, self.name, draws), targets=targets, fill=self.fill)
        parts = [
            _compare(maps[rows // self.n_draws], explained, moved.warps_of(rows))
            for rows, explained in evidence.explain(len(keys), moved)
        ]
        cosine, silent, invalid = (
            torch.cat(part).view(len(maps), self.n_draws, 2) for part in zip(*parts, strict=True)
        )
        broken = invalid_maps(maps) | invalid.flatten(1).any(dim=1)
        return {
            variant: _scores(cosine[..., column], silent[..., column], broken)
            for column, variant in enumerate(("masked", "unmasked"))
        }

    @property
    def _rule(self) -> TargetRule:
        """How the class explained for the unmoved image is chosen."""
        return "label" if self.target == "label" else "predicted"


class _MovedInputs:
    """Makes the inputs of some (sample, draw) rows: `T_β(x)`, with the masks moved along."""

    def __init__(self, evidence: Evidence, warps: Warps, keys: Tensor, *, targets: Tensor | None, fill: Fill) -> None:
        self.batch = evidence.batch
        self.draws = len(warps) // len(self.batch)
        self.targets = targets
        self.fill = fill_value(fill, evidence.normalization, self.batch.images)
        self.warps = warps
        self.keys = keys
        self._rows = keys.new_empty(0)
        self._some = warps[self._rows]

    def __call__(self, rows: Tensor) -> Inputs:
        sample, moving, masks = rows // self.draws, self.warps_of(rows), self.batch.masks
        return Inputs(
            images=moving.apply(self.batch.images[sample], fill=self.fill),
            targets=None if self.targets is None else self.targets[sample],
            keys=self.keys[rows],
            masks=None if masks is None else moving.apply(masks[sample, None].float())[:, 0] > 0.5,
        )

    def warps_of(self, rows: Tensor) -> Warps:
        """Return the warps of some rows; the last ones are kept, because their grids serve the maps too."""
        if not torch.equal(rows, self._rows):
            self._rows, self._some = rows, self.warps[rows]
        return self._some


def _compare(maps: Tensor, explained: Tensor, warps: Warps) -> tuple[Tensor, Tensor, Tensor]:
    """Compare warped `(n, H, W)` maps with others: cosine, whether one is silent, whether one is invalid.

    Each `(n, 2)`, within the valid region and over all pixels; the cosine is NaN where that region is empty.
    """
    moved, region = warps.apply(maps[:, None])[:, 0], warps.region
    masks = torch.cat((region, torch.ones_like(region)))
    first, second = (_unit(part.repeat(2, 1, 1), masks) for part in (moved, explained))
    cosine = _cosine(first, second).view(2, -1).T
    cosine[:, 0].masked_fill_(~region.flatten(1).any(dim=1), torch.nan)
    silent = torch.minimum(*(part.abs().amax(dim=1) for part in (first, second))).eq(0).view(2, -1).T
    return cosine, silent, invalid_maps(explained)[:, None].expand(-1, 2)


def _scores(cosine: Tensor, silent: Tensor, invalid: Tensor) -> Scores:
    """Average `(B, D)` draws; a NaN cosine of a valid sample is a draw with nothing to compare."""
    compared = ~cosine.isnan()
    values, variance = mean_over_draws(cosine)
    status = status_of(
        len(invalid),
        invalid.device,
        degenerate=(silent & compared).any(dim=1),
        no_truth=~compared.any(dim=1),
        invalid=invalid,
    )
    return Scores(nan_where(values, status >= Status.NO_TRUTH), status, variance)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """`(B,)`: the cosine between maps of norm 1 or 0."""
    return (first * second).sum(dim=1).clamp(-1.0, 1.0)


def _unit(maps: Tensor, mask: Tensor) -> Tensor:
    """`(B, H*W)` float64 maps of norm 1 within the mask, or 0 throughout."""
    inside = torch.where(mask, maps, 0).flatten(1).double()
    peak = inside.abs().amax(dim=1, keepdim=True)
    scaled = inside / torch.where(peak == 0, 1, peak)
    norm = scaled.square().sum(dim=1, keepdim=True).sqrt()
    return scaled / torch.where(norm == 0, 1, norm)
