"""`own`: the explanation of a model that explains itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines.ensure import explainer_facts
from interpeval.baselines.own import Own


class Squares(nn.Module):
    """A model whose logits are sums of squares, and which explains them by its gradient."""

    own_reduction = "max_abs"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, C)` logits."""
        return (inputs**2).sum(dim=(2, 3))

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients; the inputs are overwritten on the way."""
        leaf = inputs.clone().requires_grad_()
        logits = self(leaf).gather(1, targets[:, None])
        inputs.zero_()
        return torch.autograd.grad(logits.sum(), leaf, create_graph=True)[0]


@pytest.mark.parametrize("grad", [True, False])
def test_own_hands_over_what_the_model_says(grad: bool) -> None:
    inputs, targets = torch.randn(2, 3, 2, 2), torch.tensor([2, 0])
    expected = torch.zeros_like(inputs)
    expected[0, 2], expected[1, 0] = 2 * inputs[0, 2], 2 * inputs[1, 0]
    with torch.set_grad_enabled(grad):
        result = Own().attribute(Squares(), inputs, targets)
    assert torch.equal(result, expected)
    assert inputs.all()  # the model overwrote a copy
    assert not result.requires_grad


def test_models_that_do_not_explain_themselves_are_refused_by_name() -> None:
    assert Own().refuses(Squares()) is None
    assert str(Own().refuses(nn.Flatten())).startswith("`Flatten` does not explain itself")
    with pytest.raises(TypeError, match="`Flatten` does not explain itself"):
        Own().attribute(nn.Flatten(), torch.zeros(1, 1, 1, 1), torch.tensor([0]))


def test_the_reduction_is_the_runs_then_the_models_then_the_sum() -> None:
    assert explainer_facts(Own(), Squares()).reduction == "max_abs"
    assert explainer_facts(Own(reduction="none"), Squares()).reduction == "none"
    assert explainer_facts(Own(), nn.Flatten()).reduction == "sum"
    assert explainer_facts(Own()).reduction == "sum"
