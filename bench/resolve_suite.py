"""From a suite to the plans of its experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..baselines.base import Explainer
from ..datasets.base import Dataset
from ..metrics.base import Metric
from .engine import Options
from .evaluation import resolve_metrics, with_controls
from .plan import Plan, make_plan
from .resolve import Model, check_model_name, resolve_dataset, resolve_explainer, resolve_model
from .suite import Experiment, Suite


@dataclass(frozen=True, eq=False)
class Parts:
    """An experiment with its names resolved, but for the model, which may have to be trained."""

    experiment: Experiment
    dataset: Dataset
    explainers: Sequence[Explainer]
    metrics: Sequence[Metric]


def make_plans(
    suite: Suite,
    options: Options,
    *,
    dataset_options: Mapping[str, object] = {},
    trust: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[Plan]:
    """Resolve every name of a suite, then load or train its models; `check` is called in between."""
    parts = [resolve(experiment, dataset_options) for experiment in suite.experiments]
    check()
    return [_plan(part, suite.seed, options, trust=trust) for part in parts]


def resolve(experiment: Experiment, dataset_options: Mapping[str, object]) -> Parts:
    """Return what the names of an experiment stand for; its model is only looked for."""
    check_model_name(experiment.model)
    return Parts(
        experiment,
        resolve_dataset(experiment.dataset, **dataset_options),
        with_controls([resolve_explainer(name) for name in experiment.explainers]),
        resolve_metrics(experiment.metrics),
    )


def plan_of(parts: Parts, model: Model, seed: int) -> Plan:
    """Return the plan of an experiment, once there is its model."""
    return make_plan(parts.dataset, model, parts.explainers, parts.metrics, seed=seed, limit=parts.experiment.limit)


def _plan(parts: Parts, seed: int, options: Options, *, trust: bool) -> Plan:
    model = resolve_model(
        parts.experiment.model, parts.dataset, seed=seed, device=options.device, progress=True, trust=trust
    )
    return plan_of(parts, model, seed)
