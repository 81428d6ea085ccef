"""What a process of a Ray cluster does: it makes the plan of an experiment once, and units of it when asked."""

from __future__ import annotations

import os
import platform
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .catalog import expanded
from .engine import Failure, Options, finish_unit
from .packed_model import PackedModel, unpack
from .plan import Plan, Row
from .resolve_suite import plan_of, resolve
from .store import PackedUnit, Store, Unit, packed, unpacked
from .suite import Experiment


@dataclass(frozen=True, eq=False)
class Order:
    """What the plan of an experiment is made of, and how its units are done.

    Attributes:
        experiment: the names.
        model: its model, with weights.
        seed: of the run.
        dataset_options: arguments for datasets that take them.
        device: kind of device, `"cpu"` or `"cuda"`; Ray says which one.
        threads: threads of a task.
        batch_size: rows per call of the model; `None` chooses by the memory there is.
        keep_attributions: keep all attributions.
        folder: where the driver was started: names of files may be relative to it.
        variables: environment variables that the names mention.
    """

    experiment: Experiment
    model: PackedModel
    seed: int
    dataset_options: Mapping[str, object]
    device: str
    threads: int
    batch_size: int | None
    keep_attributions: bool
    folder: str
    variables: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Asked:
    """A unit to be done.

    Attributes:
        row: its place among the rows of the plan.
        shard: its samples.
        key: its key, as the driver knows it.
        determined_by: everything that determines the numbers of its row, as the driver knows it.
        metrics: keys of the metrics of its row and their names, likewise.
        done: what is finished of it.
    """

    row: int
    shard: range
    key: str
    determined_by: Mapping[str, Any]
    metrics: Mapping[str, str]
    done: Sequence[PackedUnit]


@dataclass(frozen=True)
class WentWrong:
    """A task that gave no unit.

    Attributes:
        message: what went wrong, in a line.
        trace: where.
    """

    message: str
    trace: str


class _Relay(Store):
    """In place of a store: what the driver has sent is found, and what is written goes back to it."""

    def __init__(self, done: Sequence[PackedUnit]) -> None:
        super().__init__(Path())
        self._done = [unpacked(one) for one in done]

    def find(self, key: str) -> list[Unit]:
        return [unit for unit in self._done if unit.key == key]

    def write(self, unit: Unit) -> None:
        self._done.append(unit)


_plans: dict[str, tuple[Plan, Options]] = {}


def do(orders: Sequence[Any], asked: Asked) -> PackedUnit | WentWrong:
    """Do a unit.

    Args:
        orders: the reference to an `Order`; within a list, so that it is fetched once and not for every task.
        asked: the unit.
    """
    try:
        plan, options = _plan_of(orders[0])
        row = _row_of(plan, asked)
        outcome = finish_unit(row, asked.shard, _Relay(asked.done), options)
        if isinstance(outcome, Failure):
            return WentWrong(f"{outcome.message} (on {platform.node()})", outcome.trace)
        return packed(outcome[-1])
    except Exception as error:  # noqa: BLE001  # the driver decides what becomes of it
        message = f"{type(error).__name__}: {error} (on {platform.node()})"
        return WentWrong(message, traceback.format_exc())


def variables_of(experiment: Experiment) -> dict[str, str]:
    """Return the environment variables that the names of an experiment mention."""
    texts = (experiment.dataset, experiment.model, *experiment.explainers, *(experiment.metrics or ()))
    names = {name for text in texts for name in re.findall(r"\$\{(\w+)\}", text)}
    return {name: expanded(f"${{{name}}}") for name in sorted(names)}


def _plan_of(reference: Any) -> tuple[Plan, Options]:
    key = reference.hex()
    if key not in _plans:
        _plans[key] = _made(import_module("ray").get(reference))
    return _plans[key]


def _made(order: Order) -> tuple[Plan, Options]:
    """Make the plan of an experiment, as the driver did."""
    torch.set_num_threads(order.threads)
    os.chdir(order.folder)
    os.environ.update(order.variables)
    device = torch.device(order.device)
    parts = resolve(order.experiment, order.dataset_options)
    model = unpack(order.model, parts.dataset, seed=order.seed, device=device)
    options = Options(device, batch_size=order.batch_size, keep_attributions=order.keep_attributions)
    return plan_of(parts, model, order.seed), options


def _row_of(plan: Plan, asked: Asked) -> Row:
    """Return the row of a unit.

    Raises:
        ValueError: it would have other numbers than the driver asked for.
    """
    if asked.row >= len(plan.rows):
        raise ValueError(f"the plan has {len(plan.rows)} rows here, one more than {asked.row} was asked for")
    row = plan.rows[asked.row]
    here, there = row.determined_by, asked.determined_by
    differ = [
        f"`{name}` is {here.get(name)} here, {there.get(name)} at the driver"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    differ += [
        f"the code or version of metric `{name}`" for key, name in asked.metrics.items() if key not in row.metrics
    ]
    if not differ and row.key(asked.shard) != asked.key:
        differ = ["the names of the samples"]
    if differ:
        raise ValueError(f"this unit would not be the one that was asked for: {'; '.join(differ)}")
    return row
