"""`occlusion`."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import nn

from interpeval.baselines.occlusion import Occlusion
from small_subject import SmallNet

TARGETS = torch.tensor([0, 2, 1])


def images(height=7, width=9):
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0)).double()


def restated(model, image, target, window, stride, reference_input):
    """One square after the other, from the upper left corner until the border is reached."""
    height, width = image.shape[1:]
    total, count = torch.zeros(height, width).double(), torch.zeros(height, width).double()
    clean = float(model(image[None])[0, target])
    for top in range(0, -(-(height - window) // stride) * stride + 1, stride):
        for left in range(0, -(-(width - window) // stride) * stride + 1, stride):
            covered = image.clone()
            covered[:, top : top + window, left : left + window] = reference_input
            total[top : top + window, left : left + window] += clean - float(model(covered[None])[0, target])
            count[top : top + window, left : left + window] += 1
    return total / count


@pytest.mark.parametrize(("window", "stride", "reference_input"), [(1, 1, 0.0), (3, 2, 0.5), (2, 2, 0.0), (4, 3, -1.0)])
@torch.no_grad()
def test_the_definition(window, stride, reference_input):
    model, inputs = SmallNet().double(), images()
    explainer = Occlusion(window=window, stride=stride, reference_input=reference_input, batch_size=8)
    expected = [
        restated(model, image, target, window, stride, reference_input)
        for image, target in zip(inputs, TARGETS, strict=True)
    ]
    torch.testing.assert_close(
        explainer.attribute(model, inputs, TARGETS)[:, 0], torch.stack(expected), rtol=1e-5, atol=1e-6
    )


def test_a_linear_model_without_overlap_gives_each_square_its_part_of_the_logit():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).double(), images(6, 6)
    parts = (model[1].weight[TARGETS].view_as(inputs) * inputs).sum(dim=1, keepdim=True).detach()
    expected = 4 * nn.functional.avg_pool2d(parts, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(
        Occlusion(window=2, stride=2).attribute(model, inputs, TARGETS), expected, rtol=1e-5, atol=1e-6
    )


def test_default_squares_are_a_seventh_of_the_shorter_side_and_step_by_half_of_it():
    model, inputs = SmallNet().double(), images(22, 28)
    default = Occlusion().attribute(model, inputs, TARGETS)
    assert torch.equal(default, Occlusion(window=4, stride=2).attribute(model, inputs, TARGETS))
    assert not torch.equal(default, Occlusion(window=3, stride=2).attribute(model, inputs, TARGETS))


def test_bare_captum_agrees():
    model, inputs = SmallNet().double(), images()
    bare = CaptumOcclusion(model).attribute(inputs, (3, 3, 3), strides=(3, 2, 2), target=TARGETS, baselines=0.25)
    found = Occlusion(window=3, stride=2, reference_input=0.25).attribute(model, inputs, TARGETS)
    torch.testing.assert_close(found.expand_as(bare), bare.double())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_micro_batches_bound_the_rows_and_change_no_value(batch_size):
    model, rows, inputs = SmallNet().double(), [], images()
    expected = Occlusion().attribute(model, inputs, TARGETS)
    model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    torch.testing.assert_close(Occlusion(batch_size=batch_size).attribute(model, inputs, TARGETS), expected)
    assert max(rows) <= batch_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "`window` must be at least 1, was 0"),
        ({"stride": 0}, "`stride` must be at least 1, was 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, was 0"),
        ({"window": 2, "stride": 3}, "`stride` must be at most the window of 2 pixels, was 3"),
        ({"window": 8}, "`window` must fit into the image of 7×9 pixels, was 8"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Occlusion(**options).attribute(SmallNet().double(), images(), TARGETS)
