"""`guided_gradcam`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam as CaptumGuidedGradCam
from torch import nn
from torchvision.models import resnet18

from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.guided_backprop import GuidedBackprop
from interpeval.baselines.guided_gradcam import GuidedGradCam


def plain():
    """A plain network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()


def product(model, inputs, targets, layer=None, mode="bilinear"):
    """Guided backpropagation times the enlarged Grad-CAM map."""
    maps = GradCam(layer=layer).attribute(model, inputs, targets)
    options = {"align_corners": False} if mode == "bilinear" else {}
    enlarged = F.interpolate(maps, size=inputs.shape[2:], mode=mode, **options)
    return GuidedBackprop().attribute(model, inputs, targets) * enlarged


@pytest.mark.parametrize("layer", [None, "0", "1", "2", "3", "4"])
def test_it_is_the_product_of_its_two_halves_at_every_layer(layer):
    model, inputs, targets = plain().double(), torch.randn(3, 3, 8, 12).double(), torch.tensor([0, 3, 1])
    found = GuidedGradCam(layer=layer).attribute(model, inputs, targets)
    torch.testing.assert_close(found, product(model, inputs, targets, layer), rtol=1e-9, atol=1e-14)
    assert found.abs().amax(dim=(1, 2, 3)).min() > 0


def test_by_hand():
    # f = mean of max(0, 2 x): guided gradient (1, 0), Grad-CAM at the ReLU: mean gradient 1/2 times (8, 0).
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].weight.data = torch.tensor([[[[2.0]]]])
    found = GuidedGradCam().attribute(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0]))
    assert found.tolist() == [[[[1.0 * 4.0, 0.0]]]]


def test_the_map_is_enlarged_bilinearly_where_captum_takes_the_nearest_neighbour():
    model, inputs, targets = plain(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    found = GuidedGradCam().attribute(model, inputs, targets)
    torch.testing.assert_close(found, product(model, inputs, targets))
    method = CaptumGuidedGradCam(model, model[4])
    with pytest.warns(UserWarning, match="Setting backward hooks"):
        bare = method.attribute(inputs.clone().requires_grad_(), target=targets)
    torch.testing.assert_close(bare.detach(), product(model, inputs, targets, mode="nearest"))
    with pytest.warns(UserWarning, match="Setting backward hooks"):
        bilinear = method.attribute(inputs.clone().requires_grad_(), target=targets, interpolate_mode="bilinear")
    torch.testing.assert_close(found, bilinear.detach())
    assert not torch.allclose(found, bare, rtol=0.1)


def test_resnet18_is_explained_through_its_reused_in_place_relus():
    torch.manual_seed(0)
    model, inputs, targets = resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64), torch.tensor([3, 7])
    found = GuidedGradCam().attribute(model, inputs, targets)
    torch.testing.assert_close(found, product(model, inputs, targets, "layer4"), rtol=1e-4, atol=1e-8)
    other = GuidedGradCam(layer="layer3").attribute(model, inputs, targets)
    torch.testing.assert_close(other, product(model, inputs, targets, "layer3"), rtol=1e-4, atol=1e-8)
    assert not torch.allclose(found, other)


class Spelt(nn.Module):
    """A network whose second ReLU is a module or a function."""

    def __init__(self, second):
        super().__init__()
        self.conv, self.relu, self.head, self.second = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 4), second

    def forward(self, inputs):
        return self.head(self.second(self.relu(self.conv(inputs)) - 0.1).mean(dim=(2, 3)))


def test_relus_may_be_functions():
    torch.manual_seed(0)
    module, function = Spelt(nn.ReLU()).eval(), Spelt(F.relu).eval()
    function.load_state_dict(module.state_dict())
    inputs, targets = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    expected = GuidedGradCam(layer="conv").attribute(module, inputs, targets)
    assert torch.equal(GuidedGradCam(layer="conv").attribute(function, inputs, targets), expected)
    assert expected.any()


def test_other_activations_are_named():
    inputs, targets = torch.randn(1, 3, 8, 8), torch.tensor([0])
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "`1` (GELU)" in str(GuidedGradCam().refuses(smooth))
    assert GuidedGradCam().refuses(plain()) is None
    with pytest.raises(ValueError, match="the rule is defined for ReLU"):
        GuidedGradCam().attribute(smooth, inputs, targets)


def test_unknown_and_unfit_layers_are_named():
    inputs, targets = torch.randn(1, 3, 8, 8), torch.tensor([0])
    with pytest.raises(ValueError, match="`layer` must name a module of the model, was 'layer5'"):
        GuidedGradCam(layer="layer5").attribute(plain(), inputs, targets)
    with pytest.raises(ValueError, match=r"`layer` must have a \(B, C, h, w\) output; '7'"):
        GuidedGradCam(layer="7").attribute(plain(), inputs, targets)
