"""`excitation_backprop` and `contrastive_excitation_backprop`, and the probabilities they are made of."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import densenet121, mobilenet_v2, resnet18, squeezenet1_0
from torchvision.models.vision_transformer import VisionTransformer

from interpeval.baselines.contrastive_excitation_backprop import ContrastiveExcitationBackprop
from interpeval.baselines.excitation import excitation, excitation_layer, excitation_map
from interpeval.baselines.excitation_backprop import ExcitationBackprop
from reference.excitation import choose, divide, matrix_of, pooled_maximum

both = pytest.mark.parametrize(
    "explainer", [ExcitationBackprop(), ContrastiveExcitationBackprop()], ids=lambda explainer: explainer.name
)


def two_layers() -> nn.Sequential:
    """`f(x) = W2 relu(W1 x + b1)` with small whole numbers."""
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 3.0], [2.0, -1.0]]))
        model[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        model[4].weight.copy_(torch.tensor([[1.0, -2.0, 1.0], [-1.0, 4.0, 2.0]]))
    return model.eval()


def test_two_layers_by_hand() -> None:
    # x = (3, 1): hidden units (5, 1, 5), of which the second owes 3 to x_2, and its bias does not count.
    # Target 0 chooses the first and third unit by 5 : 5. The first chooses 3 : 2, the third the first input alone.
    inputs, model = torch.tensor([[[[3.0, 1.0]]]]), two_layers()
    found = excitation(model, inputs, torch.tensor([0]), model[0])
    torch.testing.assert_close(found, torch.tensor([[[[0.5 * 3 / 5 + 0.5, 0.5 * 2 / 5]]]]))
    # The dual of target 0 has weights (-1, 2, -1), so it is the second unit, which is the second input's.
    dual = excitation(model, inputs, torch.tensor([0]), model[0], contrastive=True)
    torch.testing.assert_close(dual, torch.tensor([[[[0.8, 0.2 - 1.0]]]]))
    # Target 1: units two and three by 4 : 10.
    found = excitation(model, inputs, torch.tensor([1]), model[0])
    torch.testing.assert_close(found, torch.tensor([[[[10 / 14, 4 / 14]]]]))


class Small(nn.Module):
    """Convolutions, batch norm, a sum of branches, pooling of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ReLU()
        self.conv, self.norm, self.relu = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True)
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        x = self.stem(inputs)
        branch = self.norm(self.conv(x))
        branch += x
        return self.last(F.adaptive_avg_pool2d(self.pool(self.relu(branch)), 1).flatten(1))


def small(seed: int) -> Small:
    """`Small` away from its initial statistics."""
    torch.manual_seed(seed)
    model = Small().double()
    model.norm.running_mean.normal_()
    nn.init.uniform_(model.norm.weight, 0.5, 2)
    nn.init.normal_(model.norm.bias)
    return model.eval()


def restated(model: Small, image: Tensor, target: int, *, sign: float = 1.0) -> np.ndarray:
    """The probabilities at the output of `stem`, unit by unit."""
    with torch.no_grad():
        x = model.stem(image[None])
        branch = model.norm(model.conv(x))
        total = (branch + x).relu()
        pooled = model.pool(total)
        features = pooled.mean(dim=(2, 3))
    weights = sign * model.last.weight.detach().numpy()
    p = np.eye(3)[target]
    p = choose(p, features[0].numpy(), weights)
    p = choose(p, pooled[0].numpy(), matrix_of(lambda a: a.mean(axis=(1, 2)), pooled[0].shape))
    p = pooled_maximum(p, total[0].numpy())
    p = p * ((branch + x)[0].numpy() > 0)
    direct, through = divide(p, x[0].numpy(), branch[0].numpy())
    kernel = model.conv.weight.detach()
    matrix = matrix_of(lambda a: F.conv2d(torch.from_numpy(a)[None], kernel, padding=1)[0].numpy(), x[0].shape)
    return direct + choose(through, x[0].numpy(), matrix)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), target=st.integers(0, 2))
def test_the_probabilities_are_those_found_unit_by_unit(seed: int, target: int) -> None:
    model = small(seed)
    inputs = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    targets = torch.tensor([target, (target + 1) % 3])
    found = excitation(model, inputs, targets, model.stem)
    contrasted = excitation(model, inputs, targets, model.stem, contrastive=True)
    for row in range(2):
        expected = restated(model, inputs[row], int(targets[row]))
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-9, atol=1e-12)
        expected = expected - restated(model, inputs[row], int(targets[row]), sign=-1.0)
        np.testing.assert_allclose(contrasted[row].numpy(), expected, rtol=1e-9, atol=1e-12)


def shaken(model: nn.Module) -> nn.Module:
    """The model with batch norms away from their initial statistics, in double precision."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    return model.double().eval()


@pytest.mark.parametrize("maximum", [False, True])
def test_probabilities_add_up_to_one_at_every_layer_of_a_resnet(maximum: bool) -> None:
    torch.manual_seed(0)
    model = shaken(resnet18(weights=None))
    if maximum:
        model.avgpool = nn.AdaptiveMaxPool2d(1)
    inputs, targets = torch.randn(2, 3, 48, 48).double(), torch.tensor([7, 501])
    for name in ("avgpool", "layer4", "layer3.0", "layer1", "relu", "conv1"):
        found = excitation(model, inputs, targets, model.get_submodule(name))
        assert found.min() >= 0, name
        torch.testing.assert_close(found.flatten(1).sum(dim=1), torch.ones(2).double(), rtol=0, atol=1e-9, msg=name)
        dual = excitation(model, inputs, targets, model.get_submodule(name), contrastive=True)
        torch.testing.assert_close(dual.flatten(1).sum(dim=1), torch.zeros(2).double(), rtol=0, atol=1e-9, msg=name)
        assert dual.abs().sum() > 0.001, name  # the deeper, the more alike the two are in a random network
    # A layer beside a shortcut gets a part only: the identity gets the rest.
    beside = excitation(model, inputs, targets, model.layer4[1].bn2).flatten(1).sum(dim=1)
    assert ((beside > 0.01) & (beside < 0.99)).all()


@pytest.mark.parametrize(
    ("build", "layer"),
    [(densenet121, "features"), (mobilenet_v2, "features"), (squeezenet1_0, "classifier.0")],
)
def test_probabilities_add_up_to_one_at_the_layer_that_the_rule_finds(build, layer: str) -> None:
    torch.manual_seed(1)
    model = shaken(build(weights=None))
    inputs, targets = torch.randn(1, 3, 64, 64).double(), torch.tensor([6])
    assert excitation_layer(model, inputs) is model.get_submodule(layer)
    if build is squeezenet1_0:  # its last ReLU leaves the logits of about every second class at 0
        targets = model(inputs).argmax(dim=1)
    maps = ExcitationBackprop().attribute(model, inputs, targets)
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-9)


def test_concatenated_branches_share_what_arrives() -> None:
    torch.manual_seed(0)
    model = squeezenet1_0(weights=None).double().eval()
    inputs = torch.randn(1, 3, 64, 64).double()
    targets = model(inputs).argmax(dim=1)
    fire = model.features[9]
    branches = [excitation(model, inputs, targets, layer) for layer in (fire.expand1x1, fire.expand3x3)]
    torch.testing.assert_close(torch.cat(branches, dim=1), excitation(model, inputs, targets, fire))
    assert all(0.05 < branch.sum() < 0.95 for branch in branches)


def test_a_logit_that_nothing_excites_gives_a_map_of_zeros() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    model[2].weight.data = torch.tensor([[-1.0, -2.0]])
    assert excitation_map(model, torch.ones(1, 1, 1, 2), torch.tensor([0]), None).tolist() == [[[[0.0, 0.0]]]]


def test_the_contrast_is_cut_off_at_the_end_alone() -> None:
    torch.manual_seed(0)
    model = shaken(resnet18(weights=None))
    inputs, targets = torch.randn(2, 3, 32, 32).double(), torch.tensor([7, 501])
    for layer in ("layer3", "layer4"):
        signed = excitation(model, inputs, targets, model.get_submodule(layer), contrastive=True).sum(1, keepdim=True)
        found = ContrastiveExcitationBackprop(layer=layer).attribute(model, inputs, targets)
        assert torch.equal(found, signed.clamp(min=0))
        assert (signed < 0).any()


def spellings() -> dict[str, nn.Module]:
    """The same network, spelt in several ways."""

    class Spelt(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.how = how
            self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)
            self.start, self.relu = nn.ReLU(), nn.ReLU(inplace="in place" in how)

        def rectify(self, x: Tensor) -> Tensor:
            functions = {"torch": torch.relu, "F": F.relu, "method": lambda x: x.relu(), "F in place": F.relu_}
            return functions.get(self.how, self.relu)(x)

        def add(self, x: Tensor, y: Tensor) -> Tensor:
            if self.how == "torch":
                return torch.add(x, y)
            if self.how == "method":
                return x.add(y)
            if self.how.endswith("in place"):
                x += y
                return x
            return x + y

        def forward(self, inputs: Tensor) -> Tensor:
            x = self.start(inputs)
            x = self.rectify(self.add(self.first(x), torch.cat([x, x], dim=1)))
            x = x.mean(dim=(2, 3)) if self.how != "F" else torch.flatten(F.avg_pool2d(x, x.shape[2:]), 1)
            return self.last(x)

    return {how: Spelt(how).eval() for how in ("module", "in place", "torch", "F", "method", "F in place")}


@both
def test_how_a_network_is_spelt_does_not_matter(explainer) -> None:
    inputs, targets = torch.randn(2, 2, 6, 6), torch.tensor([0, 2])
    models = spellings()
    explainer = type(explainer)(layer="start")
    expected = explainer.attribute(models.pop("module"), inputs, targets)
    assert expected.count_nonzero()
    for how, model in models.items():
        torch.testing.assert_close(explainer.attribute(model, inputs, targets), expected, msg=how)


@both
def test_channels_last_inputs_and_models_are_explained_alike(explainer) -> None:
    model, inputs, targets = small(0), torch.randn(3, 2, 6, 6).double(), torch.tensor([0, 1, 2])
    explainer = type(explainer)(layer="stem")
    expected = explainer.attribute(model, inputs, targets)
    order = {"memory_format": torch.channels_last}
    torch.testing.assert_close(explainer.attribute(model.to(**order), inputs.to(**order), targets), expected)


def test_transposed_convolutions_and_relu6_follow_the_rule() -> None:
    # Every output position of this transposed convolution reads one input only, so probabilities stay where they are.
    up = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False)
    nn.init.constant_(up.weight, 0.5)
    model = nn.Sequential(nn.ReLU(), up, nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(8, 1)).eval()
    model[4].weight.data = torch.tensor([[1.0, 0, 0, 2, 0, 0, 0, 0]])
    inputs = torch.tensor([[[[2.0, 50.0]]]])
    # Values 1 and 6 (cut off from 25) are read with weights 1 and 2.
    found = excitation_map(model, inputs, torch.tensor([0]), "0")
    torch.testing.assert_close(found, torch.tensor([[[[1 / 13, 12 / 13]]]]))


class Odd(nn.Module):
    """A layer that does something without a rule."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """Do it."""
        if self.how == "custom":
            return Hidden.apply(x)
        return {
            "mul": lambda: x * x,
            "sigmoid": lambda: torch.sigmoid(x),
            "leaky_relu": lambda: F.leaky_relu(x),
            "dropout": lambda: F.dropout(x),
            "pad": lambda: F.pad(x, (1, 1), value=3.0)[..., 1:-1],
            "add": lambda: torch.add(x, x, alpha=2),
        }[self.how]()


class Hidden(torch.autograd.Function):
    """The identity, hidden."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("how", ["mul", "sigmoid", "leaky_relu", "dropout", "pad", "add"])
def test_what_has_no_rule_is_refused_by_its_name_and_layer(how: str) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(Odd(how)), nn.Flatten(), nn.Linear(4, 2))
    inputs = torch.rand(1, 1, 2, 2)
    with pytest.raises(ValueError, match=f"no rule for `{how}` in layer `1.0`"):
        ExcitationBackprop(layer="0").attribute(model, inputs, torch.tensor([0]))
    # Below the layer anything may happen.
    assert ExcitationBackprop(layer="1").attribute(model, inputs, torch.tensor([0])).shape == (1, 1, 2, 2)


def test_a_function_of_its_own_is_refused() -> None:
    model = nn.Sequential(nn.ReLU(), Odd("custom"), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="no rule for `HiddenBackward`"):
        ExcitationBackprop(layer="0").attribute(model, torch.rand(1, 1, 2, 2), torch.tensor([0]))


def test_negative_values_are_refused_by_the_layer_that_would_choose_among_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Flatten(), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, -1.0)
    nn.init.constant_(model[0].bias, 0.0)
    with pytest.raises(ValueError, match=r"`conv2d` in layer `1\.0` is given negative ones"):
        ExcitationBackprop(layer="0").attribute(model, torch.rand(1, 1, 2, 2), torch.tensor([0]))


@both
def test_layers_that_cannot_be_read_are_named(explainer) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    inputs, targets = torch.rand(1, 1, 2, 2), torch.tensor([0])
    with pytest.raises(ValueError, match=r"`layer` must have a \(B, C, h, w\) output; '1' gave \(1, 4\)"):
        type(explainer)(layer="1").attribute(model, inputs, targets)
    with pytest.raises(ValueError, match="must name a module of the model, was 'nought'"):
        type(explainer)(layer="nought").attribute(model, inputs, targets)
    with pytest.raises(ValueError, match="`layer` must be given"):
        explainer.attribute(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), inputs, targets)


def test_the_contrast_needs_weights_above_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs, targets = torch.rand(1, 1, 2, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="the contrast needs a convolution or linear layer above `layer`"):
        ContrastiveExcitationBackprop(layer="1").attribute(model, inputs, targets)


@both
def test_a_vision_transformer_is_refused_and_named(explainer) -> None:
    model = VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3).eval()
    assert "encoder.layers.encoder_layer_0.self_attention" in explainer.refuses(model)
    assert explainer.refuses(resnet18(weights=None)) is None
    with pytest.raises(ValueError, match=r"no rule for `layer_norm` in layer `encoder\.layers\.encoder_layer_0\.ln_1`"):
        type(explainer)(layer="conv_proj").attribute(model, torch.randn(1, 3, 16, 16), torch.tensor([0]))


def test_squeezenet_with_its_trained_weights_conserves_probabilities(real_data) -> None:
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    model = load.load_model("squeezenet1_0")
    inputs = load.normed(load.coco_crops(224, 1)[0], load.IMAGENET_NORM)
    targets = model(inputs).argmax(dim=1)
    for name in ("classifier.0", "features.9", "features.5", "features.2"):
        found = excitation(model, inputs, targets, model.get_submodule(name))
        assert abs(float(found.sum()) - 1) < 1e-4, name
        assert found.min() >= 0
