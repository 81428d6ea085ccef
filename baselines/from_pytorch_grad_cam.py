"""Class activation maps of the package grad-cam (`pytorch_grad_cam`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Reduction
from .cam_layer import cam_layer
from .lent_model import lent
from .through_captum import gradients_enabled

# Arguments of a call; all others are those of the constructor.
_ASKED = frozenset({"aug_smooth", "eigen_smooth"})
_TAKEN = frozenset({"self", "model", "target_layers"})
_BLIND = "its map is made of the layer's activations alone, whatever the target"
_EXPECTED_FAILURES: Mapping[str, Mapping[str, str]] = {
    "EigenCAM": {"target_sensitivity": _BLIND},
    "FEM": {"target_sensitivity": _BLIND},
    "KPCA_CAM": {"target_sensitivity": _BLIND},
    "RandomCAM": {
        "target_sensitivity": "its weights are drawn, whatever the target",
        "batch_invariance": "its weights are drawn in the order of the samples",
        "global_generators": "it draws from NumPy's global generator",
    },
}


@dataclass(frozen=True)
class FromPytorchGradCam:
    """A class of the package grad-cam, such as `EigenCAM`, as an explainer: built for every call, released after it.

    The maps are those of the package: of the size of the input, cut off below 0, and brought to `[0, 1]` for each
    sample. That loses the scale between samples; `gradcam` and others of this library keep it. The package is an
    optional extra: `pip install interpeval[grad-cam]`.

    Attributes:
        method: the class; built as `method(model, [layer])`.
        options: further arguments of its constructor, and `aug_smooth` and `eigen_smooth` of its call.
        layer: name of the layer, as in `model.named_modules()`; by default the rule of `cam_layer`.
        reduction: how channels become a heatmap; there is one already.

    Raises:
        ImportError: the package is not installed.
        ValueError: there is no such layer.

    Reference: J. Gildenblat and contributors, "PyTorch library for CAM methods", 2021.

    Example:
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data.fill_(1), model[0].bias.data.fill_(0)
        (tensor([[[[1.]]]]), tensor([0.]))
        >>> FromPytorchGradCam(GradCAM).attribute(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0])).round()
        tensor([[[[1., 0.]]]])
    """

    package: ClassVar[str] = "grad-cam"

    method: type
    options: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)
    layer: str | None = None
    reduction: Reduction = "none"

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.method.__name__

    @property
    def expected_failures(self) -> Mapping[str, str]:
        """What the class does not do by its nature, as `interpeval conform` reads it."""
        return _EXPECTED_FAILURES.get(self.method.__name__, {})

    @property
    def adapted(self) -> object:
        """What is adapted."""
        return self.method

    @property
    def configuration(self) -> dict[str, object]:
        """What was chosen, as results record it."""
        return {"reduction": self.reduction, "layer": self.layer, **self.options}

    def refuses(self, model: nn.Module) -> str | None:
        """Return why this model cannot be explained so, or `None`."""
        if next(model.parameters(), None) is None:
            return f"`{type(model).__name__}` has no parameters, and the package grad-cam asks them for the device"
        return None

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, `(B, 1, H, W)`; arguments as `Explainer.attribute`."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = cam_layer(model, inputs, self.layer)
        made = {name: value for name, value in self.options.items() if name not in _ASKED}
        asked = {name: value for name, value in self.options.items() if name in _ASKED}
        build: Callable[..., Any] = self.method
        with gradients_enabled(), lent(model):
            cam = build(model, [layer], **made)
            try:
                given = inputs.detach().clone().requires_grad_()
                maps = cam(given, targets=[ClassifierOutputTarget(target) for target in targets.tolist()], **asked)
            finally:
                cam.__exit__(None, None, None)  # as `with` would, which prints and swallows an IndexError
            return torch.as_tensor(maps).to(inputs, copy=True)[:, None]


def is_of_pytorch_grad_cam(thing: type) -> bool:
    """Whether a class comes from the package grad-cam, or from a class of it; it need not be installed."""
    return any(base.__module__.partition(".")[0] == "pytorch_grad_cam" for base in thing.__mro__)


def options_of(method: type) -> set[str]:
    """The names of the options that a class of the package takes."""
    return (set(inspect.signature(method).parameters) - _TAKEN) | _ASKED
