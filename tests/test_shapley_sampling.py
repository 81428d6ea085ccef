"""`shapley_sampling`."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from captum.attr import ShapleyValues
from torch import nn

from interpeval.baselines.segments import segment
from interpeval.baselines.shapley_sampling import ShapleySampling
from interpeval.datasets.philox import permutation
from reference.shapley import logit, shapley
from small_subject import SmallNet

TARGETS, KEYS = torch.tensor([0, 2]), torch.tensor([11, 12])


def images(size=6):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


def test_a_linear_model_gives_each_segment_its_part_of_the_logit():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).double(), images()
    explainer = ShapleySampling(n_segments=9, n_samples=1, reference_input=0.5)
    maps = explainer.attribute(model, inputs, TARGETS, keys=KEYS)
    parts = (model[1].weight[TARGETS].view_as(inputs) * (inputs - 0.5)).sum(dim=1, keepdim=True).detach()
    expected = nn.functional.avg_pool2d(parts, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n_samples", "segments"), [(1, "grid"), (7, "grid"), (2, "superpixels")])
def test_values_add_up_to_the_difference_of_logits_for_every_number_of_orders(n_samples, segments):
    if segments == "superpixels":
        pytest.importorskip("skimage")
    model, inputs = SmallNet().double(), images(12)
    explainer = ShapleySampling(n_samples=n_samples, segments=segments, n_segments=9, reference_input=-0.25)
    found = explainer.attribute(model, inputs, TARGETS, keys=KEYS).sum(dim=(1, 2, 3))
    difference = model(inputs) - model(torch.full_like(inputs, -0.25))
    torch.testing.assert_close(found, difference.gather(1, TARGETS[:, None])[:, 0], rtol=0, atol=1e-5)


def test_values_are_the_mean_of_what_each_segment_adds_along_the_drawn_orders():
    model, inputs = SmallNet().double(), images()
    labels = segment(inputs, "grid", n_segments=4)[0]
    orders = permutation(0, "explainer/shapley_sampling", KEYS[:1].expand(3), torch.arange(3), 4)
    sums = [0.0] * 4
    for order in orders.tolist():
        for place, part in enumerate(order):
            before, after = set(order[:place]), set(order[: place + 1])
            sums[part] += logit(model, inputs[0], 0, labels, 0, after) - logit(model, inputs[0], 0, labels, 0, before)
    maps = ShapleySampling(n_segments=4, n_samples=3).attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
    expected = torch.tensor(sums)[labels] / 3 / 9
    torch.testing.assert_close(maps[0, 0].float(), expected, rtol=0, atol=1e-6)


def test_many_orders_come_near_the_shapley_values_and_few_do_not():
    model, inputs = SmallNet().double(), images()
    labels = segment(inputs, "grid", n_segments=4)[0]
    exact = torch.tensor(shapley(model, inputs[0], 0, labels, 0.0))[labels] / 9

    def miss(n_samples):
        explainer = ShapleySampling(n_segments=4, n_samples=n_samples)
        maps = explainer.attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
        return float((maps[0, 0] - exact).abs().max() / exact.abs().max())

    assert miss(600) < 0.03 < miss(1)


def test_all_orders_are_captums_exact_values(monkeypatch):
    model, inputs = SmallNet().double(), images()
    everything = torch.tensor(list(permutations(range(4))))
    monkeypatch.setattr("interpeval.baselines.shapley_sampling.permutation", lambda *_: everything)
    maps = ShapleySampling(n_segments=4, n_samples=24).attribute(model, inputs[:1], TARGETS[:1], keys=KEYS[:1])
    labels = segment(inputs, "grid", n_segments=4)[0].contiguous()
    bare = ShapleyValues(model).attribute(inputs[:1], target=0, feature_mask=labels.expand(1, 3, 6, 6).contiguous())
    torch.testing.assert_close(maps.double(), bare[:, :1].double() / 9, rtol=0, atol=1e-6)


def test_evaluations_are_as_many_as_said_and_in_small_batches():
    model, rows = SmallNet().double(), []
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    explainer = ShapleySampling(n_segments=9, n_samples=5, batch_size=4)
    explainer.attribute(model, images()[:1], TARGETS[:1], keys=KEYS[:1])
    assert sum(rows) == 5 * 9 + 1
    assert max(rows) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_samples": 0}, "`n_samples` must be at least 1, was 0"), ({"batch_size": 0}, "`batch_size` must be")],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ShapleySampling(**options).attribute(SmallNet(), images().float(), TARGETS, keys=KEYS)
