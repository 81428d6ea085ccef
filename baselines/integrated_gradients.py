"""Integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor, nn

from .base import Reduction
from .option_checks import check_counts, check_word
from .through_captum import attribute_through

Quadrature = Literal["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]


@dataclass(frozen=True)
class IntegratedGradients:
    """Attribute by the gradient averaged along the straight line from a reference input.

    `a = (x − x0) · ∫₀¹ ∂f_t(x0 + α (x − x0)) / ∂x dα`, the integral taken by quadrature. The attributions add up to
    `f_t(x) − f_t(x0)`, up to the error of the quadrature. The steps are run one after the other, so memory does
    not grow with their number.

    Attributes:
        reduction: how channels become a heatmap.
        n_steps: number of points of the quadrature.
        method: the quadrature; `"gausslegendre"` is exact where the gradient along the line is a polynomial of
            degree below `2 n_steps`.
        reference_input: value of every element of `x0`, in the model's normalised input space. 0 is the mean
            colour of the training data, not black.

    Raises:
        ValueError: from `attribute`, when `n_steps` is below 1 or `method` is unknown.

    Example:
        >>> import torch
        >>> explainer = IntegratedGradients(reference_input=1.0)
        >>> explainer.attribute(nn.Flatten(), torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([1])).round(decimals=4)
        tensor([[[[0., 3.]]]])
    """

    name: ClassVar[str] = "integrated_gradients"
    rectified: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    control: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True
    sums_to: ClassVar[str | None] = "difference"
    reference: ClassVar[str] = "Sundararajan, Taly, Yan 2017, arXiv:1703.01365"

    reduction: Reduction = "sum"
    n_steps: int = 50
    method: Quadrature = "gausslegendre"
    reference_input: float = 0.0

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the integrals, `(B, C, H, W)`; arguments as `Explainer.attribute`."""
        check_counts(n_steps=self.n_steps)
        check_word("method", self.method, get_args(Quadrature))
        return attribute_through(
            CaptumIntegratedGradients(model),
            inputs,
            targets,
            baselines=self.reference_input,
            n_steps=self.n_steps,
            method=self.method,
            internal_batch_size=len(inputs),
        )
