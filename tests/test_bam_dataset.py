"""What is pasted is the object, the whole object and nothing else; where, how large and on what follows from names."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as codes
from torch import Tensor

from interpeval.bench import evaluate
from interpeval.datasets.bam import LENGTHS, Bam, cut_out, paste
from interpeval.datasets.base import Batch, Dataset
from interpeval.datasets.files import BadSampleError, DatasetError
from interpeval.datasets.textures import TEXTURES, texture
from interpeval.metrics.bam import object_attribution
from small_subject import Grad, SmallNet

HEIGHT, WIDTH, SIDE = 40, 60, 48
WOOD = np.array([10, 20, 30], dtype=np.uint8)  # what surrounds objects in photographs
THINGS = {"ball": np.array([200, 0, 0]), "box": np.array([0, 200, 0]), "cup": np.array([0, 0, 200])}
GROUNDS = ("sand", "track/outdoor")
COUNT = 20


def rectangle(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class Files:
    """A folder of photographs with rectangular objects, each of a colour of its own, and a folder of scenes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        (folder / "photographs").mkdir()

    def photograph(self, name: str, *objects: tuple[str, tuple[int, int, int, int], Sequence[int]]) -> None:
        pixels = np.broadcast_to(WOOD, (HEIGHT, WIDTH, 3)).copy()
        number = len(self.images) + 1
        for thing, (x, y, width, height), colour in objects:
            pixels[y : y + height, x : x + width] = colour
            self.annotate(number, thing, segmentation=rectangle(x, y, width, height), bbox=[x, y, width, height])
        Image.fromarray(pixels).save(self.folder / "photographs" / name)
        self.images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})

    def annotate(self, image: int, thing: str, **rest: Any) -> None:
        entry = {"id": len(self.annotations) + 1, "image_id": image, "category_id": [*THINGS].index(thing) + 1}
        self.annotations.append(entry | {"iscrowd": 0} | rest)

    def scenes(self, counts: Sequence[int] = (12, 12)) -> None:
        rng = np.random.default_rng(3)
        for ground, count in zip(GROUNDS, counts, strict=True):
            (self.folder / "scenes" / ground).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.folder / "scenes" / ground / f"{number}.png")

    def dataset(self, **options: Any) -> Bam:
        content = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": number + 1, "name": name} for number, name in enumerate(THINGS)],
        }
        path = self.folder / "instances.json"
        path.write_text(json.dumps(content))
        defaults = {
            "object_classes": "ball,box", "scene_classes": ",".join(GROUNDS), "count": COUNT, "size": SIDE,
            "normalize": "half",
        }  # fmt: skip
        return Bam(self.folder / "photographs", path, self.folder / "scenes", **(defaults | options))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Twelve photographs with a ball 20×10 and a box 7×21 each, in shades that tell the photograph."""
    made = Files(tmp_path)
    for number in range(12):
        ball, box = (THINGS[name] + 5 * number * (THINGS[name] == 0) for name in ("ball", "box"))
        made.photograph(f"{number}.png", ("ball", (5, 8, 20, 10), ball), ("box", (40, 15, 7, 21), box))
    made.scenes()
    return made


def shown(dataset: Bam, images: Tensor) -> NDArray[np.uint8]:
    """`(B, 3, H, W)` pixels of 0 … 255."""
    return (dataset.normalization.to_pixels(images) * 255).round().to(torch.uint8).numpy()


def everything(dataset: Bam) -> tuple[Batch, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    batch = dataset.take(range(len(dataset)))
    assert batch.backgrounds is not None
    assert batch.masks is not None
    return batch, shown(dataset, batch.images), shown(dataset, batch.backgrounds), batch.masks.numpy()


def test_bam_is_a_dataset_of_every_object_on_every_scene(files: Files) -> None:
    for split, count in (("train", 18), ("test", 2)):
        dataset = files.dataset(split=split)
        assert isinstance(dataset, Dataset)
        pairs = Counter(name.rsplit("-", 1)[0] for name in dataset.ids)
        assert pairs == dict.fromkeys(["ball-sand", "ball-track/outdoor", "box-sand", "box-track/outdoor"], count)
        assert {name.rsplit("-", 1)[0] for name in dataset.ids[:4]} == pairs.keys()
        assert dataset.take([0]).images.shape[1:] == dataset.image_shape
    assert files.dataset().with_split("train").ids == files.dataset(split="train").ids


def test_labels_are_objects_or_scenes_of_the_same_images(files: Files) -> None:
    objects, scenes = files.dataset(label="object"), files.dataset(label="scene")
    assert (objects.classes, scenes.classes) == (("ball", "box"), GROUNDS)
    assert [objects.classes[label] for label in objects.labels] == [name.split("-")[0] for name in objects.ids]
    assert [scenes.classes[label] for label in scenes.labels] == [name.split("-")[1] for name in scenes.ids]
    assert torch.equal(everything(objects)[0].images, everything(scenes)[0].images)
    assert objects.revision != scenes.revision


def test_the_background_is_the_scene_and_the_mask_is_what_was_pasted(files: Files) -> None:
    scenes = {
        ground: {np.asarray(Image.open(path)).tobytes() for path in (files.folder / "scenes" / ground).iterdir()}
        for ground in GROUNDS
    }
    for split in ("train", "test"):
        batch, images, backgrounds, masks = everything(files.dataset(split=split))
        assert np.array_equal((images != backgrounds).any(axis=1), masks)
        for name, background in zip(batch.ids, backgrounds, strict=True):
            assert background.transpose(1, 2, 0).tobytes() in scenes[name.split("-")[1]]


def test_an_object_keeps_its_colour_and_brings_nothing_of_its_surroundings(files: Files) -> None:
    batch, images, _, masks = everything(files.dataset(split="train"))
    for name, image, mask in zip(batch.ids, images, masks, strict=True):
        colours = {*map(tuple, image[:, mask].T.tolist())}
        assert len(colours) == 1
        assert np.argmax(next(iter(colours))) == [*THINGS].index(name.split("-")[0])


def test_lengths_and_places_are_those_of_the_publication(files: Files) -> None:
    """Of 400 boxes, 3 times as high as wide: the longer side is uniform in its range, the place in what is left."""
    dataset = files.dataset(count=200, split="train", object_classes="box", size=90)
    _, _, _, masks = everything(dataset)
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    heights, widths = rows.sum(axis=1), columns.sum(axis=1)
    least, most = (90 * length for length in LENGTHS)
    assert pytest.approx((0.57735, 0.70711), abs=1e-5) == LENGTHS
    assert set(heights.tolist()) == set(range(round(least), round(most) + 1))
    assert np.abs(widths - heights / 3).max() <= 0.5
    assert (masks.sum(axis=(1, 2)) == heights * widths).all()
    for flags, length in ((rows, heights), (columns, widths)):
        share = (flags.argmax(axis=1) + 0.5) / (90 - length + 1)
        # The mean of 360 numbers uniform in [0, 1] has a standard error of 0.0152; the least of them is below 0.02
        # with a probability of 1 - 0.98 ** 360.
        assert abs(share.mean() - 0.5) < 4 * 0.0152
        assert share.min() < 0.02 < 0.98 < share.max() < 1


def test_the_largest_instance_is_pasted_and_a_crowd_is_none(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.photograph(
        "a.png",
        ("ball", (0, 0, 5, 4), (90, 0, 0)),
        ("ball", (10, 10, 6, 5), (255, 0, 0)),
        ("ball", (20, 20, 5, 5), (120, 0, 0)),
        ("cup", (30, 0, 20, 20), (0, 0, 255)),
    )
    files.annotate(1, "ball", segmentation={"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, iscrowd=1)
    files.scenes((1, 1))
    _, images, _, masks = everything(files.dataset(object_classes="ball"))
    for image, mask in zip(images, masks, strict=True):
        assert {*map(tuple, image[:, mask].T.tolist())} == {(255, 0, 0)}
        assert mask.any(axis=0).sum() > mask.any(axis=1).sum()  # 6 wide, 5 high


def test_no_photograph_and_no_scene_is_in_both_parts(files: Files) -> None:
    used = []
    for split in ("train", "test"):
        batch, images, backgrounds, masks = everything(files.dataset(split=split))
        thing = [name.split("-")[0] for name in batch.ids]
        colours = {
            (name, *image[:, mask][:, 0].tolist()) for name, image, mask in zip(thing, images, masks, strict=True)
        }
        used.append((colours, {background.tobytes() for background in backgrounds}))
    (train_objects, train_scenes), (test_objects, test_scenes) = used
    assert not train_objects & test_objects
    assert not train_scenes & test_scenes
    # 12 photographs of each category, one of them for testing, and 12 scenes of each kind.
    assert (len(train_objects), len(test_objects), len(train_scenes), len(test_scenes)) == (22, 2, 22, 2)


def test_as_many_photographs_as_images_are_used_once_each(files: Files) -> None:
    """With `count` of them there is one for each index; what is more is left out."""
    dataset = files.dataset(count=10, split="train", object_classes="ball")
    batch, images, backgrounds, masks = everything(dataset)
    for ground in GROUNDS:
        rows = [row for row, name in enumerate(batch.ids) if name.split("-")[1] == ground]
        assert len({tuple(images[row][:, masks[row]][:, 0]) for row in rows}) == len(rows) == 9
        assert len({backgrounds[row].tobytes() for row in rows}) == 9


def test_an_image_depends_on_its_name_and_the_seed_alone(files: Files) -> None:
    dataset = files.dataset(split="train")
    whole = everything(dataset)[0]
    for rows in ([5], [30, 2, 5], [5, 5]):
        some = files.dataset(split="train").take(rows)
        assert torch.equal(some.images, whole.images[rows])
        assert torch.equal(some.masks, whole.masks[rows])  # type: ignore[arg-type,index]
    assert torch.equal(torch.cat([batch.images for batch in dataset.batches(7)]), whole.images)
    other = everything(files.dataset(split="train", seed=1))[0]
    assert other.ids == whole.ids
    assert not (other.images == whole.images).flatten(1).all(dim=1).any()


def test_what_other_classes_there_are_does_not_matter(files: Files) -> None:
    both, alone = files.dataset(split="train"), files.dataset(split="train", object_classes="box", scene_classes="sand")
    rows = [both.ids.index(name) for name in alone.ids]
    assert torch.equal(both.take(rows).images, everything(alone)[0].images)


def test_worker_processes_make_the_same_images(files: Files) -> None:
    dataset = files.dataset()
    expected = everything(dataset)[0]
    batches = [*replace(dataset, workers=1).batches(3)]
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected.images)
    assert torch.equal(torch.cat([batch.backgrounds for batch in batches]), expected.backgrounds)  # type: ignore[misc,arg-type]


def test_the_revision_tells_of_scenes_and_configuration_and_not_of_places(files: Files, tmp_path: Path) -> None:
    before = files.dataset().revision
    assert len({before, files.dataset(seed=1).revision, files.dataset(count=30).revision}) == 3
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("photographs", "scenes"):
        shutil.copytree(tmp_path / name, moved / name)
    there = Bam(moved / "photographs", tmp_path / "instances.json", moved / "scenes")
    options = {name: getattr(files.dataset(), name) for name in ("object_classes", "scene_classes", "count", "size")}
    assert replace(there, **options, normalize="half").revision == before
    test_scene = next(record.annotation.scene for record in files.dataset().records)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), dtype=np.uint8)).save(test_scene)
    assert files.dataset().revision != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_classes": "ball,dog"}, "`object_classes` must name categories of .* `dog` is none; there are: ball"),
        ({"scene_classes": "sand,sea"}, "`scenes` must hold a folder of images for each scene, `.*sea` is not there"),
        ({"scene_classes": "../scenes/sand"}, "leads out of it"),
        ({"object_classes": "cup"}, "`cup` must have at least 1 images for the test part of dataset `bam`, had 0"),
        ({"split": "train", "object_classes": "cup"}, "`cup` must have at least 2 images for the train part"),
    ],
)
def test_classes_without_images_are_named(files: Files, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _ = files.dataset(**options).ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "digit"}, '`label` must be "object" or "scene", was \'digit\''),
        ({"count": 9}, "`count` must be at least 10, was 9"),
        ({"object_classes": "ball,ball"}, "`object_classes` must be different names"),
        ({"scene_classes": "sand,"}, "`scene_classes` must be different names"),
    ],
)
def test_an_impossible_argument_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bam("a", "b", "c", **options)


def test_broken_files_are_errors_or_counted(files: Files) -> None:
    broken = next(record.annotation.scene for record in files.dataset().records)
    broken.write_bytes(b"no image")
    with pytest.raises(BadSampleError, match=f"{broken.name}.*truncated, or not an image"):
        everything(files.dataset())
    kept = files.dataset(on_bad_sample="skip")
    assert dict(kept.skipped) == {"truncated, or not an image": 4}  # two objects, two indices
    assert {name.split("-")[1] for name in kept.ids} == {GROUNDS[1]}


def test_an_object_without_area_and_a_photograph_of_another_size_are_bad_samples(files: Files) -> None:
    used = {record.path.name for record in files.dataset(object_classes="ball").records}
    assert len(used) == 1
    entry = next(image for image in files.images if image["file_name"] in used)
    annotation = next(each for each in files.annotations if each["image_id"] == entry["id"])
    annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    with pytest.raises(BadSampleError, match="object without area"):
        everything(files.dataset(object_classes="ball"))
    entry["width"] -= 1
    with pytest.raises(BadSampleError, match="another size"):
        everything(files.dataset(object_classes="ball"))


def test_defaults_are_the_objects_and_scenes_of_the_publication() -> None:
    dataset = Bam("a", "b", "c")
    assert len(dataset.object_classes.split(",")) == len(dataset.scene_classes.split(",")) == 10
    assert dataset.count == 1000


# --- cutting and pasting -----------------------------------------------------------------------------------------


def test_a_cutout_of_its_own_size_is_the_object() -> None:
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[3:9, 10:22] = rng.random((6, 12)) < 0.7
    mask[3, 10] = mask[8, 21] = True
    cutout = cut_out(photograph, mask, longer=12)
    assert np.array_equal(cutout.mask, mask[3:9, 10:22])
    assert np.array_equal(cutout.colours[cutout.mask], photograph[3:9, 10:22][cutout.mask])


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_a_cutout_has_its_length_and_only_colours_of_its_object(seed: int, longer: int) -> None:
    """Object pixels are 100 to 120 and all others 255 or 0, so that any trace of those would show."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 15), rng.integers(1, 15))) < rng.random()
    mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
    photograph = np.where(mask, rng.integers(100, 121, mask.shape), 255 * rng.integers(0, 2, mask.shape))
    cutout = cut_out(np.repeat(photograph[..., None], 3, axis=2).astype(np.uint8), mask, longer=longer)
    box = [int(np.ptp(np.flatnonzero(mask.any(axis=axis)))) + 1 for axis in (1, 0)]
    assert cutout.mask.shape == tuple(max(1, round(length * longer / max(box))) for length in box)
    assert cutout.mask.any()
    inside = cutout.colours[cutout.mask]
    assert 100 <= inside.min() <= inside.max() <= 120


def test_pasted_at_the_ends_of_its_room_an_object_touches_the_border() -> None:
    cutout = cut_out(np.full((4, 2, 3), 9, dtype=np.uint8), np.ones((4, 2), dtype=np.bool_), longer=4)
    scene = np.zeros((3, 6, 7), dtype=np.uint8)
    for at, (top, left) in {(1e-9, 1e-9): (0, 0), (1 - 1e-9, 1 - 1e-9): (2, 5), (0.5, 0.5): (1, 3)}.items():
        item = paste(cutout, scene, at=at)
        assert item.mask is not None
        assert np.argwhere(item.mask)[0].tolist() == [top, left]
        assert np.array_equal(item.pixels, np.where(item.mask, 9, scene))
        assert item.background is not None
        assert not item.background.any()


# --- real photographs, and the metric ----------------------------------------------------------------------------


@pytest.fixture
def photographs(real_data: Path, tmp_path: Path) -> Bam:
    """Objects of COCO's photographs on two generated textures."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(TEXTURES):
        if name in {"checks", "rings"}:
            (tmp_path / name).mkdir()
            for number, share in enumerate(texture(np.full(6, kind), rng.random((6, 3)), side=64)):
                first, second = rng.random((2, 3))
                pixels = 255 * (first + share[..., None] * (second - first))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    coco = real_data / "coco"
    return Bam(
        coco / "val2017", coco / "annotations" / "instances_val2017.json", tmp_path,
        object_classes="person,car", scene_classes="checks,rings", count=20, size=64,
    )  # fmt: skip


def test_objects_of_real_photographs_are_those_that_pycocotools_outlines(photographs: Bam) -> None:
    """The mean colour of what was pasted is that of the largest instance, and so is the share of its box it fills."""
    content = json.loads(Path(photographs.annotations).read_text())
    names = {image["file_name"]: image for image in content["images"]}
    categories = {each["name"]: each["id"] for each in content["categories"]}
    dataset = photographs.with_split("train")
    batch, images, backgrounds, masks = everything(dataset)
    compared = 0
    for row in range(0, len(batch), 3):
        record = dataset.records[row]
        image = names[record.path.name]
        instances = [
            each
            for each in content["annotations"]
            if each["image_id"] == image["id"]
            and each["category_id"] == categories[batch.ids[row].split("-")[0]]
            and not each["iscrowd"]
        ]
        largest = max(instances, key=lambda each: each["area"])
        code = largest["segmentation"]
        if isinstance(code, list):
            code = codes.merge(codes.frPyObjects(code, image["height"], image["width"]))  # type: ignore[attr-defined]
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # pycocotools meets NumPy 2
            truth = codes.decode(code).astype(bool)
        if truth.sum() < 1000:  # a small outline is enlarged, which rounds its corners
            continue
        compared += 1
        colour = np.asarray(Image.open(record.path).convert("RGB"))[truth].mean(axis=0)
        assert np.abs(images[row][:, masks[row]].mean(axis=1) - colour).max() < 6
        filled = truth.sum() / np.prod([np.ptp(np.flatnonzero(truth.any(axis=axis))) + 1 for axis in (0, 1)])
        box = [masks[row].any(axis=axis).sum() for axis in (0, 1)]
        assert masks[row].sum() / math.prod(box) == pytest.approx(filled, abs=0.08)
        assert np.array_equal(images[row][:, ~masks[row]], backgrounds[row][:, ~masks[row]])
    assert compared >= 10


def test_the_scores_of_the_metric_are_computed_on_it(photographs: Bam) -> None:
    network = SmallNet(n_classes=2)
    dataset = photographs.with_split("train")
    found = evaluate(network, Grad(), dataset, ["bam"], limit=24, controls=False, device="cpu").scores
    variants = found.groupby("variant")["value"]
    assert {*variants.groups} == {"object_attribution", "input_dependence", "input_independence"}
    assert (variants.count() > 0).all()
    values = found[found["variant"] == "object_attribution"].set_index("sample_id")["value"]
    batch = dataset.take(range(24))
    right = network(batch.images).argmax(dim=1) == batch.labels
    assert 0 < int(right.sum()) < 24
    assert batch.masks is not None
    expected = object_attribution(Grad().attribute(network, batch.images, batch.labels), batch.masks)
    for name, known, value in zip(batch.ids, right.tolist(), expected.tolist(), strict=True):
        assert values[name] == pytest.approx(value, abs=1e-5) if known else math.isnan(values[name])
