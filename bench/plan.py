"""What a run consists of: rows (a subject, its metrics) cut into shards, and what does not apply, with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch

from ..baselines.base import Explainer, Interpretable, has_gradients, is_encoder
from ..baselines.ensure import ExplainerFacts, explainer_facts
from ..datasets.base import Dataset
from ..metrics.base import Metric
from .catalog import package_digest
from .resolve import Model, configuration, source_digest
from .store import SCHEMA, digest_of

SHARD = 64  # samples in a unit: what a killed run can lose of one subject; never changes a value


@dataclass(frozen=True, eq=False)
class Row:
    """A subject on a dataset, and the metrics that apply to it.

    Attributes:
        dataset: the samples.
        model: the network.
        explainer: the explainer; `None` for metrics of the model alone.
        metrics: by key; a key stands for name, version, configuration and code.
        indices: positions of the samples that are scored.
        seed: seed of the run.
    """

    dataset: Dataset
    model: Model
    explainer: Explainer | None
    metrics: Mapping[str, Metric]
    indices: range
    seed: int

    @cached_property
    def _facts(self) -> ExplainerFacts | None:
        return None if self.explainer is None else explainer_facts(self.explainer, self.model.module)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Dataset, model and explainer by name and digest; the same facts stand in every unit of the row."""
        facts = self._facts
        return {
            "dataset": self.dataset.name,
            "dataset_revision": self.dataset.revision,
            "model": self.model.name,
            "model_digest": self.model.digest,
            "explainer": "" if facts is None else facts.name,
            "explainer_params": "" if facts is None else json.dumps(facts.params, sort_keys=True),
            "seed": self.seed,
        }

    @property
    def shards(self) -> list[range]:
        """The samples in portions of a fixed size."""
        return [self.indices[start : start + SHARD] for start in range(0, len(self.indices), SHARD)]

    @cached_property
    def determined_by(self) -> dict[str, Any]:
        """Everything that determines the numbers of the row, but for the samples and the metrics."""
        facts = self._facts
        return {
            **self.about,
            "schema": SCHEMA,
            "model_code": self.model.code,
            "explainer_code": "" if facts is None else [facts.source_digest, facts.reduction, facts.rectified],
            "interpeval": package_digest(),
            "torch": torch.__version__,
            "captum": version("captum"),
        }

    def key(self, shard: Sequence[int]) -> str:
        """Return what stands for everything that determines the numbers of a shard, but for the metrics.

        Of no samples: for everything that determines the attribution of any one sample.
        """
        return digest_of({**self.determined_by, "ids": [self.dataset.ids[index] for index in shard]})


@dataclass(frozen=True)
class Inapplicable:
    """A metric that has no meaning for a subject."""

    about: Mapping[str, Any]
    metric: str
    version: int
    higher_is_better: bool
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """All rows of a run, and what was left out of it."""

    rows: Sequence[Row]
    inapplicable: Sequence[Inapplicable]


def make_plan(
    dataset: Dataset,
    model: Model,
    explainers: Sequence[Explainer],
    metrics: Sequence[Metric],
    *,
    seed: int,
    limit: int | None = None,
) -> Plan:
    """Pair every explainer with every metric that applies to it; metrics of the model alone get a row of their own."""
    indices = range(len(dataset) if limit is None else min(limit, len(dataset)))
    rows: list[Row] = []
    left_out: list[Inapplicable] = []
    subjects: list[Explainer | None] = [None, *explainers]
    for explainer in subjects:
        wanted = [metric for metric in metrics if ("explainer" in metric.needs) == (explainer is not None)]
        reasons = {id(metric): _reason(dataset, model, explainer, metric) for metric in wanted}
        chosen = {metric_key(metric): metric for metric in wanted if reasons[id(metric)] is None}
        row = Row(dataset, model, explainer, chosen, indices, seed)
        if chosen:
            rows.append(row)
        left_out += [
            Inapplicable(row.about, metric.name, metric.version, metric.higher_is_better, reason)
            for metric in wanted
            if (reason := reasons[id(metric)]) is not None
        ]
    return Plan(rows, left_out)


def names_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names by which one run's rows are told apart: dataset, model, explainer, its parameters."""
    return tuple(str(about[name]) for name in ("dataset", "model", "explainer", "explainer_params"))


def metric_key(metric: Metric) -> str:
    """Return what stands for a metric's name, version, configuration and code."""
    facts = {
        "name": metric.name,
        "version": metric.version,
        "configuration": repr(metric),
        "code": source_digest(type(metric)),
    }
    return digest_of(facts)[:16]


def configuration_text(metric: Metric) -> str:
    """Return the fields that differ from their defaults, as they stand before a variant's name in tables."""
    return ",".join(f"{name}={value}" for name, value in sorted(configuration(metric).items()))


def _reason(dataset: Dataset, model: Model, explainer: Explainer | None, metric: Metric) -> str | None:
    """Return why a metric does not apply; `None` if it does."""
    reason = _lacking(dataset, metric)
    if is_encoder(model.module) and getattr(metric, "target", None) != "none":
        reason = f'model {model.name} is an encoder: only metrics with `target="none"` apply'
    if reason is None and "interpreter" in metric.needs and not isinstance(model.module, Interpretable):
        reason = f"model {model.name} has no interpreter"
    if reason is None and "gradient" in metric.needs and not has_gradients(model.module):
        reason = f"model {model.name} has no gradients"
    if reason is None and "parameters" in metric.needs and next(model.module.parameters(), None) is None:
        reason = f"model {model.name} has no parameters"
    return reason if reason is not None or explainer is None else _unfit(explainer, dataset, model, metric)


def _lacking(dataset: Dataset, metric: Metric) -> str | None:
    """Return what the dataset lacks for a metric."""
    if "masks" in metric.needs and not dataset.has_masks:
        return f"dataset {dataset.name} has no masks"
    if "distractors" in metric.needs and len(dataset.classes) < 2:
        return f"dataset {dataset.name} has a single class"
    if "label" in metric.needs and dataset.labels.ndim != 1:
        return f"dataset {dataset.name} has several labels per sample"
    if "classes" in metric.needs and getattr(dataset, "network_classes", None) is not None:
        return f"dataset {dataset.name} is scored by a network of other classes"
    if "backgrounds" in metric.needs and not getattr(dataset, "has_backgrounds", False):
        return f"dataset {dataset.name} has no images without their objects"
    return None


def _unfit(explainer: Explainer, dataset: Dataset, model: Model, metric: Metric) -> str | None:
    """Return why an explainer cannot be scored with a metric."""
    facts = explainer_facts(explainer, model.module)
    if "sum" in metric.needs and facts.sums_to is None:
        return "it is not said what its attributions add up to"
    if "masks" in facts.needs and not dataset.has_masks:
        return f"{facts.name} needs masks, dataset {dataset.name} has none"
    if facts.needs_gradient and not has_gradients(model.module):
        return f"{facts.name} needs gradients, model {model.name} has none"
    refuses = getattr(explainer, "refuses", None)
    return None if refuses is None else refuses(model.module)
