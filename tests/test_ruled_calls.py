"""Answering the calls of PyTorch that a model makes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines.ruled_calls import Call, moves_values, ruled_calls


class Calling(nn.Module):
    """Calls a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.function(x)


def calls_of(function, x: Tensor | None = None) -> list[Call]:
    """The calls that a rule is asked about."""
    found: list[Call] = []
    model = nn.Sequential(Calling(function))
    x = torch.ones(1, 2, 2, 2, requires_grad=True).clone() if x is None else x

    def rule(call: Call) -> object:
        found.append(call)
        return call.run()

    with ruled_calls(model, rule):
        model(x)
    return found


@pytest.mark.parametrize(
    "function",
    [lambda x: x + 1, lambda x: 1 + x, lambda x: torch.add(x, 1), lambda x: x.add_(1), lambda x: x.__iadd__(1)],
)
def test_a_call_has_one_name_however_it_is_spelt(function) -> None:
    assert [(call.name, call.module, call.where) for call in calls_of(function)] == [("add", "0", "layer `0`")]


def test_calls_that_overwrite_are_known() -> None:
    (added,), (overwritten,) = calls_of(lambda x: x + 1), calls_of(lambda x: x.add_(1))
    assert (added.in_place, overwritten.in_place) == (False, True)


def test_arguments_are_found_by_position_and_by_name() -> None:
    bias = torch.zeros(2)
    for function in (
        lambda x: F.conv2d(x, torch.ones(2, 2, 1, 1), bias),
        lambda x: F.conv2d(x, weight=torch.ones(2, 2, 1, 1), bias=bias),
    ):
        (call,) = calls_of(function)
        assert call.argument(2, "bias") is bias
        assert call.tensor(3, "stride") is None


def test_only_calls_on_what_depends_are_asked_about() -> None:
    assert not calls_of(torch.relu, torch.ones(2))
    assert calls_of(lambda x: torch.cat([torch.ones(1, 2, 2, 2), x]))[0].name == "cat"


def test_the_answer_takes_the_place_of_the_result_and_asks_no_further() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten())

    def rule(call: Call) -> object:
        return torch.sigmoid(call.args[0]) if call.name == "relu" else call.run()

    x = torch.randn(1, 2, 2, requires_grad=True)
    with ruled_calls(model, rule):
        assert torch.equal(model(x), x.sigmoid().flatten(1))
    assert torch.equal(model(x), x.relu().flatten(1))
    with pytest.raises(ZeroDivisionError), ruled_calls(model, lambda _: 1 / 0):
        model(x)
    assert torch.equal(model(x), x.relu().flatten(1))


@pytest.mark.parametrize(
    ("function", "moves"),
    [
        (lambda x: F.max_pool2d(x, 2), True),
        (lambda x: F.pad(x, (1, 1)), True),
        (lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"), True),
        (lambda x: F.pad(x, (1, 1), value=2.0), False),
        (lambda x: F.dropout(x, 0.5, training=False), True),
        (lambda x: F.dropout(x, 0.5), False),
        (lambda x: F.avg_pool2d(x, 2), False),
        (lambda x: 2 * x, False),
    ],
)
def test_which_calls_only_move_values(function, moves: bool) -> None:
    assert [moves_values(call) for call in calls_of(function)] == [moves]
