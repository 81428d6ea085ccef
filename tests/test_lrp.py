"""`lrp`."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP
from captum.attr._utils.lrp_rules import GammaRule
from torch import nn
from torchvision.models import densenet121, resnet18, squeezenet1_1

from interpeval.baselines.lrp import Lrp
from reference.lrp import lrp

TARGETS = torch.tensor([0, 2, 1])


def plain(bias=True, pool=None, activation=None, seed=0):
    """A plain network in double precision."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=bias),
        nn.BatchNorm2d(4) if bias else nn.Identity(),
        activation or nn.ReLU(inplace=True),
        pool or nn.MaxPool2d(3, 2),
        nn.Dropout(0.5),
        nn.Conv2d(4, 5, 2, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3, bias=bias),
    ).double()
    model(torch.randn(16, 2, 9, 9).double())
    return model.eval()


def images(batch=3):
    return torch.randn(batch, 2, 9, 9, generator=torch.Generator().manual_seed(1)).double()


def test_two_layers_by_hand():
    # z = (2·3 − 1·4, 1·3 + 1·4) = (2, 7); f = 1·2 + 2·7 = 16: R(z) = (2, 14), R(x) = (6/2·2 + 3/7·14, −4/2·2 + 4/7·14).
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[1].weight.data, model[3].weight.data = torch.tensor([[2.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    found = Lrp().attribute(model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[[[12.0, 4.0]]]]))


@pytest.mark.parametrize("epsilon", [1e-9, 0.3])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2, padding=1), nn.AdaptiveMaxPool2d(4)])
@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.Tanh()])
def test_the_rule_restated_layer_by_layer(epsilon, pool, activation):
    model, inputs = plain(pool=pool, activation=activation), images()
    expected = [lrp(model, image[None], int(t), epsilon) for image, t in zip(inputs, TARGETS, strict=True)]
    maps = Lrp(epsilon=epsilon).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(maps, torch.cat(expected), rtol=1e-6, atol=1e-9)


def test_relevance_is_conserved_without_biases_and_not_with_them_or_a_large_epsilon():
    inputs = images()

    def miss(bias, epsilon):
        model = plain(bias=bias)
        logits = model(inputs).gather(1, TARGETS[:, None])[:, 0].detach()
        found = Lrp(epsilon=epsilon).attribute(model, inputs, TARGETS).sum(dim=(1, 2, 3))
        return float(((found - logits) / logits).abs().max())

    assert miss(bias=False, epsilon=1e-9) < 1e-5
    assert miss(bias=False, epsilon=0.5) > 0.05
    assert miss(bias=True, epsilon=1e-9) > 0.05


def test_bare_captum_agrees_on_layers_that_it_knows():
    model, inputs = plain(), images()
    found = Lrp().attribute(model, inputs, TARGETS)
    bare = nn.Sequential(*[layer for layer in model if not isinstance(layer, nn.Flatten)])

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = bare[:-1], bare[-1]

        def forward(self, x):
            return self.head(self.body(x).flatten(1))

    with pytest.warns(UserWarning, match="did not already require gradients"):
        expected = LRP(Flat().eval()).attribute(inputs.clone(), target=TARGETS)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-9)


def test_branches_that_are_concatenated_conserve_relevance():
    torch.manual_seed(0)
    model, inputs = squeezenet1_1(weights=None).double().eval(), torch.randn(2, 3, 64, 64).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    logits = model(inputs)[:, 3]
    found = Lrp().attribute(model, inputs, torch.tensor([3, 3])).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, logits.detach(), rtol=1e-3, atol=0)


def test_a_relu_may_be_used_again():
    torch.manual_seed(0)
    relu = nn.ReLU()
    layers = [nn.Conv2d(2, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(100, 3)]
    model, inputs = nn.Sequential(*layers).double().eval(), images()
    expected = [lrp(layers, image[None], int(t), 1e-9) for image, t in zip(inputs, TARGETS, strict=True)]
    torch.testing.assert_close(Lrp().attribute(model, inputs, TARGETS), torch.cat(expected), rtol=1e-6, atol=1e-9)


def test_a_model_that_is_one_layer_is_explained_too():
    torch.manual_seed(0)
    model, inputs = nn.AdaptiveAvgPool2d(1), images()
    headed = nn.Sequential(model, nn.Flatten())
    found = Lrp().attribute(headed, inputs, torch.tensor([0, 1, 0]))
    expected = torch.zeros_like(inputs)
    for i, channel in enumerate((0, 1, 0)):
        expected[i, channel] = inputs[i, channel] / 81
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(
        Lrp().attribute(nn.Flatten(), inputs, TARGETS).count_nonzero(dim=(1, 2, 3)), torch.ones(3).long()
    )


class Functional(nn.Module):
    """A network with ReLU, max-pooling and flattening as functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 4, 2), nn.Conv2d(4, 5, 2), nn.Linear(5 * 3 * 3, 3)

    def forward(self, inputs):
        x = F.max_pool2d(F.relu(self.first(inputs), inplace=True), 2)
        return self.head(torch.relu(self.second(x)).flatten(1))


@pytest.mark.parametrize("epsilon", [1e-9, 0.3])
def test_functions_that_move_relevance_are_as_good_as_layers(epsilon):
    torch.manual_seed(0)
    model, inputs = Functional().double().eval(), images()
    layers = [model.first, nn.ReLU(), nn.MaxPool2d(2), model.second, nn.ReLU(), nn.Flatten(), model.head]
    expected = [lrp(layers, image[None], int(t), epsilon) for image, t in zip(inputs, TARGETS, strict=True)]
    found = Lrp(epsilon=epsilon).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-6, atol=1e-9)
    modules = Lrp(epsilon=epsilon).attribute(nn.Sequential(*layers), inputs, TARGETS)
    torch.testing.assert_close(found, modules, rtol=1e-9, atol=1e-12)


class Branches(nn.Module):
    """Two layers on the same tensor, joined in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.stem, self.one, self.two = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu, self.skip, self.head = nn.ReLU(), nn.Dropout(), nn.Linear(8 * 49, 3)

    def forward(self, inputs):
        x = self.stem(inputs)
        if self.how == "dense":
            joined = torch.cat([x, self.one(x)], dim=1)
        elif self.how == "relu":
            joined = torch.cat([self.one(x), self.relu(x)], dim=1)
        elif self.how == "dropout":
            joined = torch.cat([self.one(x), self.two(self.skip(x))], dim=1)
        elif self.how == "residual":
            joined = (self.one(x) + x).repeat(1, 2, 1, 1)
        elif self.how == "again":
            joined = torch.cat([self.one(x), self.one(self.two(x))], dim=1)
        elif self.how == "functional":
            joined = F.leaky_relu(torch.cat([self.one(x), self.two(x)], dim=1))
        else:
            joined = torch.cat([self.one(x), self.two(x)], dim=1)
        return self.head(joined.flatten(1))


def test_ruled_layers_may_share_their_input():
    torch.manual_seed(0)
    model, inputs = Branches("cat").double().eval(), images()
    for layer in (model.stem, model.one, model.two, model.head):
        layer.bias = None
    logits = model(inputs).gather(1, TARGETS[:, None])[:, 0]
    found = Lrp().attribute(model, inputs, TARGETS).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, logits.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dense", "a result that goes several ways, as that which enters layer `one` does"),
        ("relu", "a result that goes several ways, as that which enters layer `one` does"),
        ("dropout", "a result that goes several ways, as that which enters layer `one` does"),
        ("residual", "LRP does not cover `Add` in the model itself, `Repeat` in the model itself; it takes layers one"),
        ("again", "a layer of its own for every call, and layer `one` is called 2 times"),
        ("functional", "LRP does not cover `LeakyRelu` in the model itself"),
    ],
)
def test_what_captum_gets_wrong_is_named_and_refused(how, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        Lrp().attribute(Branches(how).double().eval(), images(), TARGETS)


@pytest.mark.parametrize("how", ["dense", "relu", "dropout", "residual", "functional"])
def test_captum_itself_is_wrong_there(how):
    """The reason to refuse: relevance is not conserved in a network without biases."""
    torch.manual_seed(0)
    model, inputs = Branches(how).double().eval(), images()
    for layer in (model.stem, model.one, model.two, model.head):
        layer.bias = None
    logits = model(inputs).gather(1, TARGETS[:, None])[:, 0]
    with pytest.warns(UserWarning, match="did not already require gradients"):
        found = LRP(model).attribute(inputs.clone(), target=TARGETS).sum(dim=(1, 2, 3))
    assert ((found - logits).abs() > 0.01 * logits.abs()).any()


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.LeakyReLU(), "LeakyReLU"), (nn.Sigmoid(), "Sigmoid"), (nn.GroupNorm(1, 2), "GroupNorm")]
)
def test_layers_without_a_rule_are_refused_by_name(layer, name):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), layer), nn.Flatten(), nn.Linear(162, 3))
    assert Lrp().refuses(model) == f"LRP has no rule for module `0.1`, a `{name}`"
    with pytest.raises(ValueError, match=f"LRP has no rule for module `0.1`, a `{name}`"):
        Lrp().attribute(model.eval(), images().float(), TARGETS)


def test_resnets_and_densenets_are_named_and_refused():
    for build, message in ((resnet18, "`Add` in layer `layer1.0`"), (densenet121, "`Mean` in the model itself")):
        with pytest.raises(ValueError, match=f"LRP does not cover {message}"):
            Lrp().attribute(build(weights=None).eval(), torch.randn(1, 3, 64, 64), torch.tensor([0]))


def test_layers_keep_what_they_had_also_after_an_exception():
    model, inputs = plain(), images()
    rule = GammaRule()
    model[0].rule, model[5].activations = rule, "mine"
    before = [dict(vars(module)) for module in model.modules()]
    expected = Lrp().attribute(plain(), inputs, TARGETS)
    assert torch.equal(Lrp().attribute(model, inputs, TARGETS), expected)
    assert [dict(vars(module)) for module in model.modules()] == before
    with pytest.raises((IndexError, RuntimeError, AssertionError)):
        Lrp().attribute(model, inputs, torch.tensor([0, 1, 99]))
    assert [dict(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_a_bad_epsilon_is_named(epsilon):
    with pytest.raises(ValueError, match=f"`epsilon` must be above 0, was {epsilon}"):
        Lrp(epsilon=epsilon).attribute(plain(), images(), TARGETS)


def test_the_real_squeezenet_loses_to_its_biases_what_it_does_not_conserve(real_data):
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    pixels = torch.from_numpy(load.cifar10_test266()[0][:2]).permute(0, 3, 1, 2) / 255.0
    inputs = F.interpolate((pixels - 0.45) / 0.225, size=(96, 96), mode="bilinear").double()
    model = load.load_model("squeezenet1_0").double()
    targets = model(inputs).argmax(dim=1)

    def miss():
        logits = model(inputs).gather(1, targets[:, None])[:, 0].detach()
        found = Lrp().attribute(model, inputs, targets).sum(dim=(1, 2, 3))
        return float(((found - logits) / logits).abs().max())

    assert miss() > 1e-3
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    assert miss() < 1e-3
