"""The control explainers: `random`, `uniform`, `center`, `edges`, `truth`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interpeval.baselines.base import Explainer
from interpeval.baselines.center import Center
from interpeval.baselines.edges import Edges
from interpeval.baselines.random_map import RandomMap
from interpeval.baselines.truth import Truth
from interpeval.baselines.uniform import Uniform
from reference.edges import edges


class Untouchable(nn.Module):
    """A model that no control may run."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Raise."""
        raise AssertionError("a control called the model")


MODEL = Untouchable()


def image_like(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random three-channel images."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def noise(images: Tensor, keys: list[int]) -> Tensor:
    """What `random` says."""
    return RandomMap().attribute(MODEL, images, torch.zeros(len(images)), keys=torch.tensor(keys))


@settings(deadline=None, max_examples=20)
@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True))
def test_random_maps_depend_on_the_key_alone(keys: list[int]) -> None:
    maps = noise(image_like(len(keys), 5, 4), keys)
    for row, key in enumerate(keys):
        assert torch.equal(noise(image_like(1, 5, 4, seed=row + 1), [key])[0], maps[row])
    assert torch.equal(noise(image_like(len(keys), 5, 4), keys[::-1]), maps.flip(0))
    assert len(torch.unique(maps.flatten(1), dim=0)) == len(keys)  # different keys, different maps


def test_random_maps_are_uniform_and_independent_from_pixel_to_pixel() -> None:
    values = noise(image_like(4, 64, 64), [1, 2, 3, 4]).double()
    n = values.numel()
    ordered = values.flatten().sort().values
    steps = torch.arange(1, n + 1) / n
    distance = torch.maximum((steps - ordered).abs().max(), (ordered - steps + 1 / n).abs().max())
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at the level 0.001
    centred = values - 0.5
    for left, right in ((centred[..., 1:], centred[..., :-1]), (centred[1:], centred[:-1])):
        assert abs(float((left * right).mean()) * 12) < 4 / math.sqrt(left.numel())  # correlation at lag one, 4 sigma


def test_uniform_is_one_everywhere() -> None:
    result = Uniform().attribute(MODEL, image_like(2, 3, 4), torch.zeros(2))
    assert torch.equal(result, torch.ones(2, 1, 3, 4))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 8), (5, 12)])
def test_center_is_the_gaussian_written_out(height: int, width: int) -> None:
    result = Center().attribute(MODEL, image_like(2, height, width), torch.zeros(2))
    for i in range(height):
        for j in range(width):
            y, x = (i - (height - 1) / 2) / (height / 4), (j - (width - 1) / 2) / (width / 4)
            assert result[1, 0, i, j].item() == pytest.approx(math.exp(-(x * x + y * y) / 2), rel=1e-5)
    assert torch.equal(result[0], result[1])


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 8), (5, 12)])
def test_center_is_symmetric_and_peaks_in_the_middle(height: int, width: int) -> None:
    (bump,) = Center().attribute(MODEL, image_like(1, height, width), torch.zeros(1))[0]
    assert torch.equal(bump, bump.flip(0))
    assert torch.equal(bump, bump.flip(1))
    peaks = {tuple(position) for position in (bump == bump.max()).nonzero().tolist()}
    middle = [{(side - 1) // 2, side // 2} for side in (height, width)]
    assert peaks == {(i, j) for i in middle[0] for j in middle[1]}


@pytest.mark.parametrize("level", [0.0, 0.1, -2.7, 1e6])
def test_edges_of_a_flat_image_are_exactly_zero_at_the_border_too(level: float) -> None:
    image = torch.full((1, 3, 5, 6), level) * torch.tensor([1.0, 0.3, -0.7]).view(1, 3, 1, 1)
    assert not Edges().attribute(MODEL, image, torch.zeros(1)).any()


def test_edges_of_a_step_by_hand() -> None:
    step = torch.tensor([0.0, 0.0, 0.0, 3.0, 3.0, 3.0]).expand(1, 2, 5, 6)
    row = [0.0, 0.0, 12.0, 12.0, 0.0, 0.0]  # (1 + 2 + 1) · 3 on both sides of the step, up to the border
    assert Edges().attribute(MODEL, step, torch.zeros(1))[0, 0].tolist() == [row] * 5
    turned = Edges().attribute(MODEL, step.transpose(2, 3), torch.zeros(1))[0, 0]
    assert turned.T.tolist() == [row] * 5
    assert torch.equal(Edges().attribute(MODEL, -step, torch.zeros(1))[0, 0], turned.T)


def test_edges_match_the_definition_written_out() -> None:
    images = image_like(2, 6, 7)
    result = Edges().attribute(MODEL, images, torch.zeros(2))
    for image, found in zip(images, result, strict=True):
        expected = torch.from_numpy(edges(image.double().numpy()))
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_truth_is_the_mask() -> None:
    masks = image_like(2, 4, 5)[:, 0] > 0
    result = Truth().attribute(MODEL, image_like(2, 4, 5), torch.zeros(2), masks=masks)
    assert result.shape == (2, 1, 4, 5)
    assert result.dtype == torch.float32
    assert torch.equal(result[:, 0] == 1, masks)
    assert torch.equal(result[:, 0] == 0, ~masks)


@pytest.mark.parametrize(("control", "needed"), [(RandomMap(), "keys"), (Truth(), "masks")])
def test_a_control_says_what_it_misses(control: Explainer, needed: str) -> None:
    with pytest.raises(ValueError, match=f"`{needed}` must be given"):
        control.attribute(MODEL, image_like(1, 3, 3), torch.zeros(1))
