"""The guard names and undoes what an explainer left changed in a model, and is silent about what it did not."""

import types

import pytest
import torch
from torch import nn

from interpeval.bench.guard import ModelGuard


class Net(nn.Module):
    """A layer of every kind that matters here, with one weight used twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.Flatten()
        self.head = nn.Linear(2 * 4 * 4, 3)
        self.tied = nn.Linear(2 * 4 * 4, 3)
        self.tied.weight = self.head.weight
        self.register_buffer("odd", torch.tensor([1.0, torch.nan, torch.inf]))
        self.register_buffer("count", torch.tensor([3]))
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        features = self.pool(self.relu(self.bn(self.conv(inputs))))
        return self.head(features) + self.tied(features)


IMAGES = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


def logits(model):
    with torch.no_grad():
        return model(IMAGES)


def set_training(model):
    model.bn.train()


def run_in_training_mode(model):
    model.train()
    model(IMAGES)
    model.eval()


def change_weight(model):
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] += 1


def change_weight_through_data(model):
    model.conv.bias.data.mul_(2)


def replace_data(model):
    model.conv.weight.data = torch.zeros(2, 1, 3, 3)


def replace_data_by_another_shape(model):
    model.conv.weight.data = torch.zeros(2, 1, 1, 1)


def change_weight_to_nan(model):
    model.head.bias.data[0] = torch.nan


def replace_parameter(model):
    model.conv.weight = nn.Parameter(torch.zeros(2, 1, 3, 3))


def point_one_weight_at_another(model):
    model.tied.bias.data = model.head.bias.data


def change_tied_weight(model):
    model.tied.weight.data.zero_()


def untie(model):
    model.tied.weight = nn.Parameter(model.tied.weight.detach().clone())


def replace_nan_in_buffer(model):
    model.odd.nan_to_num_()


def change_integer_buffer(model):
    model.count.add_(1)


def add_buffer(model):
    model.register_buffer("more", torch.zeros(1))


def freeze(model):
    model.head.bias.requires_grad_(False)


def require_gradient_of_buffer(model):
    model.odd.requires_grad_()


def grow_a_graph_in_a_buffer(model):
    model.bn.running_mean.add_(model.conv.weight.sum())


def leave_gradients(model):
    model(IMAGES).sum().backward()


def leave_forward_hook(model):
    model.relu.register_forward_hook(lambda module, args, output: output * 0)


def leave_forward_pre_hook(model):
    model.head.register_forward_pre_hook(lambda module, args: None)


def leave_keyword_hook(model):
    model.head.register_forward_hook(lambda module, args, kwargs, output: None, with_kwargs=True, always_call=True)


def leave_backward_hook(model):
    model.conv.register_full_backward_hook(lambda module, inputs, outputs: None)


def leave_backward_pre_hook(model):
    model.conv.register_full_backward_pre_hook(lambda module, outputs: None)


def replace_submodule(model):
    model.relu = nn.Sigmoid()


def wrap_relu(model):
    model.relu = nn.Sequential(model.relu)


def remove_submodule(model):
    del model.tied


def switch_inplace_off(model):
    model.relu.inplace = False


def change_epsilon(model):
    model.bn.eps = 0.5


def replace_forward(model):
    model.relu.forward = torch.sigmoid


def bind_another_forward(model):
    model.forward = types.MethodType(lambda self, inputs: self.conv(inputs), model)


def to_double(model):
    model.double()


def to_half(model):
    model.half()


CHANGES = {
    set_training: ["training mode of `bn`"],
    run_in_training_mode: ["weights `bn.running_mean`", "weights `bn.running_var`", "weights `bn.num_batches_tracked`"],
    change_weight: ["weights `conv.weight`"],
    change_weight_through_data: ["weights `conv.bias`"],
    replace_data: ["weights `conv.weight`"],
    replace_data_by_another_shape: ["weights `conv.weight`"],
    change_weight_to_nan: ["weights `head.bias`"],
    replace_parameter: ["parameters of `conv`"],
    point_one_weight_at_another: ["weights `tied.bias`"],
    change_tied_weight: ["weights `head.weight`"],
    untie: ["parameters of `tied`"],
    replace_nan_in_buffer: ["weights `odd`"],
    change_integer_buffer: ["weights `count`"],
    add_buffer: ["buffers of `Net`"],
    freeze: ["requires_grad of `head.bias`"],
    require_gradient_of_buffer: ["requires_grad of `odd`"],
    grow_a_graph_in_a_buffer: ["weights `bn.running_mean`", "requires_grad of `bn.running_mean`"],
    leave_gradients: [
        f"gradient of `{name}`"
        for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "head.weight", "head.bias", "tied.bias")
    ],
    leave_forward_hook: ["hooks of `relu`"],
    leave_forward_pre_hook: ["hooks of `head`"],
    leave_keyword_hook: ["hooks of `head`"],
    leave_backward_hook: ["hooks of `conv`"],
    leave_backward_pre_hook: ["hooks of `conv`"],
    replace_submodule: ["modules of `Net`"],
    wrap_relu: ["modules of `Net`"],
    remove_submodule: ["modules of `Net`"],
    switch_inplace_off: ["inplace of `relu`"],
    change_epsilon: ["eps of `bn`"],
    replace_forward: ["forward of `relu`"],
    bind_another_forward: ["forward of `Net`"],
    to_half: [
        *(
            f"weights `{name}`"
            for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "head.weight", "head.bias", "tied.bias")
        ),
        "buffers of `Net`",
        "buffers of `bn`",
    ],
}
CHANGES[to_double] = CHANGES[to_half]


def snapshot(model):
    """Everything that the tests compare, independently of the guard."""
    return {
        "modules": [(name, id(module), type(module), module.training) for name, module in model.named_modules()],
        "parameters": [(name, id(p), p.data_ptr(), p.dtype, p.requires_grad, p.is_leaf, p.grad)
                       for name, p in model.named_parameters(remove_duplicate=False)],
        "buffers": [(name, id(b), b.data_ptr(), b.dtype, b.requires_grad, b.is_leaf)
                    for name, b in model.named_buffers()],
        "numbers": [tensor.detach().numpy().tobytes() for tensor in (*model.parameters(), *model.buffers())],
        "hooks": [{name: dict(value) for name, value in vars(module).items() if "hooks" in name}
                  for module in model.modules()],
        "settings": [(module.training, "forward" in vars(module), module._is_full_backward_hook,
                      getattr(module, "inplace", None), getattr(module, "eps", None)) for module in model.modules()],
    }  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_named_and_undone(model, change):
    before, expected = snapshot(model), logits(model)
    guard = ModelGuard(model)
    change(model)
    assert snapshot(model) != before  # otherwise this test would show nothing
    assert sorted(guard.restore()) == sorted(CHANGES[change])
    assert snapshot(model) == before
    assert torch.equal(logits(model), expected)
    assert guard.restore() == []


NEEDS_A_SOUND_MODEL = {
    to_half, to_double, remove_submodule, bind_another_forward, run_in_training_mode, leave_gradients,
    replace_data_by_another_shape, wrap_relu,
}  # fmt: skip


def test_all_changes_at_once_are_undone(model):
    before, expected = snapshot(model), logits(model)
    guard = ModelGuard(model)
    for change in CHANGES:
        if change not in NEEDS_A_SOUND_MODEL:
            change(model)
    assert guard.restore() != []
    assert guard.restore() == []
    assert snapshot(model) == before
    assert torch.equal(logits(model), expected)


def use_the_model(model):
    model(IMAGES)


def use_gradients(model):
    inputs = IMAGES.clone().requires_grad_()
    torch.autograd.grad(model(inputs).sum(), inputs)


def hook_and_unhook(model):
    handles = [
        model.relu.register_forward_hook(lambda module, args, output: None),
        model.conv.register_full_backward_hook(lambda module, inputs, outputs: None),
    ]
    use_gradients(model)
    for handle in handles:
        handle.remove()


def patch_and_put_back(model):
    forward = model.relu.forward
    model.relu.forward = torch.sigmoid
    model(IMAGES)
    model.relu.forward = forward


def change_weights_and_back(model):
    kept = model.head.weight.detach().clone()
    model.head.weight.data.zero_()
    model.head.weight.data.copy_(kept)


def swap_relu_and_back(model):
    relu = model.relu
    model.relu = nn.Sigmoid()
    model.relu = relu


TIDY = [use_the_model, use_gradients, hook_and_unhook, patch_and_put_back, change_weights_and_back, swap_relu_and_back]


@pytest.mark.parametrize("tidy", TIDY, ids=lambda tidy: tidy.__name__)
def test_nothing_is_reported_where_nothing_was_left_changed(model, tidy):
    before = snapshot(model)
    guard = ModelGuard(model)
    tidy(model)
    assert guard.restore() == []
    assert snapshot(model) == before


def test_a_buffer_that_is_part_of_a_graph_stays_so(model):
    model.register_buffer("scaled", model.head.bias * 2)
    guard = ModelGuard(model)
    model(IMAGES)
    assert guard.restore() == []
    assert model.scaled.grad_fn is not None
    assert model.scaled.requires_grad


def test_a_model_may_take_notes_while_it_runs(model):
    guard = ModelGuard(model)
    model(IMAGES)
    assert guard.restore() == []
    assert model.calls == 1


def test_gradients_that_were_there_are_kept_to_the_bit(model):
    model(IMAGES).sum().backward()
    gradient = model.conv.weight.grad
    kept = gradient.clone()
    guard = ModelGuard(model)
    model(IMAGES).sum().backward()  # adds to the gradient in place
    assert not torch.equal(gradient, kept)
    assert "gradient of `conv.weight`" in guard.restore()
    assert model.conv.weight.grad is gradient
    assert torch.equal(gradient, kept)
    model.zero_grad(set_to_none=True)
    assert "gradient of `conv.weight`" in guard.restore()
    assert model.conv.weight.grad is gradient


def test_what_an_explainer_changed_before_it_raised_is_undone(model):
    before = snapshot(model)
    guard = ModelGuard(model)

    def explain():
        model.relu.register_forward_hook(lambda module, args, output: output)
        model.train()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        explain()
    assert set(guard.restore()) == {
        "hooks of `relu`",
        *(f"training mode of `{name}`" for name in ("Net", "conv", "bn", "relu", "pool", "head", "tied")),
    }
    assert snapshot(model) == before


def test_a_replaced_submodule_is_put_back_as_it_was_inside(model):
    expected = logits(model)
    guard = ModelGuard(model)
    model.bn.eps = 9.0
    model.bn.running_mean.fill_(5)
    model.bn = nn.BatchNorm2d(2)
    assert sorted(guard.restore()) == ["eps of `bn`", "modules of `Net`", "weights `bn.running_mean`"]
    assert torch.equal(logits(model), expected)


def test_hooks_that_were_there_stay_and_can_still_be_removed(model):
    seen = []
    handle = model.relu.register_forward_hook(lambda module, args, output: seen.append(1))
    guard = ModelGuard(model)
    model.relu._forward_hooks.clear()
    assert guard.restore() == ["hooks of `relu`"]
    logits(model)
    assert seen == [1]
    handle.remove()
    logits(model)
    assert seen == [1]


def test_a_forward_of_its_own_is_put_back(model):
    own = model.relu.forward = torch.tanh
    guard = ModelGuard(model)
    del model.relu.forward
    assert guard.restore() == ["forward of `relu`"]
    assert model.relu.forward is own


def test_backward_hooks_of_either_kind_can_follow_one_that_was_left(model):
    """PyTorch refuses to mix them in one module, and remembers the kind even when the hook is gone."""
    guard = ModelGuard(model)
    model.conv.register_full_backward_hook(lambda module, inputs, outputs: None)
    guard.restore()
    model.conv.register_backward_hook(lambda module, inputs, outputs: None).remove()


def test_weights_that_share_memory_still_share_it_afterwards():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    flat = torch.arange(8.0)
    model[0].weight.data, model[1].weight.data = flat[:4].view(2, 2), flat[4:].view(2, 2)
    guard = ModelGuard(model)
    model[0].weight.data = torch.zeros(2, 2)
    assert guard.restore() == ["weights `0.weight`"]
    flat.fill_(7)
    assert bool((model[0].weight == 7).all())
