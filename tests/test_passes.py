"""Passes are counted exactly, whoever calls the model and however that ends."""

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from interpeval.bench.passes import PassCounter, Passes


class Net(nn.Module):
    """A classifier that can explain itself by its first layer alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(2, 3)

    def forward(self, inputs):
        if inputs.isnan().any():
            raise ValueError("NaN")
        return self.head(self.stem(inputs).mean(dim=(2, 3)))

    def attribute(self, inputs, targets):
        return self.stem(inputs)[:, :1]


@pytest.fixture
def model():
    return Net().eval()


def images(count):
    return torch.ones(count, 1, 2, 2)


def hooks(model):
    return [value for module in model.modules() for name, value in vars(module).items() if "hooks" in name and value]


def test_every_row_counts_once_forward(model):
    with PassCounter(model) as counter, torch.no_grad():
        model(images(5))
        model(inputs=images(2))
    assert counter.passes == Passes(forward=7, backward=0)


def test_nothing_is_counted_outside_of_the_context(model):
    counter = PassCounter(model)
    model(images(5))
    with counter:
        pass
    model(images(5))
    assert counter.passes == Passes(0, 0)
    assert hooks(model) == []


@pytest.mark.parametrize("wanted", ["inputs", "weights", "layer"])
def test_every_row_of_a_backward_pass_counts_once(model, wanted):
    inputs = images(4).requires_grad_()
    with PassCounter(model) as counter:
        logits = model(inputs)
        if wanted == "layer":
            torch.autograd.grad(logits[:, 0].sum(), model.head.weight)
        elif wanted == "weights":
            logits.sum().backward()
        else:
            torch.autograd.grad(logits[:, 0].sum(), inputs)
    assert counter.passes == Passes(4, 4)


def test_one_forward_and_a_backward_for_every_class(model):
    inputs = images(4).requires_grad_()
    with PassCounter(model) as counter:
        logits = model(inputs)
        for target in range(3):
            torch.autograd.grad(logits[:, target].sum(), inputs, retain_graph=True)
    assert counter.passes == Passes(4, 12)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_integrated_gradients_cost_as_many_passes_as_steps(model, steps):
    targets = torch.tensor([0, 1, 2])
    with PassCounter(model) as counter:
        IntegratedGradients(model).attribute(images(3), target=targets, n_steps=steps)
    assert counter.passes == Passes(3 * steps, 3 * steps)


def test_integrated_gradients_in_portions_cost_the_same(model):
    with PassCounter(model) as counter:
        IntegratedGradients(model).attribute(images(3), target=0, n_steps=8, internal_batch_size=6)
    # Captum computes in portions of 6 rows, and joins them.
    assert counter.passes == Passes(24, 24)


def test_a_model_that_explains_itself_without_forward_costs_one_pass(model):
    with PassCounter(model) as counter:
        explanation = model.attribute(images(6), torch.zeros(6, dtype=torch.int64))
        assert counter.passes == Passes(6, 0)
        explanation.sum().backward()
    assert counter.passes == Passes(6, 6)


def test_forward_called_past_the_hooks_of_the_model_still_counts_once(model):
    with PassCounter(model) as counter:
        model.forward(images(6))
    assert counter.passes == Passes(6, 0)


def test_a_call_inside_a_call_counts_both():
    class Twice(Net):
        def forward(self, inputs):
            return super().forward(inputs) + (self(inputs[:2]).mean() if len(inputs) > 2 else 0)

    model = Twice()
    with PassCounter(model) as counter:
        model(images(5))
    assert counter.passes == Passes(7, 0)


def test_the_first_layer_does_not_count_when_the_model_itself_was_called(model):
    with PassCounter(model) as counter:
        model(images(3))
        model.stem(images(4))
    assert counter.passes == Passes(7, 0)


def test_a_model_without_layers_is_counted():
    with PassCounter(nn.Flatten()) as counter:
        counter.model(images(3))
    assert counter.passes == Passes(3, 0)


def test_a_pass_that_raises_counts_and_does_not_disturb_later_ones(model):
    with PassCounter(model) as counter:
        for _ in range(3):
            with pytest.raises(ValueError, match="NaN"):
                model(images(2) * torch.nan)
        assert counter.passes == Passes(6, 0)
        model(images(5))
        assert counter.passes == Passes(11, 0)
        model.attribute(images(1), torch.tensor([0]))
        assert counter.passes == Passes(12, 0)


def test_a_hook_that_raises_before_the_counter_does_not_make_passes_count_twice(model):
    def refuse(module, args):
        raise RuntimeError("no")

    handle = model.register_forward_pre_hook(refuse)
    with PassCounter(model) as counter:
        with pytest.raises(RuntimeError, match="no"):
            model(images(2))
        handle.remove()
        model(images(5))
    assert counter.passes == Passes(5, 0)


def test_hooks_are_gone_afterwards_and_after_an_exception(model):
    with PassCounter(model):
        assert hooks(model) != []
    assert hooks(model) == []

    def fail():
        with PassCounter(model):
            model(images(1) * torch.nan)

    with pytest.raises(ValueError, match="NaN"):
        fail()
    assert hooks(model) == []


def test_counting_changes_no_number(model):
    inputs = images(3).requires_grad_()
    expected = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)[0]
    with PassCounter(model):
        logits = model(inputs)
        found = torch.autograd.grad(logits[:, 1].sum(), inputs)[0]
    assert torch.equal(logits, model(inputs))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (3, 5), (7, 20), (8, 3)])
def test_rows_that_only_fill_up_a_batch_are_not_counted(model, count, steps):
    with PassCounter(model) as counter:
        model(images(2))
        with counter.discounting(count, 8):
            IntegratedGradients(model).attribute(images(8), target=0, n_steps=steps)
        assert counter.passes == Passes(2 + count * steps, count * steps)
        with pytest.raises(ValueError, match="NaN"), counter.discounting(count, 8):
            model(images(8) * torch.nan)
        assert counter.passes == Passes(2 + count * steps + count, count * steps)
        model(images(8))
    assert counter.passes == Passes(2 + count * steps + count + 8, count * steps)


def test_passes_add_and_subtract():
    assert Passes(3, 5) + Passes(10, 20) == Passes(13, 25)
    assert Passes(13, 25) - Passes(10, 20) == Passes(3, 5)
