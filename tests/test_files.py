"""Image files of every kind become RGB or a clear error; datasets of files read what is asked for, and only that."""

import pickle
import struct
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from interpeval.datasets.files import (
    MISSING,
    BadSampleError,
    DatasetError,
    FileDataset,
    Listing,
    Masks,
    Record,
    inside,
    open_image,
    open_mask,
    sample_name,
)

UNREADABLE = "truncated, or not an image"
TOO_LARGE = "image larger than Pillow's limit of pixels"
NO_RANGE = "pixels of a kind without a known range"
NO_MASK = "mask that is not a PNG without alpha channel"
COLOURS = np.random.default_rng(5).integers(0, 256, (3, 4, 3), dtype=np.uint8)
GREYS = COLOURS[..., 0]


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def opened(path, **options):
    return np.asarray(open_image(path, **options))


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["image.png", "image.bmp", "image.tif", "image.webp", "image.ppm"])
def test_lossless_colours_are_kept(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(COLOURS), name, **({"lossless": True} if name.endswith("webp") else {}))
    np.testing.assert_array_equal(opened(path), COLOURS)


def test_grey_and_bilevel_images_have_three_equal_channels(tmp_path):
    np.testing.assert_array_equal(opened(saved(tmp_path, Image.fromarray(GREYS))), grey(GREYS))
    np.testing.assert_array_equal(opened(saved(tmp_path, Image.fromarray(GREYS > 99))), grey(255 * (GREYS > 99)))


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129], [257 * 100, 65406, 65535]], dtype=np.uint16)  # 65406 = 254.49… · 257
    path = saved(tmp_path, Image.fromarray(values), name)
    np.testing.assert_array_equal(opened(path), grey([[0, 0, 1], [100, 254, 255]]))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(tmp_path, mode):
    with pytest.raises(BadSampleError) as caught:
        open_image(saved(tmp_path, Image.new(mode, (4, 3), 7), "image.tif"))
    assert caught.value.reason == NO_RANGE


def test_palettes_are_looked_up(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "L")
    image = Image.frombytes("P", indices.size, indices.tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    first, second, third = (10, 20, 30), (40, 50, 60), (70, 80, 90)
    assert opened(saved(tmp_path, image)).tolist() == [[[*first], [*second]], [[*third], [*second]]]
    transparent = saved(tmp_path, image, "transparent.png", transparency=1)
    assert opened(transparent).tolist() == [[[*first], [0, 0, 0]], [[*third], [0, 0, 0]]]


def test_what_is_transparent_is_black(tmp_path):
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], dtype=np.uint8)
    assert opened(saved(tmp_path, Image.fromarray(pixels))).tolist() == [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]]
    pixels = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
    assert opened(saved(tmp_path, Image.fromarray(pixels, "LA"))).tolist() == [[[200] * 3, [0] * 3]]


@pytest.mark.parametrize("name", ["image.tif", "image.jpg"])
def test_printing_inks_become_light(tmp_path, name):
    inks = np.zeros((16, 16, 4), dtype=np.uint8)
    inks[:8, :, 0] = 255  # cyan: no red light
    inks[8:, 8:, 3] = 255  # black
    result = opened(saved(tmp_path, Image.fromarray(inks, "CMYK"), name)).astype(int)
    expected = np.full((16, 16, 3), 255)
    expected[:8, :, 0] = 0
    expected[8:, 8:] = 0
    assert abs(result - expected).max() <= 2 * name.endswith("jpg")


TURNS = {  # EXIF orientation: what a viewer does to the stored pixels
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_viewers_turn_them(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(COLOURS), exif=exif)
    np.testing.assert_array_equal(opened(path), TURNS[orientation](COLOURS))
    np.testing.assert_array_equal(opened(path, upright=False), COLOURS)


def test_an_animation_shows_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "image.gif", save_all=True, append_images=frames[1:])
    assert (opened(path) == (255, 0, 0)).all()


def test_an_image_within_another_file_is_read_from_its_bytes(tmp_path):
    data = saved(tmp_path, Image.fromarray(COLOURS)).read_bytes()
    np.testing.assert_array_equal(opened(Path("archive.tar/image.png"), data=data), COLOURS)
    with pytest.raises(BadSampleError, match=r"`archive.tar/image.png`: truncated"):
        open_image(Path("archive.tar/image.png"), data=data[:40])


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.gif", "image.tif", "image.webp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        BadSampleError, match=r"`.*image\..*`: truncated, or not an image .*on_bad_sample=skip"
    ) as caught:
        open_image(path)
    assert (caught.value.path, caught.value.reason) == (path, UNREADABLE)


@pytest.mark.parametrize("content", [b"plain text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(BadSampleError) as caught:
        open_image(path)
    assert caught.value.reason == UNREADABLE


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BadSampleError) as caught:
        open_image(tmp_path / "none.png")
    assert caught.value.reason == MISSING
    with pytest.raises(BadSampleError) as caught:
        open_image(tmp_path)
    assert caught.value.reason == UNREADABLE


def png_of(width, height):
    """A PNG file that says it has this size, without any pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\x00\x00\x10\x00IDAT"
    )


@pytest.mark.parametrize("width", [10_000, 100_000])  # above Pillow's warning, and above its error
def test_decompression_bombs_are_refused_before_they_go_off(tmp_path, width):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(width, 10_000))
    with pytest.raises(BadSampleError) as caught:
        open_image(path)
    assert caught.value.reason == TOO_LARGE


def test_warnings_of_pillow_do_not_get_through_and_filters_stay(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(10_000, 10_000))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(BadSampleError):
            open_image(path)
        warnings.warn("still heard", stacklevel=1)
    assert [str(each.message) for each in seen] == ["still heard"]


def test_masks_are_true_where_they_are_not_zero(tmp_path):
    expected = np.array([[False, True, True]])
    for values, mode in (([[0, 1, 255]], "L"), ([[0, 2, 1]], "P"), ([[0, 1, 65535]], "I;16"), ([[0, 1, 1]], "1")):
        dtype = {"I;16": np.uint16, "1": np.bool_}.get(mode, np.uint8)
        image = Image.fromarray(np.array(values, dtype=dtype))
        if mode == "P":  # the index counts, whatever its colour
            image = Image.frombytes("P", image.size, image.tobytes())
            image.putpalette([9, 9, 9, 0, 0, 0, 0, 0, 0])
        path = saved(tmp_path, image)
        with Image.open(path) as stored:
            assert stored.mode == mode
        np.testing.assert_array_equal(open_mask(path), expected)
    coloured = np.array([[[0, 0, 0], [0, 0, 1], [255, 0, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(open_mask(saved(tmp_path, Image.fromarray(coloured))), expected)


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "mask.png"), ("LA", "mask.png"), ("L", "mask.jpg")])
def test_masks_that_do_not_say_where_the_object_is_are_refused(tmp_path, mode, name):
    with pytest.raises(BadSampleError) as caught:
        open_mask(saved(tmp_path, Image.new(mode, (4, 3)), name))
    assert caught.value.reason == NO_MASK


@pytest.mark.parametrize(
    "name",
    [
        "../up.png",
        "a/../../up.png",
        "/etc/passwd",
        "..",
        "",
        "..\\up.png",
        "C:\\up.png",
        "C:up.png",
        "\\\\host\\up.png",
    ],
)
def test_names_that_lead_out_of_a_folder_are_refused(name):
    with pytest.raises(DatasetError, match="must lead to a file in"):
        inside(Path("folder"), name)


def test_other_names_lead_into_the_folder():
    assert inside(Path("folder"), "val2017/a..b.png") == Path("folder", "val2017", "a..b.png")


def test_sample_names_have_one_hash_at_most():
    assert sample_name("a/b#1.tar.jpg") == "a/b%231.tar"


@dataclass(frozen=True, eq=False)
class Numbered(FileDataset):
    """The PNG files of a folder: their red channel is the mask, and each image is a sample for two classes."""

    name: ClassVar[str] = "numbered"
    places: ClassVar[frozenset[str]] = frozenset({"folder"})

    folder: Path

    @property
    def has_masks(self):
        return True

    def listing(self):
        paths = sorted(self.folder.glob("*.png"))
        records = [
            Record(f"{path.stem}#{label}", path.name, path, label, frozenset({0, 2}))
            for path in paths
            for label in (0, 2)
        ]
        annotation = self.folder / "notes.txt"
        return Listing(("a", "b", "c"), records, {}, (annotation,) if annotation.exists() else ())

    def masks_of(self, record, size):
        red = np.asarray(self.image_of(record))[..., 0] > 0
        own = np.zeros(size, dtype=bool)
        own[:, record.label :] = red[:, record.label :]
        return Masks(own, red)


@pytest.fixture
def folder(tmp_path):
    """Seven images, red at random; a function of `tmp_path` alone."""
    for index in range(7):
        pixels = np.zeros((8, 10, 3), dtype=np.uint8)
        pixels[..., 0] = 255 * (np.random.default_rng(index).random((8, 10)) < 0.6)
        pixels[..., 1] = index
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def same(one, other):
    assert one.ids == other.ids
    for name in ("images", "labels", "masks", "all_masks"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.original_masks is None) == (other.original_masks is None)
    for mine, yours in zip(one.original_masks or (), other.original_masks or (), strict=True):
        assert torch.equal(mine, yours)


def test_a_batch_holds_images_and_masks_of_its_samples(folder):
    dataset = Numbered(folder, size=8, resize="crop", normalize="half")
    batch = dataset.take([5, 0])
    assert batch.ids == ("2#2", "0#0")
    assert batch.labels.tolist() == [2, 0]
    for index, (image, mask, everything) in enumerate(zip(batch.images, batch.masks, batch.all_masks, strict=True)):
        number, label = ((2, 2), (0, 0))[index]
        stored = np.asarray(Image.open(folder / f"{number}.png"))[:, 1:9]  # the middle of ten columns
        np.testing.assert_allclose(image.numpy(), stored.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
        red = stored[..., 0] > 0
        np.testing.assert_array_equal(everything.numpy(), red)
        own = red.copy()
        own[:, : max(label - 1, 0)] = False  # one column of the two was cut off
        np.testing.assert_array_equal(mask.numpy(), own)
    assert batch.original_masks is None


def test_whole_images_keep_their_masks_in_the_original_size(folder):
    batch = Numbered(folder, size=6).take([1])
    red = np.asarray(Image.open(folder / "0.png"))[..., 0] > 0
    red[:, :2] = False
    np.testing.assert_array_equal(batch.original_masks[0].numpy(), red)


def test_samples_do_not_depend_on_what_they_are_read_with(folder):
    dataset = Numbered(folder, size=8)
    alone = [dataset.take([index]) for index in range(14)]
    for size in (1, 3, 14, 99):
        batches = [*dataset.batches(size)]
        assert [len(batch) for batch in batches] == [min(size, 14 - start) for start in range(0, 14, size)]
        for batch in batches:
            for row, name in enumerate(batch.ids):
                single = alone[dataset.ids.index(name)]
                assert torch.equal(batch.images[row], single.images[0])
                assert torch.equal(batch.masks[row], single.masks[0])
    order = [9, 0, 9, 4]
    assert torch.equal(dataset.take(order).images, torch.cat([alone[index].images for index in order]))


def test_images_are_opened_only_when_their_samples_are_taken(folder):
    dataset = Numbered(folder, size=8)
    for index in (0, 1, 2, 3, 5, 6):
        (folder / f"{index}.png").write_bytes(b"no image")
    assert len(dataset) == 14
    assert dataset.present.sum() == 28
    assert len(dataset.take([8, 9])) == 2
    with pytest.raises(BadSampleError, match=r"`.*0\.png`: truncated"):
        dataset.take([0])


class Watched(Numbered):
    """Counts how many images it has opened."""

    opened: ClassVar[list[str]] = []

    def image_of(self, record):
        self.opened.append(record.id)
        return super().image_of(record)

    def masks_of(self, record, size):
        return None


def test_streaming_opens_an_image_once_and_no_more_than_two_batches_ahead(folder):
    Watched.opened.clear()
    batches = Watched(folder, size=8).batches(4)
    next(batches)
    assert len(Watched.opened) <= 6
    assert sum(len(batch) for batch in batches) == 10
    assert Watched.opened == [f"{index}#0" for index in range(7)]


def test_worker_processes_change_nothing(folder):
    (folder / "6.png").write_bytes(b"no image")
    dataset, helped = (Numbered(folder, size=8, on_bad_sample="skip", workers=workers) for workers in (0, 1))
    assert helped.skipped == dataset.skipped == {UNREADABLE: 1}
    assert helped.revision == dataset.revision
    for mine, yours in zip(dataset.batches(3), helped.batches(3), strict=True):
        same(mine, yours)
    same(dataset.take([4, 1, 1]), helped.take([4, 1, 1]))
    (folder / "4.png").write_bytes(b"no image any more")
    with pytest.raises(BadSampleError, match=r"`.*4\.png`: truncated"):
        [*helped.batches(3)]


def test_bad_images_are_left_out_and_counted_when_asked(folder):
    (folder / "1.png").write_bytes(b"no image")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    Image.new("RGB", (10, 8)).save(folder / "6.png")  # nothing red
    dataset = Numbered(folder, size=8, on_bad_sample="skip")
    assert dataset.skipped == {UNREADABLE: 2, "object without area": 1}
    assert dataset.ids == tuple(f"{index}#{label}" for index in (0, 2, 4, 5) for label in (0, 2))
    assert dataset.labels.tolist() == [0, 2] * 4
    assert dataset.present.tolist() == [[True, False, True]] * 8
    assert [name for batch in dataset.batches(3) for name in batch.ids] == [*dataset.ids]
    with pytest.raises(BadSampleError, match="object without area"):
        Numbered(folder, size=8).take([12])


def test_a_missing_image_is_found_before_anything_runs(folder):
    class Lost(Numbered):
        def listing(self):
            known = super().listing()
            lost = Record("lost#0", "lost.png", self.folder / "lost.png", 0)
            return known._replace(records=[*known.records, lost])

    with pytest.raises(BadSampleError, match=r"lost.png`: file is missing"):
        len(Lost(folder))
    skipping = Lost(folder, size=8, on_bad_sample="skip")
    assert (len(skipping), skipping.skipped) == (14, {MISSING: 1})


def test_one_name_for_two_samples_is_an_error(folder):
    class Twice(Numbered):
        def listing(self):
            known = super().listing()
            return known._replace(records=[*known.records, known.records[3]])

    with pytest.raises(DatasetError, match="`numbered` has 1 names for several samples each: `1#2`"):
        len(Twice(folder))


def test_a_dataset_without_samples_says_what_was_left_out(folder):
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="has no samples; left out were: truncated, or not an image: 7"):
        len(Numbered(folder, on_bad_sample="skip"))


def test_classes_without_counterpart_are_left_out_and_counted(folder, tmp_path):
    table = tmp_path / "map.csv"
    table.write_text("a,0\nb,1\n", encoding="utf-8")
    dataset = Numbered(folder, size=8, label_map=str(table))
    assert dataset.skipped == {"class without counterpart among the network's": 7}
    assert dataset.ids == tuple(f"{index}#0" for index in range(7))
    assert dataset.network_classes.tolist() == [[True, False], [False, True], [False, False]]
    assert dataset.present.tolist() == [[True, False, True]] * 7  # the image shows what it shows
    assert Numbered(folder).network_classes is None


def test_the_revision_follows_what_is_read_and_not_where(folder, tmp_path_factory):
    revision = Numbered(folder, size=8).revision
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in folder.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert Numbered(elsewhere, size=8, workers=1).revision == revision
    assert Numbered(elsewhere, size=8, on_bad_sample="skip").revision == revision  # nothing is bad
    seen = [revision]
    for options in ({"size": 9}, {"resize": "crop"}, {"normalize": "half"}, {"split": "train"}):
        seen.append(Numbered(elsewhere, **{"size": 8, **options}).revision)
    (elsewhere / "map.csv").write_text("a,0\nc,1\n", encoding="utf-8")
    seen.append(Numbered(elsewhere, size=8, label_map=str(elsewhere / "map.csv")).revision)
    (elsewhere / "map.csv").write_text("a,0\nc,2\n", encoding="utf-8")
    seen.append(Numbered(elsewhere, size=8, label_map=str(elsewhere / "map.csv")).revision)
    (elsewhere / "notes.txt").write_text("one", encoding="utf-8")
    seen.append(Numbered(elsewhere, size=8).revision)
    (elsewhere / "notes.txt").write_text("two", encoding="utf-8")
    seen.append(Numbered(elsewhere, size=8).revision)
    Image.new("RGB", (99, 99), "red").save(elsewhere / "4.png")
    seen.append(Numbered(elsewhere, size=8).revision)
    (elsewhere / "0.png").rename(elsewhere / "7.png")
    seen.append(Numbered(elsewhere, size=8).revision)
    assert Counter(seen).most_common(1)[0][1] == 1
    assert all(len(each) == 16 for each in seen)


def test_only_the_configuration_is_sent_to_other_processes(folder):
    dataset = Numbered(folder, size=8)
    expected = dataset.take([3])
    payload = pickle.dumps(dataset)
    assert len(payload) < 1000
    same(pickle.loads(payload).take([3]), expected)  # noqa: S301  # our own bytes


def test_errors_survive_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(BadSampleError(Path("a.png"), MISSING, "gone")))  # noqa: S301  # our own bytes
    assert (error.path, error.reason, error.detail) == (Path("a.png"), MISSING, "gone")
    assert str(error) == "`a.png`: file is missing (gone); mend or remove it, or leave such out: `on_bad_sample=skip`"


def test_another_split_is_refused_where_no_files_are_known_for_it(folder):
    dataset = Numbered(folder)
    assert dataset.with_split("test") is dataset
    with pytest.raises(DatasetError, match="given the files of its test part only, `train` was wanted"):
        dataset.with_split("train")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("split", "val"), ("size", 0), ("resize", "fit"), ("normalize", "none"), ("on_bad_sample", "ignore"),
        ("workers", -1),
    ],
)  # fmt: skip
def test_other_arguments_are_refused(folder, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        Numbered(folder, **{argument: value})
