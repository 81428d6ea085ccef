"""`ensure_explainer` and `explainer_facts`: what is taken as an explainer, and what is read of it."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from captum import attr
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from interpeval.baselines.deconvnet import DeconvNet
from interpeval.baselines.edges import Edges
from interpeval.baselines.ensure import FromCaptum, FromFunction, ensure_explainer, explainer_facts
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.gradient import Gradient
from interpeval.baselines.guided_backprop import GuidedBackprop
from interpeval.baselines.input_x_gradient import InputXGradient
from interpeval.baselines.integrated_gradients import IntegratedGradients
from interpeval.baselines.random_map import RandomMap
from interpeval.baselines.truth import Truth


class Plain:
    """A user's explainer that is no dataclass."""

    def __init__(self, scale: float = 1.0, path: str = "x") -> None:
        self.scale, self.path, self._cache = scale, path, object()

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scaled inputs."""
        return inputs * self.scale


@dataclass(frozen=True)
class Configured:
    """A user's dataclass with every kind of field."""

    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    rectified: ClassVar[bool] = True
    numbers: tuple[int, ...] = (1, 2)
    file: Path = Path("a/b")
    table: Any = None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, *, keys: Tensor) -> Tensor:
        """Return the inputs."""
        return inputs


class Talking(nn.Module):
    """A model that explains itself: a subject, not an explainer."""

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the inputs."""
        return inputs


def scaled(model: nn.Module, inputs: Tensor, targets: Tensor, *, factor: float = 1.0) -> Tensor:
    """Return the scaled inputs, in place."""
    return inputs.mul_(factor)


def network() -> nn.Sequential:
    """A small network of one convolution."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    return nn.Sequential(*layers).eval()


INPUTS, TARGETS = torch.linspace(-2, 2, 2 * 2 * 5 * 5).view(2, 2, 5, 5), torch.tensor([3, 1])


def test_objects_are_taken_as_they_are_and_classes_are_built() -> None:
    explainer = Plain(scale=2)
    assert ensure_explainer(explainer) is explainer
    built = ensure_explainer(Plain, scale=3)
    assert torch.equal(built.attribute(network(), INPUTS, TARGETS), INPUTS * 3)
    assert ensure_explainer(IntegratedGradients, n_steps=5) == IntegratedGradients(n_steps=5)


def test_functions_are_called_with_gradients_on_a_copy() -> None:
    explainer = ensure_explainer(scaled, factor=2.0)
    before = INPUTS.clone()
    with torch.no_grad():
        result = explainer.attribute(network(), INPUTS, TARGETS)
    assert torch.equal(result, INPUTS * 2)
    assert torch.equal(INPUTS, before)

    def by_autograd(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs.requires_grad_()
        return torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)[0]

    with torch.no_grad():
        result = ensure_explainer(by_autograd).attribute(network(), INPUTS, TARGETS)
    torch.testing.assert_close(result, Gradient().attribute(network(), INPUTS, TARGETS))


@pytest.mark.parametrize(
    ("method", "options", "equivalent"),
    [
        (attr.Saliency, {"abs": False}, Gradient()),
        (attr.InputXGradient, {}, InputXGradient()),
        (attr.GuidedBackprop, {}, GuidedBackprop()),
        (attr.Deconvolution, {}, DeconvNet()),
        (attr.IntegratedGradients, {"n_steps": 6}, IntegratedGradients(n_steps=6)),
        (attr.IntegratedGradients, {"method": "riemann_left"}, IntegratedGradients(method="riemann_left")),
        (attr.LayerGradCam, {"relu_attributions": True, "layer": "0"}, GradCam(layer="0")),
        (attr.LayerGradCam, {"relu_attributions": True}, GradCam()),
    ],
)
def test_captum_classes_say_what_our_explainers_say(method: Any, options: dict[str, Any], equivalent: Any) -> None:
    explainer = ensure_explainer(method, **options)
    with torch.no_grad():
        result = explainer.attribute(network(), INPUTS, TARGETS)
    torch.testing.assert_close(result, equivalent.attribute(network(), INPUTS, TARGETS), rtol=1e-5, atol=1e-7)
    assert result.any()


def test_captum_classes_without_gradients_work_too() -> None:
    explainer = ensure_explainer(attr.Occlusion, sliding_window_shapes=(2, 5, 5), baselines=0.5)
    model = network()
    difference = model(INPUTS) - model(torch.full_like(INPUTS, 0.5))
    expected = difference.gather(1, TARGETS[:, None])[:, :, None, None].expand_as(INPUTS).detach()
    torch.testing.assert_close(explainer.attribute(model, INPUTS, TARGETS), expected)


def test_guided_gradcam_is_guided_backprop_times_the_enlarged_map() -> None:
    guided, maps = (explainer.attribute(network(), INPUTS, TARGETS) for explainer in (GuidedBackprop(), GradCam()))
    expected = guided * nn.functional.interpolate(maps, size=INPUTS.shape[-2:], mode="nearest")
    result = ensure_explainer(attr.GuidedGradCam).attribute(network(), INPUTS, TARGETS)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)
    assert result.any()


def test_frozen_weights_and_in_place_relus_change_nothing_of_guided_gradcam() -> None:
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=4).eval()
    explainer = ensure_explainer(attr.GuidedGradCam, layer="layer2")
    inputs = torch.rand(2, 3, 32, 32)
    expected = explainer.attribute(model, inputs, torch.tensor([1, 2]))
    result = explainer.attribute(model.requires_grad_(False), inputs, torch.tensor([1, 2]))
    torch.testing.assert_close(result, expected)
    assert result.any()


def test_captum_classes_are_reduced_as_their_family_is() -> None:
    for method in (attr.Saliency, attr.GuidedBackprop, attr.Deconvolution):
        assert explainer_facts(ensure_explainer(method)).reduction == "max_abs"
    assert explainer_facts(ensure_explainer(attr.InputXGradient)).reduction == "sum"
    assert explainer_facts(ensure_explainer(attr.Saliency, reduction="sum")).reduction == "sum"


@pytest.mark.parametrize("method", [attr.GuidedBackprop, attr.Deconvolution, attr.GuidedGradCam])
def test_captum_relu_rules_are_refused_where_they_would_be_the_plain_gradient(method: Any) -> None:
    explainer: Any = ensure_explainer(method)
    assert "ReLU6" in explainer.refuses(mobilenet_v2(weights=None))
    assert explainer.refuses(network()) is None


class Functional(nn.Module):
    """A network that calls ReLU as a function, beside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 4)` logits."""
        return torch.relu(self.body(inputs))


def test_captum_relu_rules_notice_functional_relu() -> None:
    with pytest.raises(ValueError, match="calls ReLU as a function"):
        ensure_explainer(attr.GuidedBackprop).attribute(Functional().eval(), INPUTS, TARGETS)


@pytest.mark.parametrize(
    ("thing", "params", "message"),
    [
        ("gradient", {}, "'gradient' is no explainer; an explainer is an object or a class with `attribute"),
        (None, {}, "None is no explainer"),
        (3, {}, "3 is no explainer"),
        (int, {}, "<class 'int'> is no explainer"),
        (nn.Flatten(), {}, "`Flatten` is no explainer; it is a model: explain it with the explainer `own`"),
        (nn.Flatten, {}, "is no explainer; an explainer is"),
        (Talking, {}, "is no explainer; an explainer is"),
        (Talking(), {}, "`Talking` is no explainer; it is a model"),
        (attr.Saliency(nn.Flatten()), {}, "`Saliency` is no explainer; a Captum object is bound to one model"),
        (Plain(), {"scale": 2}, "`Plain` is built already and takes no parameters"),
        (Plain, {"scael": 2}, "`Plain` has no parameter `scael`; did you mean `scale`.* It takes: path, scale"),
        (Gradient, {"n_steps": 2}, "`Gradient` has no parameter `n_steps`; it takes: reduction"),
        (scaled, {"facter": 2}, "`scaled` has no parameter `facter`; did you mean `factor`.* factor, reduction"),
        (scaled, {"inputs": 2}, "`scaled` has no parameter `inputs`"),
        (attr.Saliency, {"absolute": 1}, "`Saliency` has no parameter `absolute`; it takes: abs, additional_"),
        (attr.Saliency, {"layer": "x"}, "`Saliency` has no parameter `layer`"),
        (attr.Saliency, {"target": 1}, "`Saliency` has no parameter `target`"),
        (attr.Occlusion, {}, "missing a required argument: 'sliding_window_shapes'; give it as a parameter"),
        (attr.NoiseTunnel, {}, "Captum's `NoiseTunnel` cannot be built from a model"),
        (attr.LayerActivation, {}, "Captum's `LayerActivation` cannot be built from a model .* about a target"),
        (attr.LayerAttribution, {}, "Captum's `LayerAttribution` cannot be built"),
        (lambda model, inputs: inputs, {}, "too many positional arguments; an explainer is"),
    ],
)
def test_anything_else_is_refused_with_the_reason(thing: object, params: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ensure_explainer(thing, **params)


def test_an_object_whose_attribute_takes_other_arguments_is_refused() -> None:
    class Bound:
        def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
            return inputs

    with pytest.raises(TypeError, match=r"Bound\.attribute` cannot be called with model, inputs and targets"):
        ensure_explainer(Bound())

    class Unkeyed(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"keys"})

    with pytest.raises(TypeError, match="unexpected keyword argument 'keys'"):
        ensure_explainer(Unkeyed)


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="`reduction` must be one of max_abs, sum, none; was 'mean'"):
        ensure_explainer(Gradient, reduction="mean")
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        ensure_explainer(scaled, reduction="mean")

    class Greedy(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"labels"})

        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, labels: Any = None) -> Tensor:
            return inputs

    with pytest.raises(ValueError, match="`needs` may hold `keys` and `masks`, was labels"):
        ensure_explainer(Greedy)


def test_only_controls_may_see_the_annotation() -> None:
    class Cheat(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"masks"})

        def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor, masks: Any = None) -> Tensor:
            return masks

    with pytest.raises(ValueError, match="must not see the annotation"):
        ensure_explainer(Cheat)
    assert ensure_explainer(Truth) == Truth()


def test_adapters_can_be_printed_compared_and_hashed() -> None:
    one, same = ensure_explainer(scaled, factor=2.0), ensure_explainer(scaled, factor=2.0)
    assert one == same == FromFunction(scaled, {"factor": 2.0})
    assert hash(one) == hash(same)
    assert one != ensure_explainer(scaled, factor=3.0)
    captum = ensure_explainer(attr.Saliency, abs=False)
    assert captum == FromCaptum(attr.Saliency, {"abs": False}, "max_abs")
    assert hash(captum) == hash(ensure_explainer(attr.Saliency, abs=False))
    assert captum != ensure_explainer(attr.Saliency)
    assert "Saliency" in repr(captum)
    assert "'abs': False" in repr(captum)


def test_facts_of_a_plain_object_are_the_defaults() -> None:
    facts = explainer_facts(Plain(scale=2.5))
    assert facts[:6] == ("Plain", {"scale": 2.5, "path": "x"}, "sum", False, frozenset(), False)


def test_facts_are_read_where_they_are_stated() -> None:
    table = torch.tensor([1.0, 2.0])
    facts = explainer_facts(Configured(table=table))
    assert facts.needs == {"keys"}
    assert facts.rectified
    assert facts.params["numbers"] == [1, 2]
    assert facts.params["file"] == str(Path("a/b"))
    assert json.loads(json.dumps(facts.params)) == facts.params
    # Tensors are told apart by what they hold; what cannot be recorded, by its type.
    assert facts.params["table"] == explainer_facts(Configured(table=table.clone())).params["table"]
    assert facts.params["table"] != explainer_facts(Configured(table=table + 1)).params["table"]
    assert explainer_facts(Configured(table=object())).params["table"] == "<object>"
    assert explainer_facts(RandomMap())[:6] == ("random", {"reduction": "none"}, "none", False, {"keys"}, True)


def test_facts_of_adapters_are_flat() -> None:
    function = explainer_facts(ensure_explainer(scaled, factor=2.0, reduction="max_abs"))
    assert function[:3] == ("scaled", {"factor": 2.0, "reduction": "max_abs"}, "max_abs")
    captum = explainer_facts(ensure_explainer(attr.LayerGradCam, layer="0", relu_attributions=True))
    expected = {"layer": "0", "relu_attributions": True, "reduction": "sum"}
    assert captum[:3] == ("LayerGradCam", expected, "sum")
    assert explainer_facts(ensure_explainer(functools.partial(scaled, factor=2.0))).name == "partial"


def loaded(path: Path, source: str) -> Any:
    """The module of a file with this source, as a user's file is loaded."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


SOURCE = """
class Mine:
    def attribute(self, model, inputs, targets):
        return inputs

def mine(model, inputs, targets):
    return inputs
"""


@pytest.mark.parametrize("name", ["Mine", "mine"])
def test_the_source_digest_follows_the_file(tmp_path: Path, name: str) -> None:
    def digest(source: str) -> str:
        return explainer_facts(ensure_explainer(getattr(loaded(tmp_path / "user.py", source), name))).source_digest

    original = digest(SOURCE)
    assert len(original) == 16
    assert digest(SOURCE) == original
    assert digest(SOURCE + "\nSTRENGTH = 2\n") != original


def test_the_source_digest_follows_captums_version_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    things = (attr.Saliency, Gradient, Edges)
    before = [explainer_facts(ensure_explainer(thing)).source_digest for thing in things]
    monkeypatch.setattr("interpeval.baselines.ensure.version", lambda _: "99")
    after = [explainer_facts(ensure_explainer(thing)).source_digest for thing in things]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True]


def test_the_source_digest_is_empty_where_there_is_no_source() -> None:
    namespace: dict[str, Any] = {}
    exec("def unseen(model, inputs, targets):\n    return inputs\n", namespace)  # noqa: S102  # as typed at a prompt
    assert explainer_facts(ensure_explainer(namespace["unseen"])).source_digest == ""
