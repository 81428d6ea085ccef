"""`guided_backprop` and `deconvnet`: the changed backward pass of ReLU, and the models it cannot be changed in.

Last come the guards of Captum's own classes, which users may hand in.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings

import pytest
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn
from torchvision.models import alexnet, mobilenet_v2, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from interpeval.baselines.base import Explainer
from interpeval.baselines.deconvnet import DeconvNet
from interpeval.baselines.ensure import ensure_explainer
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


class Rectified(PreActivation):
    """What `PreActivation(inplace=True)` computes: both branches see what the ReLU has overwritten."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        x = self.relu(self.stem(inputs))
        return self.head(self.relu(x + self.conv(x)).mean(dim=(2, 3)))


@both
def test_an_in_place_relu_that_overwrites_what_is_used_elsewhere_is_exact(explainer: Explainer) -> None:
    torch.manual_seed(0)
    model, same = PreActivation(inplace=True).double().eval(), Rectified().double().eval()
    same.load_state_dict(model.state_dict())
    inputs, targets = torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2])
    result = explainer.attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(same, inputs, targets, explainer), rtol=1e-9, atol=1e-12)


class Mixed(nn.Module):
    """One ReLU as a module, and one called as a function of our choice."""

    def __init__(self, function: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.function = function
        self.first, self.relu, self.second = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5)
        self.third, self.again = nn.Linear(5, 2), nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 2)` logits."""
        hidden = self.relu(self.first(inputs.flatten(1)))
        functions = {
            "module": self.again,
            "same module": self.relu,
            "torch.relu": torch.relu,
            "torch.relu_": torch.relu_,
            "F.relu": F.relu,
            "F.relu_": lambda x: F.relu(x, inplace=True),
            "Tensor.relu": lambda x: x.relu(),
            "clamp": lambda x: x.clamp(min=0),
            "clamp_min_": lambda x: x.clamp_min_(0),
            "threshold": lambda x: F.threshold(x, 0, 0),
            "bounded": lambda x: F.hardtanh(x, 0, 100),
            "none": lambda x: x,
            "on weights": lambda x: x * self.third.bias.relu().sum(),
            "unused": lambda x: (x, x.relu())[0],
        }
        return self.third(functions[self.function](self.second(hidden)))


@both
@pytest.mark.parametrize(
    "function",
    [
        "same module",
        "torch.relu",
        "torch.relu_",
        "F.relu",
        "F.relu_",
        "Tensor.relu",
        "clamp",
        "clamp_min_",
        "threshold",
        "bounded",
    ],
)
def test_a_relu_is_one_however_it_is_spelt(explainer: Explainer, function: str) -> None:
    model, inputs, targets = Mixed(function).eval(), torch.randn(6, 1, 2, 2), torch.arange(6) % 2
    expected = restated(Mixed("module").eval(), inputs, targets, explainer)
    torch.testing.assert_close(explainer.attribute(model, inputs, targets), expected, rtol=1e-6, atol=1e-7)
    # Negative control: one ReLU less gives something else.
    assert not torch.allclose(expected, explainer.attribute(Mixed("none").eval(), inputs, targets), rtol=0.1)


@both
@pytest.mark.parametrize("function", ["none", "on weights", "unused"])
def test_a_function_that_the_input_does_not_pass_through_is_none(explainer: Explainer, function: str) -> None:
    model, inputs, targets = Mixed(function).eval(), torch.randn(2, 1, 2, 2), torch.tensor([0, 1])
    expected = restated(model, inputs, targets, explainer)
    torch.testing.assert_close(explainer.attribute(model, inputs, targets), expected, rtol=1e-6, atol=1e-7)


def test_relu6_lets_guided_gradients_through_between_its_bounds_and_deconvnet_all() -> None:
    # Hidden values -1, 2, 7 and 9, read with weights 1, 3, 5 and -2.
    model = nn.Sequential(nn.Flatten(), nn.ReLU6(inplace=True), nn.Linear(4, 1, bias=False))
    model[2].weight.data = torch.tensor([[1.0, 3.0, 5.0, -2.0]])
    inputs, targets = torch.tensor([[[[-1.0, 2.0], [7.0, 9.0]]]]), torch.tensor([0])
    model[0].register_forward_hook(lambda _, __, output: output.clone())  # or a view would be changed in place
    assert GuidedBackprop().attribute(model, inputs, targets).flatten().tolist() == [0, 3, 0, 0]
    assert DeconvNet().attribute(model, inputs, targets).flatten().tolist() == [1, 3, 5, 0]


@both
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_transposed_convolutions_and_maximum_pooling_keep_their_gradient(explainer: Explainer, order) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.ConvTranspose2d(4, 4, 3, stride=2),
        nn.ReLU(inplace=True), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double().eval()  # fmt: skip
    inputs, targets = torch.randn(2, 3, 9, 9).double(), torch.tensor([0, 2])
    expected = restated(model, inputs, targets, explainer)
    result = explainer.attribute(model.to(memory_format=order), inputs.to(memory_format=order), targets)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("explainer", "captum"),
    [(GuidedBackprop(), attr.GuidedBackprop), (DeconvNet(), attr.Deconvolution)],
)
def test_captum_agrees_where_every_relu_is_a_module_of_its_own(explainer: Explainer, captum) -> None:
    torch.manual_seed(0)
    model = alexnet(weights=None, num_classes=10).double().eval()
    inputs, targets = torch.randn(2, 3, 64, 64).double(), torch.tensor([3, 8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum(model).attribute(inputs.clone().requires_grad_(), target=targets)
    torch.testing.assert_close(explainer.attribute(model, inputs, targets), expected, rtol=1e-9, atol=1e-12)


@both
def test_a_trained_network_with_functional_relus_is_exact(explainer: Explainer, real_data, monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    model, images = load.load_model("captum_cnn").double(), load.cifar10_test266()[0][:3]
    inputs, targets = load.normed(images, load.TF_NORM).double(), torch.tensor([0, 5, 9])
    result = explainer.attribute(model, inputs, targets)
    monkeypatch.setattr(load.F, "relu", _Ruled(isinstance(explainer, GuidedBackprop)).forward)
    leaf = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).gather(1, targets[:, None]).sum(), leaf)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    monkeypatch.undo()
    assert not torch.allclose(result, Gradient().attribute(model, inputs, targets), rtol=0.1)


@both
def test_other_activation_modules_are_refused_by_their_names(explainer: GuidedBackprop) -> None:
    assert explainer.refuses(two_layers(inplace=True)) is None
    assert explainer.refuses(mobilenet_v2(weights=None)) is None
    model = nn.Sequential(nn.SiLU(), nn.ReLU(), nn.Sequential(nn.GELU(), nn.LeakyReLU(), nn.PReLU()), nn.Softmax(1))
    assert str(explainer.refuses(model)).endswith("`0` (SiLU), `2.0` (GELU), `2.1` (LeakyReLU) and 1 more")
    vit = VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3)
    assert "encoder.layers.encoder_layer_0.self_attention` (MultiheadAttention)" in str(explainer.refuses(vit))
    assert "`0` (Hardtanh)" in str(explainer.refuses(nn.Sequential(nn.Hardtanh(), nn.ReLU())))


class Hidden(torch.autograd.Function):
    """A ReLU that hides in a function of its own."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Calling(nn.Module):
    """A ReLU, and something else called as a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.function(x.relu())


@both
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (F.gelu, "layer `1` has another activation, `Gelu`"),
        (F.silu, "layer `1` has another activation, `Silu`"),
        (F.leaky_relu, "layer `1` has another activation, `LeakyRelu`"),
        (F.hardtanh, "layer `1` has another activation, `Hardtanh`"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "layer `1` has another activation, `ScaledDotProduct"),
        (Hidden.apply, "what layer `1` does cannot be seen, so it may hide a ReLU: `HiddenBackward`"),
        (lambda x: x.view(len(x), -1).relu_(), "layer `.*` does cannot be seen, so .*: .*CopySlices"),
    ],
)
def test_other_functions_are_an_error_that_names_the_layer(explainer: Explainer, function, message: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1)), Calling(function), nn.Flatten(), nn.Linear(8, 2)).eval()
    with pytest.raises(ValueError, match=message):
        explainer.attribute(model, torch.randn(2, 1, 2, 2), torch.tensor([0, 1]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@both
@pytest.mark.parametrize("squash", [nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("last", [False, True])
def test_what_rectifies_nothing_keeps_its_derivative(explainer: Explainer, squash: nn.Module, last: bool) -> None:
    torch.manual_seed(0)
    rest = [nn.ReLU(), nn.Linear(5, 3), squash] if last else [squash, nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), *rest).double()
    assert explainer.refuses(model) is None
    inputs, targets = torch.randn(2, 1, 2, 2).double(), torch.tensor([0, 2])
    torch.testing.assert_close(explainer.attribute(model, inputs, targets), restated(model, inputs, targets, explainer))


@both
def test_a_model_without_a_relu_on_the_way_is_an_error(explainer: Explainer) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.linear = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.linear(inputs.flatten(1))

    with pytest.raises(ValueError, match="no ReLU lies between the input and the logits"):
        explainer.attribute(Idle().eval(), torch.randn(1, 1, 2, 2), torch.tensor([0]))


@both
def test_backward_hooks_of_others_neither_hide_nor_lose_anything(explainer: Explainer) -> None:
    torch.manual_seed(0)
    model, inputs, targets = PreActivation().double().eval(), torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2])
    expected, seen = explainer.attribute(model, inputs, targets), []
    handle = model.conv.register_full_backward_hook(lambda *_: seen.append(1))
    assert torch.equal(explainer.attribute(model, inputs, targets), expected)
    assert seen == [1]
    handle.remove()


guarded = pytest.mark.parametrize("captum", [attr.GuidedBackprop, attr.Deconvolution])


@guarded
@pytest.mark.parametrize("function", ["torch.relu", "F.relu", "F.relu_", "Tensor.relu"])
def test_captums_own_classes_are_kept_from_missing_a_functional_relu(captum, function: str) -> None:
    model = Mixed(function).eval()
    with pytest.raises(ValueError, match="calls ReLU as a function"):
        ensure_explainer(captum).attribute(model, torch.randn(2, 1, 2, 2), torch.tensor([0, 1]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@guarded
@pytest.mark.parametrize("network", [PreActivation, SharedByBranches])
def test_captums_own_classes_are_exact_where_relus_share_inputs_or_a_module(captum, network) -> None:
    torch.manual_seed(0)
    model, inputs, targets = network().double().eval(), torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2])
    rule = GuidedBackprop() if captum is attr.GuidedBackprop else DeconvNet()
    result = ensure_explainer(captum).attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(model, inputs, targets, rule), rtol=1e-9, atol=1e-12)


@guarded
def test_captums_own_classes_are_kept_from_an_in_place_relu_whose_input_is_used_elsewhere(captum) -> None:
    # Captum's hooks take a copy, so the model would compute something else while it is being explained.
    explainer = ensure_explainer(captum)
    with pytest.raises(ValueError, match=r"input of an in-place `nn\.ReLU` is used elsewhere"):
        explainer.attribute(PreActivation(inplace=True).eval(), torch.randn(1, 3, 6, 6), torch.tensor([0]))


@guarded
def test_captums_own_classes_are_kept_from_a_relu_module_that_is_never_called(captum) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.linear = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return F.gelu(self.linear(inputs.flatten(1)))

    with pytest.raises(ValueError, match=r"no `nn\.ReLU` module lies between"):
        ensure_explainer(captum).attribute(Idle().eval(), torch.randn(1, 1, 2, 2), torch.tensor([0]))
