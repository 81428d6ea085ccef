"""Affine families, warps, valid regions, fills and the average over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor

from interpeval.datasets.base import Normalization
from interpeval.datasets.philox import sample_keys
from interpeval.metrics.monte_carlo import (
    Affine,
    affine_matrices,
    as_affine,
    check_fill,
    fill_value,
    mean_over_draws,
    repeat_draws,
    valid_region,
    warp,
)
from reference import monte_carlo as slow

WIDE = Affine(rotation=180.0, translation=0.5, scale=(0.5, 2.0), shear=30.0, flip=True)
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
    matrices = Affine().matrices(0, "test", keys(6), 0, size=size)
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
    theta = Affine().matrices(0, "test", torch.arange(4000), 0, size=(8, 8))
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
    family = Affine(scale=(0.5, 2.0), shear=20.0, flip=True)
    determinant = torch.linalg.det(family.matrices(0, "test", torch.arange(4000), 0, size=(8, 8))[:, :, :2])
    assert stats.kstest((determinant.abs() ** -0.5).numpy(), stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3
    assert stats.binomtest(int((determinant < 0).sum()), 4000).pvalue > 1e-3


def test_matrices_depend_on_seed_stream_key_and_draw_and_on_nothing_else() -> None:
    family, many = Affine(), keys(5)
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
    plain = Affine().matrices(0, "a", keys(5), 0, size=(8, 8))
    scaled = Affine(scale=(2.0, 2.0)).matrices(0, "a", keys(5), 0, size=(8, 8))
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
        Affine(**options)  # type: ignore[arg-type]


def test_a_family_may_be_given_by_its_parameters() -> None:
    assert as_affine({"scale": (0.5, 1.0), "flip": True}) == Affine(scale=(0.5, 1.0), flip=True)
    with pytest.raises(TypeError, match="`transform` must be an `Affine`"):
        as_affine("rotation")
    with pytest.raises(TypeError, match="turn"):
        as_affine({"turn": 3})


# --- fills and draws ----------------------------------------------------------------------------------------------


def test_fills_are_pixel_values_in_the_space_of_the_model() -> None:
    normalization, images = Normalization((0.5, 0.4, 0.2), (0.25, 0.2, 0.1)), torch.zeros(1, 3, 2, 2)
    assert fill_value("black", normalization, images).flatten().tolist() == pytest.approx([-2, -2, -2])
    assert fill_value("mean", normalization, images).flatten().tolist() == [0, 0, 0]
    assert fill_value(1, normalization, images).flatten().tolist() == pytest.approx([2, 3, 8])
    assert fill_value(0.0, normalization, images).equal(fill_value("black", normalization, images))


@pytest.mark.parametrize("fill", ["blue", float("nan"), None])
def test_an_unknown_fill_is_refused(fill: object) -> None:
    with pytest.raises(ValueError, match='`fill` must be "black", "mean"'):
        check_fill(fill)


def test_rows_are_sample_major() -> None:
    many, draws = repeat_draws(torch.tensor([5, 7]), 3)
    assert many.tolist() == [5, 5, 5, 7, 7, 7]
    assert draws.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_variance_of_a_mean_is_the_sample_variance_by_the_number_of_draws() -> None:
    values = torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[2, 3] = torch.nan
    mean, variance = mean_over_draws(values)
    assert variance is not None
    for row in range(4):
        left = values[row][~values[row].isnan().any(dim=1)].numpy()
        np.testing.assert_allclose(mean[row], left.mean(axis=0))
        np.testing.assert_allclose(variance[row], left.var(axis=0, ddof=1) / len(left))


def test_one_draw_has_no_variance_and_one_left_has_none_either() -> None:
    assert mean_over_draws(torch.zeros(3, 1))[1] is None
    mean, variance = mean_over_draws(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]))
    assert variance is not None
    assert mean[0] == 1
    assert torch.isnan(torch.stack((mean[1], variance[0], variance[1]))).all()


def test_images_that_share_a_warp_are_warped_as_if_each_had_its_own():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 2, 7, 9, generator=generator)
    quarter = torch.tensor([90.0, 33.0])
    matrices = affine_matrices(quarter, torch.tensor([[0.0, 0.0], [0.1, -0.2]]), size=(7, 9))
    which = torch.tensor([1, 0, 0, 1, 0])
    assert torch.equal(warp(images, matrices, fill=0.5, which=which), warp(images, matrices[which], fill=0.5))
    assert not torch.equal(warp(images, matrices, fill=0.5, which=1 - which), warp(images, matrices[which], fill=0.5))
