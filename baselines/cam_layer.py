"""Which layer the class activation maps are read from."""

from __future__ import annotations

from difflib import get_close_matches

import torch
from torch import Tensor, nn

from .base import has_gradients


def cam_layer(model: nn.Module, inputs: Tensor, name: str | None = None) -> nn.Module:
    """Find the layer whose output the Grad-CAM family weighs.

    The first of these that there is:

    1. the module called `name`;
    2. `model.cam_layer`, a module or the name of one;
    3. the last module to finish in a forward pass whose output is `(B, C, h, w)` with more than one position. An
       outer module finishes after those inside it, so this is `layer4` of a torchvision ResNet, and the last ReLU
       or pooling before the global one in a plain network.

    Args:
        model: the model; it is run once for rule 3, on an empty batch or, where it cannot, on one row.
        inputs: `(B, C, H, W)`.
        name: a module's name, as in `model.named_modules()`.

    Raises:
        ValueError: there is no module of that name, or none with such an output.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> cam_layer(model, torch.zeros(1, 1, 8, 8))
        ReLU()
    """
    chosen = getattr(model, "cam_layer", None) if name is None else name
    if isinstance(chosen, nn.Module):
        return chosen
    if chosen is not None:
        return named_layer(model, str(chosen))
    try:
        return _last_spatial(model, inputs[:0])
    except Exception:  # noqa: BLE001  # some layers cannot do without a row, each with an error of its own
        return _last_spatial(model, inputs[:1])


def lacks_feature_map(model: nn.Module, layer: str | None) -> str | None:
    """Say why a model has no last feature map to read: it is a transformer, whose tokens are none.

    The only spatial output of a vision transformer is its patch embedding, which comes before all it computes; it is
    read when named.

    Args:
        model: the model.
        layer: name of the layer to read, or `None` to go by `cam_layer`.

    Example:
        >>> lacks_feature_map(nn.Sequential(nn.MultiheadAttention(2, 1)), None)
        'the model attends to tokens (layer `0`), which are no feature map; name a `layer` with a (B, C, h, w) output'
        >>> lacks_feature_map(nn.Sequential(nn.MultiheadAttention(2, 1)), "0") is None
        True
    """
    if layer is not None or getattr(model, "cam_layer", None) is not None:
        return None
    if not has_gradients(model):
        return "the model has no feature map: it is no network"
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            return (
                f"the model attends to tokens (layer `{name}`), which are no feature map; name a `layer` with a "
                "(B, C, h, w) output"
            )
    return None


def named_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the module called `name`, as in `model.named_modules()`.

    Raises:
        ValueError: there is none; the message lists near names.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    near = get_close_matches(name, modules, n=3) or [other for other in modules if other][:8]
    raise ValueError(f"`layer` must name a module of the model, was {name!r}; there are {', '.join(near)}")


def _last_spatial(model: nn.Module, row: Tensor) -> nn.Module:
    """The last module to finish with a spatial output."""
    found: list[nn.Module] = []

    def remember(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found[:] = [module]

    handles = [module.register_forward_hook(remember) for module in model.modules()]
    try:
        with torch.no_grad():
            model(row.detach().clone())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError("`layer` must be given: no module of the model has a (B, C, h, w) output larger than 1×1")
    return found[0]
