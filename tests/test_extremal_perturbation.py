"""`extremal_perturbation`: it finds what the class needs, at the area it was given, and each sample alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from asked_alike import assert_blind_to_the_batch, assert_gives_the_model_back, assert_modes_do_not_matter
from interpeval.baselines.extremal_perturbation import ExtremalPerturbation
from interpeval.baselines.smooth_masks import SmoothMasks

SHORT = ExtremalPerturbation(areas=(0.3,), n_steps=12, step=2, sigma=3.0, blur=2.0)


class Bright(nn.Module):
    """Class 0 counts what is brighter than one half, class 1 what is darker than minus one half."""

    def forward(self, inputs):
        return 100 * torch.stack(((inputs - 0.5).clamp(min=0), (-inputs - 0.5).clamp(min=0))).mean(dim=(2, 3, 4)).T


def patches():
    """A bright and a dark patch of 5×5 in grey images of 16×16, at other places in each image."""
    images = torch.zeros(2, 1, 16, 16)
    images[0, 0, 2:7, 9:14], images[0, 0, 10:15, 2:7] = 1.0, -1.0
    images[1, 0, 10:15, 10:15], images[1, 0, 1:6, 1:6] = 1.0, -1.0
    return images


@pytest.mark.parametrize("contrastive", [False, True])
def test_the_mask_lies_on_the_patch_of_its_class_and_has_the_area(contrastive):
    images, targets = patches().repeat(2, 1, 1, 1), torch.tensor([0, 0, 1, 1])
    explainer = ExtremalPerturbation(areas=(25 / 256,), n_steps=600, blur=20.0, contrastive=contrastive, batch_size=4)
    maps = explainer.attribute(Bright(), images, targets)[:, 0]
    for mask, image, target in zip(maps, images[:, 0], targets.tolist(), strict=True):
        inside, other = (image > 0.5, image < -0.5) if target == 0 else (image < -0.5, image > 0.5)
        assert bool(inside.flatten()[mask.argmax()])
        assert float(mask[inside].sum()) > 0.6 * float(mask.sum())
        assert float(mask[other].mean()) < 0.02
        assert float(mask.mean()) * 256 == pytest.approx(25, rel=0.3)


def test_areas_are_met_and_summed():
    images, target = torch.ones(1, 1, 12, 12), torch.tensor([0])
    images[..., 4:8, 4:8] = 1.5
    maps = {areas: ExtremalPerturbation(areas=areas).attribute(Bright(), images, target) for areas in ((0.1,), (0.4,))}
    for (area,), found in maps.items():
        assert float(found.mean()) == pytest.approx(area, rel=0.25)
    both = ExtremalPerturbation(areas=(0.1, 0.4)).attribute(Bright(), images, target)
    torch.testing.assert_close(both, maps[0.1,] + maps[0.4,])


class Logits(nn.Module):
    """A small smooth network that tells left from right."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3)).double()

    def forward(self, inputs):
        return self.layers(inputs)


def blurred(image, sigma):
    """A Gaussian blur pixel by pixel, its weights rescaled at the border."""
    if sigma == 0:
        return image
    height, width = image.shape[-2:]
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            weights = np.exp(-0.5 * ((np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2) / sigma**2)
            result[:, y, x] = (image * weights).sum(axis=(1, 2)) / weights.sum()
    return result


def test_the_steps_restated_with_finite_differences(monkeypatch):
    model, target, options = Logits(), 1, {"step": 3, "sigma": 4.0, "blur": 2.0}
    image = np.random.default_rng(0).normal(size=(2, 8, 6))
    masks_of = SmoothMasks((8, 6), step=3, sigma=4.0, like=torch.zeros(1, dtype=torch.float64))
    levels = np.stack([blurred(image, 2.0 * (1 - k / 7)) for k in range(8)])

    def loss(grid, number):
        mask = masks_of(torch.tensor(grid)[None])[0].numpy()
        below = np.minimum(np.floor(7 * mask), 6).astype(int)
        seen = np.zeros_like(image)
        for y in range(8):
            for x in range(6):
                share = 7 * mask[y, x] - below[y, x]
                low, high = levels[below[y, x], :, y, x], levels[below[y, x] + 1, :, y, x]
                seen[:, y, x] = (1 - share) * low + share * high
        if number % 2 == 0:
            seen = seen[:, :, ::-1].copy()
        with torch.no_grad():
            logit = float(model(torch.tensor(seen)[None])[0, target])
        ordered = np.sort(mask.ravel())
        wanted = np.array([0.0] * 34 + [1.0] * 14)  # 0.3 of 48 pixels
        return 300 * 1.0035**number * ((ordered - wanted) ** 2).mean() - logit

    start = 0.5 + 0.4 * np.random.default_rng(1).uniform(size=(3, 2))  # the start at 1 has ties, seen to below
    grid, velocity = start.copy(), None
    for number in range(3):
        gradient = np.zeros_like(grid)
        for place in np.ndindex(grid.shape):
            ahead, behind = grid.copy(), grid.copy()
            ahead[place] += 1e-6
            behind[place] -= 1e-6
            gradient[place] = (loss(ahead, number) - loss(behind, number)) / 2e-6
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
        grid = (grid - 0.01 * velocity).clip(0, 1)
    expected = masks_of(torch.tensor(grid)[None])[0]

    monkeypatch.setattr(torch.Tensor, "new_ones", lambda *_: torch.tensor(start)[None])
    explainer = ExtremalPerturbation(areas=(0.3,), n_steps=3, **options)
    found = explainer.attribute(model, torch.tensor(image)[None], torch.tensor([target]))
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-6)


def test_where_nothing_is_to_be_gained_no_place_is_preferred():
    class Indifferent(nn.Module):
        def forward(self, inputs):
            return 0 * inputs.sum(dim=(1, 2, 3))[:, None]

    for size in (16, 19):
        images = torch.randn(1, 1, size, size)
        found = ExtremalPerturbation(n_steps=30).attribute(Indifferent(), images, torch.tensor([0]))
        assert float(found.max() - found.min()) < 1e-5
        assert float(found.mean()) < 0.97


def test_a_mirrored_network_is_explained_alike_only_if_it_is_shown_mirror_images():
    images, target = patches()[:1], torch.tensor([0])

    class LeftHalf(Bright):
        def forward(self, inputs):
            return super().forward(inputs[..., :8])

    kept = ExtremalPerturbation(n_steps=250).attribute(LeftHalf(), images, target)
    lost = ExtremalPerturbation(n_steps=250, mirrored=False).attribute(LeftHalf(), images, target)
    bright = images > 0.5  # on the right: without mirroring the class sees nothing of it
    assert float(kept[bright].mean()) > 2 * float(lost[bright].mean())


def test_smoothing_is_a_blur_of_the_sum():
    images, target = patches()[:1], torch.tensor([0])
    plain = ExtremalPerturbation(n_steps=60).attribute(Bright(), images, target)
    smooth = ExtremalPerturbation(n_steps=60, smoothing=0.09).attribute(Bright(), images, target)
    np.testing.assert_allclose(smooth[0].numpy(), blurred(plain[0].numpy(), 0.09 * 16), atol=1e-5)


def test_batch_order_micro_batch_and_modes_do_not_matter():
    assert_blind_to_the_batch(SHORT)
    assert_modes_do_not_matter(SHORT)
    assert_gives_the_model_back(SHORT)
    images, target = patches()[:1], torch.tensor([0])
    one, two = (ExtremalPerturbation(n_steps=20).attribute(Bright(), images, target) for _ in range(2))
    assert torch.equal(one, two)


@dataclass(frozen=True)
class OneMaskForAll(ExtremalPerturbation):
    """Gives each sample the mean of the batch's masks."""

    def attribute(self, model, inputs, targets):
        maps = super().attribute(model, inputs, targets)
        return maps - 0.1 * maps.mean(dim=0)


def test_a_mask_shared_by_the_batch_would_be_noticed():
    with pytest.raises(AssertionError):
        assert_blind_to_the_batch(OneMaskForAll(areas=(0.3,), n_steps=12, step=2, sigma=3.0, blur=2.0))


def test_errors_name_the_option():
    images, target = torch.zeros(1, 1, 8, 8), torch.tensor([0])
    for change, message in [
        ({"areas": 0.1}, "`areas` must be a tuple of shares"),
        ({"areas": (0.0,)}, "`areas` must be a tuple of shares"),
        ({"n_steps": 0}, "`n_steps` must be at least 1, was 0"),
        ({"sigma": 0.0}, "`sigma` must be above 0 or None"),
        ({"smoothing": -1.0}, "`smoothing` must be 0 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(SHORT, **change).attribute(Bright(), images, target)
    with pytest.raises(ValueError, match="`contrastive` needs two classes or more"):
        replace(SHORT, contrastive=True).attribute(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), images, target
        )  # fmt: skip
