"""`scorecam`: by hand on two channels, restated channel by channel, and what must not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.special import expit
from torch import nn

from asked_alike import (
    assert_blind_to_the_batch,
    assert_gives_the_model_back,
    assert_modes_do_not_matter,
    network,
    pictures,
)
from interpeval.baselines.base import heatmap
from interpeval.baselines.scorecam import ScoreCam

TARGETS = torch.tensor([2, 0, 1, 2])


def two_channels(weights):
    """Two channels over two places, averaged and weighed; the second logit is 0."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[3].weight.data = torch.tensor([weights, [0.0, 0.0]])
    return model


INPUT = torch.tensor([[[[4.0, 0.0]], [[0.0, 2.0]]]])  # each channel is its own mask: (1, 0) and (0, 1)


def test_two_channels_by_hand_with_logits():
    # Through channel 0 the image is ((4, 0), (0, 0)), its means (2, 0); through channel 1 they are (0, 1).
    explainer = ScoreCam(score="logit")
    rising = explainer.attribute(two_channels([1.0, 3.0]), INPUT, torch.tensor([0]))
    assert rising.tolist() == [[[[2 * 4.0, 3 * 2.0]]]]
    falling = explainer.attribute(two_channels([1.0, -3.0]), INPUT, torch.tensor([0]))
    assert falling.tolist() == [[[[2 * 4.0, 0.0]]]]  # -3 * 2 is cut off


def test_two_channels_by_hand_with_probabilities():
    found = ScoreCam().attribute(two_channels([1.0, 3.0]), INPUT, torch.tensor([0]))
    expected = [4 * (expit(2.0) - 0.5), 2 * (expit(3.0) - 0.5)]  # both classes are as likely without any input
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-6)
    over_channels = ScoreCam(weights="softmax").attribute(two_channels([1.0, 3.0]), INPUT, torch.tensor([0]))
    share = expit((expit(2.0) - 0.5) - (expit(3.0) - 0.5))
    np.testing.assert_allclose(over_channels.flatten(), [4 * share, 2 * (1 - share)], rtol=1e-6)


def test_the_increase_is_counted_from_the_reference_input():
    # x0 = 1 everywhere: through channel 0 the image is ((4, 1), (0, 1)), through channel 1 it is ((1, 0), (1, 2)).
    found = ScoreCam(score="logit", reference_input=1.0).attribute(two_channels([2.0, 3.0]), INPUT, torch.tensor([0]))
    gains = (2 * 2.5 + 3 * 0.5 - 5, 2 * 0.5 + 3 * 1.5 - 5)
    np.testing.assert_allclose(found.flatten(), [max(0, 4 * gains[0]), max(0, 2 * gains[1])], rtol=1e-6)


def test_a_constant_channel_has_no_weight():
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1, bias=False))
    model[3].weight.data = torch.tensor([[1.0, 1.0, 1.0]])
    inputs = torch.cat((INPUT, torch.full((1, 1, 1, 2), 50.0)), dim=1)
    found = ScoreCam(score="logit").attribute(model, inputs, torch.tensor([0]))
    through = (2 + 25, 1 + 25)  # it is seen through the others' masks all the same
    assert found.tolist() == [[[[4.0 * through[0], 2.0 * through[1]]]]]
    softmax = ScoreCam(score="logit", weights="softmax").attribute(model, inputs, torch.tensor([0]))
    np.testing.assert_allclose(softmax.flatten(), [4 * expit(1.0), 2 * expit(-1.0)], rtol=1e-6)


def enlarged(channel, size):
    """Bilinear with half-pixel centres, continued at the border."""
    axes = [
        ((np.arange(long) + 0.5) * short / long - 0.5).clip(0, short - 1)
        for long, short in zip(size, channel.shape, strict=True)
    ]
    return map_coordinates(channel, np.meshgrid(*axes, indexing="ij"), order=1)


@pytest.mark.parametrize("cut", [2, 4, 5, 6])  # 2 and 5 are overwritten by the in-place ReLU that follows
def test_the_formula_channel_by_channel(cut):
    model, images = network(), pictures()
    found = ScoreCam(layer=str(cut - 1)).attribute(model, images, TARGETS)
    for row in range(4):
        with torch.no_grad():
            activations = model[:cut](images[row : row + 1])[0].clone()
            floor = model(torch.zeros_like(images[:1])).softmax(dim=1)[0, TARGETS[row]]
        total = np.zeros(activations.shape[1:])
        for channel in activations.numpy():
            mask = enlarged(channel, (10, 8))
            if channel.max() == channel.min():
                continue
            mask = torch.tensor((mask - mask.min()) / (mask.max() - mask.min()))
            with torch.no_grad():
                gain = model((images[row] * mask)[None]).softmax(dim=1)[0, TARGETS[row]] - floor
            total += float(gain) * channel
        np.testing.assert_allclose(found[row, 0].numpy(), total.clip(min=0), atol=1e-12)


def test_the_heatmap_is_that_of_the_layer_enlarged():
    maps = ScoreCam(layer="4", score="logit").attribute(network(), pictures(), TARGETS)
    assert maps.shape == (4, 1, 5, 4)
    assert maps[0].count_nonzero()
    whole = heatmap(maps, (10, 8), ScoreCam().reduction, rectified=ScoreCam.rectified)
    np.testing.assert_allclose(whole[0].numpy(), enlarged(maps[0, 0].numpy(), (10, 8)), atol=1e-12)


LOGIT = ScoreCam(score="logit", layer="1", batch_size=2)


def test_batch_order_micro_batch_and_modes_do_not_matter():
    assert_blind_to_the_batch(LOGIT)
    assert_modes_do_not_matter(LOGIT)
    assert_gives_the_model_back(LOGIT)


@dataclass(frozen=True)
class ScaledByTheBatch(ScoreCam):
    """Scales its maps by the largest of the batch."""

    def attribute(self, model, inputs, targets):
        maps = super().attribute(model, inputs, targets)
        return maps / maps.amax()


def test_a_map_scaled_by_the_batch_would_be_noticed():
    with pytest.raises(AssertionError):
        assert_blind_to_the_batch(ScaledByTheBatch(score="logit", layer="1", batch_size=2))


def test_errors_name_the_option():
    for change, message in [
        ({"weights": "none"}, "`weights` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, was 0"),
        ({"layer": "8"}, r"`layer` must have a \(B, C, h, w\) output; '8' gave \(1, 3\)"),
        ({"layer": "nine"}, "`layer` must name a module"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(LOGIT, **change).attribute(network(), pictures(), TARGETS)
    with pytest.raises(ValueError, match="needs two classes or more, the model has one output"):
        ScoreCam().attribute(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 1)), INPUT, torch.tensor([0]))
