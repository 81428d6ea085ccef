"""What holds for all explainers that go through Captum or stand in for it: no batch matters, nothing stays behind."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from interpeval.baselines.deeplift import DeepLift
from interpeval.baselines.guided_gradcam import GuidedGradCam
from interpeval.baselines.kernel_shap import KernelShap
from interpeval.baselines.lime import Lime
from interpeval.baselines.lrp import Lrp
from interpeval.baselines.occlusion import Occlusion
from interpeval.baselines.shapley_sampling import ShapleySampling
from interpeval.baselines.smoothgrad import SmoothGrad

DRAWING = [
    SmoothGrad(n_samples=5),
    Lime(n_segments=9, n_samples=30),
    KernelShap(n_segments=9, n_samples=30),
    ShapleySampling(n_segments=9, n_samples=3),
]
PERTURBING = [*DRAWING[1:], Occlusion(window=3, stride=2)]
EXPLAINERS = [GuidedGradCam(), Lrp(), DeepLift(reference_input=0.3), Occlusion(window=3, stride=2), *DRAWING]


def each(explainers):
    return pytest.mark.parametrize("explainer", explainers, ids=lambda explainer: explainer.name)


def network():
    """A small network with batch normalisation, in-place ReLUs and overlapping max-pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
    )
    model(torch.randn(16, 3, 9, 9))
    return model.eval()


def samples(batch=5):
    """Inputs, targets and keys."""
    inputs = torch.randn(batch, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return inputs, torch.arange(batch) % 4, 100 + torch.arange(batch)


def explain(explainer, model, inputs, targets, keys):
    further = {"keys": keys} if "keys" in explainer.needs else {}
    return explainer.attribute(model, inputs, targets, **further)


def rows(data, index):
    return tuple(part[index] for part in data)


@each(EXPLAINERS)
def test_a_sample_is_explained_alike_in_any_batch(explainer):
    model, data = network(), samples()
    together = explain(explainer, model, *data)
    for index in ([3], [4, 0], [2, 1, 4, 3, 0]):
        found = explain(explainer, model, *rows(data, index))
        torch.testing.assert_close(found, together[index], rtol=1e-4, atol=1e-6)
    inputs, targets, keys = data
    assert not torch.allclose(explain(explainer, model, inputs, (targets + 1) % 4, keys), together, rtol=0.1)
    assert together.shape in {(5, 1, 9, 9), (5, 3, 9, 9)}


@each(EXPLAINERS)
def test_neighbours_that_are_alike_everywhere_do_not_matter(explainer):
    # A neighbour without any difference from the reference input: Captum's DeepLift reads the first row's gradients.
    model, (inputs, targets, keys) = network(), samples(3)
    inputs[1:] = torch.where(torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(2)) < 0.7, 0.3, inputs[1:])
    together = explain(explainer, model, inputs, targets, keys)[1:]
    flat = explain(explainer, model, torch.cat([torch.full_like(inputs[:1], 0.3), inputs[1:]]), targets, keys)[1:]
    torch.testing.assert_close(flat, together, rtol=1e-4, atol=1e-6)


@each(DRAWING)
def test_draws_follow_the_keys_and_nothing_else(explainer):
    model, (inputs, targets, keys) = network(), samples()
    expected = explain(explainer, model, inputs, targets, keys)
    torch.manual_seed(99)
    assert torch.equal(explain(explainer, model, inputs, targets, keys), expected)
    others = explain(explainer, model, inputs, targets, keys.flip(0))
    assert not torch.allclose(others[:2], expected[:2], rtol=1e-3)
    torch.testing.assert_close(others[2], expected[2])  # its key is the same
    with pytest.raises(ValueError, match=f"`keys` must be given: `{explainer.name}` draws by the samples' keys"):
        explainer.attribute(model, inputs, targets)


@each(EXPLAINERS)
def test_global_generators_are_left_alone(explainer):
    model, data = network(), samples()
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    explain(explainer, model, *data)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@each(PERTURBING)
def test_micro_batches_bound_the_rows_and_change_no_value(explainer):
    data = samples(3)
    expected = explain(explainer, network(), *data)
    for size in (1, 6):
        model, seen = network(), []
        model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        found = explain(replace(explainer, batch_size=size), model, *data)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert max(seen) == size


@each(EXPLAINERS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_need_not_record_gradients(explainer, mode):
    model, data = network(), samples(2)
    expected = explain(explainer, model, *data)
    with mode():
        found = explain(explainer, model, *(part.clone() for part in data))
    assert torch.equal(found, expected)
    assert not found.requires_grad


@each(EXPLAINERS)
def test_layout_of_memory_and_frozen_weights_do_not_matter(explainer):
    model, (inputs, targets, keys) = network(), samples()
    expected = explain(explainer, model, inputs, targets, keys)
    last = torch.channels_last
    found = explain(explainer, network().to(memory_format=last), inputs.to(memory_format=last), targets, keys)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(explain(explainer, model.requires_grad_(False), inputs, targets, keys), expected)


@each(EXPLAINERS)
def test_double_precision_stays_double(explainer):
    model, (inputs, targets, keys) = network().double(), samples(2)
    found = explain(explainer, model, inputs.double(), targets, keys)
    assert found.dtype == torch.float64
    single = explain(explainer, network(), inputs, targets, keys)
    assert single.dtype == torch.float32
    torch.testing.assert_close(found.float(), single, rtol=1e-3, atol=1e-4)


class Failing(nn.Module):
    """A last step that raises in the forward or in the backward pass, when told to."""

    def __init__(self, model):
        super().__init__()
        self.model, self.when = model, "never"

    def forward(self, inputs):
        logits = self.model(inputs)
        if self.when == "forward":
            raise RuntimeError("fails in the forward pass")
        if self.when == "backward" and logits.requires_grad:
            logits.register_hook(self.fail)
        return logits

    def fail(self, _):
        raise RuntimeError("fails in the backward pass")


def state(model):
    """All of a model that an explainer could leave changed."""
    return [
        {name: repr(value) for name, value in vars(module).items() if name not in {"_modules", "when"}}
        for module in model.modules()
    ]


@each(EXPLAINERS)
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_the_model_is_given_back_as_it_was_also_after_an_exception(explainer, when):
    model, data = Failing(network()), samples(2)
    copies = tuple(part.clone() for part in data)
    before = state(model)
    expected = explain(explainer, model, *data)
    model.when = when
    if when == "backward" and explainer in PERTURBING:
        assert torch.equal(explain(explainer, model, *data), expected)  # there is no backward pass
    else:
        with pytest.raises(RuntimeError, match=f"fails in the {when} pass"):
            explain(explainer, model, *data)
    assert state(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(one, two) for one, two in zip(data, copies, strict=True))
    model.when = "never"
    assert torch.equal(explain(explainer, model, *data), expected)


@pytest.mark.gpu
@each(EXPLAINERS)
def test_cuda_agrees_with_the_processor(explainer):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, (inputs, targets, keys) = network().double(), samples()
    expected = explain(explainer, model, inputs.double(), targets, keys)
    found = explain(explainer, model.cuda(), inputs.double().cuda(), targets.cuda(), keys.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
