"""`deeplift`."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from torch import nn
from torchvision.models import densenet121, resnet18, vit_b_16

from interpeval.baselines.deeplift import DeepLift
from reference.deeplift import deeplift

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU]


def plain(activation=nn.ReLU, pool=None, seed=0):
    """A plain network in double precision with batch normalisation away from its initial statistics."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        activation(),
        nn.MaxPool2d(3, 2) if pool is None else pool,
        nn.Conv2d(4, 3, 2),
        activation(),
        nn.Flatten(),
        nn.Linear(3 * 2 * 2, 3),
    ).double()
    model(torch.randn(16, 2, 9, 9).double())
    return model.eval()


def images(batch=3, size=9):
    return torch.randn(batch, 2, size, size, generator=torch.Generator().manual_seed(1)).double()


TARGETS = torch.tensor([0, 2, 1])


def miss(model, inputs, reference_input=0.0, targets=None):
    """By how much the attributions miss the difference of logits, relative to it."""
    targets = torch.zeros(len(inputs), dtype=torch.int64) if targets is None else targets
    with torch.no_grad():
        difference = (model(inputs) - model(torch.full_like(inputs, reference_input))).gather(1, targets[:, None])[:, 0]
    found = DeepLift(reference_input=reference_input).attribute(model, inputs, targets).sum(dim=(1, 2, 3))
    assert difference.abs().min() > 1e-6
    return float(((found - difference) / difference).abs().max())


def test_a_linear_model_gives_weights_times_the_difference_from_the_reference():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(162, 3)).double(), images()
    maps = DeepLift(reference_input=0.5).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(maps, model[1].weight[TARGETS].view_as(inputs).detach() * (inputs - 0.5))


def test_a_saturated_rectifier_by_hand():
    # y = max(0, 1 − max(0, 1 − x1 − x2)) at (1, 1): the gradient is 0, the difference from (0, 0) is 1, half each.
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU())
    model[1].weight.data, model[1].bias.data = torch.tensor([[-1.0, -1.0]]), torch.tensor([1.0])
    model[3].weight.data, model[3].bias.data = torch.tensor([[-1.0]]), torch.tensor([1.0])
    assert DeepLift().attribute(model, torch.ones(1, 1, 1, 2), torch.tensor([0])).tolist() == [[[[0.5, 0.5]]]]


def test_a_winner_of_several_windows_gets_all_of_its_parts_where_captum_keeps_one():
    model = nn.Sequential(nn.Identity(), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    model[3].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double()
    image = torch.zeros(1, 1, 4, 4).double()
    image[0, 0, 1, 1] = 100.0  # the largest of all four windows
    expected = torch.zeros_like(image)
    expected[0, 0, 1, 1] = 1000.0
    assert torch.equal(DeepLift().attribute(model, image, torch.tensor([0])), expected)
    with pytest.warns(UserWarning, match="forward, backward hooks"):
        bare = CaptumDeepLift(model).attribute(image.clone().requires_grad_(), target=0)
    assert float(bare.detach().sum()) == 400.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reference_input", [0.0, -0.6])
def test_the_rules_restated_layer_by_layer(activation, reference_input):
    model, inputs = plain(activation), images()
    maps = DeepLift(reference_input=reference_input).attribute(model, inputs, TARGETS)
    expected = [
        deeplift(model, image[None], int(target), reference_input)
        for image, target in zip(inputs, TARGETS, strict=True)
    ]
    torch.testing.assert_close(maps, torch.cat(expected), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS[:4])
@pytest.mark.filterwarnings("ignore")
def test_bare_captum_agrees_where_no_pooling_is_in_the_way(activation):
    model, inputs = plain(activation, nn.AvgPool2d(3, 2)), images()
    bare = CaptumDeepLift(model).attribute(inputs.clone(), torch.full_like(inputs, 0.4), target=TARGETS)
    maps = DeepLift(reference_input=0.4).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(maps, bare.detach(), rtol=1e-6, atol=1e-9)


class Functional(nn.Module):
    """One ReLU module used three times, functions, methods, in-place calls, and max-pooling as a function."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, inputs):
        x = F.max_pool2d(self.relu(self.first(inputs)), 3, stride=2, padding=1)
        y = self.relu(self.second(x))
        y = F.leaky_relu(self.third(y), 0.1, True)  # in place, by position
        x = torch.relu_(x - 0.5) + y
        x = x.clamp(min=0.1).sigmoid()
        x += torch.tanh(x)
        return self.head(F.adaptive_max_pool2d(F.elu(x, inplace=True), 1).flatten(1))


class Plain(Functional):
    """The same with a module of its own for every call and nothing in place."""

    def forward(self, inputs):
        x = nn.MaxPool2d(3, 2, 1)(nn.ReLU()(self.first(inputs)))
        y = nn.ReLU()(self.second(x))
        y = nn.LeakyReLU(0.1)(self.third(y))
        x = nn.ReLU()(x - 0.5) + y
        x = nn.Sigmoid()(nn.Hardtanh(0.1, 1e9)(x))
        x = x + nn.Tanh()(x)
        return self.head(nn.AdaptiveMaxPool2d(1)(nn.ELU()(x)).flatten(1))


def test_how_an_activation_is_spelt_does_not_matter():
    torch.manual_seed(0)
    model, other, inputs = Functional().double().eval(), Plain().double().eval(), images()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(inputs), other(inputs))
    maps = DeepLift(reference_input=0.2).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(maps, DeepLift(reference_input=0.2).attribute(other, inputs, TARGETS))
    assert miss(model, inputs, 0.2, TARGETS) < 1e-9


class Overwritten(nn.Module):
    """An in-place ReLU whose input is used afterwards, overwritten."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, inputs):
        x = self.conv(inputs)
        y = self.relu(x)
        return self.head((x * 2 + y.sigmoid()).mean(dim=(2, 3)))


def test_what_an_in_place_activation_overwrites_stays_overwritten():
    torch.manual_seed(0)
    assert miss(Overwritten().double().eval(), images()) < 1e-9


def test_networks_of_torchvision_are_complete_in_single_and_double_precision():
    torch.manual_seed(0)
    for build in (resnet18, densenet121):
        model, inputs = build(weights=None).eval(), torch.randn(2, 3, 64, 64)
        assert miss(model, inputs, 0.3) < 1e-3  # of a small difference of large logits
        assert miss(model.double(), inputs.double(), 0.3) < 1e-10


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_0"])
def test_real_networks_on_real_images_are_complete(real_data, name):
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    pixels = torch.from_numpy(load.cifar10_test266()[0][:2]).permute(0, 3, 1, 2) / 255.0
    inputs = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / 0.225
    if name == "squeezenet1_0":
        inputs = F.interpolate(inputs, size=(96, 96), mode="bilinear")
    model = load.load_model(name)
    targets = model(inputs).argmax(dim=1)
    assert miss(model, inputs, targets=targets) < 1e-5
    gradient_times_input = inputs * torch.autograd.functional.jacobian(
        lambda x: model(x).gather(1, targets[:, None]).sum(), inputs
    )
    with torch.no_grad():
        difference = (model(inputs) - model(torch.zeros_like(inputs))).gather(1, targets[:, None])[:, 0]
    assert ((gradient_times_input.sum(dim=(1, 2, 3)) - difference).abs() > 0.05 * difference.abs()).any()


class Gated(nn.Module):
    """A branch multiplied by a gate that depends on the input."""

    def __init__(self, last=None):
        super().__init__()
        self.block, self.last = nn.Sequential(nn.Conv2d(2, 3, 3)), last or nn.Identity()

    def forward(self, inputs):
        x = self.block(inputs)
        return self.last((x * x.sigmoid()).mean(dim=(2, 3)))


class LogSoftmax(nn.Module):
    """A log-softmax as a function."""

    def forward(self, inputs):
        return F.log_softmax(inputs.flatten(1), dim=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Gated(), "DeepLift has no rule for `Mul` in the model itself"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), Gated())), "no rule for `Mul` in layer `0.1`"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), LogSoftmax()), "no rule for `LogSoftmax` in layer `1`"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)), "no rule for `Softmax` in layer `1`"),
        (
            nn.Sequential(nn.LPPool2d(2, 9), nn.Flatten()),
            "rule for `Abs` in layer `0`, `Mul` in layer `0`, `Pow` in",
        ),
    ],
)
def test_a_step_without_a_rule_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        DeepLift().attribute(model.double().eval(), images(), TARGETS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (vit_b_16(weights=None, image_size=32), "module `encoder.layers.encoder_layer_0.ln_1`, a `LayerNorm`"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)), "`1`, a `BatchNorm2d`"),
        (nn.Sequential(nn.InstanceNorm2d(2)), "module `0`, a `InstanceNorm2d`"),
    ],
)
def test_modules_that_use_statistics_of_the_input_are_refused(model, message):
    assert message in DeepLift().refuses(model)


def test_all_covered_modules_are_accepted():
    assert DeepLift().refuses(resnet18(weights=None)) is None


def test_costs_one_pass_forward_for_inputs_and_references_together():
    model, rows = plain(), []
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    DeepLift().attribute(model, images(), TARGETS)
    assert rows == [6]
