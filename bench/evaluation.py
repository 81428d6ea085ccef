"""The benchmark from Python: one model, one or several explainers, one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..baselines.base import Explainer
from ..baselines.ensure import ensure_explainer
from ..datasets.base import Dataset
from ..metrics.base import Metric
from .catalog import entries
from .engine import Failure, Options, finish_unit
from .plan import make_plan
from .resolve import Model, as_model, resolve_dataset, resolve_explainer, resolve_metric, resolve_model
from .results import Results
from .store import Unit


class EvaluationError(RuntimeError):
    """Some samples could not be scored at all."""


def evaluate(
    model: nn.Module | str,
    explainer: Any,
    dataset: Dataset | str,
    metrics: Sequence[Metric | str] | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    controls: bool = True,
    trust: bool = False,
    progress: bool = False,
) -> Results:
    """Score the explanations of a model.

    Args:
        model: a classifier (`torch.nn.Module` from normalised images to logits), or a name as in `interpeval run`.
        explainer: a name, an object with `attribute(model, inputs, targets)`, a Captum class, or a function
            `(model, inputs, targets) -> attributions`; or a list of these.
        dataset: a dataset, or its name.
        metrics: metrics or their names; all that apply if left out.
        seed: seeds every draw.
        limit: use the first samples only.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        batch_size: rows per call of the model; chosen by the memory there is if left out. Changes no value.
        controls: score the control explainers too, so that floor and ceiling of every metric stand beside it.
        trust: let the pickled weights file that a model's name mentions run its code (`interpeval.bench.weights.load`).
        progress: show a progress bar while a model is trained.

    Returns:
        `Results` with `.scores` (one row per sample), `.summary()` (one row per number), `.save(folder)`, `.plot()`.

    Raises:
        ValueError, TypeError, LookupError: an argument is not what it must be.
        EvaluationError: a shard failed as a whole; what a single sample or metric suffers is recorded instead.

    Example:
        >>> from interpeval.datasets.digits import Digits
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> found = evaluate(network, "gradient", Digits(), ["mask_k_pixels"], limit=4, controls=False)
        >>> sorted(found.summary()["variant"])
        ['accuracy_area', 'delta_lor_area', 'lor_area']
    """
    if not isinstance(model, nn.Module | str):
        raise TypeError(f"`model` must be a torch.nn.Module or a name, was {type(model).__name__}")
    target = choose_device(device)
    data = resolve_dataset(dataset) if isinstance(dataset, str) else dataset
    chosen = [
        resolve_explainer(one) if isinstance(one, str) else ensure_explainer(one)
        for one in (explainer if isinstance(explainer, list | tuple) else [explainer])
    ]
    if controls:
        chosen = with_controls(chosen)
    measures = resolve_metrics(metrics)
    modes = [] if isinstance(model, str) else [(module, module.training) for module in model.modules()]
    try:
        network = _model(model, data, seed=seed, device=target, progress=progress, trust=trust)
        plan = make_plan(data, network, chosen, measures, seed=seed, limit=limit)
        units: list[Unit] = []
        options = Options(target, batch_size)
        for row in plan.rows:
            for shard in row.shards:
                outcome = finish_unit(row, shard, None, options)
                if isinstance(outcome, Failure):
                    raise EvaluationError(f"{row.about['explainer'] or row.about['model']}: {outcome.message}")
                units += outcome
    finally:
        for module, mode in modes:
            module.training = mode
    return Results(units, plan.inapplicable, seed)


def resolve_metrics(metrics: Sequence[Metric | str] | None) -> list[Metric]:
    """Return metrics by name, all of the catalog for `None`."""
    names = list(entries("metrics")) if metrics is None else metrics
    return [resolve_metric(one) if isinstance(one, str) else one for one in names]


def with_controls(explainers: Sequence[Explainer]) -> list[Explainer]:
    """Return explainers followed by the control explainers that are not among them."""
    given = {getattr(explainer, "name", "") for explainer in explainers}
    names = [name for name, entry in entries("explainers").items() if entry.facts.get("control") and name not in given]
    return [*explainers, *map(resolve_explainer, names)]


def choose_device(device: str) -> torch.device:
    """Return the device called `device`; `"auto"` is the GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'`device` must be "auto", "cpu" or a GPU that is here, was {device!r}: {error}') from error
    return chosen


def _model(
    model: nn.Module | str, dataset: Dataset, *, seed: int, device: torch.device, progress: bool, trust: bool
) -> Model:
    if isinstance(model, str):
        return resolve_model(model, dataset, seed=seed, device=device, progress=progress, trust=trust)
    return as_model(model, dataset, device=device)
