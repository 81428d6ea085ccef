"""Explain functions as Quantus takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .base import Reduction
from .lent_model import lent
from .through_captum import gradients_enabled


@dataclass(frozen=True)
class FromQuantus:
    """A function `(model, inputs, targets, **options) -> explanations` over NumPy arrays as an explainer.

    The function is called by the names of its arguments, as Quantus calls its `explain_func`, and with the argument
    `device` where it takes one. `quantus.explain` itself is recognised by `ensure_explainer`; any other such function
    must be wrapped: `FromQuantus(my_function)`.

    Attributes:
        function: the function; it is called with gradients enabled, on copies of the inputs.
        options: further arguments of the function.
        reduction: how channels become a heatmap.

    Raises:
        TypeError: from `attribute`, when the function returns something other than an array of numbers.

    Example:
        >>> explainer = FromQuantus(lambda model, inputs, targets: np.abs(inputs))
        >>> explainer.attribute(nn.Identity(), torch.tensor([[[[-3.0]]]]), torch.tensor([0]))
        tensor([[[[3.]]]])
    """

    package: ClassVar[str] = "quantus"

    function: Callable[..., Any]
    options: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)
    reduction: Reduction = "sum"

    @property
    def name(self) -> str:
        """The name of the function; of Quantus' own, with the method it is asked for."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"quantus_{self.options.get('method', name)}" if is_of_quantus(self.function) else name

    @property
    def adapted(self) -> object:
        """What is adapted."""
        return self.function

    @property
    def configuration(self) -> dict[str, object]:
        """What was chosen, as results record it."""
        return {"reduction": self.reduction, **self.options}

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what the function returns as a tensor like `inputs`; arguments as `Explainer.attribute`."""
        arrays = {"inputs": inputs.detach().cpu().numpy().copy(), "targets": targets.detach().cpu().numpy().copy()}
        device = {"device": str(inputs.device)} if _takes(self.function, "device") else {}
        with gradients_enabled(), lent(model):
            found = self.function(model=model, **arrays, **{**device, **self.options})
            array = np.asarray(found)
            if array.dtype.kind not in "fiub":
                raise TypeError(f"`{self.name}` must return an array of numbers, returned {type(found).__name__}")
            return torch.as_tensor(np.ascontiguousarray(array)).to(inputs, copy=True)


def is_of_quantus(thing: object) -> bool:
    """Whether something is a function of the package Quantus, which need not be installed."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "quantus"


def _takes(function: Callable[..., object], name: str) -> bool:
    """Whether a function takes an argument of this name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
