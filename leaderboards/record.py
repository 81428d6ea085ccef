"""One published number with everything needed to trust it, and how it is made from per-sample scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .ratios import estimate_ratios
from .series import Identity, NotApplicable, Series, Status
from .statistics import estimate, monte_carlo_error

SCHEMA = 1
CLASS_MEAN = "class_mean"

Kind = Literal["measured", "reported", "not_applicable"]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """One row of `leaderboard.csv`: the fields are its columns, in its order.

    Attributes:
        schema_number: version of this layout; the column is called `schema`.
        dataset: name of the dataset.
        dataset_revision: digest of its samples.
        model: name of the model.
        model_digest: digest of its weights.
        explainer: name of the explainer; empty for a metric of the model alone.
        explainer_params: its configuration as canonical JSON text.
        metric: name of the metric.
        metric_version: version of its definition; numbers of two versions must not be compared.
        variant: which of the metric's numbers; ends in `class_mean` for a mean of class means.
        value: the mean; `None` where no sample counts or the metric does not apply.
        ci_low: lower end of the 95 % interval over samples; `None` below two samples.
        ci_high: upper end.
        mc_se: standard error of the mean due to Monte Carlo draws alone; `None` for a metric without draws.
        higher_is_better: direction.
        chance: what an uninformative map scores; `None` where that depends on the dataset.
        n: number of samples in the mean, degenerate ones included unless the metric was told to skip them.
        n_invalid: number of samples left out because the explainer failed on them.
        n_degenerate: number of samples with a silent map, in the mean at the metric's worst value or skipped.
        n_no_truth: number of samples left out because there is nothing to compare with.
        seed: seed of the run.
        seconds: wall time spent on it.
        passes: forward- and backward-equivalent passes of the model spent on it.
        interpeval: version of this package.
        torch: version of PyTorch.
        captum: version of Captum.
        device: what it ran on.
        kind: `measured` here, `reported` by a publication, or `not_applicable`.
        source: citation of a reported number; reason why a metric does not apply; for a mean of class means, over
            how many classes.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # `model_digest` is a column, not a method of pydantic
    )

    # Not called `schema`, which is a method of every pydantic model.
    schema_number: int = Field(default=SCHEMA, alias="schema", ge=SCHEMA, le=SCHEMA)
    dataset: str
    dataset_revision: str
    model: str
    model_digest: str
    explainer: str
    explainer_params: str
    metric: str
    metric_version: Whole
    variant: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mc_se: float | None = Field(default=None, ge=0)
    higher_is_better: bool
    chance: float | None = None
    n: Count
    n_invalid: Count
    n_degenerate: Count
    n_no_truth: Count
    seed: int
    seconds: float | None = None
    passes: float | None = None
    interpeval: str
    torch: str
    captum: str
    device: str
    kind: Kind
    source: str = ""


COLUMNS: tuple[str, ...] = tuple(field.alias or name for name, field in Record.model_fields.items())
"""The columns of `leaderboard.csv`, in order."""


def records(series: Sequence[Series | NotApplicable], *, seed: int) -> list[Record]:
    """Average per-sample scores into the rows of a leaderboard.

    Every series that is not a curve gives one row per aggregation (class means with variant `class_mean`, or
    `masked/class_mean` for a variant `masked`); what does not apply gives a row without a value. Curves give none:
    their areas are series of their own.

    Args:
        series: what was measured, in any order; the samples too may come in any order.
        seed: seed of the resampling behind the intervals, see `interpeval.leaderboards.statistics`.

    Returns:
        The rows, sorted by dataset, model, explainer, metric and variant.

    Example:
        >>> versions = dict.fromkeys(("interpeval", "torch", "captum", "device"), "any")
        >>> scores = Series(
        ...     dataset="digits", dataset_revision="1f", model="lenet", model_digest="2e", explainer="gradient",
        ...     explainer_params="{}", metric="pointing_game", metric_version=1, variant="", higher_is_better=True,
        ...     chance=None, seed=0, seconds=0.1, passes=6, ids=("a", "b", "c"), values=np.array([1.0, 0.0, np.nan]),
        ...     status=np.array([0, 1, 2], np.uint8), variance=None, classes=np.array([3, 3, 5]), **versions,
        ... )
        >>> [row] = records([scores], seed=0)
        >>> row.value, row.n, row.n_degenerate, row.n_no_truth
        (0.5, 2, 1, 1)
    """
    rows: list[Record] = []
    together: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for item in sorted(series, key=position):
        if isinstance(item, NotApplicable):
            rows.append(_not_applicable(item))
        elif "ratios" in item.aggregations:
            rows.append(_ratios(item, seed=seed))
        elif not item.steps:
            for aggregation in item.aggregations:
                classes = item.classes.tobytes() if aggregation == "classes" else b""
                together[aggregation, item.ids, item.clusters, classes].append(item)
    for (aggregation, *_), batch in together.items():
        rows += _measured(batch, by_class=aggregation == "classes", seed=seed)
    return sorted(rows, key=position)


def published_variant(item: Series, *, by_class: bool) -> str:
    """Return the variant under which a mean of this series is published."""
    return "/".join(filter(None, (item.variant, CLASS_MEAN if by_class else "")))


def position(row: Identity | Record) -> tuple[str | int, ...]:
    """Return what tells a row from all others, which is also what rows are sorted by; the variant is the last part."""
    return (
        row.dataset, row.dataset_revision, row.model, row.model_digest, row.explainer, row.explainer_params,
        row.metric, row.metric_version, row.variant,
    )  # fmt: skip


def _measured(batch: list[Series], *, by_class: bool, seed: int) -> list[Record]:
    """Rows of series over the same samples (and classes), estimated together."""
    values = np.stack([item.values for item in batch], axis=1)
    result = estimate(
        batch[0].ids,
        values,
        seed=seed,
        classes=batch[0].classes if by_class else None,
        clusters=batch[0].clusters or None,
        bounds=np.array([item.range for item in batch]),
    )
    return [
        Record(
            **_identity(item),
            variant=published_variant(item, by_class=by_class),
            value=_or_none(result.value[column]),
            ci_low=_or_none(result.low[column]),
            ci_high=_or_none(result.high[column]),
            mc_se=_monte_carlo_error(item, by_class=by_class),
            n=int(result.n[column]),
            n_invalid=item.count(Status.INVALID),
            n_degenerate=item.count(Status.DEGENERATE, Status.SKIPPED),
            n_no_truth=item.count(Status.NO_TRUTH),
            kind="measured",
            source=f"classes seen: {len(np.unique(item.classes[item.valid]))}" if by_class else "",
        )
        for column, item in enumerate(batch)
    ]


def _ratios(item: Series, *, seed: int) -> Record:
    """Row of a series whose number is a mean of ratios."""
    # A metric that failed on all samples has said nothing of its ratios.
    counts = item.values if item.steps else np.full((len(item.ids), 2), np.nan)
    found = estimate_ratios(item.ids, counts, seed=seed, clusters=item.clusters or None)
    return Record(
        **_identity(item),
        variant=item.variant,
        value=_or_none(found.value),
        ci_low=_or_none(found.low),
        ci_high=_or_none(found.high),
        n=found.n,
        n_invalid=item.count(Status.INVALID),
        n_degenerate=item.count(Status.DEGENERATE, Status.SKIPPED),
        n_no_truth=item.count(Status.NO_TRUTH),
        kind="measured",
        source=f"classes seen: {found.n_ratios}" if len(item.steps) > 2 else "",
    )


def _not_applicable(item: NotApplicable) -> Record:
    return Record(
        **_identity(item),
        variant=item.variant,
        n=0,
        n_invalid=0,
        n_degenerate=0,
        n_no_truth=0,
        kind="not_applicable",
        source=item.reason,
    )


def _identity(item: Identity) -> dict[str, Any]:
    """What a record takes over unchanged."""
    return {field.name: getattr(item, field.name) for field in fields(Identity) if field.name != "variant"}


def _monte_carlo_error(item: Series, *, by_class: bool) -> float | None:
    if item.variance is None:
        return None
    classes = item.classes[item.valid] if by_class else None
    return _or_none(monte_carlo_error(item.variance[item.valid], classes=classes))


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else float(number)
