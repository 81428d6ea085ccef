"""KernelSHAP: Shapley values of segments, by weighted least squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..datasets.philox import permutation, uniform
from .base import Reduction
from .option_checks import check_counts, given_keys
from .segments import Segments, segment, share


@dataclass(frozen=True)
class KernelShap:
    """Attribute by the linear function of the shown segments that is nearest to the logit under Shapley's weights.

    With `v(z)` the logit of the image that shows the segments in `z` and the reference input elsewhere, `φ` minimises
    `Σ_z k(z) (v(z) − v(∅) − φ·z)²` subject to `Σ_j φ_j = v(all) − v(∅)`, where
    `k(z) = (M − 1) / (C(M, |z|) |z| (M − |z|))` for `M` segments. If `n_samples` reaches `2^M − 2`, all coalitions are
    evaluated and `φ` are the Shapley values; otherwise coalitions are drawn with probabilities in proportion to `k`,
    each followed by its complement. A segment's value is divided equally among its pixels, so that the map adds up to
    `f_t(x) − f_t(x0)`.

    Not through Captum, which draws from the global generators, never enumerates, and imposes the constraint by a
    weight of 10⁶ in single precision; with the same draws both agree up to that. Coalitions are drawn by the sample's
    key, so no value depends on the batch. With fewer than `M − 1` independent coalitions, `φ` is the solution of
    smallest norm.

    Attributes:
        reduction: how channels become a heatmap; there is one already.
        segments: `"grid"` or `"superpixels"`, see `segment`.
        n_segments: about how many there are.
        n_samples: number of coalitions, besides none and all.
        reference_input: value of every element of `x0`, in the model's normalised input space.
        batch_size: how many images are evaluated at once; memory only.

    Raises:
        ValueError: from `attribute`, without `keys` or with an argument that has no such value.
        ImportError: from `attribute`, see `segment`.

    Example:
        >>> explainer = KernelShap(n_segments=4)
        >>> image, keys = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([7])
        >>> explainer.attribute(nn.Flatten(), image, torch.tensor([3]), keys=keys).abs().round(decimals=4)
        tensor([[[[0., 0.],
                  [0., 4.]]]])
    """

    name: ClassVar[str] = "kernel_shap"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    control: ClassVar[bool] = False
    sums_to: ClassVar[str | None] = "difference"
    reference: ClassVar[str] = "Lundberg, Lee 2017, arXiv:1705.07874"

    reduction: Reduction = "none"
    segments: Segments = "grid"
    n_segments: int = 49
    n_samples: int = 256
    reference_input: float = 0.0
    batch_size: int = 32

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`.

        Args:
            model: the model.
            inputs: `(B, C, H, W)`.
            targets: `(B,)` int64.
            keys: `(B,)` int64 sample keys.
        """
        keys = given_keys(keys, "kernel_shap")
        check_counts(n_samples=self.n_samples, batch_size=self.batch_size)
        labels = segment(inputs, self.segments, n_segments=self.n_segments)
        rows = zip(inputs, targets, labels, keys.to(inputs.device).split(1), strict=True)
        with torch.no_grad():
            return torch.stack([self._map(model, *row) for row in rows])

    def _map(self, model: nn.Module, image: Tensor, target: Tensor, labels: Tensor, key: Tensor) -> Tensor:
        """`(1, H, W)` of one image."""
        coalitions, weights = _coalitions(key, int(labels.max()) + 1, self.n_samples)
        ends = torch.stack([coalitions.new_zeros(coalitions.shape[1]), coalitions.new_ones(coalitions.shape[1])])
        values = [
            model(torch.where(shown[:, labels][:, None], image, self.reference_input))[:, target]
            for shown in torch.cat([ends, coalitions]).split(self.batch_size)
        ]
        return share(_solve(coalitions, weights, torch.cat(values).double()), labels)[None].to(image.dtype)


def _coalitions(key: Tensor, n_segments: int, n_samples: int) -> tuple[Tensor, Tensor]:
    """`(n, M)` bool segments shown, and `(n,)` float64 weights: all coalitions, or as many as may be drawn."""
    sizes = torch.arange(1, n_segments, device=key.device)
    if n_segments <= 62 and 2**n_segments - 2 <= n_samples:
        numbers = torch.arange(1, 2**n_segments - 1, device=key.device)
        coalitions = (numbers[:, None] >> torch.arange(n_segments, device=key.device) & 1).bool()
        by_size = [(n_segments - 1) / (math.comb(n_segments, k) * k * (n_segments - k)) for k in sizes.tolist()]
        weights = torch.tensor([0.0, *by_size], dtype=torch.float64, device=key.device)[coalitions.sum(dim=1)]
        return coalitions, weights
    draws = torch.arange(-(-n_samples // 2), device=key.device)
    keys = key.expand(len(draws))
    shares = (1 / (sizes * (n_segments - sizes)).double()).cumsum(dim=0)
    drawn = uniform(0, "explainer/kernel_shap/size", keys, draws, 1) * shares[-1]
    size = 1 + torch.searchsorted(shares, drawn).clamp(max=n_segments - 2)
    places = permutation(0, "explainer/kernel_shap/members", keys, draws, n_segments)
    shown = places < size
    coalitions = torch.stack([shown, ~shown], dim=1).flatten(0, 1)[:n_samples]
    return coalitions, torch.ones(n_samples, dtype=torch.float64, device=key.device)


def _solve(coalitions: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """`(M,)` solution of the constrained problem; the first two `values` are those of no and of all segments."""
    empty, difference = values[0], values[1] - values[0]
    # The last value is what the others leave of the difference.
    shown = coalitions.double()
    design = shown[:, :-1] - shown[:, -1:]
    rest = values[2:] - empty - shown[:, -1] * difference
    weighted = weights[:, None] * design
    others = torch.linalg.pinv(weighted.T @ design, hermitian=True) @ (weighted.T @ rest)
    return torch.cat([others, difference[None] - others.sum()])
