"""Calling Captum so that the caller's tensors, gradients and warnings stay as they were."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from captum.attr import Attribution
from torch import Tensor

# What Captum says about every single call; all of it is undone when the call ends.
_CHATTER = ("Setting backward hooks on ReLU activations", r"Input Tensor \d+ did not already require gradients")


@contextmanager
def gradients_enabled() -> Generator[None, None, None]:
    """Record gradients inside, also where the caller is under `torch.no_grad` or `torch.inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def attribute_through(method: Attribution, inputs: Tensor, targets: Tensor, /, **options: object) -> Tensor:
    """Call a Captum method that is bound to its model.

    Args:
        method: the bound method, such as `captum.attr.Saliency(model)`.
        inputs: `(B, C, H, W)` floating point; a copy is handed over, so these neither change nor require gradients.
        targets: `(B,)` int64.
        options: further arguments of the method's `attribute`.

    Returns:
        What the method returns, cut off from the gradient graph.

    Raises:
        TypeError: the method returns something other than one tensor.

    Example:
        >>> from captum.attr import InputXGradient
        >>> from torch import nn
        >>> method = InputXGradient(nn.Flatten())
        >>> attribute_through(method, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1]))
        tensor([[[[0., 4.]]]])
    """
    with gradients_enabled(), warnings.catch_warnings():
        for message in _CHATTER:
            warnings.filterwarnings("ignore", message=message)
        result: object = method.attribute(inputs.detach().clone(), target=targets.clone(), **options)
    if not isinstance(result, Tensor):
        raise TypeError(f"`{type(method).__name__}.attribute` must return one tensor, was {type(result).__name__}")
    return result.detach()
