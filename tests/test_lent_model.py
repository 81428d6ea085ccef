"""A model that is lent comes back as it was, whatever was done to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interpeval.baselines.lent_model import lent
from interpeval.bench.guard import ModelGuard


def network() -> nn.Sequential:
    """A model in use: partly frozen, partly in training mode, with a gradient and a hook."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model.eval()
    model[3].train()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    model[3].register_forward_hook(lambda *_: None)
    return model


def train(model):
    model.train()


def thaw(model):
    model.requires_grad_(True)


def freeze(model):
    model.requires_grad_(False)


def empty_gradients(model):
    model.zero_grad()


def add_gradients(model):
    model(torch.ones(1, 1, 2, 2)).sum().backward()


def hook(model):
    model[0].register_forward_hook(lambda *_: None)


def forget_hooks(model):
    model[3]._forward_hooks.clear()


def replace_module(model):
    model[2] = nn.Flatten()


def add_module(model):
    model[0].add_module("sum", nn.Identity())


def drop_bias(model):
    model[3].bias = None


def replace_weights(model):
    model[3].weight.data = torch.zeros(2, 8)
    model[1].running_mean.data = torch.ones(2)


def replace_forward(model):
    model[2].forward = lambda inputs: inputs.flatten(1)


CHANGES = [
    train, thaw, freeze, empty_gradients, add_gradients, hook, forget_hooks, replace_module, add_module, drop_bias,
    replace_weights, replace_forward,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone(change):
    model = network()
    guard = ModelGuard(model)
    with lent(model):
        change(model)
    assert guard.restore() == []
    change(model)
    assert guard.restore() != [], "the guard would not have seen this change"


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone_after_an_exception(change):
    model = network()
    guard = ModelGuard(model)
    with pytest.raises(ZeroDivisionError), lent(model):  # noqa: PT012  # a change, and then the exception
        change(model)
        raise ZeroDivisionError
    assert guard.restore() == []


def test_a_forward_of_the_modules_own_stays():
    model = network()
    own = model[2].forward = lambda inputs: inputs.flatten(1) * 2
    with lent(model):
        model[2].forward = lambda inputs: inputs.flatten(1)
    assert model[2].forward is own
    with lent(model):
        del model[2].forward
    assert model[2].forward is own
