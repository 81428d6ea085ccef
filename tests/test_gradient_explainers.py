"""`gradient`, `input_x_gradient`, `integrated_gradients`, and how every explainer that takes gradients behaves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.base import Explainer
from interpeval.baselines.contrastive_excitation_backprop import ContrastiveExcitationBackprop
from interpeval.baselines.deconvnet import DeconvNet
from interpeval.baselines.elementwise_gradcam import ElementwiseGradCam
from interpeval.baselines.excitation_backprop import ExcitationBackprop
from interpeval.baselines.fullgrad import FullGrad
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.gradient import Gradient
from interpeval.baselines.guided_backprop import GuidedBackprop
from interpeval.baselines.input_x_gradient import InputXGradient
from interpeval.baselines.integrated_gradients import IntegratedGradients
from interpeval.baselines.linear_approximation import LinearApproximation

BY_GRADIENTS: list[Explainer] = [
    Gradient(),
    InputXGradient(),
    GuidedBackprop(),
    DeconvNet(),
    IntegratedGradients(n_steps=7),
    GradCam(),
    ElementwiseGradCam(),
    LinearApproximation(),
    FullGrad(),
    ExcitationBackprop(),
    ContrastiveExcitationBackprop(),
]
every_explainer = pytest.mark.parametrize("explainer", BY_GRADIENTS, ids=lambda explainer: explainer.name)
WEIGHTS = torch.tensor([[1.0, -2.0, 3.0, 0.5, -1.5, 2.5], [-0.25, 4.0, 0.0, -3.0, 1.0, 5.0]])


def linear_model() -> nn.Module:
    """`f_t(x) = w_t · x + b_t` on inputs of two channels, one row and three columns."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        model[1].weight.copy_(WEIGHTS)
        model[1].bias.copy_(torch.tensor([7.0, -9.0]))
    return model.eval()


def convolutional(seed: int = 0) -> nn.Module:
    """A small network with batch normalisation, in-place ReLUs and max-pooling, away from its initial statistics."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
    )
    model(torch.randn(16, 3, 8, 8))
    return model.eval()


def some_inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Inputs for `convolutional`, each with a class of its own."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 8, 8, generator=generator), torch.arange(batch) % 4


def test_gradient_of_a_linear_model_is_its_weights_sign_and_channel_order_included() -> None:
    inputs, targets = torch.randn(2, 2, 1, 3), torch.tensor([1, 0])
    expected = WEIGHTS[targets].view(2, 2, 1, 3)
    assert torch.equal(Gradient().attribute(linear_model(), inputs, targets), expected)


def test_input_x_gradient_of_a_linear_model_is_input_times_weights() -> None:
    inputs, targets = torch.randn(2, 2, 1, 3), torch.tensor([1, 0])
    expected = inputs * WEIGHTS[targets].view(2, 2, 1, 3)
    assert torch.equal(InputXGradient().attribute(linear_model(), inputs, targets), expected)


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"])
def test_integrated_gradients_of_a_linear_model_are_exact_for_any_quadrature(method: str) -> None:
    inputs, targets = torch.randn(2, 2, 1, 3), torch.tensor([1, 0])
    explainer = IntegratedGradients(n_steps=4, method=method, reference_input=0.5)  # type: ignore[arg-type]
    expected = (inputs - 0.5) * WEIGHTS[targets].view(2, 2, 1, 3)
    torch.testing.assert_close(explainer.attribute(linear_model(), inputs, targets), expected, rtol=1e-5, atol=1e-6)


class Polynomial(nn.Module):
    """Logits of third degree with mixed terms, so that the gradient along a line is a polynomial of second degree."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 2)` logits."""
        x = inputs.flatten(1)
        return torch.stack([(x**3).sum(1) + x[:, 0] * x[:, 1] * x[:, 2], (x[:, 0] - x[:, 3]) ** 2 + 1], dim=1)


def completeness_error(explainer: IntegratedGradients) -> float:
    """By how much the attributions on `Polynomial` miss `f(x) − f(x0)`."""
    inputs, targets = torch.linspace(-1, 2, 8).double().view(2, 1, 2, 2), torch.tensor([0, 1])
    model = Polynomial()
    attributed = explainer.attribute(model, inputs, targets).sum(dim=(1, 2, 3))
    difference = model(inputs) - model(torch.full_like(inputs, explainer.reference_input))
    return float((attributed - difference.gather(1, targets[:, None])[:, 0]).abs().max())


@pytest.mark.parametrize("reference_input", [0.0, -0.75])
def test_integrated_gradients_add_up_to_the_difference_of_logits(reference_input: float) -> None:
    # Two Gauss-Legendre points integrate second degree exactly; weights are float32 inside Captum.
    assert completeness_error(IntegratedGradients(n_steps=2, reference_input=reference_input)) < 1e-5
    assert completeness_error(IntegratedGradients(reference_input=reference_input)) < 1e-5
    # Negative control: one point, or the left sum, must miss it.
    assert completeness_error(IntegratedGradients(n_steps=1, reference_input=reference_input)) > 0.05
    assert (
        completeness_error(IntegratedGradients(n_steps=5, method="riemann_left", reference_input=reference_input))
        > 0.05
    )


def riemann(model: nn.Module, x: Tensor, target: int, points: np.ndarray, weights: np.ndarray) -> Tensor:
    """Integrated gradients of one input from 0, one point of the line after the other."""
    total = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        at = (float(point) * x).requires_grad_()
        (gradient,) = torch.autograd.grad(model(at[None])[0, target], at)
        total += float(weight) * gradient
    return total * x


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle", "riemann_right"])
def test_integrated_gradients_match_the_sum_written_out(method: str) -> None:
    n_steps = 9
    if method == "gausslegendre":
        nodes, node_weights = np.polynomial.legendre.leggauss(n_steps)
        points, weights = (nodes + 1) / 2, node_weights / 2
    else:
        points = (np.arange(n_steps) + (0.5 if method == "riemann_middle" else 1)) / n_steps
        weights = np.full(n_steps, 1 / n_steps)
    model, (inputs, targets) = convolutional().double(), some_inputs()
    explainer = IntegratedGradients(n_steps=n_steps, method=method)  # type: ignore[arg-type]
    expected = [riemann(model, x, int(t), points, weights) for x, t in zip(inputs.double(), targets, strict=True)]
    result = explainer.attribute(model, inputs.double(), targets)
    torch.testing.assert_close(result, torch.stack(expected), rtol=1e-5, atol=1e-9)


def test_memory_of_integrated_gradients_does_not_grow_with_the_steps() -> None:
    sizes: list[int] = []
    model, (inputs, targets) = convolutional(), some_inputs()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    IntegratedGradients(n_steps=11).attribute(model, inputs, targets)
    assert sizes == [len(inputs)] * 11


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        (IntegratedGradients(n_steps=0), "`n_steps` must be at least 1, was 0"),
        (IntegratedGradients(method="simpson"), "`method` must be one of gausslegendre.*was 'simpson'"),  # type: ignore[arg-type]
    ],
)
def test_integrated_gradients_name_a_bad_setting(explainer: IntegratedGradients, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainer.attribute(linear_model(), torch.zeros(1, 2, 1, 3), torch.tensor([0]))


@every_explainer
def test_a_sample_is_explained_alike_in_any_batch(explainer: Explainer) -> None:
    model, (inputs, targets) = convolutional(), some_inputs(5)
    together = explainer.attribute(model, inputs, targets)
    alone = torch.cat([explainer.attribute(model, inputs[i : i + 1], targets[i : i + 1]) for i in range(5)])
    backwards = explainer.attribute(model, inputs.flip(0), targets.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(backwards, together, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(together, explainer.attribute(model, inputs, (targets + 1) % 4))  # targets matter


@every_explainer
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_need_not_record_gradients(explainer: Explainer, mode: Callable[[], torch.no_grad]) -> None:
    model, (inputs, targets) = convolutional(), some_inputs()
    expected = explainer.attribute(model, inputs, targets)
    with mode():
        result = explainer.attribute(model, inputs.clone(), targets.clone())
    assert torch.equal(result, expected)
    assert not result.requires_grad


@every_explainer
def test_a_model_with_frozen_weights_is_explained_alike(explainer: Explainer) -> None:
    model, (inputs, targets) = convolutional(), some_inputs()
    expected = explainer.attribute(model, inputs, targets)
    assert torch.equal(explainer.attribute(model.requires_grad_(False), inputs, targets), expected)


def state(model: nn.Module) -> dict[str, object]:
    """All of a model that an explainer could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": [[len(getattr(module, kind)) for kind in hooks] for module in model.modules()],
        "training": [module.training for module in model.modules()],
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "grads": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
    }


@every_explainer
def test_model_and_inputs_are_left_as_they_were(explainer: Explainer) -> None:
    model, (inputs, targets) = convolutional(), some_inputs()
    before, weights, copied = state(model), copy.deepcopy(model.state_dict()), inputs.clone()
    explainer.attribute(model, inputs, targets)
    assert state(model) == before
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(inputs, copied)
    assert not inputs.requires_grad
    assert inputs.grad is None


class Failing(nn.Module):
    """A layer that raises in the forward or in the backward pass, when told to."""

    when = "never"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, or raise."""
        if self.when == "forward":
            raise RuntimeError("fails in the forward pass")
        if self.when == "backward" and inputs.requires_grad:
            inputs.register_hook(self.fail)
        return inputs

    def fail(self, _: Tensor) -> None:
        """Raise."""
        raise RuntimeError("fails in the backward pass")


@every_explainer
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_the_model_is_left_as_it_was_after_an_exception(explainer: Explainer, when: str) -> None:
    inputs, targets = some_inputs()
    model = nn.Sequential(*convolutional(), failing := Failing())
    before, expected = state(model), explainer.attribute(model, inputs, targets)
    failing.when = when
    with pytest.raises(RuntimeError, match=f"fails in the {when} pass"):
        explainer.attribute(model, inputs, targets)
    assert state(model) == before
    assert not inputs.requires_grad
    failing.when = "never"
    assert torch.equal(explainer.attribute(model, inputs, targets), expected)


@pytest.mark.gpu
@every_explainer
def test_cuda_agrees_with_the_processor(explainer: Explainer) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, (inputs, targets) = convolutional().double(), some_inputs()
    expected = explainer.attribute(model, inputs.double(), targets)
    result = explainer.attribute(model.cuda(), inputs.double().cuda(), targets.cuda())
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-5, atol=1e-8)
