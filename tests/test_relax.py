"""`relax` and `u_relax`: the exact expectation, two passes, the running form, and what must not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asked_alike import (
    KEYS,
    assert_blind_to_the_batch,
    assert_gives_the_model_back,
    assert_modes_do_not_matter,
    network,
    pictures,
)
from interpeval.baselines.ensure import explainer_facts
from interpeval.baselines.grid_masks import draw_masks
from interpeval.baselines.relax import Relax
from interpeval.baselines.relax_statistics import RunningStatistics, relax_statistics
from interpeval.baselines.u_relax import URelax
from reference.grid_masks import second_moment

OPTIONS = {"n_masks": 60, "n_cells": 3}
NOTHING = torch.zeros(4, dtype=torch.int64)


class Angle(nn.Module):
    """Maps x to the unit vector `(u · x, √(1 − (u · x)²))`: where `u · x0 = 1`, the similarity to x0 is linear in x."""

    def __init__(self, image, *, seed=0):
        super().__init__()
        weights = torch.rand(image.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weights = weights / (weights @ image.flatten())

    def forward(self, inputs):
        cosine = (inputs.flatten(1) @ self.weights).clamp(0, 1)
        return torch.stack((cosine, (1 - cosine**2).sqrt()), dim=1)


def masks_of(key, n, size, *, cells=3, p=0.5):
    """The masks that RELAX draws, `(n, P)`."""
    drawn = draw_masks(
        key, n, size, stream="explainer/relax", enlargement="relax", n_cells=cells, p=p, dtype=torch.float64
    )
    return drawn.enlarged(slice(0, n)).flatten(1)


def test_importance_converges_to_its_exact_expectation():
    n, p = 20000, 0.4
    image = torch.rand(1, 1, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Angle(image)
    found = relax_statistics(model, image, KEYS[:1], n_masks=n, n_cells=3, p=p, batch_size=5000).importance.flatten()
    weights = model.weights * image.flatten()
    expected = torch.tensor(second_moment((6, 5), 3, p, "relax")) @ weights / p
    masks = masks_of(KEYS[0], n, (6, 5), p=p)
    # Of a ratio of means: R - E[s m] / E[m] is, to first order, the mean of m (s - R) over E[m].
    error = (masks * ((masks @ weights)[:, None] - expected)).std(dim=0) / n**0.5 / p
    assert float(((found - expected) / error).abs().max()) < 4
    assert float(((found * p - expected) / error).abs().max()) > 10  # the published formula, which divides by N


def similarities(model, image, masks):
    """Cosines by hand, one mask after the other."""
    whole = model(image[None])[0].detach()
    found = []
    for mask in masks:
        part = model((image * mask.view(image.shape[-2:]))[None])[0].detach()
        found.append(float(whole @ part / (whole.norm() * part.norm())))
    return torch.tensor(found, dtype=torch.float64)


def test_importance_is_the_ratio_of_sums_and_uncertainty_that_of_two_passes():
    model, images = network(), pictures()
    found = relax_statistics(model, images, KEYS, **OPTIONS, batch_size=7)
    for row in range(4):
        masks = masks_of(KEYS[row], 60, (10, 8))
        scores = similarities(model, images[row], masks)
        weight = masks.sum(dim=0)
        importance = (scores[:, None] * masks).sum(dim=0) / weight
        uncertainty = (masks * (scores[:, None] - importance) ** 2).sum(dim=0)
        for part, expected in zip(found, (importance, uncertainty, weight), strict=True):
            torch.testing.assert_close(part[row].flatten(), expected, rtol=1e-10, atol=1e-12)


def test_the_published_update_mask_by_mask_comes_to_the_same():
    model, images = network(), pictures()
    found = relax_statistics(model, images[:1], KEYS[:1], **OPTIONS)
    masks = masks_of(KEYS[0], 60, (10, 8)).numpy()
    weight, importance, uncertainty = np.full(80, 1e-10), np.zeros(80), np.zeros(80)
    for score, mask in zip(similarities(model, images[0], torch.tensor(masks)).tolist(), masks, strict=True):
        weight += mask
        new = importance + mask * (score - importance) / weight
        uncertainty += mask * (score - new) * (score - importance)
        importance = new
    np.testing.assert_allclose(found.importance.flatten(), importance, atol=1e-8)
    np.testing.assert_allclose(found.uncertainty.flatten(), uncertainty, atol=1e-8)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e3]))
def test_batches_of_any_size_merge_to_the_statistics_of_all_masks(sizes, seed, offset):
    random = np.random.default_rng(seed)
    scores = torch.tensor(random.normal(size=sum(sizes)) + offset)
    masks = torch.tensor(random.choice([0.0, 0.25, 1.0], size=(sum(sizes), 3)))
    running = RunningStatistics(*torch.zeros(3, 3, dtype=torch.float64))
    for some_scores, some_masks in zip(scores.split(sizes), masks.split(sizes), strict=True):
        running = running.add(some_scores, some_masks)
    for pixel in range(3):
        weights = masks[:, pixel].numpy()
        if weights.sum() == 0:
            assert [float(part[pixel]) for part in running] == [0, 0, 0]
            continue
        mean = np.average(scores.numpy(), weights=weights)
        assert float(running.importance[pixel]) == pytest.approx(mean, abs=1e-9)
        spread = float((weights * (scores.numpy() - mean) ** 2).sum())
        assert float(running.uncertainty[pixel]) == pytest.approx(spread, abs=1e-9)


def test_u_relax_keeps_the_certain_half_of_relax_and_is_exactly_0_elsewhere():
    model, images = network(), pictures()
    importance = Relax(**OPTIONS).attribute(model, images, NOTHING, keys=KEYS)
    statistics = relax_statistics(model, images, KEYS, **OPTIONS)
    for normalised, measure in (
        (False, statistics.uncertainty),
        (True, statistics.uncertainty / (statistics.weight - 1)),
    ):
        found = URelax(**OPTIONS, normalised=normalised).attribute(model, images, NOTHING, keys=KEYS)
        for row in range(4):
            certain = measure[row].numpy() <= np.median(measure[row].numpy())
            assert certain.sum() == 40
            np.testing.assert_array_equal(found[row].numpy(), np.where(certain, importance[row].numpy(), 0))
    assert not torch.equal(found, URelax(**OPTIONS).attribute(model, images, NOTHING, keys=KEYS))


def test_a_named_layer_is_the_representation_before_what_overwrites_it():
    model, images = network(), pictures()
    found = Relax(**OPTIONS, layer="4").attribute(model, images, NOTHING, keys=KEYS)  # an in-place ReLU follows
    expected = Relax(**OPTIONS).attribute(nn.Sequential(*model[:5], nn.Flatten()), images, NOTHING, keys=KEYS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="`layer` must name a module of the model, was 'avgpool'"):
        Relax(**OPTIONS, layer="avgpool").attribute(model, images, NOTHING, keys=KEYS)


def test_pixels_that_alone_decide_are_the_most_important():
    class Corner(nn.Module):
        def forward(self, inputs):
            return torch.stack((inputs[..., :3, :3].sum(dim=(1, 2, 3)), torch.ones(len(inputs)).double()), dim=1)

    image = torch.ones(1, 1, 12, 12, dtype=torch.float64)
    found = Relax(n_masks=500, n_cells=4).attribute(Corner(), image, NOTHING[:1], keys=KEYS[:1])[0, 0]
    assert float(found[:3, :3].min()) > float(found[6:].max())


@pytest.mark.parametrize("explainer", [Relax(**OPTIONS), URelax(**OPTIONS), URelax(**OPTIONS, normalised=True)])
def test_batch_order_micro_batch_modes_and_targets_do_not_matter(explainer):
    assert_blind_to_the_batch(explainer)
    assert_modes_do_not_matter(explainer)
    assert_gives_the_model_back(replace(explainer, batch_size=4))
    one, two = (explainer.attribute(network(), pictures(), targets, keys=KEYS) for targets in (NOTHING, NOTHING + 2))
    assert torch.equal(one, two)
    assert explainer_facts(explainer).target_free


@dataclass(frozen=True)
class MeansOfTheBatch(Relax):
    """Takes the similarity to the mean of the batch away."""

    def attribute(self, model, inputs, targets, *, keys=None):
        maps = super().attribute(model, inputs, targets, keys=keys)
        return maps - maps.mean(dim=0)


def test_a_map_that_depends_on_the_batch_would_be_noticed():
    with pytest.raises(AssertionError):
        assert_blind_to_the_batch(MeansOfTheBatch(**OPTIONS))


def test_half_precision_is_near_and_not_the_same():
    model, images = network().float(), pictures().float()
    full, half = (
        Relax(**OPTIONS, precision=precision).attribute(model, images, NOTHING, keys=KEYS)
        for precision in ("full", "bfloat16")
    )
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0, atol=0.02)


def test_cosine_is_that_of_torch():
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    found = Relax(n_masks=1, n_cells=1, p=1.0).attribute(nn.Flatten(), image, NOTHING[:1], keys=KEYS[:1])
    assert float(found.amin()) == pytest.approx(float(F.cosine_similarity(image.flatten(1), image.flatten(1))))


@pytest.mark.parametrize("kind", [Relax, URelax])
def test_errors_name_the_option(kind):
    with pytest.raises(ValueError, match="`keys` must be given"):
        kind(**OPTIONS).attribute(network(), pictures(), NOTHING)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, was 0"):
        kind(**OPTIONS, batch_size=0).attribute(network(), pictures(), NOTHING, keys=KEYS)
