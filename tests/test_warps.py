"""Families of warps, how images are warped, and valid regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor

from interpeval.datasets.philox import sample_keys, uniform
from interpeval.metrics.warps import WarpFamily, Warps, affine_matrices, as_family, valid_region, warp
from reference import warps as slow

WIDE = WarpFamily(rotation=180.0, translation=0.5, scale=(0.5, 2.0), shear=30.0, flip=True)
SIZES = [(8, 8), (9, 5), (5, 9), (2, 2)]


def keys(count: int) -> Tensor:
    return sample_keys([f"sample {i}" for i in range(count)])


def picture(count: int, size: tuple[int, int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images that hold exact zeros, which a weight of 1e-16 on a neighbour would spoil."""
    noise = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return noise * (noise > -0.5)


def known(angle: float, shift: tuple[float, float], size: tuple[int, int], **options: Tensor) -> Tensor:
    return affine_matrices(
        torch.tensor([angle], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64), size=size, **options
    )


# --- warp ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_warp_is_the_bilinear_warp_written_out_pixel_by_pixel(size: tuple[int, int]) -> None:
    images, fill = picture(4, size, dtype=torch.float64), torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64)
    matrices = WIDE.matrices(0, "test", keys(4), 0, size=size)
    expected = [
        slow.warp(image.numpy(), slow.place_of_matrix(matrix.numpy(), size), fill.numpy())
        for image, matrix in zip(images, matrices, strict=True)
    ]
    np.testing.assert_allclose(warp(images, matrices, fill=fill.view(3, 1, 1)), np.stack(expected), atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("angle", [30.0, -75.0])
def test_warp_agrees_with_scipy(size: tuple[int, int], angle: float) -> None:
    """An independent library, with a true rotation in pixels: for (12, 20) this fails without aspect correction."""
    image, shift = picture(1, size, dtype=torch.float64), (0.11, -0.07)
    t = np.deg2rad(angle)
    rows_first = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])  # R(t) acting on (row, column)
    centre = (np.array(size) - 1) / 2
    offset = centre - rows_first @ centre + np.array([shift[1] * (size[0] - 1), shift[0] * (size[1] - 1)])
    expected = [
        ndimage.affine_transform(channel, rows_first, offset, order=1, mode="grid-constant", cval=0.3)
        for channel in image[0].numpy()
    ]
    np.testing.assert_allclose(warp(image, known(angle, shift, size), fill=0.3)[0], np.stack(expected), atol=1e-12)


def test_a_positive_angle_turns_the_picture_counterclockwise() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    turned = warp(image[None, None], known(90.0, (0.0, 0.0), (2, 2)))[0, 0]
    assert turned.tolist() == [[2.0, 4.0], [1.0, 3.0]]


@pytest.mark.parametrize("side", [2, 3, 8, 28, 32, 33, 49, 64, 224])
def test_quarter_turns_permute_pixels_exactly(side: int) -> None:
    images = picture(1, (side, side))
    for quarter in range(-4, 5):
        turned = warp(images, known(90.0 * quarter, (0.0, 0.0), (side, side)), fill=-2.1)
        assert torch.equal(turned, torch.rot90(images, quarter, (2, 3)))


@pytest.mark.parametrize("size", [(8, 8), (49, 28), (33, 224)])
def test_shifts_by_whole_pixels_move_pixels_exactly(size: tuple[int, int]) -> None:
    height, width = size
    images = picture(1, size)
    for right, down in [(0, 0), (1, 0), (3, 2), (width // 4, height // 4)]:
        shift = known(0.0, (right / (width - 1), down / (height - 1)), size)
        expected = torch.full_like(images, -2.1)
        expected[..., : height - down, : width - right] = images[..., down:, right:]
        assert torch.equal(warp(images, shift, fill=-2.1), expected)


def test_half_turns_and_mirroring_of_an_oblong_image_are_exact() -> None:
    images, size = picture(1, (5, 9)), (5, 9)
    assert torch.equal(warp(images, known(180.0, (0.0, 0.0), size)), images.flip(2, 3))
    mirrored = warp(images, known(0.0, (0.0, 0.0), size, flip=torch.tensor([True])))
    assert torch.equal(mirrored, images.flip(3))


def test_a_quarter_turn_of_an_oblong_image_turns_its_middle_and_fills_the_rest() -> None:
    images, size = picture(1, (5, 9)), (5, 9)
    turned = warp(images, known(90.0, (0.0, 0.0), size), fill=7.0)
    assert torch.equal(turned[..., 2:7], torch.rot90(images[..., 2:7], 1, (2, 3)))
    assert bool((turned[..., :2] == 7).all())
    assert bool((turned[..., 7:] == 7).all())


def test_magnification_by_two_reads_from_half_as_far() -> None:
    image = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]]).repeat(5, 1)[None, None]
    larger = warp(image, known(0.0, (0.0, 0.0), (5, 5), scale=torch.tensor([2.0])))
    assert larger[0, 0, 0].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_half_a_pixel_beyond_the_border_is_half_fill() -> None:
    image = torch.tensor([[4.0, 8.0], [4.0, 8.0]])[None, None]
    moved = warp(image, known(0.0, (0.5, 0.0), (2, 2)), fill=-2.0)
    assert moved[0, 0].tolist() == [[6.0, 3.0], [6.0, 3.0]]


def test_an_image_of_fill_stays_exactly_fill() -> None:
    fill = torch.tensor([-2.117904, 0.1, 1e-3]).view(3, 1, 1)
    matrices = WIDE.matrices(0, "test", keys(8), 0, size=(9, 9))
    images = fill.expand(8, 3, 9, 9)
    assert torch.equal(warp(images, matrices, fill=fill), images)


def test_every_image_is_warped_by_its_own_matrix() -> None:
    images, matrices = picture(6, (9, 9)), WIDE.matrices(0, "test", keys(6), 0, size=(9, 9))
    together = warp(images, matrices, fill=0.5)
    for row in range(6):
        alone = warp(images[row : row + 1], matrices[row : row + 1], fill=0.5)
        assert torch.equal(together[row : row + 1], alone)
    assert not torch.equal(together[:1], warp(images[:1], matrices[1:2], fill=0.5))


# --- the valid region ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_valid_region_is_where_warped_ones_stay_ones(size: tuple[int, int]) -> None:
    matrices = WIDE.matrices(0, "test", keys(6), 3, size=size)
    expected = [slow.valid_region(slow.place_of_matrix(matrix.numpy(), size), size) for matrix in matrices]
    assert np.array_equal(valid_region(matrices, size).numpy(), np.stack(expected))


def test_valid_region_after_a_whole_shift_is_what_came_from_inside() -> None:
    region = valid_region(known(0.0, (2 / 7, -1 / 4), (5, 8)), (5, 8))
    expected = torch.zeros(1, 5, 8, dtype=torch.bool)
    expected[:, 1:, :6] = True
    assert torch.equal(region, expected)


def test_no_pixel_of_the_valid_region_feels_the_fill() -> None:
    images, size = picture(6, (9, 9), dtype=torch.float64), (9, 9)
    matrices = WarpFamily().matrices(0, "test", keys(6), 0, size=size)
    felt = (warp(images, matrices, fill=0.0) - warp(images, matrices, fill=1.0)).abs().amax(dim=1)
    region = valid_region(matrices, size)
    assert bool((felt[region] < 1e-3).all())
    assert bool((felt[~region] >= 1e-3 - 1e-12).all())


# --- drawn matrices -----------------------------------------------------------------------------------------------


@given(
    angle=st.floats(-180, 180),
    x=st.floats(-0.5, 0.5),
    y=st.floats(-0.5, 0.5),
    scale=st.floats(0.5, 2.0),
    shear=st.floats(-40, 40),
    flip=st.booleans(),
    size=st.sampled_from(SIZES),
)
@settings(deadline=None, max_examples=60)
def test_matrices_say_where_a_pixel_is_read_from(
    angle: float, x: float, y: float, scale: float, shear: float, flip: bool, size: tuple[int, int]
) -> None:
    matrix = known(
        angle,
        (x, y),
        size,
        scale=torch.tensor([scale], dtype=torch.float64),
        shear=torch.tensor([shear], dtype=torch.float64),
        flip=torch.tensor([flip]),
    )[0].numpy()
    by_matrix = slow.place_of_matrix(matrix, size)
    by_hand = slow.place_in_pixels(size, angle, (x, y), scale, shear, flip)
    for pixel in [(0, 0), (size[0] - 1, 0), (1, 1)]:
        np.testing.assert_allclose(by_matrix(*pixel), by_hand(*pixel), atol=1e-9)


def test_the_default_family_is_that_of_the_paper() -> None:
    """Rotation U(-90°, 90°), translation b in U(-0.5, 0.5), nothing else; Kolmogorov-Smirnov on 4000 draws."""
    theta = WarpFamily().matrices(0, "test", torch.arange(4000), 0, size=(8, 8))
    rotation = theta[:, :, :2]
    angle = torch.rad2deg(torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(2).double().expand(4000, 2, 2))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4000).double())
    assert stats.kstest(angle.numpy(), stats.uniform(-90, 180).cdf).pvalue > 1e-3
    for axis in (0, 1):
        assert stats.kstest(theta[:, axis, 2].numpy(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-3
    correlation = torch.corrcoef(torch.stack((angle, theta[:, 0, 2], theta[:, 1, 2])))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.06  # 1/sqrt(4000) = 0.016


def test_flips_and_magnifications_can_be_read_off_the_determinant() -> None:
    family = WarpFamily(scale=(0.5, 2.0), shear=20.0, flip=True)
    determinant = torch.linalg.det(family.matrices(0, "test", torch.arange(4000), 0, size=(8, 8))[:, :, :2])
    assert stats.kstest((determinant.abs() ** -0.5).numpy(), stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3
    assert stats.binomtest(int((determinant < 0).sum()), 4000).pvalue > 1e-3


def test_matrices_depend_on_seed_stream_key_and_draw_and_on_nothing_else() -> None:
    family, many = WarpFamily(), keys(5)
    base = family.matrices(0, "a", many, 0, size=(8, 8))
    order = torch.tensor([3, 0, 4])
    assert torch.equal(family.matrices(0, "a", many[order], 0, size=(8, 8)), base[order])
    assert torch.equal(family.matrices(0, "a", many, torch.tensor([0, 1, 0, 1, 0]), size=(8, 8))[::2], base[::2])
    for other in (
        family.matrices(1, "a", many, 0, size=(8, 8)),
        family.matrices(0, "b", many, 0, size=(8, 8)),
        family.matrices(0, "a", many, 1, size=(8, 8)),
        family.matrices(0, "a", keys(6)[1:], 0, size=(8, 8)),
    ):
        assert bool((other != base).flatten(1).any(dim=1).all())


def test_a_further_parameter_does_not_change_the_numbers_of_the_others() -> None:
    plain = WarpFamily().matrices(0, "a", keys(5), 0, size=(8, 8))
    scaled = WarpFamily(scale=(2.0, 2.0)).matrices(0, "a", keys(5), 0, size=(8, 8))
    torch.testing.assert_close(scaled[:, :, :2] * 2, plain[:, :, :2])
    assert torch.equal(scaled[:, :, 2], plain[:, :, 2])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rotation": -1.0}, "rotation"),
        ({"translation": float("nan")}, "translation"),
        ({"shear": 90.0}, "shear"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (2.0, 1.0)}, "scale"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused_by_name(options: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=f"`{word}` must"):
        WarpFamily(**options)  # type: ignore[arg-type]


def test_a_family_may_be_given_by_its_parameters() -> None:
    assert as_family({"scale": (0.5, 1.0), "flip": True}) == WarpFamily(scale=(0.5, 1.0), flip=True)
    with pytest.raises(TypeError, match="`transform` must be a `WarpFamily`"):
        as_family("rotation")
    with pytest.raises(TypeError, match="turn"):
        as_family({"turn": 3})


# --- elastic distortion -------------------------------------------------------------------------------------------


def elastic(count: int, size: tuple[int, int], **options: float) -> Warps:
    family = WarpFamily(rotation=0.0, translation=0.0, elastic=0.05, **options)
    return family.draw(3, "test", keys(count), 0, size=size)


def test_displacements_are_smoothed_noise_of_the_stated_size() -> None:
    """The noise is drawn again here and smoothed by SciPy's Gaussian filter."""
    size, sigma, reach = (6, 9), 0.15 * 6, 3
    noisy = (size[0] + 2 * reach, size[1] + 2 * reach)
    shares = uniform(3, "test/elastic", keys(2), 0, 2 * noisy[0] * noisy[1]).view(2, 2, *noisy)
    noise = (shares.numpy() - 0.5) / np.sqrt(1 / 12)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    smooth = ndimage.correlate1d(ndimage.correlate1d(noise, kernel, axis=3), kernel, axis=2)
    inner = smooth[:, :, reach:-reach, reach:-reach]
    half = (np.array([size[1], size[0]]) - 1) / 2  # places of grid_sample, in pixels
    plain = WarpFamily(rotation=0.0, translation=0.0).draw(3, "test", keys(2), 0, size=size)
    moved = ((elastic(2, size).grid - plain.grid).numpy() * half).transpose(0, 3, 1, 2)
    sides = np.array([size[1] - 1, size[0] - 1]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(moved, 0.05 * sides * inner, atol=1e-12)


def test_displacements_have_their_standard_deviation_at_the_border_as_in_the_middle() -> None:
    size, count = (8, 8), 4000
    plain = WarpFamily(0.0, 0.0).draw(3, "test", keys(1), 0, size=size).grid
    moved = (elastic(count, size).grid - plain).numpy() / 2  # a side is 2 long
    for row, column in ((0, 0), (4, 4), (7, 3)):
        for axis in (0, 1):
            assert stats.kstest(moved[:, row, column, axis], stats.norm(scale=0.05).cdf).pvalue > 1e-3


def test_a_smoother_field_has_more_alike_neighbours() -> None:
    base = WarpFamily(0.0, 0.0).draw(3, "test", keys(1), 0, size=(12, 12)).grid
    bends = [
        float((elastic(200, (12, 12), smoothness=smoothness).grid - base).diff(dim=2).square().mean())
        for smoothness in (0.05, 0.15, 0.4)
    ]
    assert bends[0] > 4 * bends[1] > 16 * bends[2]


def test_elastic_warps_are_the_bilinear_warp_written_out_at_their_places() -> None:
    size, images = (7, 9), picture(2, (7, 9)).double()
    warps = WarpFamily(elastic=0.1).draw(1, "test", keys(2), 5, size=size)
    moved = warps.apply(images, fill=0.4)
    for row in range(2):
        pixels = (warps.grid[row].numpy() + 1) / 2 * [size[1] - 1, size[0] - 1]
        expected = slow.warp(images[row].numpy(), lambda i, j, p=pixels: (p[i, j, 1], p[i, j, 0]), np.full(3, 0.4))
        np.testing.assert_allclose(moved[row], expected, atol=1e-12)
        seen = slow.valid_region(lambda i, j, p=pixels: (p[i, j, 1], p[i, j, 0]), size)
        assert np.array_equal(warps.region[row].numpy(), seen)


def test_an_elastic_warp_depends_on_its_sample_and_draw_alone() -> None:
    family, size = WarpFamily(elastic=0.05), (9, 7)
    together = family.draw(0, "a", keys(5), torch.tensor([0, 1, 0, 2, 1]), size=size)
    order = torch.tensor([4, 2, 0])
    assert torch.equal(together[order].grid, together.grid[order])
    alone = family.draw(0, "a", keys(5)[3:4], 2, size=size)
    assert torch.equal(alone.grid[0], together.grid[3])
    others = (family.draw(1, "a", keys(5), 0, size=size), family.draw(0, "b", keys(5), 0, size=size))
    assert not any(torch.equal(other.grid[0], together.grid[0]) for other in others)


def test_without_elastic_distortion_quarter_turns_stay_exact_and_with_it_they_are_not_taken_for_one() -> None:
    quarter = WarpFamily(rotation=0.0, translation=0.0)
    assert quarter.draw(0, "a", keys(3), 0, size=(4, 4)).permutes.all()
    assert not elastic(3, (4, 4)).permutes.any()
