"""An image and its mask go through one geometry and stay aligned."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from interpeval.datasets.geometry import Geometry, Placement
from reference.geometry import nearest_mask

SIZES = st.integers(1, 40)
INPUTS = st.integers(8, 33)
MODES = st.sampled_from(["squash", "crop", 60, 75])  # numbers no smaller than any size of these tests


def random_mask(height, width, seed):
    return np.random.default_rng(seed).random((height, width)) < 0.5


def painted(mask):
    """An image that is pure red where the mask is true and black elsewhere."""
    pixels = np.zeros((*mask.shape, 3), dtype=np.uint8)
    pixels[mask, 0] = 255
    return Image.fromarray(pixels)


def disagreements(geometry, mask, image):
    """Pixels of the transformed image without any red, or nothing but red, whose mask says the opposite."""
    red = geometry.image(image)[0]
    turned = geometry.mask(mask)
    return int(((red == 0) & turned).sum() + ((red == 255) & ~turned).sum())


@settings(deadline=None, max_examples=60)
@given(height=SIZES, width=SIZES, size=INPUTS, mode=MODES, seed=st.integers(0, 999))
def test_a_painted_mask_stays_on_its_mask(height, width, size, mode, seed):
    # Where no red at all, or only red, went into a pixel, the pixel's centre must have been outside, or inside.
    mask = random_mask(height, width, seed)
    assert disagreements(Geometry(size, mode), mask, painted(mask)) == 0


def test_a_mask_that_is_not_the_painted_one_is_noticed():
    mask = random_mask(30, 40, 0)
    for wrong in (~mask, mask[::-1], mask[:, ::-1], np.roll(mask, 1, axis=1), np.roll(mask, 1, axis=0)):
        for mode in ("squash", "crop"):
            assert disagreements(Geometry(32, mode), np.ascontiguousarray(wrong), painted(mask)) > 0


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(20, 60), other=st.integers(20, 60), size=st.integers(20, 60), mode=MODES,
    share=st.floats(0.3, 0.7), vertical=st.booleans(),
)  # fmt: skip
def test_an_edge_lies_where_the_image_has_changed_by_half(length, other, size, mode, share, vertical):
    # A straight edge blurs evenly to both sides, so that half of the red marks its place to a fraction of a pixel.
    mask = np.zeros((length, other), dtype=bool)
    mask[round(share * length) :] = True
    if vertical:
        mask = np.ascontiguousarray(mask.T)
    geometry = Geometry(size, mode)
    red = geometry.image(painted(mask))[0].astype(int)
    sure = abs(red - 127.5) > 4  # rounding to bytes may move a pixel whose centre lies on the edge itself
    np.testing.assert_array_equal((red > 127)[sure], geometry.mask(mask)[sure])
    assert sure.mean() > 0.9


@settings(deadline=None, max_examples=40)
@given(height=SIZES, width=SIZES, size=INPUTS, mode=MODES, seed=st.integers(0, 999))
def test_masks_are_read_at_the_centres_of_pixels(height, width, size, mode, seed):
    mask = random_mask(height, width, seed)
    assert Geometry(size, mode).mask(mask).tolist() == nearest_mask(mask.tolist(), size, mode)


@settings(deadline=None, max_examples=40)
@given(height=SIZES, width=SIZES, size=INPUTS, seed=st.integers(0, 999))
def test_images_are_those_of_torchvision(height, width, size, seed):
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    squashed = np.asarray(transforms.resize(image, [size, size]))
    np.testing.assert_array_equal(Geometry(size, "squash").image(image), squashed.transpose(2, 0, 1))
    cropped = np.asarray(transforms.center_crop(transforms.resize(image, [size]), [size, size]))
    np.testing.assert_array_equal(Geometry(size, "crop").image(image), cropped.transpose(2, 0, 1))
    margin = size + seed % 9
    middle = np.asarray(transforms.center_crop(transforms.resize(image, [margin]), [size, size]))
    np.testing.assert_array_equal(Geometry(size, margin).image(image), middle.transpose(2, 0, 1))


@settings(deadline=None, max_examples=20)
@given(height=st.sampled_from([1, 2, 4, 8]), width=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_squashed_masks_are_those_of_torch_where_sizes_divide(height, width, seed):
    mask = random_mask(height, width, seed)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), size=(16, 16), mode="nearest-exact"
    )
    np.testing.assert_array_equal(Geometry(16).mask(mask), expected[0, 0].bool().numpy())


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_enlarging_by_a_whole_number_repeats_pixels(mode):
    mask = random_mask(5, 5, 1)
    np.testing.assert_array_equal(Geometry(15, mode).mask(mask), mask.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_an_image_of_the_right_size_is_not_changed(mode):
    mask = random_mask(9, 9, 2)
    geometry = Geometry(9, mode)
    np.testing.assert_array_equal(geometry.mask(mask), mask)
    np.testing.assert_array_equal(geometry.image(painted(mask))[0], 255 * mask)


def test_halving_keeps_blocks_of_two():
    blocks = random_mask(4, 4, 3)
    mask = blocks.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(Geometry(4).mask(mask), blocks)


def test_a_pixel_between_two_takes_the_later_one():
    np.testing.assert_array_equal(Geometry(1).mask(np.array([[0, 0], [0, 1]], dtype=bool)), [[True]])


@pytest.mark.parametrize(
    ("width", "left"),
    [(4, 0), (5, 0), (6, 1), (7, 2), (8, 2), (9, 2), (11, 4)],  # halves go to the even number, as in torchvision
)
def test_crops_cut_out_the_middle(width, left):
    geometry = Geometry(4, "crop")
    assert geometry.placement(4, width) == Placement(4, width, 0, left)
    assert geometry.placement(width, 4) == Placement(width, 4, left, 0)
    mask = random_mask(4, width, width)
    np.testing.assert_array_equal(geometry.mask(mask), mask[:, left : left + 4])
    np.testing.assert_array_equal(geometry.mask(np.ascontiguousarray(mask.T)), mask[:, left : left + 4].T)
    np.testing.assert_array_equal(geometry.image(painted(mask))[0], 255 * mask[:, left : left + 4])


def test_a_number_leaves_a_margin_around_the_middle():
    mask = random_mask(6, 8, 4)
    np.testing.assert_array_equal(Geometry(4, 6).mask(mask), mask[1:5, 2:6])
    np.testing.assert_array_equal(Geometry(4, 6).image(painted(mask))[0], 255 * mask[1:5, 2:6])
    assert Geometry(8, 8).placement(8, 10) == Geometry(8, "crop").placement(8, 10)
    assert not Geometry(4, 6).keeps_whole


def test_only_squashing_keeps_the_whole_image():
    assert Geometry(8, "squash").keeps_whole
    assert not Geometry(8, "crop").keeps_whole


def test_a_thread_of_an_image_does_not_fill_the_memory():
    thread = Image.new("RGB", (2_000_000, 1))
    with pytest.raises(ValueError, match="1×2000000 pixels is too long and narrow to be cropped"):
        Geometry(224, "crop").image(thread)
    assert Geometry(4, "squash").image(thread).shape == (3, 4, 4)


@pytest.mark.parametrize(("argument", "value"), [("size", 0), ("mode", "fit"), ("mode", 7)])
def test_other_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        Geometry(**{"size": 8, "mode": "crop", argument: value})
