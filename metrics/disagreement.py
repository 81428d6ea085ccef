"""Where an interpreter disagrees with its predictor: are these samples that are unlike their class?

No metric, but the numbers of a report (`interpeval.bench.disagreement`): for samples with argmax f ≠ argmax g, the rank
of f's class under g, and how deep they lie in their true class, beside samples of that class on which f and g agree.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.stats import combine_pvalues, mannwhitneyu
from torch import Tensor

from ..datasets.philox import uniform
from .projection_depth import BudgetName, projection_depth
from .top_k_fidelity import above_and_level

Space = Literal["pca", "attributes"]

COMPONENTS = 50
"""Principal components, at most."""
VARIANCE = 0.9
"""Share of the variance that they carry, if `COMPONENTS` and the number of points allow."""
POINTS_PER_COMPONENT = 20
REFERENCE = 100
"""Samples in the reference group, at most; and at most a quarter of the agreeing ones."""


def rank_of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """Rank a class among the logits of each sample: 1 for the largest, the mean of the ranks in question for ties.

    Args:
        logits: `(B, K)`.
        classes: `(B,)` int64.

    Returns:
        `(B,)` float64 in [1, K].

    Example:
        >>> rank_of_class(torch.tensor([[5.0, 2.0, 2.0, 1.0], [5.0, 2.0, 3.0, 1.0]]), torch.tensor([1, 3]))
        tensor([2.5000, 4.0000], dtype=torch.float64)
    """
    above, level = above_and_level(logits, classes)
    return above + (level + 1) / 2


class Components(NamedTuple):
    """Leading principal components of some points.

    Attributes:
        mean: `(D,)` float64.
        axes: `(D, k)` float64, orthonormal.
        share: of the variance that they carry.
    """

    mean: Tensor
    axes: Tensor
    share: float

    def project(self, points: Tensor) -> Tensor:
        """Return the `(N, k)` coordinates of `(N, D)` points."""
        return (points.double() - self.mean) @ self.axes


def principal_components(points: Tensor) -> Components:
    """Find the leading principal components that a depth can be computed in.

    As many as carry `VARIANCE` of the variance, but at most `COMPONENTS` and one for every `POINTS_PER_COMPONENT`
    points: with fewer points in each direction, most samples lie outside of the others and all depths are near 0.

    Args:
        points: `(N, D)`.

    Raises:
        ValueError: there are fewer than `POINTS_PER_COMPONENT` points, or all are equal.

    Example:
        >>> line = torch.arange(20.0)[:, None] * torch.tensor([3.0, 4.0])
        >>> found = principal_components(line)
        >>> found.axes.abs().T, round(found.share, 6)
        (tensor([[0.6000, 0.8000]], dtype=torch.float64), 1.0)
    """
    if points.ndim != 2 or len(points) < POINTS_PER_COMPONENT:
        raise ValueError(
            f"`points` must be (N, D) with N of at least {POINTS_PER_COMPONENT}, was {tuple(points.shape)}"
        )
    mean = points.double().mean(dim=0)
    _, singular, axes = torch.linalg.svd(points.double() - mean, full_matrices=False)
    carried = singular.square().cumsum(dim=0)
    if not carried[-1] > 0:
        raise ValueError("`points` must differ, but all are equal")
    carried = carried / carried[-1].clone()
    enough = int((carried < VARIANCE - 1e-12).sum()) + 1
    count = min(enough, COMPONENTS, len(points) // POINTS_PER_COMPONENT)
    return Components(mean, axes[:count].T, float(carried[count - 1]))


class DepthComparison(NamedTuple):
    """How deep disagreeing samples of a class lie in it, beside a reference group of agreeing ones.

    Attributes:
        space: in which space, for people; depths of two spaces, or two classes, must not be compared.
        depths: `(M,)` float64 in [0, 1], of the disagreeing samples; NaN if `note` says why there are none.
        reference: `(R,)` float64, of the reference group.
        rows: `(R,)` int64, which of the agreeing samples form the reference group.
        n_points: number of agreeing samples that the depths were measured against.
        statistic: U of the disagreeing samples; NaN without depths.
        p_value: of the one-sided Mann–Whitney test that disagreeing samples lie less deep; NaN without depths.
        note: why there are no depths; empty if there are.
    """

    space: str
    depths: Tensor
    reference: Tensor
    rows: Tensor
    n_points: int
    statistic: float
    p_value: float
    note: str


def compare_depths(
    disagreeing: Tensor,
    agreeing: Tensor,
    *,
    keys: Tensor,
    space: Space = "pca",
    seed: int = 0,
    budget: BudgetName = "default",
) -> DepthComparison:
    """Compare how deep the disagreeing and some agreeing samples of a class lie among its other agreeing samples.

    The agreeing samples are split at random, by their keys: a quarter of them, but at most `REFERENCE`, are the
    reference group, the others the points X that projection depth `D(x|X)` is measured against. So neither the
    disagreeing samples nor the reference group are among the points, and if they come from one distribution the
    Mann–Whitney test has its nominal level. (FLINT takes the reference group from the points.)

    Args:
        disagreeing: `(M, D)` points of the disagreeing samples.
        agreeing: `(N, D)` points of the agreeing samples of the same class.
        keys: `(N,)` int64 keys of the agreeing samples (`Batch.keys`).
        space: `"pca"`, the principal components of the points X; `"attributes"`, the points as they are, which should
            be few numbers, such as the activations of an interpreter's attributes. Where an attribute is equal (silent,
            say) in more than half of the points, samples in which it differs have depth 0.
        seed: seeds the split and the search.
        budget: of `projection_depth`.

    Returns:
        The comparison. Where there are too few agreeing samples, `note` says so and the depths are NaN.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or `space` is unknown.
    """
    _check(disagreeing, agreeing, keys, space)
    order = uniform(seed, "disagreement", keys, 0, 1)[:, 0].argsort(stable=True)
    size = min(REFERENCE, len(agreeing) // 4)
    rows, points = order[:size], agreeing[order[size:]].double()
    queries = torch.cat([disagreeing, agreeing[rows]]).double()
    lacking = _lacking(points, space)
    if lacking:
        nan, unknown = float("nan"), queries.new_full((len(queries),), torch.nan)
        depths, reference = unknown.split([len(disagreeing), size])
        return DepthComparison(space, depths, reference, rows, len(points), nan, nan, lacking)
    name = f"attributes ({points.shape[1]})"
    if space == "pca":
        components = principal_components(points)
        points, queries = components.project(points), components.project(queries)
        name = f"PCA ({points.shape[1]} components, {components.share:.0%} of the variance)"
    depths, reference = projection_depth(queries, points, seed=seed, budget=budget).depth.split(
        [len(disagreeing), size]
    )
    test = mannwhitneyu(depths.cpu().numpy(), reference.cpu().numpy(), alternative="less")
    return DepthComparison(name, depths, reference, rows, len(points), float(test.statistic), float(test.pvalue), "")


def combined_p_value(p_values: list[float]) -> float:
    """Combine the p-values of several classes by Fisher's method; those that are NaN are left out, NaN without any.

    Example:
        >>> round(combined_p_value([0.1, 0.1, float("nan")]), 6)
        0.056052
    """
    known = [p for p in p_values if not math.isnan(p)]
    return float(np.asarray(combine_pvalues(known, method="fisher"))[1]) if known else float("nan")


def _lacking(points: Tensor, space: Space) -> str:
    """Why depths among these points would say nothing; empty if they would not."""
    needed = POINTS_PER_COMPONENT if space == "pca" else max(POINTS_PER_COMPONENT, 2 * points.shape[1])
    if len(points) < needed:
        return f"{len(points)} other agreeing samples, {needed} needed"
    return "all other agreeing samples are equal" if bool((points == points[:1]).all()) else ""


def _check(disagreeing: Tensor, agreeing: Tensor, keys: Tensor, space: str) -> None:
    if space not in get_args(Space):
        raise ValueError(f'`space` must be "pca" or "attributes", was {space!r}')
    if disagreeing.ndim != 2 or agreeing.ndim != 2 or disagreeing.shape[1] != agreeing.shape[1]:
        raise ValueError(
            "`disagreeing` must be (M, D) and `agreeing` (N, D), "
            f"were {tuple(disagreeing.shape)} and {tuple(agreeing.shape)}"
        )
    if keys.shape != agreeing.shape[:1]:
        raise ValueError(f"`keys` must be ({len(agreeing)},), one for each agreeing sample, was {tuple(keys.shape)}")
    for name, points in (("disagreeing", disagreeing), ("agreeing", agreeing)):
        if not bool(points.isfinite().all()):
            raise ValueError(f"`{name}` must be finite, but holds NaN or infinite values")
