"""The per-sample scores that published numbers are made of, as the store hands them over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

AGGREGATIONS = ("items", "classes", "ratios")


class Status(IntEnum):
    """What became of one sample under one metric; the codes of `interpeval.metrics.base.Status`.

    Restated here because a leaderboard is made without torch.
    """

    OK = 0
    DEGENERATE = 1
    NO_TRUTH = 2
    INVALID = 3
    SKIPPED = 4


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a number is about and what it was made with.

    Attributes:
        dataset: name of the dataset.
        dataset_revision: digest of its samples.
        model: name of the model.
        model_digest: digest of its weights.
        explainer: name of the explainer; empty for a metric of the model alone.
        explainer_params: its configuration as canonical JSON text.
        metric: name of the metric.
        metric_version: version of its definition.
        variant: which of its numbers; empty for a metric's only one.
        higher_is_better: direction.
        chance: what an uninformative map scores; `None` where that depends on the dataset.
        seed: seed of the run.
        seconds: wall time spent on it.
        passes: forward- and backward-equivalent passes of the model spent on it.
        interpeval: version of this package.
        torch: version of PyTorch.
        captum: version of Captum.
        device: what it ran on.
    """

    dataset: str
    dataset_revision: str
    model: str
    model_digest: str
    explainer: str
    explainer_params: str
    metric: str
    metric_version: int
    variant: str
    higher_is_better: bool
    chance: float | None
    seed: int
    seconds: float
    passes: float
    interpeval: str
    torch: str
    captum: str
    device: str


@dataclass(frozen=True, kw_only=True)
class NotApplicable(Identity):
    """A metric that has no meaning for this subject, which is not the same as a bad score.

    Attributes:
        reason: why, in a few words.
    """

    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Series(Identity):
    """The scores of every sample under one variant of a metric.

    Attributes:
        ids: N names of samples, all different.
        values: `(N,)` float64, or `(N, S)` for a curve; NaN exactly where `status` is `NO_TRUTH`,
            `INVALID` or `SKIPPED`.
        status: `(N,)` uint8 of `Status`.
        variance: `(N,)` float64, variance of `values` due to Monte Carlo draws; `None` without draws.
        classes: `(N,)` int64, class of each sample, for the mean of class means.
        steps: the S positions of a curve; empty otherwise.
        aggregations: `"items"` (mean over samples), `"classes"` (mean over seen classes of class means), or both; or
            `"ratios"`: the values are no curve but the numerators of S/2 ratios, then their denominators, and the
            number is the mean of the ratios of their sums over samples (`interpeval.leaderboards.ratios`).
        range: smallest and largest possible value.
        clusters: N names, equal for samples that depend on each other, such as the items of one image; empty if
            none do.
        target: which class was explained, `"predicted"` or `"label"`; empty where that is not known.

    Raises:
        ValueError: if the members do not speak of the same samples, or a value that counts is not finite.
    """

    ids: tuple[str, ...]
    values: NDArray[np.float64]
    status: NDArray[np.uint8]
    variance: NDArray[np.float64] | None
    classes: NDArray[np.int64]
    steps: tuple[float, ...] = ()
    aggregations: tuple[str, ...] = ("items",)
    range: tuple[float, float] = (-math.inf, math.inf)
    clusters: tuple[str, ...] = ()
    target: str = ""

    def __post_init__(self) -> None:
        """Check that all members speak of the same samples and that NaN means what it must."""
        size = len(self.ids)
        self._check("ids", len(set(self.ids)) == size, "all different", "has duplicates")
        shape = (size, len(self.steps)) if self.steps else (size,)
        self._check("values", self.values.shape == shape, f"of shape {shape}", f"was {self.values.shape}")
        for name, array in (("status", self.status), ("variance", self.variance), ("classes", self.classes)):
            if array is not None:
                self._check(name, array.shape == (size,), f"of shape {(size,)}", f"was {array.shape}")
        clusters = len(self.clusters)
        self._check("clusters", clusters in {0, size}, f"{size} names or none", f"were {clusters}")
        self._check("status", bool(np.isin(self.status, list(Status)).all()), f"codes 0 to {max(Status)}", "has others")
        unknown = [aggregation for aggregation in self.aggregations if aggregation not in AGGREGATIONS]
        self._check("aggregations", not unknown, f"among {AGGREGATIONS}", f"has {unknown}")
        self._check_values()

    def _check_values(self) -> None:
        values, variance = self.values, self.variance
        finite = bool(np.isfinite(values[self.valid]).all()) and bool(np.isnan(values[~self.valid]).all())
        self._check("values", finite, "finite where a sample counts and NaN elsewhere", "is not")
        if variance is not None:
            sound = bool((np.isfinite(variance) & (variance >= 0))[self.valid].all())
            self._check("variance", sound, "finite and at least 0 where a sample counts", "is not")

    def _check(self, field: str, holds: bool, must: str, was: str) -> None:
        if not holds:
            where = f"{self.explainer or self.model} under {self.metric} {self.variant}".rstrip()
            raise ValueError(f"`Series.{field}` of {where} must be {must}, but {was}")

    @property
    def is_curve(self) -> bool:
        """Whether the values are those of a curve."""
        return bool(self.steps) and "ratios" not in self.aggregations

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`(N,)`: which samples count; degenerate ones do, unless the metric was told to skip them."""
        return self.status < Status.NO_TRUTH

    def count(self, *statuses: Status) -> int:
        """Return the number of samples of these statuses."""
        return int(np.isin(self.status, statuses).sum())
