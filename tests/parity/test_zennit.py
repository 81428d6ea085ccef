"""Zennit: its LRP conserves relevance on ResNets, equals Captum's where rules coincide, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from interpeval.baselines.deconvnet import DeconvNet
from interpeval.baselines.ensure import ensure_explainer, explainer_facts
from interpeval.baselines.from_zennit import FromZennit
from interpeval.baselines.guided_backprop import GuidedBackprop
from interpeval.baselines.lrp import Lrp
from interpeval.bench.conformance import check_explainer
from interpeval.bench.guard import ModelGuard

zennit = pytest.importorskip("zennit")
attribution = pytest.importorskip("zennit.attribution")
composites = pytest.importorskip("zennit.composites")
TARGETS = torch.tensor([2, 0, 1, 1])
INPUTS = torch.randn(4, 3, 16, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def plain() -> nn.Sequential:
    """A network of layers one after the other, with biases, each with the same rule in Captum and in zennit."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 12, 8), nn.ReLU(), nn.Linear(8, 3),
    ).eval().double()  # fmt: skip


def resnet(block: type[BasicBlock | Bottleneck] = BasicBlock, *, shift: float = 0.1) -> ResNet:
    """A small ResNet of torchvision's blocks with in-place ReLUs, whose batch norms do something.

    With a shift of 0 it has no biases, neither its own nor those that a merged batch norm makes.
    """
    torch.manual_seed(5)
    model = ResNet(block, [1, 1, 1, 1], num_classes=3).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12  # zennit merges a batch norm but for its `eps`, by which logits would change a little
            nn.init.uniform_(module.running_mean, -shift, shift)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -shift, shift)
    model.fc.weight.data *= 20
    model.fc.bias.data *= shift
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(INPUTS).gather(1, TARGETS[:, None])[:, 0]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_relevance_is_conserved_on_a_resnet(block):
    """But for the stabilisers, where there are no biases to take any of it."""
    model = resnet(block, shift=0)
    explainer = FromZennit(options={"epsilon": 1e-12})
    found = explainer.attribute(model, INPUTS, TARGETS).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, logits(model), rtol=1e-6, atol=0)
    with_biases = explainer.attribute(resnet(block), INPUTS, TARGETS).sum(dim=(1, 2, 3))
    assert ((with_biases - logits(resnet(block))).abs() > 1e-3).all(), "biases were to take some"


def test_without_its_canonizer_relevance_is_not_conserved_and_the_model_is_refused():
    rules = [*composites.layer_map_base(1e-12), (zennit.types.Linear, zennit.rules.Epsilon(1e-12))]
    with pytest.raises(ValueError, match="zennit has no rule for `Add`, by which branches of `ResNet` meet"):
        FromZennit(composites.LayerMapComposite(rules)).attribute(resnet(), INPUTS, TARGETS)


@pytest.mark.parametrize("epsilon", [1e-9, 0.1])
def test_epsilon_is_captums_lrp_on_a_plain_network(epsilon):
    expected = Lrp(epsilon=epsilon).attribute(plain(), INPUTS, TARGETS)
    found = FromZennit(options={"epsilon": epsilon}).attribute(plain(), INPUTS, TARGETS)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_epsilon_matters():
    """The negative control of the comparison above."""
    one, two = (FromZennit(options={"epsilon": value}).attribute(plain(), INPUTS, TARGETS) for value in (1e-9, 0.1))
    assert (one - two).abs().max() > 1e-2 * one.abs().max()


@pytest.mark.parametrize(("name", "ours"), [("guided_backprop", GuidedBackprop()), ("deconvnet", DeconvNet())])
def test_composites_of_gradients_are_ours_and_start_from_one(name, ours):
    found = FromZennit(name).attribute(plain(), INPUTS, TARGETS)
    torch.testing.assert_close(found, ours.attribute(plain(), INPUTS, TARGETS), rtol=1e-9, atol=1e-12)
    from_logit = FromZennit(name, start="logit").attribute(plain(), INPUTS, TARGETS)
    positive = logits(plain()) > 0  # these rules treat what is negative differently
    assert positive.any()
    expected = (found * logits(plain()).view(-1, 1, 1, 1))[positive]
    torch.testing.assert_close(from_logit[positive], expected, rtol=1e-9, atol=1e-12)


def test_attributors_alone_are_those_of_captum():
    gradient = ensure_explainer(attribution.Gradient).attribute(plain(), INPUTS, TARGETS)
    expected = Saliency(plain()).attribute(INPUTS.clone().requires_grad_(), target=TARGETS, abs=False)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
    path = ensure_explainer(attribution.IntegratedGradients, n_iter=100).attribute(plain(), INPUTS, TARGETS)
    expected = IntegratedGradients(plain()).attribute(INPUTS, target=TARGETS, n_steps=100)
    torch.testing.assert_close(path, expected, rtol=0, atol=2e-2 * float(expected.abs().max()))


def test_a_composite_its_class_and_its_name_are_the_same():
    canonizer = pytest.importorskip("zennit.torchvision").ResNetCanonizer
    found = [
        FromZennit("epsilon_plus").attribute(resnet(), INPUTS, TARGETS),
        ensure_explainer(composites.EpsilonPlus).attribute(resnet(), INPUTS, TARGETS),
        ensure_explainer(composites.EpsilonPlus(canonizers=[canonizer()])).attribute(resnet(), INPUTS, TARGETS),
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
    epsilon = FromZennit().attribute(resnet(), INPUTS, TARGETS)
    assert (found[0] - epsilon).abs().max() > 1e-2 * epsilon.abs().max()


class Raises(nn.Module):
    """A layer that fails when it is called with gradients."""

    def forward(self, inputs: Tensor) -> Tensor:
        raise ZeroDivisionError


@pytest.mark.parametrize("breaks", [False, True])
def test_a_merged_and_hooked_model_comes_back(breaks):
    model = resnet()
    if breaks:
        model.avgpool = Raises()
    model.relu.train()
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    guard = ModelGuard(model)
    try:
        FromZennit().attribute(model, INPUTS, TARGETS)
    except ZeroDivisionError:
        assert breaks
    else:
        assert not breaks
    assert guard.restore() == []


def test_a_canonizer_that_fails_half_way_is_undone():
    """Batch norms without weights cannot be merged, which zennit finds out after it has merged others."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval().double()  # fmt: skip
    model[1].running_mean.fill_(0.5)
    guard = ModelGuard(model)
    with pytest.raises(AttributeError, match="data"):
        FromZennit().attribute(model, INPUTS, TARGETS)
    assert guard.restore() == []


@pytest.mark.parametrize("name", ["composites.EpsilonPlus", "composites.GuidedBackprop", "attribution.Gradient"])
def test_dotted_names_conform(name):
    assert {result.outcome for result in check_explainer(f"zennit.{name}")} == {"passed"}


def test_the_default_conforms_on_a_resnet():
    results = check_explainer(FromZennit(), resnet().float(), INPUTS.float())
    assert {result.name: result.message for result in results if result.outcome != "passed"} == {}


def test_facts_say_what_was_chosen():
    facts = explainer_facts(ensure_explainer(composites.EpsilonPlus, epsilon=0.5))
    assert facts.name == "zennit_EpsilonPlus"
    assert facts.params == {"reduction": "sum", "attributor": None, "start": None, "epsilon": 0.5}
    assert facts.source_digest
    assert explainer_facts(FromZennit()).name == "zennit_epsilon"
    assert explainer_facts(ensure_explainer(attribution.Gradient)).name == "zennit_Gradient"


def test_what_cannot_be_an_explainer_is_refused():
    with pytest.raises(TypeError, match="it is bound to one model: give its class"):
        ensure_explainer(attribution.Gradient(plain()))
    with pytest.raises(TypeError, match="is built already and takes no parameters"):
        ensure_explainer(composites.EpsilonPlus(), epsilon=1.0)
    with pytest.raises(ValueError, match="`composite` must be one of epsilon, "):
        FromZennit("epsilom").attribute(plain(), INPUTS, TARGETS)
    with pytest.raises(ValueError, match='`start` must be "logit" or "one"'):
        FromZennit(start="two").attribute(plain(), INPUTS, TARGETS)  # type: ignore[arg-type]
