"""What a metric is, what it may see, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..baselines.base import Interpretation
from ..datasets.base import Batch, Normalization

TargetRule = Literal["predicted", "label", "none"]
"""Which output is explained: that of the predicted class, that of the label, or the output vector as a whole."""


class Status(IntEnum):
    """What became of one sample under one metric."""

    OK = 0
    DEGENERATE = 1  # a silent map: it scores the metric's worst value and is counted
    NO_TRUTH = 2  # nothing to compare with: left out and counted
    INVALID = 3  # NaN, infinite, wrong shape or an exception: left out and counted
    SKIPPED = 4  # a silent map that the metric was told to leave out: counted as degenerate


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-sample values of one variant of a metric.

    Attributes:
        values: `(B,)` float64, or `(B, S)` for a curve; NaN exactly where `status` is `NO_TRUTH`,
            `INVALID` or `SKIPPED`.
        status: `(B,)` uint8 of `Status`.
        variance: `(B,)` float64, estimated variance of `values` due to Monte Carlo draws; `None` without draws.
        steps: the S positions of a curve; empty otherwise.
    """

    values: Tensor
    status: Tensor
    variance: Tensor | None = None
    steps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and that NaN means what it must."""
        expected = (len(self.status), len(self.steps)) if self.steps else (len(self.status),)
        if tuple(self.values.shape) != expected:
            raise ValueError(f"`Scores.values` must be {expected}, was {tuple(self.values.shape)}")
        missing = self.status >= Status.NO_TRUTH
        nan = self.values.isnan().reshape(len(self.status), -1)
        if not torch.equal(nan.any(dim=1), missing) or not torch.equal(nan.all(dim=1), missing):
            raise ValueError("`Scores.values` must be NaN exactly where `status` is NO_TRUTH, INVALID or SKIPPED")


class Facts(NamedTuple):
    """What a reader must know of a variant of a metric."""

    higher_is_better: bool
    range: tuple[float, float]
    chance: float | None


class Inputs(NamedTuple):
    """Model inputs made from samples, for `Evidence.explain`.

    Attributes:
        images: `(N, C, H', W')` normalised.
        targets: `(N,)` int64 classes to explain; `None` explains the class predicted for each input.
        keys: `(N,)` int64 keys for explainers that draw (`interpeval.datasets.philox.derived_keys`).
        masks: `(N, H', W')` bool, where the object is in these inputs (for the control `truth`); `None` if unknown.
    """

    images: Tensor
    targets: Tensor | None
    keys: Tensor
    masks: Tensor | None = None


class Members(NamedTuple):
    """Samples of a class, other than those that are scored where there are others.

    Attributes:
        logits: `(n, K)` logits of the predictor.
        interpretation: what the interpreter says about them.
    """

    logits: Tensor
    interpretation: Interpretation


class Evidence(Protocol):
    """All that a metric can reach: one batch, what the model says about it, and how it is explained.

    `predict` and `explain` take a number of rows and a function that builds the inputs of some of them. The
    engine decides how many are built at once, so memory grows with the micro-batch and never with the number of
    draws or steps, and the numbers do not depend on it.
    """

    @property
    def batch(self) -> Batch:
        """The samples, on the device of the model."""
        ...

    @property
    def seed(self) -> int:
        """The seed of the run."""
        ...

    @property
    def normalization(self) -> Normalization:
        """How pixel values became model inputs."""
        ...

    @property
    def logits(self) -> Tensor:
        """`(B, K)` logits of the samples."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model under test, for the optional members of self-explaining models only."""
        ...

    @property
    def fixed_size(self) -> bool:
        """Whether the model refuses inputs of twice the side."""
        ...

    @property
    def interpretation(self) -> Interpretation:
        """What the model's interpreter says about the samples; for a metric that needs `"interpreter"`."""
        ...

    def members(self, label: int, count: int) -> Members:
        """What predictor and interpreter say about `count` samples of a class, or about as many as there are.

        Drawn by (seed, class) from the part of the dataset that is not scored, the training samples of a test set;
        from the scored part where there is no other.
        """
        ...

    def targets(self, rule: TargetRule) -> Tensor:
        """`(B,)` int64: the class predicted for each sample, or its label; 0 where the whole output is explained."""
        ...

    def expected_sums(self, rule: TargetRule) -> Tensor:
        """`(B,)` float64: what each sample's attributions should add up to; for a metric that needs `"sum"`."""
        ...

    def attributions(self, rule: TargetRule) -> Tensor:
        """`(B, C, h, w)` attributions as the explainer gave them; all NaN for an invalid sample."""
        ...

    def heatmaps(self, rule: TargetRule) -> Tensor:
        """`(B, H, W)` heatmaps of the samples; all NaN for an invalid sample. Computed once, shared by all metrics."""
        ...

    def predict(self, count: int, build: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the model on `count` inputs.

        `build(rows)` makes the `(n, C, H', W')` inputs of some row numbers; yields `(rows, (n, K) logits)` until
        every row in `range(count)` was seen once, in ascending order.
        """
        ...

    def explain(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """Explain `count` inputs; yields `(rows, (n, H', W') heatmaps)`, all NaN where the explainer failed.

        Rows are sample-major: with D inputs a sample, `count = B * D` and row `r` is made of sample `r // D`.
        """
        ...

    def attribute(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """Do as `explain` does; yields `(rows, (n, C, h, w) attributions)` as the explainer gave them."""
        ...

    def differentiate(self, objective: Callable[[Tensor, Tensor], Tensor], *, at: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)` gradients, by the samples' images, of what `objective(logits, rows)` makes of their logits.

        `objective` gets `(n, K)` logits and the row numbers that they belong to, and returns `(n,)` values. With
        `at`, `(B, C, H, W)`, these images stand in the place of the samples'.
        """
        ...

    def through(self, model: nn.Module) -> AbstractContextManager[Evidence]:
        """See the same samples through another model and the same explainer, while the context is open."""
        ...

    def distractors(self, count: int) -> Tensor:
        """`(B, count, C, H, W)` images of the same dataset, for each sample of classes other than its label.

        Drawn without replacement by (seed, sample), from the whole dataset whatever part of it is scored.
        """
        ...

    def cost(self) -> Cost:
        """What explaining these samples took."""
        ...


class Cost(NamedTuple):
    """Passes and time of explaining one batch, per sample.

    Attributes:
        forward: forward passes of the model per explanation.
        backward: backward passes per explanation.
        seconds: wall time per explanation.
    """

    forward: float
    backward: float
    seconds: float


class Metric(ABC):
    """A measure of explanations: class facts, configuration fields, and `score`.

    A metric is a frozen dataclass; its fields are its configuration and are recorded beside every number.

    Attributes:
        name: name in the catalog and in every table.
        version: raised whenever the numbers change by definition; numbers of two versions are never compared.
        higher_is_better: direction.
        range: smallest and largest possible value.
        chance: what an uninformative map scores; `None` where it depends on the dataset (see the controls).
        needs: what must be there for the metric to apply: `"explainer"`, `"label"` (one for each sample), `"masks"`,
            `"distractors"`, `"backgrounds"` (the images without their object), `"interpreter"`
            (`interpeval.baselines.base.Interpretable`), `"sum"` (an explainer that says what its attributions add
            up to), `"classes"` (those of the model are those of the dataset), `"gradient"` (a model that can be
            differentiated), `"parameters"` (a model that has some).
        reference: the publication.
        aggregations: `"items"` (mean over samples) and, where papers print it, `"classes"` (mean of class means); or
            `"ratios"` alone, for numbers that are ratios of sums over samples: `values` are then `(B, S)`, the
            numerators of S/2 ratios and their denominators, and what is published is the mean of the ratios.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]
    chance: ClassVar[float | None]
    needs: ClassVar[frozenset[str]]
    reference: ClassVar[str]
    aggregations: ClassVar[tuple[str, ...]] = ("items",)

    def facts(self, variant: str) -> Facts:
        """Direction, range and chance of one variant; the class facts unless a metric says otherwise."""
        del variant
        return Facts(self.higher_is_better, self.range, self.chance)

    @abstractmethod
    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch; one entry per variant, `""` for a metric's only one."""


def predictions(evidence: Evidence, images: Tensor) -> Tensor:
    """`(N, K)` logits of any `(N, C, H, W)` images; the samples themselves are not run again."""
    if images is evidence.batch.images:
        return evidence.logits
    return torch.cat([logits for _, logits in evidence.predict(len(images), images.__getitem__)])


def nan_where(values: Tensor, missing: Tensor) -> Tensor:
    """Return float64 `values` with NaN in the rows where `missing` is true."""
    shape = (-1, *[1] * (values.ndim - 1))
    return torch.where(missing.view(shape), torch.full_like(values, torch.nan, dtype=torch.float64), values.double())


def invalid_maps(heatmaps: Tensor) -> Tensor:
    """`(B,)` bool: which `(B, H, W)` heatmaps hold a NaN or an infinite value."""
    # A sum passes NaN and infinities on, and is ten times faster than looking at every pixel. It may overflow as well.
    maps = heatmaps.flatten(1)
    invalid = ~maps.sum(dim=1).isfinite()
    if invalid.any():
        invalid[invalid.clone()] = ~maps[invalid].isfinite().all(dim=1)
    return invalid


def status_of(size: int, device: torch.device, **where: Tensor | None) -> Tensor:
    """Build `(size,)` uint8 statuses from masks; of several keywords that are true the last one here wins.

    Keywords: `degenerate`, `skipped`, `no_truth`, `invalid`.

    Example:
        >>> degenerate, invalid = torch.tensor([True, True]), torch.tensor([False, True])
        >>> status_of(2, torch.device("cpu"), degenerate=degenerate, invalid=invalid)
        tensor([1, 3], dtype=torch.uint8)
    """
    status = torch.zeros(size, dtype=torch.uint8, device=device)
    for code in (Status.DEGENERATE, Status.SKIPPED, Status.NO_TRUTH, Status.INVALID):
        chosen = where.get(code.name.lower())
        if chosen is not None:
            status[chosen] = int(code)
    return status
