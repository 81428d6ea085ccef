"""Classes of the package grad-cam: its Grad-CAM is ours up to normalisation, and nothing of it stays in the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpeval.baselines.ensure import ensure_explainer, explainer_facts
from interpeval.baselines.from_pytorch_grad_cam import FromPytorchGradCam
from interpeval.baselines.gradcam import GradCam
from interpeval.bench.conformance import check_explainer
from interpeval.bench.guard import ModelGuard

package = pytest.importorskip("pytorch_grad_cam")
INPUTS = torch.randn(4, 3, 16, 12, generator=torch.Generator().manual_seed(2))
TARGETS = torch.tensor([2, 0, 1, 1])


def network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ).eval()  # fmt: skip


def to_unit(maps: Tensor) -> Tensor:
    """The package's normalisation: from the smallest to (nearly) the largest value of each map."""
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-7)


@pytest.mark.parametrize("layer", [None, "0"])
def test_its_gradcam_is_ours_but_for_its_normalisation(layer):
    model = network()
    ours = GradCam(layer=layer).attribute(model, INPUTS, TARGETS)
    enlarged = F.interpolate(to_unit(ours), size=INPUTS.shape[-2:], mode="bilinear", align_corners=False)
    found = FromPytorchGradCam(package.GradCAM, layer=layer).attribute(model, INPUTS, TARGETS)
    torch.testing.assert_close(found, to_unit(enlarged), rtol=0, atol=1e-5)
    assert (ours.amax(dim=(2, 3)) > 0).all(), "silent maps would agree with anything"


def test_frozen_weights_change_nothing():
    model = network()
    expected = FromPytorchGradCam(package.GradCAM).attribute(model, INPUTS, TARGETS)
    model.requires_grad_(False)
    found = FromPytorchGradCam(package.GradCAM).attribute(model, INPUTS, TARGETS)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["GradCAM", "EigenCAM", "HiResCAM", "GradCAMPlusPlus", "LayerCAM", "FEM", "ShapleyCAM"]
)
def test_its_classes_conform_by_their_dotted_names_or_say_why_not(name):
    results = check_explainer(f"pytorch_grad_cam.{name}")
    stated = {result.name for result in results if result.outcome == "expected failure"}
    assert stated == ({"target_sensitivity"} if name in {"EigenCAM", "FEM"} else set())
    assert {result.name for result in results if result.outcome not in {"passed", "expected failure"}} == set()


def test_options_go_where_they_belong():
    made = ensure_explainer(package.AblationCAM, ratio_channels_to_ablate=0.5, eigen_smooth=True, layer="0")
    assert isinstance(made, FromPytorchGradCam)
    facts = explainer_facts(made)
    assert facts.params == {
        "reduction": "none", "layer": "0", "ratio_channels_to_ablate": 0.5, "eigen_smooth": True
    }  # fmt: skip
    plain = FromPytorchGradCam(package.GradCAM).attribute(network(), INPUTS, TARGETS)
    smooth = ensure_explainer(package.GradCAM, eigen_smooth=True).attribute(network(), INPUTS, TARGETS)
    assert (plain - smooth).abs().max() > 0.01
    with pytest.raises(TypeError, match=r"`GradCAM` has no parameter `eigen_smoth`; did you mean `eigen_smooth`"):
        ensure_explainer(package.GradCAM, eigen_smoth=True)


class Failing(package.GradCAM):
    """A class of one's own that fails with the error that the package's context manager swallows."""

    def get_cam_weights(self, *args):
        raise IndexError("nothing there")


def test_errors_reach_the_caller_and_the_model_comes_back(capsys):
    model = network()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[1].train()
    guard = ModelGuard(model)
    with pytest.raises(IndexError, match="nothing there"):
        ensure_explainer(Failing).attribute(model, INPUTS, TARGETS)
    assert guard.restore() == []
    assert capsys.readouterr().out == ""


def test_a_model_without_parameters_is_refused():
    results = check_explainer(package.GradCAM, nn.Flatten(), INPUTS)
    (message,) = {result.message for result in results}
    assert message.startswith("the explainer refuses the model: `Flatten` has no parameters")
