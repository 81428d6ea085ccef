"""Relevance handed down through an encoder by a rule for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

from interpeval.baselines.composite_relevance import composite_relevance
from reference import relevance as slow


def relevance_of(layer: nn.Module, inputs: Tensor, relevance: Tensor, **options: object) -> np.ndarray:
    return composite_relevance(layer, inputs[None], lambda _: relevance[None], **options)[0].numpy()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_a_linear_layer_follows_the_epsilon_rule() -> None:
    layer, inputs, relevance = nn.Linear(5, 4).double(), randn(5), randn(4)
    expected = slow.linear(inputs.numpy(), *(p.detach().numpy() for p in layer.parameters()), relevance.numpy())
    np.testing.assert_allclose(relevance_of(layer, inputs, relevance), expected, rtol=1e-10)


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1)])
def test_a_convolution_of_the_input_follows_its_rule(
    bounds: tuple[float, float] | None, kernel: int, stride: int, padding: int
) -> None:
    layer = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding).double()
    inputs = randn(2, 6, 4).clamp(-0.5, 1.0)
    relevance = randn(*layer(inputs).shape)
    weight = layer.weight.detach().numpy()
    expected = slow.convolution(
        inputs.numpy(), weight, relevance.numpy(), stride=stride, padding=padding, bounds=bounds
    )
    np.testing.assert_allclose(relevance_of(layer, inputs, relevance, bounds=bounds), expected, rtol=1e-10, atol=1e-12)


def test_the_bounds_are_those_of_the_input_alone() -> None:
    first, second = nn.Conv2d(1, 2, 3, padding=1).double(), nn.Conv2d(2, 2, 3, padding=1).double()
    inputs, relevance = randn(1, 4, 4).clamp(-1, 1), randn(2, 4, 4)
    between = first(inputs).detach().numpy()
    options = {"stride": 1, "padding": 1}
    middle = slow.convolution(between, second.weight.detach().numpy(), relevance.numpy(), **options)
    expected = slow.convolution(inputs.numpy(), first.weight.detach().numpy(), middle, bounds=(-1.0, 1.0), **options)
    found = relevance_of(nn.Sequential(first, second), inputs, relevance, bounds=(-1.0, 1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_an_average_hands_down_in_proportion_to_its_inputs() -> None:
    inputs, relevance = randn(2, 4, 6), randn(2, 2, 3)
    expected = slow.average_pool(inputs.numpy(), relevance.numpy())
    np.testing.assert_allclose(relevance_of(nn.AvgPool2d(2), inputs, relevance), expected, rtol=1e-10)


class Steps(nn.Module):
    """A network that is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(inputs)


def test_a_sum_of_branches_is_split_by_their_values() -> None:
    inputs = torch.tensor([[[1.0, -2.0, 0.5]]])
    relevance = torch.tensor([[[6.0, 6.0, 6.0]]])
    found = composite_relevance(Steps(lambda x: F.relu(x) + x), inputs, lambda _: relevance)
    # Where x is positive both branches have half; where it is negative the ReLU adds nothing and x has all.
    torch.testing.assert_close(found, torch.tensor([[[6.0, 6.0, 6.0]]]), rtol=1e-5, atol=0)
    parts = composite_relevance(Steps(lambda x: x[:, :, :1] + x[:, :, 1:2]), inputs, lambda _: relevance[:, :, :1])
    torch.testing.assert_close(parts, torch.tensor([[[-6.0, 12.0, 0.0]]]), rtol=1e-5, atol=0)


def test_max_pooling_hands_all_to_the_winner_and_batch_normalisation_all_to_its_input() -> None:
    norm = nn.BatchNorm2d(1).eval()
    with torch.no_grad():
        norm.running_mean.fill_(3), norm.weight.fill_(-2), norm.bias.fill_(1)
    inputs = torch.tensor([[[1.0, 4.0], [3.0, 2.0]]])
    found = relevance_of(nn.Sequential(nn.MaxPool2d(2), norm), inputs, torch.tensor([[[5.0]]]))
    np.testing.assert_array_equal(found, [[[0, 5], [0, 0]]])


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5, bias=False),
    ).double().eval()  # fmt: skip


def test_relevance_is_conserved_without_biases_in_linear_layers_and_not_with_them() -> None:
    model, inputs, start = chain(), randn(3, 2, 8, 8).clamp(-1, 1), randn(3, 5)

    def sums() -> Tensor:
        return composite_relevance(model, inputs, lambda _: start, bounds=(-1.0, 1.0)).sum((1, 2, 3))

    torch.testing.assert_close(sums(), start.sum(1), rtol=1e-3, atol=1e-3)
    model[-1].bias = nn.Parameter(randn(5))
    assert not torch.isclose(sums(), start.sum(1), rtol=1e-2).any()


def test_relevance_is_linear_in_its_start() -> None:
    model, inputs, first, second = chain(), randn(2, 2, 8, 8), randn(2, 5), randn(2, 5)
    parts = [composite_relevance(model, inputs, lambda _, start=start: start) for start in (first, second)]
    torch.testing.assert_close(
        composite_relevance(model, inputs, lambda _: first + 2 * second), parts[0] + 2 * parts[1]
    )


@torch.no_grad()
def test_the_start_is_asked_with_the_output_and_the_callers_gradient_mode_does_not_matter() -> None:
    model, inputs, seen = chain(), randn(2, 2, 8, 8), []

    def start(outputs: Tensor) -> Tensor:
        seen.append(outputs)
        return outputs

    found = composite_relevance(model, inputs, start)
    torch.testing.assert_close(seen[0], model(inputs))
    assert not found.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(composite_relevance(model, inputs, start), found)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_batch_normalisation_behind_a_convolution_must_be_folded_where_it_turns_signs() -> None:
    """Folded or not, the output is the same, but a negative scale makes the other inputs those that count."""
    convolution, norm = nn.Conv2d(1, 2, 3).double(), nn.BatchNorm2d(2).double().eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-1.0, -2.0]))
    inputs = randn(1, 1, 3, 3)
    folded = fuse_conv_bn_eval(convolution.eval(), norm)
    torch.testing.assert_close(folded(inputs), norm(convolution(inputs)))
    start = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    expected = slow.convolution(
        inputs[0].numpy(), folded.weight.detach().numpy(), np.ones((2, 1, 1)), stride=1, padding=0
    )
    np.testing.assert_allclose(composite_relevance(folded, inputs, lambda _: start)[0], expected, rtol=1e-9)
    apart = composite_relevance(nn.Sequential(convolution, norm), inputs, lambda _: start)
    assert not np.allclose(apart[0], expected, atol=0.01)


def test_a_network_with_skip_connections_and_in_place_relus_is_covered() -> None:
    model = resnet18(num_classes=4).double().eval()
    model.fc.bias.data.zero_()
    inputs, start = randn(2, 3, 32, 32), torch.rand(2, 4, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = composite_relevance(model, inputs, lambda _: start)
    assert found.shape == inputs.shape
    # ε takes a little from every average and sum.
    torch.testing.assert_close(found.sum((1, 2, 3)), start.sum(1), rtol=0.02, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("function", "named"),
    [(torch.sigmoid, "sigmoid"), (lambda x: x * x, "mul"), (lambda x: x + 1, "add"), (lambda x: x - x, "sub")],
)
def test_steps_without_a_rule_are_refused_by_name(function: Callable[[Tensor], Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=f"no rule that hands relevance down through `{named}`"):
        composite_relevance(Steps(function), torch.ones(1, 2), torch.ones_like)


def test_a_network_that_normalises_by_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in evaluation mode, layer `3`"):
        composite_relevance(chain().train(), randn(2, 2, 8, 8), torch.ones_like)
