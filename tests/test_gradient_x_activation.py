"""`elementwise_gradcam` and `linear_approximation`, and how the two and Grad-CAM relate."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from interpeval.baselines.elementwise_gradcam import ElementwiseGradCam
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.linear_approximation import LinearApproximation

both = pytest.mark.parametrize(
    "explainer", [ElementwiseGradCam(), LinearApproximation()], ids=lambda explainer: explainer.name
)


def by_hand() -> tuple[nn.Module, Tensor, Tensor]:
    """A model of which activations and gradients are known at both of two positions."""
    # Activations (4, 1) and (2, 6); the weights of target 0 on them are (2, -1) and (-3, 1).
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    model[2].weight.data = torch.tensor([[2.0, -1.0, -3.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    inputs = torch.tensor([[[[4.0, 1.0]], [[2.0, 6.0]]]]).repeat(2, 1, 1, 1)
    return model, inputs, torch.tensor([0, 1])


def test_each_position_weighs_its_activations_by_its_own_gradient() -> None:
    model, inputs, targets = by_hand()
    assert LinearApproximation().attribute(model, inputs, targets).tolist() == [[[[8 - 6, -1 + 6]]], [[[2, 6]]]]
    assert LinearApproximation().attribute(model, -inputs, targets).count_nonzero() == 0
    assert ElementwiseGradCam().attribute(model, inputs, targets).tolist() == [[[[2, 5]]], [[[2, 6]]]]
    assert ElementwiseGradCam(relu="terms").attribute(model, inputs, targets).tolist() == [[[[8, 6]]], [[[2, 6]]]]
    # Grad-CAM has the mean weights (1/2, -1) instead.
    assert GradCam().attribute(model, inputs, targets).tolist()[0] == [[[0, 0]]]


def test_what_is_negative_is_cut_off_in_the_sum_or_in_its_terms() -> None:
    model, inputs, targets = by_hand()
    model[2].weight.data[0] = torch.tensor([2.0, -1.0, -5.0, 0.0])
    assert LinearApproximation().attribute(model, inputs, targets).tolist()[0] == [[[-2, -1]]]
    assert ElementwiseGradCam().attribute(model, inputs, targets).tolist()[0] == [[[0, 0]]]
    assert ElementwiseGradCam(relu="terms").attribute(model, inputs, targets).tolist()[0] == [[[8, 0]]]


def pooled(pool: nn.Module) -> nn.Module:
    """A random ResNet-18 with another last pooling, in double precision."""
    torch.manual_seed(0)
    model = resnet18(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    model.avgpool = pool
    return model.double().eval()


def similarity(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of the maps of each sample: 1 if and only if they agree up to a positive factor."""
    return torch.cosine_similarity(left.flatten(1), right.flatten(1))


def test_gradcam_is_elementwise_gradcam_under_average_pooling_and_not_under_maximum_pooling() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(3, 3, 96, 96).double(), torch.tensor([3, 70, 800])
    average, maximum = pooled(nn.AdaptiveAvgPool2d(1)), pooled(nn.AdaptiveMaxPool2d(1))
    maps = [explainer.attribute(average, inputs, targets) for explainer in (GradCam(), ElementwiseGradCam())]
    assert (maps[0].flatten(1).amax(dim=1) > 0).all()
    torch.testing.assert_close(similarity(*maps), torch.ones(3).double(), rtol=0, atol=1e-9)
    maps = [explainer.attribute(maximum, inputs, targets) for explainer in (GradCam(), ElementwiseGradCam())]
    assert (similarity(*maps) < 0.9).all()


def test_on_the_trained_resnet20_too(real_data) -> None:
    spec = importlib.util.spec_from_file_location("real_data_load", real_data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    images, labels = load.cifar10_test266()
    inputs, targets = load.normed(images[:8], load.CIFAR_NORM), torch.as_tensor(labels[:8])
    model = load.load_model("resnet20")
    maps = [explainer.attribute(model, inputs, targets) for explainer in (GradCam(), ElementwiseGradCam())]
    assert maps[0].shape == (8, 1, 8, 8)
    torch.testing.assert_close(similarity(*maps), torch.ones(8), rtol=0, atol=1e-5)
    # Below the last feature map, gradients differ from place to place.
    lower = [type(explainer)(layer="layer2") for explainer in (GradCam(), ElementwiseGradCam())]
    maps = [explainer.attribute(model, inputs, targets) for explainer in lower]
    assert (similarity(*maps) < 0.99).all()


@pytest.mark.parametrize("layer", [None, "layer2", "layer3.0.conv1"])
def test_linear_approximation_is_elementwise_gradcam_without_its_relu(layer: str | None) -> None:
    model, inputs, targets = pooled(nn.AdaptiveMaxPool2d(1)), torch.randn(2, 3, 64, 64).double(), torch.tensor([1, 9])
    signed = LinearApproximation(layer=layer).attribute(model, inputs, targets)
    assert torch.equal(ElementwiseGradCam(layer=layer).attribute(model, inputs, targets), signed.clamp(min=0))
    assert (signed < 0).any()
    assert (signed > 0).any()


def restated(below, above, inputs: Tensor, targets: Tensor) -> Tensor:
    """Gradient times activation of one input after the other, with the network cut in two at the layer."""
    maps: list[Tensor] = []
    for image, target in zip(inputs, targets, strict=True):
        activation = below(image[None]).detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(above(activation.clone())[0, int(target)], activation)
        maps.append((gradient * activation.detach())[0].sum(dim=0, keepdim=True))
    return torch.stack(maps)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_formula_at_every_layer_in_place_successors_included(cut: int, order: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.ConvTranspose2d(6, 5, 2, stride=2),
        nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(5, 4, 3), nn.GELU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(4, 4),
    ).double().eval()  # fmt: skip
    inputs, targets = torch.randn(3, 3, 6, 7).double(), torch.tensor([0, 3, 1])
    expected = restated(model[:cut], model[cut:], inputs, targets)
    explainer = LinearApproximation(layer=str(cut - 1))
    result = explainer.attribute(model.to(memory_format=order), inputs.to(memory_format=order), targets)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


@both
def test_the_tokens_of_a_transformer_are_refused_and_its_patch_embedding_is_read_when_named(explainer) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)  # which are zeros at first
    inputs, targets = torch.randn(2, 3, 16, 16), torch.tensor([0, 2])
    assert "attends to tokens (layer `encoder.layers.encoder_layer_0.self_attention`)" in explainer.refuses(model)
    with pytest.raises(ValueError, match=r"`layer` must have a \(B, C, h, w\) output; 'encoder.ln' gave"):
        type(explainer)(layer="encoder.ln").attribute(model, inputs, targets)
    named = type(explainer)(layer="conv_proj")
    assert named.refuses(model) is None
    embedded = model.conv_proj(inputs).detach().requires_grad_()
    handle = model.conv_proj.register_forward_hook(lambda *_: embedded)
    (gradient,) = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), embedded)
    handle.remove()
    expected = (gradient * embedded).sum(dim=1, keepdim=True).detach()
    expected = expected.clamp(min=0) if explainer.rectified else expected
    torch.testing.assert_close(named.attribute(model, inputs, targets), expected, rtol=1e-4, atol=1e-6)
    model.cam_layer = "conv_proj"
    assert explainer.refuses(model) is None


def test_an_unknown_relu_is_named() -> None:
    model, inputs, targets = by_hand()
    with pytest.raises(ValueError, match='`relu` must be "sum" or "terms", was \'none\''):
        ElementwiseGradCam(relu="none").attribute(model, inputs, targets)  # type: ignore[arg-type]
