"""Lending a model to other people's code, which may leave it changed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

_DICTIONARIES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
)


@contextmanager
def lent(model: nn.Module) -> Generator[None, None, None]:
    """Put a model back afterwards, also after an exception.

    Put back are training flags, `requires_grad`, gradients, hooks, which modules and parameters there are, a `forward`
    set on a module, and which memory parameters and buffers read; not numbers that are overwritten in place. Gradients
    are put aside meanwhile, so that nothing is added to them.

    Example:
        >>> model = nn.ReLU()
        >>> with lent(model):
        ...     _ = model.eval()
        >>> model.training
        True
    """
    modules = [
        (
            module,
            module.training,
            vars(module).get("forward"),
            {kind: dict(vars(module)[kind]) for kind in _DICTIONARIES},
        )
        for module in model.modules()
    ]
    tensors = [(tensor, tensor.data, tensor.requires_grad) for tensor in (*model.parameters(), *model.buffers())]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for module, training, forward, dictionaries in modules:
            module.training = training
            _put_back_forward(module, forward)
            for kind, content in dictionaries.items():
                vars(module)[kind].clear()
                vars(module)[kind].update(content)
        for tensor, data, requires_grad in tensors:
            tensor.data = data
            tensor.requires_grad_(requires_grad)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _put_back_forward(module: nn.Module, forward: object) -> None:
    """Set the `forward` that was set on this module itself, if any."""
    if vars(module).get("forward") is not forward:
        vars(module).pop("forward", None)
        if forward is not None:
            vars(module)["forward"] = forward
