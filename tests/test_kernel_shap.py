"""`kernel_shap`."""

from __future__ import annotations

import pytest
import torch
from captum.attr import KernelShap as CaptumKernelShap
from torch import nn

from interpeval.baselines.kernel_shap import KernelShap, _coalitions
from interpeval.baselines.segments import segment
from reference.shapley import shapley
from small_subject import SmallNet

TARGETS, KEYS = torch.tensor([0, 2]), torch.tensor([11, 12])


def images(size=6):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(("n_segments", "n_samples"), [(1, 1), (4, 14), (4, 500)])
def test_all_coalitions_give_the_shapley_values(n_segments, n_samples):
    model, inputs = SmallNet().double(), images()
    explainer = KernelShap(n_segments=n_segments, n_samples=n_samples, reference_input=0.3)
    maps = explainer.attribute(model, inputs, TARGETS, keys=KEYS)
    for image, target, found in zip(inputs, TARGETS.tolist(), maps, strict=True):
        labels = segment(image[None], "grid", n_segments=n_segments)[0]
        exact = torch.tensor(shapley(model, image, target, labels, 0.3), dtype=torch.float64)
        torch.testing.assert_close(found[0], exact[labels] / (36 / n_segments), rtol=1e-9, atol=1e-10)


def test_too_few_coalitions_do_not_give_them_but_many_come_near():
    model, inputs = SmallNet().double(), images()
    labels = segment(inputs[:1], "grid", n_segments=9)[0]
    exact = torch.tensor(shapley(model, inputs[0], 0, labels, 0.0), dtype=torch.float64)[labels] / 4

    def miss(n_samples):
        maps = KernelShap(n_segments=9, n_samples=n_samples).attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
        return float((maps[0, 0] - exact).abs().max() / exact.abs().max())

    assert miss(510) < 1e-9  # all of them
    assert 1e-4 < miss(400) < 0.1
    assert miss(12) > miss(400)


@pytest.mark.parametrize(("n_samples", "segments"), [(3, "grid"), (40, "grid"), (40, "superpixels")])
def test_values_add_up_to_the_difference_of_logits_for_any_number_of_draws(n_samples, segments):
    if segments == "superpixels":
        pytest.importorskip("skimage")
    model, inputs = SmallNet().double(), images(12)
    explainer = KernelShap(n_samples=n_samples, segments=segments, n_segments=16, reference_input=-0.25)
    found = explainer.attribute(model, inputs, TARGETS, keys=KEYS).sum(dim=(1, 2, 3))
    difference = model(inputs) - model(torch.full_like(inputs, -0.25))
    torch.testing.assert_close(found, difference.gather(1, TARGETS[:, None])[:, 0], rtol=1e-9, atol=1e-10)


def test_a_linear_model_is_fitted_exactly_by_as_many_draws_as_segments_suffice_for():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).double(), images()
    maps = KernelShap(n_segments=9, n_samples=40).attribute(model, inputs, TARGETS, keys=KEYS)
    parts = (model[1].weight[TARGETS].view_as(inputs) * inputs).sum(dim=1, keepdim=True).detach()
    expected = nn.functional.avg_pool2d(parts, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-10)
    few = KernelShap(n_segments=9, n_samples=4).attribute(model, inputs, TARGETS, keys=KEYS)
    assert not torch.allclose(few, expected, atol=1e-2)  # fewer draws than unknowns


def test_sizes_of_coalitions_are_drawn_in_proportion_to_shapleys_kernel():
    assert torch.equal(_coalitions(torch.tensor([5]), 6, 50)[1], torch.ones(50, dtype=torch.float64))
    many = torch.cat([_coalitions(torch.tensor([key]), 6, 61)[0] for key in range(300)])
    shares = many.sum(dim=1).bincount(minlength=7).double() / len(many)
    kernel = torch.tensor([0.0, *(1 / (k * (6 - k)) for k in range(1, 6)), 0.0], dtype=torch.float64)
    n = len(many) / 2  # a coalition and its complement are one draw
    expected = kernel / kernel.sum()
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()
    assert (many.double().mean(dim=0) - 0.5).abs().max() < 4 * 0.5 / n**0.5  # every segment in half of them


def test_captums_kernel_shap_agrees_on_the_same_draws_up_to_its_single_precision():
    model, inputs = SmallNet(), images().float()
    coalitions, _ = _coalitions(KEYS[0:1], 9, 100)
    ends = torch.stack([torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)])
    rows = iter(torch.cat([ends, coalitions]).long().split(1))
    method = CaptumKernelShap(model)
    method.perturb_func = lambda *_, **__: next(rows)
    labels = segment(inputs[:1], "grid", n_segments=9)
    bare = method.attribute(
        inputs[:1], target=0, feature_mask=labels[:, None], n_samples=102, perturbations_per_eval=17
    )
    maps = KernelShap(n_segments=9, n_samples=100).attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
    torch.testing.assert_close(4 * maps[0, 0], bare[0, 0].detach(), rtol=0, atol=2e-3 * float(bare.abs().max()))


def test_evaluations_are_as_many_as_said_and_in_small_batches():
    model, rows = SmallNet().double(), []
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    explainer = KernelShap(n_segments=9, n_samples=20, batch_size=4)
    explainer.attribute(model, images()[:1], TARGETS[:1], keys=KEYS[:1])
    assert sum(rows) == 20 + 2
    assert max(rows) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_samples": 0}, "`n_samples` must be at least 1, was 0"), ({"batch_size": 0}, "`batch_size` must be")],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KernelShap(**options).attribute(SmallNet(), images().float(), TARGETS, keys=KEYS)
