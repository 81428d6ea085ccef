"""`guided_backprop` and `deconvnet`: the changed backward pass of ReLU, and the models it cannot be changed in."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from interpeval.baselines.base import Explainer
from interpeval.baselines.deconvnet import DeconvNet
from interpeval.baselines.gradient import Gradient
from interpeval.baselines.guided_backprop import GuidedBackprop

both = pytest.mark.parametrize("explainer", [GuidedBackprop(), DeconvNet()], ids=lambda explainer: explainer.name)


class _Rule(torch.autograd.Function):
    """ReLU whose backward pass is written out."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, guided: bool) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(z)
        ctx.guided = guided  # type: ignore[attr-defined]
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (z,) = ctx.saved_tensors  # type: ignore[attr-defined]
        positive = gradient.clamp(min=0)
        return (positive * (z > 0) if ctx.guided else positive), None  # type: ignore[attr-defined]


class _Ruled(nn.Module):
    """The module form of `_Rule`."""

    def __init__(self, guided: bool) -> None:
        super().__init__()
        self.guided = guided

    def forward(self, z: Tensor) -> Tensor:
        """Rectify."""
        return _Rule.apply(z, self.guided)


def restated(model: nn.Module, inputs: Tensor, targets: Tensor, explainer: Explainer) -> Tensor:
    """The same attribution by autograd, in a copy of the model whose every ReLU has the rule built in."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, _Ruled(isinstance(explainer, GuidedBackprop)))
    inputs = inputs.clone().requires_grad_()
    chosen = model(inputs).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(chosen, inputs)[0]


def two_layers(*, inplace: bool) -> nn.Sequential:
    """`f(x) = W2 relu(W1 x)` with W1, W2 of small whole numbers."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False), nn.ReLU(inplace), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 1.0], [3.0, -1.0]]))
        model[3].weight.copy_(torch.tensor([[1.0, 2.0, -1.0], [-2.0, 1.0, 4.0]]))
    return model.eval()


@pytest.mark.parametrize("inplace", [False, True])
def test_two_layers_by_hand(inplace: bool) -> None:
    # x = (1, 0): hidden (1, -1, 3), so units 0 and 2 are on. Target 0 has weights (1, 2, -1) on the hidden units,
    # target 1 has (-2, 1, 4).
    inputs, targets = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]]), torch.tensor([0, 1])
    model = two_layers(inplace=inplace)

    def rows(explainer: Explainer) -> list[list[float]]:
        return explainer.attribute(model, inputs, targets).flatten(1).tolist()

    assert rows(Gradient()) == [[1 - 3, 2 + 1], [-2 + 12, -4 - 4]]  # units on: 0 and 2
    assert rows(GuidedBackprop()) == [[1, 2], [12, -4]]  # on, and with a positive weight
    assert rows(DeconvNet()) == [[1 - 2, 2 + 2], [-1 + 12, 1 - 4]]  # with a positive weight


@both
def test_resnet18_with_its_shared_in_place_relus_is_exact(explainer: Explainer) -> None:
    torch.manual_seed(0)
    model = resnet18(weights=None).double().eval()
    inputs, targets = torch.randn(2, 3, 32, 32).double(), torch.tensor([3, 800])
    result = explainer.attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(model, inputs, targets, explainer), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(result, Gradient().attribute(model, inputs, targets), rtol=0.1)


class PreActivation(nn.Module):
    """A residual block that rectifies first: the input of its ReLU also goes past it."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        x = self.stem(inputs)
        x = x + self.conv(self.relu(x))
        return self.head(self.relu(x).mean(dim=(2, 3)))


class SharedByBranches(nn.Module):
    """Two branches that are rectified by one module, one right after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        left, right = self.left(inputs), self.right(inputs)
        return self.head((self.relu(left) * 2 + self.relu(right).roll(1, dims=1)).mean(dim=(2, 3)))


@both
@pytest.mark.parametrize("network", [PreActivation, SharedByBranches])
def test_networks_whose_relus_share_inputs_or_a_module_are_exact(
    explainer: Explainer, network: type[nn.Module]
) -> None:
    # Captum alone misses the first by a fifth (guided) or wholly, and the second wholly (DeconvNet).
    torch.manual_seed(0)
    model, inputs, targets = network().double().eval(), torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2])
    result = explainer.attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(model, inputs, targets, explainer), rtol=1e-9, atol=1e-12)


@both
def test_an_in_place_relu_that_overwrites_what_is_used_elsewhere_is_an_error(explainer: Explainer) -> None:
    # Captum's hooks take a copy, so the model would compute something else while it is being explained.
    with pytest.raises(ValueError, match=r"input of an in-place `nn\.ReLU` is used elsewhere"):
        explainer.attribute(PreActivation(inplace=True).eval(), torch.randn(1, 3, 6, 6), torch.tensor([0]))


@both
def test_models_without_a_relu_module_are_refused_by_name_of_what_they_have(explainer: GuidedBackprop) -> None:
    assert explainer.refuses(two_layers(inplace=True)) is None
    assert "its activations: ReLU6" in str(explainer.refuses(mobilenet_v2(weights=None)))
    assert "its activations: GELU, SiLU" in str(explainer.refuses(nn.Sequential(nn.SiLU(), nn.GELU(), nn.Softmax(1))))
    assert "has no `nn.ReLU` module, so" in str(explainer.refuses(nn.Flatten()))


class Mixed(nn.Module):
    """One ReLU as a module, and one called as a function of our choice."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.first, self.relu, self.second = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 2)` logits."""
        hidden = self.relu(self.first(inputs.flatten(1)))
        functions = {
            "torch.relu": torch.relu,
            "F.relu": F.relu,
            "F.relu_": lambda x: F.relu(x, inplace=True),
            "Tensor.relu": lambda x: x.relu(),
            "none": lambda x: x,
            "on weights": lambda x: x * self.second.bias.relu().sum(),
            "unused": lambda x: (x, x.relu())[0],
        }
        return functions[self.function](self.second(hidden))


@both
@pytest.mark.parametrize("function", ["torch.relu", "F.relu", "F.relu_", "Tensor.relu"])
def test_a_relu_called_as_a_function_is_an_error(explainer: Explainer, function: str) -> None:
    model = Mixed(function).eval()
    with pytest.raises(ValueError, match="calls ReLU as a function"):
        explainer.attribute(model, torch.randn(2, 1, 2, 2), torch.tensor([0, 1]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@both
@pytest.mark.parametrize("function", ["none", "on weights", "unused"])
def test_a_function_that_the_input_does_not_pass_through_is_none(explainer: Explainer, function: str) -> None:
    torch.manual_seed(0)
    model, inputs, targets = Mixed(function).eval(), torch.randn(2, 1, 2, 2), torch.tensor([0, 1])
    expected = restated(model, inputs, targets, explainer)
    torch.testing.assert_close(explainer.attribute(model, inputs, targets), expected, rtol=1e-6, atol=1e-7)


@both
def test_a_relu_module_that_is_never_called_is_an_error(explainer: Explainer) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.linear = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return F.gelu(self.linear(inputs.flatten(1)))

    with pytest.raises(ValueError, match=r"no `nn\.ReLU` module lies between"):
        explainer.attribute(Idle().eval(), torch.randn(1, 1, 2, 2), torch.tensor([0]))
