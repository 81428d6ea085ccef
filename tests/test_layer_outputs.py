"""Which outputs are read, when, and that hooks do not stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, squeezenet1_0

from interpeval.baselines.layer_outputs import last_of_each_resolution, outputs_of


def test_an_output_is_kept_as_it_was_before_an_in_place_function_and_carries_gradients():
    layer = nn.Conv2d(1, 2, 1).double()
    image = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    with outputs_of([layer]) as outputs:
        F.relu(layer(image), inplace=True)
    assert bool((outputs[0] < 0).any())
    (gradient,) = torch.autograd.grad(outputs[0].sum(), image)
    torch.testing.assert_close(gradient, layer.weight.sum().expand(1, 1, 3, 3))


def test_a_module_called_twice_is_read_at_its_last_call_and_a_second_pass_replaces_the_first():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(3.0)
    with outputs_of([layer]) as outputs:
        layer(layer(torch.ones(1, 1)))
        assert outputs[0].item() == 9
        layer(torch.ones(1, 1))
        assert outputs[0].item() == 3
    layer(torch.zeros(1, 1))
    assert outputs[0].item() == 3
    assert not layer._forward_hooks


def test_an_output_that_is_no_tensor_is_named():
    layer = nn.LSTM(2, 2)
    with pytest.raises(TypeError, match="`LSTM` gave tuple"), outputs_of([layer]):
        layer(torch.zeros(1, 1, 2))
    assert not layer._forward_hooks


def test_the_last_layers_of_networks_as_they_are_known():
    model = resnet18(weights=None).eval()
    found = last_of_each_resolution(model, torch.zeros(1, 3, 64, 64))
    assert found == [model.relu, model.layer1, model.layer2, model.layer3, model.layer4]
    squeeze = squeezenet1_0(weights=None).eval()
    names = {module: name for name, module in squeeze.named_modules()}
    found = [names[module] for module in last_of_each_resolution(squeeze, torch.zeros(1, 3, 96, 96))]
    assert found == ["features.1", "features.5", "features.10", "classifier.2"]
    assert not any(module._forward_hooks for module in model.modules())


def test_flat_networks_have_none_and_neither_has_a_change_of_colours():
    assert last_of_each_resolution(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2)) == []
    assert last_of_each_resolution(nn.Sequential(nn.Identity(), nn.Flatten()), torch.zeros(1, 1, 2, 2)) == []
