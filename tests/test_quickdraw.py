"""QuickDraw's bitmaps are selected as FLINT did, and its strokes are drawn as Google drew the bitmaps."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from interpeval.datasets.base import Dataset
from interpeval.datasets.files import DatasetError
from interpeval.datasets.quickdraw import QuickDraw, rasterise

FLINT = ("ant", "apple", "banana", "carrot", "cat", "cow", "dog", "frog", "grapes", "lion")  # METHODS.md B.5


def bitmaps(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 784), dtype=np.uint8)


def numbered(count):
    """Bitmaps whose first two pixels tell their row."""
    rows = np.zeros((count, 784), dtype=np.uint8)
    rows[:, 0], rows[:, 1] = np.divmod(np.arange(count), 256)
    return rows


def row_numbers(dataset):
    pixels = dataset.arrays.pixels.reshape(len(dataset), -1).astype(int)
    return (256 * pixels[:, 0] + pixels[:, 1]).tolist()


def slow_raster(strokes, fineness=32):
    """Share of each pixel's points within 8 units of a line; 256 units, a border of 24, strokes painted in turn."""
    points = [list(zip(*stroke[:2], strict=True)) for stroke in strokes]
    shift = [152 - max(p[axis] for stroke in points for p in stroke) / 2 for axis in (0, 1)]
    image = np.zeros((28, 28))
    for stroke in points:
        for row in range(28):
            for column in range(28):
                inside = 0
                for i in range(fineness**2):
                    x = (column + (i % fineness + 0.5) / fineness) * 304 / 28 - shift[0]
                    y = (row + (i // fineness + 0.5) / fineness) * 304 / 28 - shift[1]
                    inside += any(
                        distance(x, y, *a, *b) <= 8 for a, b in zip(stroke, stroke[1:] or stroke, strict=False)
                    )
                image[row, column] = 1 - (1 - image[row, column]) * (1 - inside / fineness**2)
    return image * 255


def distance(x, y, ax, ay, bx, by):
    length = math.hypot(bx - ax, by - ay)
    if length == 0:
        return math.hypot(x - ax, y - ay)
    along = min(max(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length**2, 0), 1)
    return math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))


def test_rows_of_a_class_are_divided_four_to_one_in_their_order(tmp_path):
    np.save(tmp_path / "cat.npy", numbered(11))
    np.save(tmp_path / "full_numpy_bitmap_dog.npy", numbered(10).reshape(10, 28, 28))
    train, test = (QuickDraw(tmp_path, words="cat,dog", split=split) for split in ("train", "test"))
    assert isinstance(test, Dataset)
    assert row_numbers(train) == [*range(8), *range(8)]
    assert row_numbers(test) == [8, 9, 10, 8, 9]
    assert test.labels.tolist() == [0, 0, 0, 1, 1]
    assert test.ids[2:4] == ("quickdraw-cat-00010", "quickdraw-dog-00008")
    assert not set(test.ids) & set(train.ids)


def test_of_many_drawings_the_first_ten_thousand_are_taken_eight_of_them_for_training(tmp_path):
    np.save(tmp_path / "cat.npy", numbered(10_010))
    dataset = QuickDraw(tmp_path, words="cat")
    assert row_numbers(dataset) == [*range(8000, 10_000)]
    assert len(dataset.with_split("train")) == 8000
    assert dataset.ids[0] == "quickdraw-cat-08000"


def test_published_rows_are_selected_in_their_order_and_may_repeat(tmp_path):
    np.save(tmp_path / "full_numpy_bitmap_ant.npy", numbered(300))
    rows = [299, 7, 7, 0, 128]
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "ant_id.npy", np.array(rows))
    train, test = (QuickDraw(tmp_path, words="ant", rows=tmp_path / "rows", split=s) for s in ("train", "test"))
    assert row_numbers(train) == rows[:4]
    assert row_numbers(test) == rows[4:]
    assert len(set(train.ids)) == 4
    assert train.revision != QuickDraw(tmp_path, words="ant", split="train").revision


def test_pixels_and_values_are_those_of_the_file(tmp_path):
    source = bitmaps(5)
    np.save(tmp_path / "cat.npy", source)
    batch = QuickDraw(tmp_path, words="cat", split="train").take([3])
    assert torch.equal(batch.images * 255, torch.from_numpy(source[3].reshape(1, 1, 28, 28)).float())
    half = QuickDraw(tmp_path, words="cat", split="train", normalize="half", size=56)
    assert half.take([0]).images.shape == (1, *half.image_shape) == (1, 1, 56, 56)
    assert half.take([0]).images.min() < -0.5


def test_the_order_of_words_is_that_of_the_labels_and_flints_are_the_default(tmp_path):
    np.savez(tmp_path / "all.npz", x=bitmaps(10), y=np.repeat([1, 0], 5), classes=["dog", "hot dog"])
    dataset = QuickDraw(tmp_path / "all.npz", words="hot dog,dog", split="train")
    assert dataset.classes == ("hot dog", "dog")
    assert np.array_equal(dataset.arrays.pixels.reshape(8, 784), bitmaps(10)[[0, 1, 2, 3, 5, 6, 7, 8]])
    assert QuickDraw().classes == FLINT


@pytest.mark.parametrize(
    "strokes",
    [
        [[[0, 255], [0, 0]]],
        [[[3, 250, 100], [0, 255, 30]]],
        [[[10], [20]]],
        [[[40, 40], [60, 60]], [[40, 90], [60, 200]]],
        [[[0, 200, 7], [1, 90, 255], [0, 5, 9]], [[255, 0], [255, 0]]],
    ],
    ids=["one line", "joint", "dot", "dot below a line", "crossing, with times"],
)
def test_strokes_are_drawn_as_the_recipe_says(strokes):
    # Both measure areas at points: the slow one is off by up to half a point's width along a line's two edges.
    np.testing.assert_allclose(rasterise(strokes), slow_raster(strokes, fineness=12), rtol=0, atol=255 * 0.04)


def test_a_horizontal_line_covers_what_its_width_says():
    # 16 of 304 units on 28 pixels are 1.4737 pixels, centred on the border of two: half of it in each.
    image = rasterise([[[0, 255], [0, 0]]])
    assert set(image[13, 3:25]) == set(image[14, 3:25]) == {round(255 * 14 / 19)}
    assert not image[:13].any()
    assert not image[15:].any()


def test_raw_drawings_are_moved_to_the_corner_and_scaled_and_simplified_ones_stay():
    simplified = [[[0, 255, 40], [100, 0, 51]]]
    raw = [[[3 * x + 71 for x in simplified[0][0]], [3 * y + 400 for y in simplified[0][1]], [0, 1, 2]]]
    assert np.array_equal(rasterise(raw), rasterise(simplified))
    small = rasterise([[[0, 30], [0, 30]]])
    assert not np.array_equal(small, rasterise([[[0, 255], [0, 255]]]))


@pytest.mark.parametrize("packed", [False, True])
def test_drawings_of_several_classes_are_read_line_by_line(tmp_path, packed):
    lines = [("cat", [[[0, 255], [0, 0]]]), ("dog", [[[0, 0], [0, 255]]]), ("cat", [[[9], [9]]])]
    text = "".join(json.dumps({"word": word, "drawing": drawing}) + "\n" for word, drawing in lines) + "\n"
    path = tmp_path / f"all.ndjson{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset = QuickDraw(path, words="cat", split="test")
    assert np.array_equal(dataset.arrays.pixels[:, 0], [rasterise(lines[2][1])])
    assert dataset.ids == ("quickdraw-cat-00001",)
    assert len(QuickDraw(path, words="cat,dog")) == 2


def test_googles_strokes_give_googles_bitmaps(real_data):
    """The two real files hold the first 25 drawings of these classes, once as strokes and once as Google drew them."""
    folder = real_data / "quickdraw"
    lines = gzip.decompress((folder / "ten_classes_vector.ndjson.gz").read_bytes()).splitlines()
    with np.load(folder / "bitmaps_28x28_official.npz") as file:
        official, labels, classes = file["x"].astype(int), file["y"], list(file["classes"])
    for word in ("apple", "cat", "dog", "frog", "lion"):
        strokes = [drawing["drawing"] for drawing in map(json.loads, lines) if drawing["word"] == word][:25]
        difference = np.abs(
            np.stack([rasterise(each) for each in strokes]) - official[labels == classes.index(word)][:25]
        )
        assert difference.mean(axis=(1, 2)).max() < 0.6
        assert difference.max() <= 13
    shifted = np.abs(np.roll(rasterise(strokes[0]), 1, axis=1) - official[labels == classes.index("lion")][0])
    assert shifted.mean() > 10  # one pixel aside is no agreement


def test_the_real_bitmaps_are_read_in_flints_shares(real_data):
    dataset = QuickDraw(real_data / "quickdraw" / "ten_classes_100each_thin.npz", split="train")
    assert dataset.labels.bincount().tolist() == [80] * 10
    dataset = QuickDraw(real_data / "quickdraw" / "bitmaps_28x28_official.npz", words="cat,dog")
    assert dataset.labels.bincount().tolist() == [794, 200]


def test_missing_drawings_are_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"no drawings of `ant` in .*`full_numpy_bitmap_ant.npy`, `ant.npy`"):
        _ = QuickDraw(tmp_path).ids
    np.savez(tmp_path / "all.npz", x=bitmaps(2), y=[0, 1], classes=["cat", "dog"])
    with pytest.raises(DatasetError, match="no drawings of `ant`; it has: cat, dog"):
        _ = QuickDraw(tmp_path / "all.npz").ids
    with pytest.raises(DatasetError, match="none is left for the train part"):
        _ = QuickDraw(tmp_path / "all.npz", words="cat", split="train").ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((5, 783), dtype=np.uint8), r"must hold bitmaps \(N, 784\) uint8, holds \(5, 783\) uint8"),
        (np.zeros((5, 784)), r"must hold bitmaps \(N, 784\) uint8, holds \(5, 784\) float64"),
        (np.array([{"a": 1}], dtype=object), "cannot read"),
    ],
    ids=["other size", "other type", "pickle"],
)
def test_an_array_of_something_else_is_an_error_and_is_never_unpickled(tmp_path, content, message):
    np.save(tmp_path / "cat.npy", content, allow_pickle=True)
    with pytest.raises(DatasetError, match=message):
        _ = QuickDraw(tmp_path, words="cat").ids


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_array_is_an_error(tmp_path, keep):
    np.save(tmp_path / "cat.npy", bitmaps(5))
    (tmp_path / "cat.npy").write_bytes((tmp_path / "cat.npy").read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"cannot read .*cat.npy"):
        _ = QuickDraw(tmp_path, words="cat").ids


@pytest.mark.parametrize(
    "members",
    [
        {"x": bitmaps(4), "y": [0, 0, 0]},
        {"x": bitmaps(4), "y": [0, 0, 0, 2]},
        {"x": bitmaps(4), "y": [0, 0, 0, 0.5]},
        {"x": bitmaps(4)},
        {"x": bitmaps(4), "y": np.array([None] * 4)},
    ],
    ids=["one label short", "label without class", "fractions", "no labels", "pickle"],
)
def test_a_wrong_archive_is_an_error(tmp_path, members):
    np.savez(tmp_path / "all.npz", classes=["cat", "dog"], **members)
    with pytest.raises(DatasetError, match=r"all\.npz"):
        _ = QuickDraw(tmp_path / "all.npz", words="cat").ids


def test_a_truncated_archive_is_an_error(tmp_path):
    np.savez(tmp_path / "all.npz", x=bitmaps(5), y=[0] * 5, classes=["cat"])
    data = (tmp_path / "all.npz").read_bytes()
    for keep in (0, len(data) // 2, len(data) - 1):
        (tmp_path / "all.npz").write_bytes(data[:keep])
        with pytest.raises(DatasetError, match=r"cannot read .*all.npz"):
            _ = QuickDraw(tmp_path / "all.npz", words="cat").ids


@pytest.mark.parametrize(
    "drawing",
    ["[]", "[[]]", "[[[], []]]", "[[[1, 2], [1]]]", "[[[1, NaN], [1, 2]]]", '[[["a"], [1]]]', "7", "[[[[1]], [[1]]]]"],
)
def test_a_drawing_that_is_none_is_an_error(tmp_path, drawing):
    (tmp_path / "cat.ndjson").write_text(f'{{"word": "cat", "drawing": {drawing}}}\n')
    with pytest.raises(DatasetError, match=r"cannot read .*cat.ndjson"):
        _ = QuickDraw(tmp_path, words="cat").ids


@pytest.mark.parametrize("line", ["{", "7", "[]", '{"drawing": []}', '{"word": []}', "[" * 10_000, "\x00"])
def test_a_line_that_is_no_drawing_is_an_error(tmp_path, line):
    (tmp_path / "cat.ndjson").write_text(line)
    with pytest.raises(DatasetError, match=r"cannot read .*cat.ndjson"):
        _ = QuickDraw(tmp_path, words="cat").ids


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 5], "names rows 0 to 5, but .* has 5 drawings of `cat`"),
        ([-1, 0], "names rows -1 to 0"),
        ([0.0, 1.0], "must hold whole numbers"),
        ([[0, 1]], "must hold whole numbers"),
        (np.zeros(0, dtype=np.int64), "must hold whole numbers"),
        (np.array([None]), "cannot read the rows of `cat`"),
    ],
)
def test_wrong_rows_are_errors(tmp_path, rows, message):
    np.save(tmp_path / "cat.npy", bitmaps(5))
    np.save(tmp_path / "cat_id.npy", rows, allow_pickle=True)
    with pytest.raises(DatasetError, match=message):
        _ = QuickDraw(tmp_path, words="cat", rows=tmp_path).ids


def test_missing_rows_are_an_error(tmp_path):
    np.save(tmp_path / "cat.npy", bitmaps(5))
    with pytest.raises(DatasetError, match=r"cannot read the rows of `cat` in .*cat_id.npy"):
        _ = QuickDraw(tmp_path, words="cat", rows=tmp_path).ids


@pytest.mark.parametrize("words", ["", "cat,", "cat,cat", "cat, cat"])
def test_words_must_be_different_words(words):
    with pytest.raises(ValueError, match="`words` must be different words"):
        QuickDraw(words=words)
