"""Reading the outputs of a model's layers during its forward passes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def outputs_of(layers: Sequence[nn.Module]) -> Generator[list[Tensor], None, None]:
    """Keep what some layers put out in the last forward pass made inside.

    The list has one entry per layer, empty until the first pass. Outputs are copied, because a ReLU that follows may
    overwrite them; gradients flow through the copies. A layer called twice in a pass is read at its last call.

    Raises:
        TypeError: in the forward pass, when a layer's output is not a tensor.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
        >>> with outputs_of([model[0]]) as outputs:
        ...     _ = model(torch.tensor([[[-1.0, 2.0]]]))
        >>> outputs
        [tensor([[[0., 2.]]])]
    """
    outputs = [torch.empty(0) for _ in layers]
    handles: list[RemovableHandle] = []
    try:
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(_keeper(outputs, index)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def last_of_each_resolution(model: nn.Module, row: Tensor) -> list[nn.Module]:
    """Find the last layer to finish at every resolution of the feature maps, from fine to coarse as they come.

    For a torchvision ResNet these are the first ReLU and `layer1` to `layer4`; in a plain network, the last layer
    before every pooling. Layers with a single position, and those that return the input's own channels at the
    input's own size, such as a normalisation, are none of them.

    Args:
        model: the model; it is run once.
        row: `(1, C, H, W)`.
    """
    found: dict[tuple[int, int], nn.Module] = {}

    def remember(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[1:] == row.shape[1:]:
            return
        if output.shape[2] * output.shape[3] > 1:
            found[output.shape[2], output.shape[3]] = module

    handles = [module.register_forward_hook(remember) for module in model.modules()]
    try:
        with torch.no_grad():
            model(row.detach().clone())
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _keeper(outputs: list[Tensor], index: int) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    """A hook that keeps a copy of the output at a place of the list."""

    def keep(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(
                f"a layer's output must be a tensor, `{type(module).__name__}` gave {type(output).__name__}"
            )
        outputs[index] = output.clone()

    return keep
