"""Optimisers and learning rates, against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from interpeval.bench.optimisation import make_optimizer, make_schedule


def layer() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    return model


def rates(recipe: dict[str, Any], epochs: int, steps: int, model: nn.Module | None = None) -> list[list[float]]:
    """The rates of the groups at every step."""
    optimizer = make_optimizer(model or layer(), recipe)
    schedule = make_schedule(optimizer, recipe, epochs, steps)
    seen = []
    for _ in range(epochs * steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(("kind", "expected"), [(None, AdamW), ("adamw", AdamW), ("adam", Adam), ("sgd", SGD)])
def test_the_recipe_names_the_optimiser(kind: str | None, expected: type) -> None:
    recipe = {"learning_rate": 0.1, "weight_decay": 0.2} | ({} if kind is None else {"optimizer": kind})
    optimizer = make_optimizer(layer(), recipe)
    assert type(optimizer) is expected
    assert optimizer.defaults["weight_decay"] == 0.2
    assert optimizer.defaults.get("decoupled_weight_decay", False) == (expected is AdamW)


def test_sgd_follows_its_momentum_also_under_one_cycle() -> None:
    """By hand: v <- 0.9 v + g, w <- w - rate v, with g = 1."""
    model = layer()
    recipe = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "one_cycle"}
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, 2, 5)
    weight, velocity = 2.0, 0.0
    for _ in range(10):
        model.weight.grad = torch.ones(1, 1)
        velocity = 0.9 * velocity + 1
        weight -= optimizer.param_groups[0]["lr"] * velocity
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 1), weight))


def test_a_constant_rate_stays() -> None:
    assert rates({"learning_rate": 0.3, "schedule": "constant"}, 2, 2) == [[0.3]] * 4


def test_steps_fall_at_the_start_of_their_epochs() -> None:
    recipe = {"learning_rate": 1.0, "schedule": "steps", "milestones": [2, 4], "factor": 0.5}
    assert rates(recipe, 5, 2) == [[1.0]] * 2 + [[0.5]] * 4 + [[0.25]] * 4


def test_cosine_falls_to_the_minimum() -> None:
    found = rates({"learning_rate": 0.5, "schedule": "cosine", "minimum_rate": 0.1}, 2, 4)
    expected = [[0.1 + 0.4 * (1 + math.cos(math.pi * step / 8)) / 2] for step in range(8)]
    assert found[0] == [0.5]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = layer(), layer()

    def parameter_groups(self, recipe: dict[str, Any]) -> list[dict[str, Any]]:
        fast: list[Tensor] = list(self.fast.parameters())
        return [{"params": list(self.slow.parameters())}, {"params": fast, "lr": recipe["fast"], "weight_decay": 0.7}]


def test_groups_have_rates_and_decays_of_their_own_which_schedules_scale() -> None:
    recipe = {"learning_rate": 0.1, "fast": 0.4, "schedule": "steps", "milestones": [2], "factor": 0.5}
    optimizer = make_optimizer(Grouped(), recipe)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.7]
    assert rates(recipe, 2, 1, Grouped()) == [[0.1, 0.4], [0.05, 0.2]]
    highest = [max(seen) for seen in zip(*rates(recipe | {"schedule": "one_cycle"}, 10, 2, Grouped()), strict=True)]
    assert highest == pytest.approx([0.1, 0.4])
    last = rates(recipe | {"schedule": "cosine", "minimum_rate": 0.1}, 1, 2, Grouped())[1]
    assert last == pytest.approx([0.1, 0.25])  # half-way from 0.4 to 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": "sdg"},
            "`optimizer` of the recipe must be one of adamw, adam, sgd, was 'sdg'; did you mean `sgd`",
        ),
        ({"schedule": "cosin"}, "`schedule` of the recipe must be one of .*did you mean `cosine`"),
        ({"weight_decay": -1}, "`weight_decay` of the recipe must be a number of at least 0, was -1"),
        ({"momentum": 1}, r"`momentum` of the recipe must be a number in \[0, 1\), was 1"),
        ({"schedule": "steps", "factor": 0.5}, "`milestones` of the recipe must be a list of epochs"),
        (
            {"schedule": "steps", "milestones": [0], "factor": 0.5},
            "`milestones` of the recipe must be a list of epochs",
        ),
        ({"schedule": "steps", "milestones": [1]}, "`factor` of the recipe must be a positive number, was None"),
        ({"schedule": "cosine", "minimum_rate": 0.2}, r"`minimum_rate` of the recipe must be in \[0, 0.1\]"),
        ({"learning_rate": True}, "`learning_rate` of the recipe must be a positive number, was True"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    recipe = {"learning_rate": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        make_schedule(make_optimizer(layer(), recipe), recipe, 2, 2)
