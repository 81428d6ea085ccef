"""BAM: attributions of objects, the three comparisons, the insignificant patch, and the metric."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interpeval.bench.plan import configuration_text, metric_key
from interpeval.datasets.base import Batch
from interpeval.metrics.bam import (
    Bam,
    input_dependence,
    input_independence,
    insignificant_patch,
    model_contrast,
    object_attribution,
)
from interpeval.metrics.base import Scores, Status
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, assert_same, pictures
from reference import bam as slow
from small_subject import FromImage, Grad, Pictures, SmallNet, see

FLAT = Pictures.normalization.normalize(torch.full((1, 3, 1, 1), 0.5))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: Bam, explainer: object, batch: Batch, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, batch=batch, **options))  # type: ignore[arg-type]


# --- object_attribution -------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([(1, 5, 6), (3, 9, 4), (2, 20, 20)]))
@settings(deadline=None, max_examples=25)
def test_object_attribution_is_its_definition(seed: int, size: tuple[int, int, int]) -> None:
    attribution = noise(3, *size, seed=seed).double()
    mask = noise(3, *size[1:], seed=seed + 1) > 0
    expected = [
        slow.object_attribution(one, inside) if inside.any() else np.nan
        for one, inside in zip(attribution.numpy(), mask.numpy(), strict=True)
    ]
    np.testing.assert_allclose(object_attribution(attribution, mask), expected, atol=1e-12)


def test_object_attribution_by_hand() -> None:
    """On 101 pixels the 99th percentile is the second largest value."""
    attribution = torch.zeros(1, 2, 1, 101)
    attribution[0, 0, 0, :3] = torch.tensor([8.0, 3.0, 1.0])
    attribution[0, 1, 0, :3] = torch.tensor([1.0, 1.0, -7.0])  # the positive parts are 9, 4 and 1
    mask = torch.zeros(1, 1, 101, dtype=torch.bool)
    mask[..., :5] = True
    assert object_attribution(attribution, mask).tolist() == pytest.approx([(1 + 1 + 0.25) / 5])


def test_object_attribution_does_not_depend_on_scale_and_a_lone_peak_is_1() -> None:
    attribution, mask = noise(4, 3, 6, 6), noise(4, 6, 6, seed=1) > 0
    torch.testing.assert_close(object_attribution(attribution * 1e-3, mask), object_attribution(attribution, mask))
    assert not torch.allclose(object_attribution(attribution + 1, mask), object_attribution(attribution, mask))
    peak = torch.zeros(1, 1, 20, 20)
    peak[..., 0, 0] = 5.0
    corner = torch.zeros(1, 20, 20, dtype=torch.bool)
    corner[..., 0, :2] = True
    assert object_attribution(peak, corner).tolist() == [0.5]  # the 99th percentile is 0


def test_a_coarse_attribution_is_upsampled() -> None:
    coarse, mask = noise(2, 1, 3, 3), noise(2, 12, 12, seed=1) > 0
    fine = F.interpolate(coarse.clamp(min=0), (12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(object_attribution(coarse, mask), object_attribution(fine, mask))


def test_nan_stays_in_its_row_and_an_empty_mask_is_nan() -> None:
    attribution, mask = noise(4, 3, 6, 6), torch.ones(4, 6, 6, dtype=torch.bool)
    attribution[1, 2, 3, 3] = torch.nan
    attribution[2, 0, 0, 0] = -torch.inf
    mask[3] = False
    found = object_attribution(attribution, mask)
    assert found.isnan().tolist() == [False, True, True, True]
    assert float(found[0]) == float(object_attribution(attribution[:1], mask[:1]))
    constant = object_attribution(torch.full((1, 1, 2, 2), 7.0), torch.ones(1, 2, 2, dtype=torch.bool))
    assert constant.tolist() == [0.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`attribution` must be \(B, C, h, w\)"):
        object_attribution(torch.ones(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool))


# --- the comparisons ----------------------------------------------------------------------------------------------


def test_the_comparisons_of_known_attributions() -> None:
    nan = torch.nan
    first = torch.tensor([0.5, 0.5, 0.5, 0.0, nan], dtype=torch.float64)
    second = torch.tensor([0.6, 0.5, 0.25, 0.0, 0.5], dtype=torch.float64)
    np.testing.assert_allclose(model_contrast(first, second), [-0.1, 0, 0.25, 0, nan], atol=1e-15)
    np.testing.assert_equal(input_dependence(first, second).numpy(), [1, 0, 0, 0, nan])
    np.testing.assert_equal(input_dependence(second, first).numpy(), [0, 0, 1, 0, nan])
    np.testing.assert_equal(input_independence(first, second).numpy(), [0, 1, 0, 0, nan])
    np.testing.assert_equal(input_independence(first, second, tolerance=0.21).numpy(), [1, 1, 0, 0, nan])


# --- the insignificant patch --------------------------------------------------------------------------------------


def test_the_patch_changes_the_object_and_not_the_logits() -> None:
    batch, model = pictures(), SmallNet()
    assert batch.masks is not None
    assert batch.backgrounds is not None
    patched, left = insignificant_patch(see(Grad(), batch=batch, model=model), batch.masks, n_steps=50)
    with torch.no_grad():
        wanted, before, found = (model(images) for images in (batch.backgrounds, batch.images, patched))
    spread = (wanted - wanted.mean(dim=1, keepdim=True)).norm(dim=1)
    torch.testing.assert_close(left, ((found - wanted).norm(dim=1) / spread).double(), atol=1e-6, rtol=1e-4)
    assert bool(((found - wanted).norm(dim=1) < 0.01 * (before - wanted).norm(dim=1)).all())
    outside = ~batch.masks[:, None].expand_as(patched)
    assert torch.equal(patched[outside], batch.backgrounds[outside])
    pixels = Pictures.normalization.to_pixels(patched)
    assert float(pixels.min()) > -1e-5
    assert float(pixels.max()) < 1 + 1e-5
    moved, pasted = ((images - batch.backgrounds).flatten(1).norm(dim=1) for images in (patched, batch.images))
    assert bool((moved > 0.3 * pasted).all())  # the patch is still something else than the background


class Plane(nn.Module):
    """Logits `(w·x, -w·x)`: the distance of logits has one direction."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(noise(3, 9, 9) * 0.05)

    def forward(self, inputs: Tensor) -> Tensor:
        value = (inputs * self.weight).sum(dim=(1, 2, 3))
        return torch.stack((value, -value), dim=1)


def test_one_step_is_exact_for_a_linear_model_of_one_direction() -> None:
    """And it is the projection of the object on the plane of equal logits, as long as no pixel leaves its range."""
    grey = Pictures.normalization.normalize(0.5 + 0.02 * noise(4, 3, 9, 9).clamp(-2, 2))
    masks = torch.zeros(4, 9, 9, dtype=torch.bool)
    masks[:, 2:6, 3:6] = True
    backgrounds = torch.where(masks[:, None], grey.roll(1, dims=0), grey)
    batch = Batch(("a", "b", "c", "d"), grey, torch.zeros(4, dtype=torch.int64), masks, backgrounds=backgrounds)
    model = Plane()
    patched, left = insignificant_patch(see(Grad(), batch=batch, model=model), masks, n_steps=1)
    assert float(left.max()) < 1e-3
    inside = masks[0].float() * model.weight.detach()
    excess = ((grey - backgrounds) * inside).sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(patched, grey - excess * inside / inside.square().sum(), atol=1e-4, rtol=0)


# --- the metric: exact answers ------------------------------------------------------------------------------------


class Corner(nn.Module):
    """Names the colour of the first pixel, which no mask touches: objects do not matter to it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :, 0, 0] * 3


class Centre(nn.Module):
    """Names the colour of a pixel of the object."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :, 4, 4] * 3


def scenes(model: nn.Module) -> Batch:
    """Pictures labelled by a model that does not look at the object, or that does."""
    batch = pictures()
    return replace(batch, labels=model(batch.images).argmax(dim=1))


class Brightness:
    """Attributes the brightness, of the object's pixels and elsewhere."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        del model, targets
        return inputs.mean(dim=1, keepdim=True) - FLAT.mean()


def with_objects(value: float, background: float) -> Batch:
    """Objects of one pixel value on backgrounds whose region has another, in noise."""
    batch = scenes(Corner())
    assert batch.masks is not None
    inside = batch.masks[:, None]
    normalize = Pictures.normalization.normalize
    images, backgrounds = (
        torch.where(inside, normalize(torch.full_like(batch.images, level)), batch.images)
        for level in (value, background)
    )
    return replace(batch, images=images, backgrounds=backgrounds)


@pytest.mark.parametrize(("value", "background", "expected"), [(0.1, 0.9, 1.0), (0.9, 0.1, 0.0)])
def test_input_dependence_is_met_where_the_object_is_attributed_less(
    value: float, background: float, expected: float
) -> None:
    scores = score(Bam(n_steps=1), Brightness(), with_objects(value, background), model=Corner())
    assert scores["input_dependence"].values.tolist() == [expected] * 5
    assert scores["input_dependence"].status.tolist() == [Status.OK] * 5
    bright = float(scores["object_attribution"].values.min()) > 0.95
    assert bright == (value == 0.9)


def test_what_the_model_needs_is_independent_of_a_patch_that_it_does_not_see() -> None:
    """The object is no part of what `Corner` sees, so that it is a patch as it is; its gradient ignores it too."""
    needed = FromImage(lambda inputs: F.pad(torch.ones_like(inputs[:, :1, :8, :8]), (0, 1, 0, 1)) * 2.0)
    scores = score(Bam(), needed, scenes(Corner()), model=Corner())["input_independence"]
    assert scores.values.tolist() == [1.0] * 5
    drawn_to_the_object = score(Bam(), Brightness(), with_objects(0.9, 0.1), model=Corner())["input_independence"]
    assert drawn_to_the_object.values.tolist() == [0.0] * 5


def test_a_patch_that_still_matters_is_no_truth() -> None:
    """One step is too few for `SmallNet`, fifty are enough."""
    batch = pictures()
    few, enough = (score(Bam(n_steps=n, tolerance=1e-3), Grad(), batch)["input_independence"].status for n in (1, 50))
    assert int((few == Status.NO_TRUTH).sum()) > int((enough == Status.NO_TRUTH).sum())
    _, left = insignificant_patch(see(Grad(), batch=batch), batch.masks, n_steps=1)  # type: ignore[arg-type]
    assert bool((few[left > 1e-3] == Status.NO_TRUTH).all())


def test_only_what_is_recognised_counts() -> None:
    batch = pictures()
    labels = batch.labels.clone()
    labels[1] = (labels[1] + 1) % 3
    scores = score(Bam(), Grad(), replace(batch, labels=labels))
    with torch.no_grad():
        known = SmallNet()(batch.backgrounds).argmax(dim=1) == labels
    assert scores["object_attribution"].status.tolist() == [0, Status.NO_TRUTH, 0, 0, 0]
    dependence = scores["input_dependence"].status == Status.NO_TRUTH
    expected = ~known
    expected[1] = True
    assert dependence.tolist() == expected.tolist()
    assert not bool(dependence.all())


def test_the_contrast_is_the_difference_of_two_runs() -> None:
    batch = scenes(Centre())
    scene = replace(batch, labels=Corner()(batch.images).argmax(dim=1))
    metric = Bam(scene_model=Corner().eval())
    contrast = score(metric, SquaredGrad(), batch, model=Centre())["model_contrast"]
    here, there = (
        score(Bam(), SquaredGrad(), each, model=model)["object_attribution"].values
        for each, model in ((batch, Centre()), (scene, Corner()))
    )
    torch.testing.assert_close(contrast.values, here - there)
    assert contrast.values.tolist() == pytest.approx([1 / 12] * 5)  # one pixel of twelve, against none
    swapped = score(Bam(scene_model=Centre().eval()), SquaredGrad(), scene, model=Corner())["model_contrast"]
    torch.testing.assert_close(swapped.values, -contrast.values)
    assert "model_contrast" not in score(Bam(), SquaredGrad(), batch, model=Centre())


class SquaredGrad:
    """The square of the gradient: positive exactly where the model looks."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs = inputs.requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)
        return gradient.square()


# --- edge cases ---------------------------------------------------------------------------------------------------


def test_silence_scores_worst_and_is_degenerate() -> None:
    batch, silent = scenes(Corner()), FromImage(lambda inputs: -inputs.abs())
    scores = score(Bam(scene_model=SmallNet()), silent, batch, model=Corner())
    for name, worst in (
        ("object_attribution", 0.0), ("input_dependence", 0.0), ("input_independence", 0.0), ("model_contrast", -1.0)
    ):  # fmt: skip
        assert scores[name].values.tolist() == [worst] * 5
        assert scores[name].status.tolist() == [Status.DEGENERATE] * 5


def test_silence_on_images_with_objects_alone_does_not_pay() -> None:
    batch = scenes(Corner())
    known = batch.images

    def only_backgrounds(inputs: Tensor) -> Tensor:
        seen = (inputs[:, None] == known).flatten(2).all(dim=2).any(dim=1)
        return torch.where(seen.view(-1, 1, 1, 1), 0.0, inputs.abs().mean(dim=1, keepdim=True))

    scores = score(Bam(), FromImage(only_backgrounds), batch, model=Corner())["input_dependence"]
    assert scores.values.tolist() == [0.0] * 5
    assert scores.status.tolist() == [Status.DEGENERATE] * 5


def test_an_empty_mask_is_no_truth() -> None:
    batch = scenes(Corner())
    assert batch.masks is not None
    masks = batch.masks.clone()
    masks[3] = False
    scores = score(Bam(), Brightness(), replace(batch, masks=masks), model=Corner())
    assert {name: each.status[3].item() for name, each in scores.items()} == dict.fromkeys(scores, Status.NO_TRUTH)
    assert {name: each.status[2].item() for name, each in scores.items()} == dict.fromkeys(scores, Status.OK)


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(Bam(n_steps=5))


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(Bam(n_steps=5, scene_model=SmallNet(kernel=1)), atol=1e-5)


def test_nothing_is_drawn() -> None:
    batch = pictures()
    whole = score(Bam(n_steps=5), Grad(), batch)
    renamed = score(Bam(n_steps=5), Grad(), replace(batch, ids=tuple(reversed(batch.ids))), seed=9)
    assert_same(renamed, whole, [0, 1, 2, 3, 4])


# --- configuration ------------------------------------------------------------------------------------------------


def test_the_scene_model_is_known_by_its_weights() -> None:
    model = SmallNet()
    metric, same = Bam(scene_model=model), Bam(scene_model=copy.deepcopy(model))
    key = metric_key(metric)
    assert metric_key(same) == key
    assert configuration_text(metric).startswith("scene_model=SmallNet@")
    assert "\n" not in repr(metric)
    with torch.no_grad():
        model.head.bias[0] += 1
    assert metric_key(metric) != key
    assert metric_key(Bam()) not in {key, metric_key(metric)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.0}, ValueError, "`tolerance` must be above 0"),
        ({"n_steps": 0}, ValueError, "`n_steps` must be at least 1"),
        ({"scene_model": "resnet50"}, TypeError, "`scene_model` must be a torch.nn.Module, handed over in Python"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Bam(**options)  # type: ignore[arg-type]


def test_a_dataset_without_backgrounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`batch.backgrounds` must be given"):
        Bam().score(see(Grad()))
