"""What holds for every explainer that perturbs the input: the batch does not matter, and nothing is left behind."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

KEYS = torch.tensor([11, -5, 2**40, 7])
TARGETS = torch.tensor([2, 0, 1, 2])


def network() -> nn.Sequential:
    """A small network with an in-place ReLU and a batch norm, in evaluation mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    model[1].running_mean.normal_()
    model[8].weight.data *= 30
    return model.eval().double()


def pictures() -> Tensor:
    """Four inputs of one shape."""
    return torch.randn(4, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ask(explainer, model: nn.Module, rows: list[int], **change) -> Tensor:
    """What the explainer says about some of the pictures."""
    extras = {"keys": KEYS[rows]} if "keys" in explainer.needs else {}
    return replace(explainer, **change).attribute(model, pictures()[rows], TARGETS[rows], **extras)


def assert_blind_to_the_batch(explainer, *, atol: float = 1e-9) -> None:
    """The same map in any batch, order and micro-batch."""
    model = network()
    whole = ask(explainer, model, [0, 1, 2, 3])
    assert (whole - whole.roll(1, dims=0)).abs().max() > 1e4 * atol, "maps that are all the same agree with everything"
    for rows in ([2, 0], [3], [1, 3, 0, 2]):
        torch.testing.assert_close(ask(explainer, model, rows), whole[rows], rtol=0, atol=atol)
    for size in (1, 3, 1000):
        torch.testing.assert_close(ask(explainer, model, [0, 1, 2, 3], batch_size=size), whole, rtol=0, atol=atol)


def assert_modes_do_not_matter(explainer, *, atol: float = 1e-9) -> None:
    """The same map under `no_grad`, `inference_mode` and for channels_last inputs; an ordinary tensor each time."""
    model, inputs = network(), pictures()
    extras = {"keys": KEYS} if "keys" in explainer.needs else {}
    whole = explainer.attribute(model, inputs, TARGETS, **extras)
    for mode in (torch.no_grad(), torch.inference_mode(), nullcontext()):
        with mode:
            given = inputs.to(memory_format=torch.channels_last)
            found = explainer.attribute(model, given, TARGETS, **extras)
        assert not found.requires_grad
        torch.testing.assert_close(found, whole, rtol=0, atol=atol)
    assert whole.dtype == inputs.dtype


def assert_gives_the_model_back(explainer) -> None:
    """Parameters, flags, gradients and hooks are as they were, also after an exception half-way."""
    model, inputs = network(), pictures()
    model[4].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ask(explainer, model, [0, 1])
    breaking = model[8].register_forward_hook(_raise_at_the_third_call())
    try:
        ask(explainer, model, [0, 1])
    except ZeroDivisionError:
        broken = True
    else:
        broken = False
    breaking.remove()
    assert broken
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["4.weight"]
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks or module.training for module in model.modules())
    assert torch.equal(inputs, pictures())


def _raise_at_the_third_call():
    calls = iter(range(3))

    def hook(*_):
        if next(calls) == 2:
            raise ZeroDivisionError

    return hook
