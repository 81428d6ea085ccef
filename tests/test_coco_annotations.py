"""Annotations in COCO's format become exact masks, or errors that name what is wrong."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycocotools

from coco_files import annotation, rectangle, run_lengths, written
from interpeval.datasets.coco_annotations import (
    BROKEN_OBJECT,
    OTHER_SIZE,
    CocoObject,
    object_mask,
    open_annotated,
    read_annotations,
)
from interpeval.datasets.files import BadSampleError, DatasetError


def outlined(*segmentations, size=(6, 8)):
    objects = [CocoObject(number, 0, each, None) for number, each in enumerate(segmentations)]
    return object_mask(objects, size, truth="segmentation", path=Path("image.jpg"))


def boxed(*boxes, size=(6, 8)):
    objects = [CocoObject(number, 0, None, each) for number, each in enumerate(boxes)]
    return object_mask(objects, size, truth="box", path=Path("image.jpg"))


def filled(left, top, right, bottom, size=(6, 8)):
    mask = np.zeros(size, dtype=bool)
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return mask


def compressed(mask):
    code = pycocotools.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_a_rectangle_covers_its_pixels():
    np.testing.assert_array_equal(outlined([rectangle(2, 1, 7, 4)]), filled(2, 1, 7, 4))


def test_parts_and_instances_are_united():
    expected = filled(0, 0, 2, 2) | filled(5, 3, 8, 6) | filled(3, 1, 4, 2)
    np.testing.assert_array_equal(
        outlined([rectangle(0, 0, 2, 2), rectangle(5, 3, 8, 6)], run_lengths(filled(3, 1, 4, 2))), expected
    )


@pytest.mark.parametrize("place", [(-3, 1, 2, 4), (6, 1, 12, 4), (1, -4, 3, 2), (1, 4, 3, 11), (-8, -6, 16, 12)])
def test_what_lies_outside_of_the_image_is_cut_off(place):
    left, top, right, bottom = place
    np.testing.assert_array_equal(outlined([rectangle(*place)]), filled(*place))
    np.testing.assert_array_equal(boxed([left, top, right - left, bottom - top]), filled(*place))


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    share=st.sampled_from([0, 0.1, 0.5, 0.9, 1]),
    seed=st.integers(0, 99),
)
def test_run_lengths_of_both_kinds_give_the_mask_back(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    for code in (run_lengths(mask), compressed(mask)):
        np.testing.assert_array_equal(outlined(code, size=(height, width)), mask)


def test_run_lengths_of_large_images_are_read_too():
    mask = np.zeros((700, 900), dtype=bool)  # runs of more than five, ten and fifteen bits
    mask[10:600, 3:400], mask[:, 500:899] = True, True
    np.testing.assert_array_equal(outlined(compressed(mask), size=mask.shape), mask)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-3, 11), st.floats(-2, 8)), min_size=3, max_size=7))
def test_polygons_are_those_of_pycocotools(corners):
    polygon = [number for corner in corners for number in corner]
    xs, ys = polygon[::2], polygon[1::2]
    if max(xs) <= 0 or min(xs) >= 8 or max(ys) <= 0 or min(ys) >= 6:
        with pytest.raises(BadSampleError, match="outside of an image"):
            outlined([polygon])
        return
    with warnings.catch_warnings(action="ignore"):
        expected = pycocotools.decode(pycocotools.frPyObjects([polygon], 6, 8))[..., 0]
    np.testing.assert_array_equal(outlined([polygon]), expected)


@settings(deadline=None, max_examples=40)
@given(x=st.floats(-3, 7), y=st.floats(-3, 5), width=st.floats(3, 9), height=st.floats(3, 9))
def test_a_pixel_belongs_to_a_box_if_its_centre_does(x, y, width, height):
    if x + width <= 0 or y + height <= 0:
        return
    expected = [
        [x <= column + 0.5 < x + width and y <= row + 0.5 < y + height for column in range(8)] for row in range(6)
    ]
    np.testing.assert_array_equal(boxed([x, y, width, height]), expected)


def test_a_box_without_area_covers_nothing():
    assert not boxed([3, 2, 0, 2]).any()


SQUARE = rectangle(0, 0, 2, 2)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "it has no polygon"),
        (None, "a list is missing, found NoneType"),
        ([[0, 0, 2, 2]], "at least three corners, had 4 numbers"),  # a box to pycocotools
        ([SQUARE, [1, 1, 2, 2]], "at least three corners, had 4 numbers"),
        ([[*SQUARE, 1]], "at least three corners, had 9 numbers"),
        ([[0, 0, 2, 0, 2, float("nan")]], "must be finite numbers, one was nan"),
        ([[0, 0, 2, 0, 2, "3"]], "must be finite numbers, one was '3'"),
        ([[0, 0, 2, 0, 2, 1e9]], "far outside of the image: 1e\\+09 of 6 pixels"),
        ([rectangle(8, 0, 12, 3)], "x from 8 to 12 and y from 0 to 3 lie outside of an image of height 6 and width 8"),
        ([rectangle(-4, 0, 0, 3)], "lie outside of an image"),
        ([rectangle(0, 6, 3, 9)], "lie outside of an image"),
        ([rectangle(0, -5, 3, 0)], "lie outside of an image"),
        ({"size": [8, 6], "counts": [48]}, r"of size \[8, 6\], the image is \[6, 8\]"),
        ({"counts": [48]}, "a list is missing"),
        ({"size": [6, 8], "counts": [40, 7]}, "as many pixels as the image, 48"),
        ({"size": [6, 8], "counts": [40, 9]}, "as many pixels as the image, 48"),
        ({"size": [6, 8], "counts": [50, -2]}, "as many pixels as the image, 48"),
        ({"size": [6, 8], "counts": [47.0, 1.0]}, "as many pixels as the image, 48"),
        ({"size": [6, 8]}, "a list is missing"),
        ({"size": [6, 8], "counts": ""}, "as many pixels as the image, 48"),
        ({"size": [6, 8], "counts": "0"}, "as many pixels as the image, 48"),
        ({"size": [6, 8], "counts": "`"}, "ends within a number"),
        ({"size": [6, 8], "counts": "0 "}, "a character that no code has: ' '"),
    ],
)
def test_segmentations_that_cannot_be_right_are_refused(segmentation, message):
    with pytest.raises(BadSampleError, match=message) as caught:
        outlined([SQUARE], segmentation)
    assert caught.value.reason == BROKEN_OBJECT
    assert "annotation 1: " in str(caught.value)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([3, 2, -1, 2], "negative size: -1×2"),
        ([3, 2, 1, -2], "negative size: 1×-2"),
        ([3, 2, 1], "not enough values"),
        (None, "a list is missing"),
        ([3, 2, float("inf"), 1], "must be finite numbers, one was inf"),
        ([8, 2, 3, 2], "lie outside of an image"),
        ([0, -3, 3, 2], "lie outside of an image"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused(box, message):
    with pytest.raises(BadSampleError, match=message) as caught:
        boxed([0, 0, 2, 2], box)
    assert caught.value.reason == BROKEN_OBJECT


def test_a_file_is_read_in_the_order_of_names_and_category_ids(tmp_path):
    path = written(
        tmp_path,
        [annotation(5, 2, 9), annotation(4, 1, 7), annotation(6, 1, 3, iscrowd=1), annotation(8, 77, 3)],
        sizes={2: (6, 8), 1: (5, 4), 3: (2, 2)},
    )
    content = read_annotations(path)
    assert content.categories == ("cat", "dog", "hot dog")
    assert [
        (image.name, image.size, [(each.id, each.category) for each in image.objects]) for image in content.images
    ] == [
        ("001.png", (5, 4), [(4, 1), (6, 0)]),
        ("002.png", (6, 8), [(5, 2)]),
        ("003.png", (2, 2), []),
    ]
    assert content.orphans == (8,)


IMAGE = {"id": 1, "file_name": "001.png", "height": 6, "width": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [IMAGE, {**IMAGE, "file_name": "2.png"}]}, "`id` must differ between entries, 1 occur twice, as 1"),
        (
            {"images": [IMAGE, {**IMAGE, "id": 2}]},
            "`file_name` must differ between entries, 1 occur twice, as '001.png'",
        ),
        ({"annotations": [annotation(1, 1, 3), annotation(1, 1, 7)]}, "`id` must differ between entries"),
        ({"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]}, "`id` must differ"),
        ({"categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}]}, "`name` must differ"),
        ({"annotations": [annotation(1, 1, 4)]}, "annotation 1 has the category 4, which is not listed"),
        ({"annotations": [{"image_id": 1}]}, r"an entry must have `id` \(int\), was None"),
        ({"images": [{"id": 1, "height": 6, "width": 8}]}, r"must have `file_name` \(str\), was None"),
        ({"images": [{**IMAGE, "width": 0}]}, r"image 1 must have `height` and `width` in pixels, had \(6, 0\)"),
        ({"images": [{**IMAGE, "width": "8"}]}, "must have `height` and `width`"),
        ({"annotations": None}, "must have a list of objects under `annotations`"),
        ({"categories": ["cat"]}, "must have a list of objects under `categories`"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, change, message):
    path = written(tmp_path, [annotation(1, 1, 3)], images=[IMAGE])
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        read_annotations(path)


@pytest.mark.parametrize("content", [b"no JSON", b"\xff\xfe", b"[" * 100_000, b""])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"`annotations` must be a JSON file in COCO's format, `.*instances.json` is not"
    ):
        read_annotations(path)


def test_a_missing_file_and_another_kind_of_json_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"`annotations` must be a JSON file .*No such file"):
        read_annotations(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DatasetError, match="must hold a JSON object"):
        read_annotations(tmp_path / "list.json")


def turned(tmp_path, orientation):
    """An image stored as 6×8 pixels, of which viewers show 8×6; its first stored pixel is white."""
    image = Image.new("RGB", (8, 6))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    return tmp_path / "turned.png"


def test_images_are_turned_only_where_their_annotated_size_says_so(tmp_path):
    path = turned(tmp_path, 6)  # viewers turn it clockwise: the first pixel goes to the upper right
    stored = np.asarray(open_annotated(path, (6, 8)))
    assert stored[0, 0].tolist() == [255, 255, 255]
    shown = np.asarray(open_annotated(path, (8, 6)))
    assert shown.shape == (8, 6, 3)
    assert shown[0, 5].tolist() == [255, 255, 255]
    with pytest.raises(BadSampleError, match="annotated 7×8") as caught:
        open_annotated(path, (7, 8))
    assert caught.value.reason == OTHER_SIZE
