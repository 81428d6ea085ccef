"""Heatmaps of the samples that explainers do best and worst on, once it is known which these are."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from ..leaderboards.cases import Subject, cases_of, subject_named
from ..leaderboards.names import printable
from ..metrics.base import TargetRule
from .engine import Options, explain
from .plan import Plan, Row
from .results import Results
from .store import Store, Unit

_WHAT = "best and worst samples"


class _Job(NamedTuple):
    """Samples of a row that are to be explained for one target."""

    row: Row
    target: str
    ids: tuple[str, ...]


def explain_cases(plans: Sequence[Plan], results: Results, store: Store, options: Options) -> list[Unit]:
    """Explain the best and worst samples of every metric by every explainer of the plans, for the page.

    What the store holds is not explained again, and attributions that a run kept are used. No number depends on this:
    what fails is said and left out, and an interruption ends this and nothing else.

    Returns:
        New units with heatmaps.
    """
    found: list[Unit] = []
    jobs = list(_jobs(plans, results, options)) if options.cases else []
    if jobs:
        total = sum(len(job.ids) for job in jobs)
        with tqdm(total=total, unit="img", desc=_WHAT, file=sys.stderr, dynamic_ncols=True) as bar:
            try:
                for job in jobs:
                    bar.set_postfix_str(printable(f"{job.row.about['model']} {job.row.about['explainer']}"))
                    found += _finish(job, results, store, options)
                    bar.update(len(job.ids))
            except KeyboardInterrupt:
                bar.write(f"Interrupted: the other heatmaps of {_WHAT} are left out.", sys.stderr)
    return found


def _finish(job: _Job, results: Results, store: Store, options: Options) -> list[Unit]:
    """Store what an explainer says; nothing where it cannot be had."""
    try:
        unit = _explain(job, results, options)
        store.write_pictures(unit)
    except Exception as error:  # noqa: BLE001  # a picture less is not the end of the run
        explainer = job.row.about["explainer"]
        reason = printable(f"{explainer}: {type(error).__name__}: {error}")
        tqdm.write(f"No heatmaps of {_WHAT} by {reason}", sys.stderr)
        return []
    return [unit]


def _jobs(plans: Sequence[Plan], results: Results, options: Options) -> Iterator[_Job]:
    """What earlier runs have not left."""
    wanted = _wanted(results)
    for plan in plans:
        for row in plan.rows:
            if row.explainer is not None:
                key = row.key(())
                held = [unit for unit in results.pictures if unit.key == key and options.existing != "redo"]
                have = {(unit.about["target"], name) for unit in held for name in unit.ids}
                for target, names in wanted[subject_named(row.about)].items():
                    missing = tuple(name for name in names if (target, name) not in have)
                    if missing:
                        yield _Job(row, target, missing)


def _wanted(results: Results) -> dict[Subject, dict[str, dict[str, None]]]:
    """The samples to show, each once, by what they are samples of and by the class that is explained."""
    wanted: dict[Subject, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for cases in cases_of(results.board):
        wanted[cases.subject][cases.target] |= dict.fromkeys((cases.best.id, cases.worst.id))
    return wanted


def _explain(job: _Job, results: Results, options: Options) -> Unit:
    dataset = job.row.dataset
    place = {dataset.ids[index]: index for index in job.row.indices}
    usual: TargetRule = "label" if dataset.labels.ndim == 1 else "predicted"
    rule = cast("TargetRule", job.target or usual)  # not every metric says which class it is about
    kept = _kept(job, rule, results)
    return explain(
        job.row, [place[name] for name in job.ids], rule, options,
        known={} if kept is None else {rule: kept}, about={"target": job.target},
    )  # fmt: skip


def _kept(job: _Job, rule: TargetRule, results: Results) -> Tensor | None:
    """The attributions of these samples, if the run kept those of all."""
    same = job.row.about.items()
    attributions = {
        name: unit.attributions[rule][row]
        for unit in results.units
        if rule in unit.attributions and same <= unit.about.items()
        for row, name in enumerate(unit.ids)
    }
    return torch.stack([attributions[name] for name in job.ids]) if attributions.keys() >= set(job.ids) else None
