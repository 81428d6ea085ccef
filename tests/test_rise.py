"""`rise`: its expectation where it is known, its two variants, and what must not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from asked_alike import (
    KEYS,
    assert_blind_to_the_batch,
    assert_gives_the_model_back,
    assert_modes_do_not_matter,
    network,
    pictures,
)
from interpeval.baselines.grid_masks import draw_masks
from interpeval.baselines.rise import Rise
from reference.grid_masks import second_moment

SMALL = Rise(n_masks=60, n_cells=3, p=0.5, score="logit")


def linear(n_classes=2, *, bias=0.0):
    """A linear model over 6×5 images."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, n_classes)).double()
    model[1].bias.data.fill_(bias)
    return model


@pytest.mark.parametrize("variant", ["original", "torchray"])
def test_the_map_of_a_linear_model_converges_to_its_exact_expectation(variant):
    n, p, model = 20000, 0.4, linear(bias=0.3)
    image = torch.rand(1, 1, 6, 5, dtype=torch.float64) + 0.5
    explainer = Rise(n_masks=n, n_cells=3, p=p, variant=variant, score="logit", batch_size=5000)
    found = explainer.attribute(model, image, torch.tensor([1]), keys=KEYS[:1]).flatten()

    rule = "rise" if variant == "original" else "torchray"
    weights = (model[1].weight[1] * image.flatten()).detach()
    scale = p if variant == "original" else 1.0
    expected = (torch.tensor(second_moment((6, 5), 3, p, rule)) @ weights + 0.3 * p) / scale
    masks = draw_masks(
        KEYS[0], n, (6, 5), stream="explainer/rise", enlargement=rule, n_cells=3, p=p, dtype=torch.float64
    ).enlarged(slice(0, n)).flatten(1)  # fmt: skip
    error = ((masks @ weights + 0.3)[:, None] * masks).std(dim=0) / n**0.5 / scale
    assert float(((found - expected) / error).abs().max()) < 4
    other = found * p if variant == "original" else found / p  # the division of the other variant
    assert float(((other - expected) / error).abs().max()) > 10


def test_the_sum_restated_mask_by_mask():
    model, images, targets = network(), pictures(), torch.tensor([2, 0, 1, 2])
    found = replace(SMALL, score=None, p=0.3).attribute(model, images, targets, keys=KEYS)
    sigmoid = replace(SMALL, score=None, p=0.3, variant="torchray").attribute(model, images, targets, keys=KEYS)
    for row in range(4):
        for rule, result in (("rise", found), ("torchray", sigmoid)):
            masks = draw_masks(
                KEYS[row], 60, (10, 8), stream="explainer/rise", enlargement=rule, n_cells=3, p=0.3,
                dtype=torch.float64,
            ).enlarged(slice(0, 60))  # fmt: skip
            total = np.zeros((10, 8))
            for mask in masks:
                with torch.no_grad():
                    logits = model((images[row] * mask)[None])[0]
                odds = torch.exp(logits)
                chance = odds / odds.sum() if rule == "rise" else odds / (1 + odds)
                total += float(chance[targets[row]]) * mask.numpy()
            expected = total / (60 * (0.3 if rule == "rise" else 1))
            np.testing.assert_allclose(result[row, 0].numpy(), expected, atol=1e-12)


def test_batch_order_and_micro_batch_do_not_matter():
    assert_blind_to_the_batch(SMALL)


@dataclass(frozen=True)
class DrawsByPlace(Rise):
    """Draws by the place in the batch."""

    def attribute(self, model, inputs, targets, *, keys=None):
        return super().attribute(model, inputs, targets, keys=torch.arange(len(inputs)))


def test_masks_drawn_by_the_place_in_the_batch_would_be_noticed():
    with pytest.raises(AssertionError):
        assert_blind_to_the_batch(DrawsByPlace(n_masks=60, n_cells=3, score="logit"))


def test_callers_modes_do_not_matter_and_the_model_is_given_back():
    assert_modes_do_not_matter(SMALL)
    assert_gives_the_model_back(replace(SMALL, batch_size=4))


def test_global_generators_are_left_alone():
    model, before = linear(), torch.get_rng_state()
    SMALL.attribute(model, torch.ones(1, 1, 6, 5).double(), torch.tensor([0]), keys=KEYS[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_near_and_not_the_same():
    model, images, targets = network().float(), pictures().float(), torch.tensor([2, 0, 1, 2])
    full = SMALL.attribute(model, images, targets, keys=KEYS)
    half = replace(SMALL, precision="bfloat16").attribute(model, images, targets, keys=KEYS)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0, atol=0.02 * float(full.abs().max()))


def test_errors_name_the_option():
    model, image, target = linear(1), torch.ones(1, 1, 6, 5).double(), torch.tensor([0])
    for change, message in [
        ({"n_masks": 0}, "`n_masks` must be at least 1, was 0"),
        ({"variant": "other"}, "`variant` must be one of"),
        ({"score": "odds"}, "`score` must be one of"),
        ({"score": "softmax"}, "needs two classes or more"),
        ({"precision": "double"}, "`precision` must be one of"),
        ({"p": 1.5}, r"`p` must be in \(0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **change).attribute(model, image, target, keys=KEYS[:1])
    with pytest.raises(ValueError, match="`keys` must be given"):
        SMALL.attribute(model, image, target)
