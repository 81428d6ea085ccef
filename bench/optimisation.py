"""Optimisers and learning rates as recipes name them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one_cycle", "constant", "steps", "cosine")
RECIPE_KEYS = frozenset(
    {
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "optimizer",
        "momentum",
        "schedule",
        "milestones",
        "factor",
        "minimum_rate",
        "threads",
    }
)
"""What the training loop itself reads in a recipe."""


def make_optimizer(model: nn.Module, recipe: Mapping[str, Any]) -> Optimizer:
    """Make the optimiser that a recipe names, over all parameters or over the groups that the model asks for.

    Args:
        model: its method `parameter_groups(recipe)`, if it has one, returns the groups, which may have rates and
            decays of their own; otherwise all parameters are one group. Parameters that require no gradient are among
            them and stay as they are, so that a model may free them in a later epoch.
        recipe: `optimizer` (`"adamw"`, the default, `"adam"` or `"sgd"`), `learning_rate`, `weight_decay` (default 0;
            decoupled for `"adamw"`, added to the gradient for the others) and `momentum` (default 0; `"sgd"` only).

    Raises:
        ValueError: the recipe lacks a number or has an impossible one, or names no optimiser that there is.

    Example:
        >>> make_optimizer(nn.Linear(1, 1), {"optimizer": "sgd", "learning_rate": 0.1}).defaults["momentum"]
        0.0
    """
    kind = choice(recipe, "optimizer", OPTIMIZERS)
    rate = number(recipe, "learning_rate", None, "a positive number", lambda value: value > 0)
    decay = number(recipe, "weight_decay", 0.0, "a number of at least 0", lambda value: value >= 0)
    momentum = number(recipe, "momentum", 0.0, "a number in [0, 1)", lambda value: 0 <= value < 1)
    grouped: Callable[..., Any] | None = getattr(model, "parameter_groups", None)
    groups = list(model.parameters()) if grouped is None else grouped(recipe)
    if kind == "sgd":
        return SGD(groups, lr=rate, weight_decay=decay, momentum=momentum)
    return (Adam if kind == "adam" else AdamW)(groups, lr=rate, weight_decay=decay)


def make_schedule(optimizer: Optimizer, recipe: Mapping[str, Any], epochs: int, steps: int) -> LRScheduler:
    """Make the learning rate's course over `epochs` epochs of `steps` steps; it is stepped after every batch.

    `schedule` of the recipe is one of

    * `"one_cycle"` (default): `torch.optim.lr_scheduler.OneCycleLR` with `learning_rate` (or that of the group) as its
      highest rate. It also moves the first beta of Adam and AdamW between 0.95 and 0.85; the momentum of SGD stays;
    * `"constant"`;
    * `"steps"`: multiplied by `factor` from the start of every epoch in `milestones` on, epochs counted from 1;
    * `"cosine"`: at step t of T, `m + (r - m) (1 + cos(pi t / T)) / 2` for rate r and `minimum_rate` m (default 0).

    Raises:
        ValueError: the recipe lacks a number or has an impossible one, or names no schedule that there is.

    Example:
        >>> optimizer = make_optimizer(nn.Linear(1, 1), {"learning_rate": 0.1})
        >>> recipe = {"schedule": "steps", "milestones": [2], "factor": 0.5}
        >>> schedule = make_schedule(optimizer, recipe, 2, 1)
        >>> optimizer.step(), schedule.step(), schedule.get_last_lr()
        (None, None, [0.05])
    """
    kind, total = choice(recipe, "schedule", SCHEDULES), epochs * steps
    rates: list[float] = [group["lr"] for group in optimizer.param_groups]
    if kind == "one_cycle":
        return OneCycleLR(optimizer, max_lr=rates, total_steps=total, cycle_momentum=not isinstance(optimizer, SGD))
    if kind == "steps":
        course = _falling_in_steps(recipe, steps)
        return LambdaLR(optimizer, course)
    if kind == "cosine":
        least = number(
            recipe, "minimum_rate", 0.0, f"in [0, {min(rates)}], the learning rate", lambda v: 0 <= v <= min(rates)
        )
        return LambdaLR(optimizer, [_cosine(least / rate, total) for rate in rates])
    return LambdaLR(optimizer, _constant)


def whole(recipe: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a whole number of at least 1 from a recipe."""
    value = recipe.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{key}` of the recipe must be a whole number of at least 1, was {value!r}")
    return value


def number(
    recipe: Mapping[str, Any], key: str, default: float | None, what: str, fits: Callable[[float], bool]
) -> float:
    """Return a finite number from a recipe that `fits`, which `what` says in words."""
    value = recipe.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not fits(value):
        raise ValueError(f"`{key}` of the recipe must be {what}, was {value!r}")
    return value


def choice(recipe: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    """Return a word from a recipe that is one of `known`, the first of them if the recipe has none."""
    value = recipe.get(key, known[0])
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise ValueError(f"`{key}` of the recipe must be one of {', '.join(known)}, was {value!r}{hint}")
    return str(value)


def _falling_in_steps(recipe: Mapping[str, Any], steps: int) -> Callable[[int], float]:
    milestones = recipe.get("milestones")
    if not isinstance(milestones, list | tuple) or not all(isinstance(one, int) and one >= 1 for one in milestones):
        raise ValueError(f"`milestones` of the recipe must be a list of epochs, counted from 1, was {milestones!r}")
    factor = number(recipe, "factor", None, "a positive number", lambda value: value > 0)

    def course(step: int) -> float:
        return factor ** sum(step // steps + 1 >= epoch for epoch in milestones)

    return course


def _cosine(least: float, total: int) -> Callable[[int], float]:
    def course(step: int) -> float:
        return least + (1 - least) * (1 + math.cos(math.pi * step / total)) / 2

    return course


def _constant(_step: int) -> float:
    return 1.0
