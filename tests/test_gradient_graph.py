"""The operations between two tensors, and the module in which each took place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.gradient_graph import module_calls, nodes_between


def test_only_what_lies_between_is_found() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    half = x.exp()
    output = half * y.sin() + half
    below, above = output.cos(), nodes_between(x, output)
    names = sorted(node.name() for node in above if "Accumulate" not in node.name())
    assert names == ["AddBackward0", "ExpBackward0", "MulBackward0"]
    assert below.grad_fn not in above
    assert nodes_between(x, y.sin()) == set()


class Nested(nn.Module):
    """Calls functions before, between and after its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        """Return sines of what they make of exponentials."""
        return torch.cat(self.pair(self.first(x.exp()).abs()), dim=1).sin()


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return two functions of one tensor."""
        return x.cos(), x.sigmoid()


def test_an_operation_belongs_to_the_innermost_module_that_called_it() -> None:
    model, x = Nested(), torch.rand(1, 2, requires_grad=True)
    with module_calls(model) as calls:
        output = model(x)
    owners = {node.name().partition("Backward")[0]: calls.owner(node) for node in nodes_between(x, output)}
    expected = {"Exp": "", "Addmm": "first.0", "Tanh": "first.1", "Abs": "", "Cos": "pair", "Sigmoid": "pair"}
    assert {name: owners[name] for name in expected} == expected
    assert owners["Cat"] == owners["Sin"] == ""


def test_hooks_are_removed_after_an_exception() -> None:
    model = Nested()
    with pytest.raises(ZeroDivisionError), module_calls(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
