"""`fullgrad`: the parts of a logit, which must add up to it, and the map they make."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import densenet121, mobilenet_v2, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from interpeval.baselines.fullgrad import FullGrad, FullGradient, full_gradient


def total(parts: FullGradient) -> Tensor:
    """The sum of all parts of each logit."""
    return sum(part.flatten(1).sum(dim=1) for part in (parts.inputs, *parts.biases))


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random weights, biases and statistics in its batch norms, in evaluation mode."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def test_two_layers_by_hand() -> None:
    # z = (3 - 1 + 1, -3 - 2 + 2) = (3, -3), so only the first unit is on; f_0 = 2 z_0 + 5, f_1 = -z_0 + 6.
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, -2.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 2.0]))
        model[3].weight.copy_(torch.tensor([[2.0, 4.0], [-1.0, 7.0]]))
        model[3].bias.copy_(torch.tensor([5.0, 6.0]))
    inputs = torch.tensor([[[[3.0, 1.0]]], [[[3.0, 1.0]]]])
    parts = full_gradient(model, inputs, torch.tensor([0, 1]))
    assert parts.inputs.tolist() == [[[[6, -2]]], [[[-3, 1]]]]
    assert [bias.tolist() for bias in parts.biases] == [[[2, 0], [-1, 0]], [[5, 0], [0, 6]]]
    assert parts.logits.tolist() == [11, 3]


def test_batch_norm_has_the_bias_that_its_statistics_imply() -> None:
    norm = nn.BatchNorm2d(2, eps=0.5)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -2.0]))
        norm.bias.copy_(torch.tensor([1.0, 4.0]))
        norm.running_mean.copy_(torch.tensor([2.0, -5.0]))
        norm.running_var.copy_(torch.tensor([3.5, 0.5]))
        model[2].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    parts = full_gradient(model, torch.zeros(1, 2, 1, 2), torch.tensor([0]))
    # 1 - 3 * 2 / sqrt(4) = -2, and 4 - (-2)(-5) / sqrt(1) = -6
    torch.testing.assert_close(parts.biases[0], torch.tensor([[[[-2.0, -20.0]], [[-600.0, -6000.0]]]]))


def assert_complete(model: nn.Module, inputs: Tensor, targets: Tensor) -> FullGradient:
    """The parts add up to the logits that the model gives, and would not without those of the biases."""
    parts = full_gradient(model, inputs, targets)
    with torch.no_grad():
        logits = model(inputs).gather(1, targets[:, None])[:, 0]
    assert torch.equal(parts.logits, logits)
    torch.testing.assert_close(total(parts), logits, rtol=1e-4, atol=0)
    assert ((parts.inputs.flatten(1).sum(dim=1) - logits).abs() > 1e-2 * logits.abs()).all()
    return parts


@pytest.mark.parametrize("build", [resnet18, densenet121])
def test_the_parts_of_random_networks_add_up_to_the_logit(build) -> None:
    model = shaken(build(weights=None))
    parts = assert_complete(model, torch.randn(2, 3, 48, 48), torch.tensor([3, 800]))
    # One part per batch norm and one for the classifier, or the convolutions' own biases would have been missed.
    assert len(parts.biases) == 1 + sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.fixture(scope="session")
def load(real_data):
    """The loaders of the real data."""
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_parts_of_the_trained_resnet20_add_up_to_the_logit_of_real_images(load) -> None:
    images, labels = load.cifar10_test266()
    inputs = load.normed(images[:16], load.CIFAR_NORM)
    assert_complete(load.load_model("resnet20"), inputs, torch.as_tensor(labels[:16]))


def test_the_parts_of_the_trained_squeezenet_add_up_to_the_logit_of_real_photographs(load) -> None:
    model, inputs = load.load_model("squeezenet1_0"), load.normed(load.coco_crops(224, 2)[0], load.IMAGENET_NORM)
    assert_complete(model, inputs, model(inputs).argmax(dim=1))


class Assorted(nn.Module):
    """Every covered layer that the networks above lack, and biases that are no layer's."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.how = how
        self.conv, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.own, self.head = nn.Parameter(torch.randn(4, 1, 1)), nn.Linear(4, 3)
        self.prelu, self.relu = nn.PReLU(), nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveMaxPool2d(1) if how == "maximum" else nn.AdaptiveAvgPool2d(1)

    def activate(self, x: Tensor) -> Tensor:
        """Activate in one of many ways."""
        functions = {"leaky": F.leaky_relu, "prelu": self.prelu, "torch": torch.relu, "F in place": F.relu_}
        return functions.get(self.how, self.relu)(x)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        x = inputs - 0.45 if self.how != "in place" else inputs.sub_(0.45)
        x = self.activate(self.conv(x / 0.22))
        x = self.activate(self.up(x)) + self.own
        x = torch.cat([x[:, :3], self.own[:1].expand(len(x), 1, *x.shape[2:])], dim=1)
        y = F.conv2d(x, self.up.weight, self.conv.bias, padding=1)[:, :, :-1, :-1] * 0.5
        y += F.pad(x, (1, 0, 1, 0))[:, :, 1:, 1:]
        constant = self.own.expand_as(y).clone()
        y = constant.add_(y)
        y = F.interpolate(self.activate(y), scale_factor=2, mode="bilinear")
        y = torch.cat([y[:, :2], F.max_pool2d(y, 3, stride=1, padding=1)[:, 2:]], dim=1)
        return 1 + self.head(self.pool(y).flatten(1))


@pytest.mark.parametrize("how", ["module", "in place", "torch", "F in place", "leaky", "prelu", "maximum"])
def test_all_covered_layers_are_however_they_are_spelt(how: str) -> None:
    model, inputs, targets = Assorted(how).double().eval(), torch.rand(3, 3, 6, 6).double(), torch.tensor([0, 1, 2])
    copied = inputs.clone()
    parts = full_gradient(model, inputs, targets)
    assert torch.equal(inputs, copied)
    torch.testing.assert_close(total(parts), model(inputs.clone()).gather(1, targets[:, None])[:, 0], rtol=1e-9, atol=0)


def test_a_reused_layer_has_a_part_at_each_call() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu()).mean(dim=(2, 3))

    torch.manual_seed(0)
    parts = assert_complete(Reused().double(), torch.randn(2, 2, 5, 5).double(), torch.tensor([0, 1]))
    assert [bias.shape for bias in parts.biases] == [(2, 2, 5, 5)] * 2


def restated(parts: FullGradient, size: tuple[int, int]) -> Tensor:
    """The released map, sample by sample and layer by layer."""
    maps = []
    for row in range(len(parts.inputs)):
        summed = torch.zeros(size, dtype=parts.inputs.dtype)
        for part in (parts.inputs, *parts.biases):
            if part.ndim == 4:
                values = part[row].abs()
                values = (values - values.min()) / (values.max() - values.min() + 1e-6)
                for channel in values:
                    summed += F.interpolate(channel[None, None], size, mode="bilinear", align_corners=True)[0, 0]
        maps.append(summed[None])
    return torch.stack(maps)


def strided() -> nn.Sequential:
    """A network whose layers have three resolutions."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def test_the_released_map_is_the_sum_of_rescaled_magnitudes() -> None:
    model, inputs = shaken(strided()).double(), torch.randn(3, 3, 9, 12).double()
    targets = torch.tensor([0, 2, 1])
    expected = restated(full_gradient(model, inputs, targets), (9, 12))
    torch.testing.assert_close(FullGrad().attribute(model, inputs, targets), expected, rtol=1e-9, atol=1e-12)
    assert expected.flatten(1).std(dim=1).min() > 0.1


def test_the_signed_map_of_parts_at_full_resolution_adds_up_to_the_logit_less_the_last_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip
    inputs, targets = torch.randn(2, 3, 5, 6).double(), torch.tensor([2, 0])
    maps = FullGrad(form="signed").attribute(model, inputs, targets)
    logits = model(inputs).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), (logits - model[5].bias[targets]).detach())


def test_the_signed_map_gives_coarse_parts_their_share_only() -> None:
    # The only bias is that of the second convolution, whose 2 x 2 output is the same everywhere.
    model = nn.Sequential(
        nn.AvgPool2d(4), nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 1, bias=False)
    )  # fmt: skip
    nn.init.constant_(model[1].weight, 0.0)
    nn.init.constant_(model[1].bias, 3.0)
    nn.init.constant_(model[3].weight, 1.0)
    maps = FullGrad(form="signed").attribute(model, torch.ones(1, 1, 8, 8), torch.tensor([0]))
    torch.testing.assert_close(maps, torch.full((1, 1, 8, 8), 12 / 64))


def test_channels_last_is_explained_alike() -> None:
    model, inputs, targets = shaken(strided()).double(), torch.randn(2, 3, 9, 12).double(), torch.tensor([0, 2])
    expected = FullGrad().attribute(model, inputs, targets)
    order = {"memory_format": torch.channels_last}
    torch.testing.assert_close(FullGrad().attribute(model.to(**order), inputs.to(**order), targets), expected)


class Odd(nn.Module):
    """A layer that is neither affine nor homogeneous."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """Do it."""
        return {
            "gelu": lambda: F.gelu(x),
            "relu6": lambda: F.relu6(x),
            "mul": lambda: x * x,
            "div": lambda: torch.div(torch.ones(()), x),
            "softmax": lambda: x.softmax(1),
            "dropout": lambda: F.dropout(x),
            "pad": lambda: F.pad(x, (1, 1), value=2.0)[..., 1:-1],
            "linear": lambda: F.linear(x, x[0, 0]),
            "max": lambda: torch.max(x, torch.ones(())),
            "setitem": lambda: set_in(torch.ones(1, 1, 2, 2), x),
        }[self.how]()


def set_in(whole: Tensor, part: Tensor) -> Tensor:
    """Overwrite half of a tensor."""
    whole[..., :1] = part[..., :1]
    return whole


@pytest.mark.parametrize(
    "how", ["gelu", "relu6", "mul", "div", "softmax", "dropout", "pad", "linear", "max", "setitem"]
)
def test_other_functions_are_refused_by_name_and_layer(how: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU(), Odd(how)), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=f"FullGrad does not cover `{how}` in layer `1.1`"):
        FullGrad().attribute(model, torch.rand(1, 1, 2, 2), torch.tensor([0]))


def test_modules_that_are_not_covered_are_refused_by_name() -> None:
    assert FullGrad().refuses(mobilenet_v2(weights=None)) == "FullGrad does not cover layer `features.0.2` (ReLU6)"
    vit = VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3)
    assert "(LayerNorm)" in str(FullGrad().refuses(vit))
    assert FullGrad().refuses(resnet18(weights=None)) is None


def test_a_function_of_its_own_and_a_cut_off_graph_are_refused() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Using(nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x).flatten(1)

    inputs, targets = torch.rand(1, 1, 2, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="FullGrad cannot see into `HiddenBackward`"):
        FullGrad().attribute(Using(Hidden.apply), inputs, targets)
    with pytest.raises(ValueError, match="logits that depend on its inputs"):
        FullGrad().attribute(Using(Tensor.detach), inputs, targets)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match='`form` must be "released" or "signed", was \'smooth\''):
        FullGrad(form="smooth").attribute(strided(), torch.rand(1, 3, 8, 8), torch.tensor([0]))  # type: ignore[arg-type]
