"""`gradcam`, and the rule by which the Grad-CAM family finds its layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from interpeval.baselines.base import heatmap
from interpeval.baselines.cam_layer import cam_layer
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.guided_gradcam import GuidedGradCam
from interpeval.baselines.scorecam import ScoreCam

Part = Callable[[Tensor], Tensor]


def plain() -> nn.Sequential:
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


def restated(below: Part, above: Part, inputs: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM of one input after the other, with the network cut in two at the layer."""
    maps: list[Tensor] = []
    for image, target in zip(inputs, targets, strict=True):
        activation = below(image[None]).detach().clone().requires_grad_()
        logit = above(activation.clone())[0, int(target)]
        (gradient,) = torch.autograd.grad(logit, activation)
        total = torch.zeros(activation.shape[2:], dtype=inputs.dtype)
        for k in range(activation.shape[1]):
            total += gradient[0, k].mean() * activation[0, k].detach()
        maps.append(total.clamp(min=0)[None])
    return torch.stack(maps)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_the_formula_at_every_layer_in_place_successors_included(cut: int) -> None:
    # At cut 1 and 4 the layer is a convolution whose output an in-place ReLU then overwrites.
    model, inputs = plain().double(), torch.randn(3, 3, 8, 10).double()
    targets = torch.tensor([0, 3, 1])
    result = GradCam(layer=str(cut - 1)).attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(model[:cut], model[cut:], inputs, targets), rtol=1e-9, atol=1e-12)
    assert result.shape[-2:] == ((8, 10) if cut <= 2 else (4, 5))


def test_weights_are_averaged_over_space_and_the_sum_is_rectified_by_hand() -> None:
    # logit = mean of (2 A0 - A1) over two positions: w = (2/2, -1/2); A = ((4, 1), (2, 6)).
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1, bias=False))
    model[3].weight.data = torch.tensor([[2.0, -1.0]])
    inputs = torch.tensor([[[[4.0, 1.0]], [[2.0, 6.0]]]])
    assert GradCam().attribute(model, inputs, torch.tensor([0])).tolist() == [[[[4 - 1, 0]]]]  # 1 - 3 is cut off


def test_the_heatmap_is_enlarged_bilinearly_from_the_rectified_map() -> None:
    model, inputs, targets = plain(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    maps = GradCam().attribute(model, inputs, targets)
    expected = F.interpolate(maps, size=(8, 8), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(heatmap(maps, (8, 8), GradCam().reduction, rectified=GradCam.rectified), expected)
    assert maps.shape == (2, 1, 4, 4)
    assert maps.count_nonzero()


def test_resnet18_is_read_at_layer4_and_a_plain_network_at_its_last_relu() -> None:
    model = resnet18(weights=None).eval()
    assert cam_layer(model, torch.zeros(2, 3, 64, 64)) is model.layer4
    network = plain()
    assert cam_layer(network, torch.zeros(2, 3, 8, 8)) is network[4]


def test_resnet18_matches_the_formula() -> None:
    torch.manual_seed(0)
    model = resnet18(weights=None).double().eval()
    inputs, targets = torch.randn(2, 3, 64, 64).double(), torch.tensor([1, 9])
    below = nn.Sequential(*list(model.children())[:-2])
    above = nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
    result = GradCam().attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(below, above, inputs, targets), rtol=1e-9, atol=1e-12)


class Overwritten(nn.Module):
    """Like torchvision's DenseNet: `features`, then `F.relu(features, inplace=True)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def above(self, features: Tensor) -> Tensor:
        """Return the logits of features."""
        return self.head(F.relu(features, inplace=True).mean(dim=(2, 3)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 3)` logits."""
        return self.above(self.features(inputs))


def test_a_layer_that_a_functional_in_place_relu_overwrites_is_read_before_it() -> None:
    torch.manual_seed(0)
    model, inputs, targets = Overwritten().double().eval(), torch.randn(2, 3, 7, 7).double(), torch.tensor([2, 0])
    assert cam_layer(model, inputs) is model.features
    result = GradCam().attribute(model, inputs, targets)
    torch.testing.assert_close(result, restated(model.features, model.above, inputs, targets), rtol=1e-9, atol=1e-12)


def test_a_shared_module_is_read_at_its_last_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.relu, self.head = nn.ReLU(), nn.Linear(4, 2)

        def below(self, inputs: Tensor) -> Tensor:
            return self.relu(self.second(self.relu(self.first(inputs))))

        def above(self, features: Tensor) -> Tensor:
            return self.head(features.mean(dim=(2, 3)))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.above(self.below(inputs))

    torch.manual_seed(0)
    model, inputs, targets = Shared().double().eval(), torch.randn(2, 3, 9, 9).double(), torch.tensor([0, 1])
    assert cam_layer(model, inputs) is model.relu
    expected = restated(model.below, model.above, inputs, targets)
    torch.testing.assert_close(GradCam().attribute(model, inputs, targets), expected, rtol=1e-9, atol=1e-12)


def test_a_models_own_choice_comes_before_the_rule_and_a_name_before_both() -> None:
    model, inputs = plain(), torch.zeros(1, 3, 8, 8)
    model.cam_layer = "2"  # type: ignore[assignment]
    assert cam_layer(model, inputs) is model[2]
    assert cam_layer(model, inputs, "0") is model[0]
    other = plain()
    object.__setattr__(other, "cam_layer", other[1])  # a module, without registering it a second time
    assert cam_layer(other, inputs) is other[1]


class OneRowAtLeast(nn.Module):
    """A layer that cannot do without a row."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / inputs.amax()


@pytest.mark.parametrize(("layers", "expected"), [([], [0]), ([OneRowAtLeast()], [0, 1])])
def test_finding_the_layer_costs_a_row_at_most_and_leaves_no_hook(layers: list[nn.Module], expected: list[int]) -> None:
    rows: list[int] = []
    model = nn.Sequential(*layers, *plain())
    handle = model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    cam_layer(model, torch.zeros(7, 3, 8, 8))
    handle.remove()
    assert rows == expected
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_unknown_and_unfit_layers_are_named() -> None:
    model, inputs, targets = resnet18(weights=None).eval(), torch.zeros(1, 3, 32, 32), torch.tensor([0])
    with pytest.raises(ValueError, match="`layer` must name a module of the model, was 'layer5'; there are layer4"):
        GradCam(layer="layer5").attribute(model, inputs, targets)
    with pytest.raises(ValueError, match=r"`layer` must have a \(B, C, h, w\) output; 'fc'"):
        GradCam(layer="fc").attribute(model, inputs, targets)
    with pytest.raises(ValueError, match="no module of the model has"):
        GradCam().attribute(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2), targets)


@pytest.mark.parametrize("explainer", [GradCam(), GuidedGradCam(), ScoreCam()], ids=lambda one: one.name)
def test_the_tokens_of_a_transformer_are_no_feature_map(explainer: GradCam | GuidedGradCam | ScoreCam) -> None:
    model = VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=3).eval()
    assert explainer.refuses(model) is not None
    assert explainer.refuses(plain()) is None
    if not isinstance(explainer, GuidedGradCam):  # whose other half the GELU stops
        assert "attends to tokens" in explainer.refuses(model)
        assert type(explainer)(layer="conv_proj").refuses(model) is None
