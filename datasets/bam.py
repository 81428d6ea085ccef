"""BAM: objects cut out of photographs and pasted on scenes, so that it is known whether they matter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .coco_annotations import (
    NO_IMAGE,
    CocoAnnotations,
    CocoObject,
    Size,
    object_mask,
    open_annotated,
    read_annotations,
)
from .files import IMAGE_SUFFIXES, BadSampleError, DatasetError, FileDataset, Item, Listing, Record, inside, open_image
from .philox import random_words, sample_keys, uniform

Label = Literal["object", "scene"]
_T = TypeVar("_T", "_Instances", Path)

OBJECTS = ("backpack", "bird", "dog", "elephant", "kite", "pizza", "stop sign", "toilet", "truck", "zebra")
"""The publication's objects, categories of COCO."""
SCENES = (
    "bamboo_forest", "bedroom", "bowling_alley", "bus_interior", "cockpit", "corn_field", "laundromat", "runway",
    "ski_slope", "track/outdoor",
)  # fmt: skip
"""The publication's scenes, classes of MiniPlaces."""
LENGTHS = (1 / math.sqrt(3), 1 / math.sqrt(2))
"""Least and greatest length of an object's longer side, as a share of the scene's side."""


class _Instances(NamedTuple):
    """The objects of one category in a photograph, and where that is."""

    path: Path
    size: Size
    objects: tuple[CocoObject, ...]


class _Pasting(NamedTuple):
    """What is pasted on which scene."""

    instances: _Instances
    scene: Path


class Cutout(NamedTuple):
    """An object without its surroundings.

    Attributes:
        colours: `(h, w, 3)` uint8.
        mask: `(h, w)` bool, where the object is; its other pixels mean nothing.
    """

    colours: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bam(FileDataset):
    """Objects pasted on scenes (Yang & Kim): ten objects of COCO, ten scenes, every object on every scene.

    Of every photograph, the largest instance of the object's category is cut out along its mask. It is resized so that
    its longer side is 1/√3 to 1/√2 of the scene's, by a random factor, and pasted at a random place. The mask is
    what was pasted and `backgrounds` are the scenes without it, exactly. The same images are labelled by their objects
    or by their scenes, so that a network of either kind can be trained and scored by the metric `bam`.

    Pair by pair there are `count` images, `dog-bedroom-0042` among them. The last tenth of them is for testing. No
    photograph and no scene is in both parts; where a category has fewer than `count`, they are used again in their part
    at other lengths and places. Which ones are used, lengths and places are drawn by `seed` and names alone. Images are
    made when they are asked for.

    Departs from the released data, whose draws were not published, in these: images are made at the size of the
    network's input (there, at 128×128, and enlarged); edges are not blended with the photograph that an object comes
    from; and crowds are not instances.

    Args:
        images: folder of COCO's photographs.
        annotations: JSON file with their annotations (COCO's `instances_….json`).
        scenes: folder with a folder of images for each scene.
        object_classes: names of the categories, separated by commas.
        scene_classes: names of the folders of scenes, separated by commas; `track/outdoor` is a folder in a folder.
        label: `"object"` or `"scene"`: what the classes are.
        count: how many images every pair has, both parts together, at least 10.
        seed: another seed makes other images.
        split: `"train"` or `"test"`.
        size: see `FileDataset`, as for all other arguments.
        resize: how scenes get to their size.
        normalize: see there.
        label_map: see there.
        on_bad_sample: see there.
        workers: see there.

    Raises:
        ValueError: `label` or `count` is none of these, or there are no classes or one twice.
        DatasetError: the annotation file is inconsistent, or a category or scene has too few images.
        BadSampleError: a photograph, its annotation or a scene cannot be used.

    Reference:
        Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, arXiv:1907.09701, 2019

    Example:
        >>> Bam("coco/train2017", "coco/instances_train2017.json", "scenes", label="scene").image_shape
        (3, 224, 224)
    """

    name: ClassVar[str] = "bam"

    places: ClassVar[frozenset[str]] = frozenset({"images", "annotations", "scenes"})

    images: str | Path
    annotations: str | Path
    scenes: str | Path
    object_classes: str = ",".join(OBJECTS)
    scene_classes: str = ",".join(SCENES)
    label: Label = "object"
    count: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        if self.label not in get_args(Label):
            raise ValueError(f'`label` must be "object" or "scene", was {self.label!r}')
        if self.count < 10:
            raise ValueError(f"`count` must be at least 10, was {self.count}")
        for argument in ("object_classes", "scene_classes"):
            names = _names(getattr(self, argument))
            if not all(names) or len(set(names)) < len(names):
                raise ValueError(f"`{argument}` must be different names with commas between them, were {names}")

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks: they do."""
        return True

    @property
    def has_backgrounds(self) -> bool:
        """Whether samples come with their images without the object: they do."""
        return True

    def with_split(self, split: str) -> Self:
        """Return the same dataset's other part."""
        return replace(self, split=split)

    def listing(self) -> Listing:
        """Read the annotations and the names of the scenes, and pair them."""
        path = Path(self.annotations).expanduser()
        content = read_annotations(path)
        skipped: Counter[str] = Counter()
        for orphan in content.orphans:
            self.reject(skipped, BadSampleError(path, NO_IMAGE, f"annotation {orphan}"))
        objects, scenes = _names(self.object_classes), _names(self.scene_classes)
        cutouts = [self._part(self._instances(content, name), name) for name in objects]
        grounds = [self._part(self._scene_files(name), name) for name in scenes]
        records: list[Record] = []
        testing = self.count // 10
        start, count = (0, self.count - testing) if self.split == "train" else (self.count - testing, testing)
        # The index outermost, so that the first hundred samples are one of each pair.
        for index, thing, scene in product(range(count), range(len(objects)), range(len(scenes))):
            name = f"{objects[thing]}-{scenes[scene]}-{start + index:04d}"
            instances = cutouts[thing][index % len(cutouts[thing])]
            pasting = _Pasting(instances, grounds[scene][index % len(grounds[scene])])
            label = thing if self.label == "object" else scene
            records.append(Record(name, name, instances.path, label, annotation=pasting))
        return Listing(tuple(objects if self.label == "object" else scenes), records, skipped, (path,))

    def read_image(self, records: Sequence[Record]) -> Sequence[Item]:
        """Make the images of some samples."""
        return [self._pasted(record) for record in records]

    def _pasted(self, record: Record) -> Item:
        pasting: _Pasting = record.annotation
        path, size, objects = pasting.instances
        photograph = np.asarray(open_annotated(path, size))
        masks = [object_mask([each], size, truth="segmentation", path=path) for each in objects]
        largest = max(masks, key=np.count_nonzero)
        if not largest.any():
            raise BadSampleError(path, "object without area", record.id)
        draws = uniform(self.seed, "bam/paste", sample_keys([record.id]), 0, 3)[0].tolist()
        longer = round(self.size * (LENGTHS[0] + draws[0] * (LENGTHS[1] - LENGTHS[0])))
        return paste(cut_out(photograph, largest, longer=longer), self._scene(pasting.scene), at=(draws[1], draws[2]))

    def _scene(self, path: Path) -> NDArray[np.uint8]:
        try:
            return self.geometry.image(open_image(path))
        except ValueError as error:
            if isinstance(error, BadSampleError):
                raise
            raise BadSampleError(path, "image that does not fit the geometry", str(error)) from error

    def _instances(self, content: CocoAnnotations, name: str) -> dict[str, _Instances]:
        """Return the photographs with objects of a category, by their names."""
        if name not in content.categories:
            raise DatasetError(
                f"`object_classes` must name categories of `{self.annotations}`, `{name}` is none; "
                f"there are: {', '.join(content.categories)}"
            )
        category, folder = content.categories.index(name), Path(self.images).expanduser()
        found = {
            image.name: tuple(each for each in image.objects if each.category == category and not each.crowd)
            for image in content.images
        }
        sizes = {image.name: image.size for image in content.images}
        return {key: _Instances(inside(folder, key), sizes[key], objects) for key, objects in found.items() if objects}

    def _scene_files(self, name: str) -> dict[str, Path]:
        """Return the images of a scene, by their names."""
        folder = inside(Path(self.scenes).expanduser(), name)
        if not folder.is_dir():
            raise DatasetError(f"`scenes` must hold a folder of images for each scene, `{folder}` is not there")
        names = (path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        return {f"{name}/{file}": inside(folder, file) for file in names}

    def _part(self, found: dict[str, _T], what: str) -> list[_T]:
        """Shuffle images by their names, and return those that this split uses."""
        names = sorted(found)
        keys = sample_keys([f"{what}\n{name}" for name in names])
        words: list[list[int]] = random_words(self.seed, "bam/order", keys, 0, 2).tolist()
        order = sorted(range(len(names)), key=words.__getitem__)[: self.count]
        training = len(order) - max(1, round(len(order) / 10))
        kept = order[:training] if self.split == "train" else order[training:]
        if not order or not kept:
            raise DatasetError(
                f"`{what}` must have at least {1 if self.split == 'test' else 2} images for the {self.split} part of "
                f"dataset `{self.name}`, had {len(order)}: give more, or leave it out (`object_classes`, "
                "`scene_classes`)"
            )
        return [found[names[index]] for index in kept]

    def _facts(self) -> tuple[Any, ...]:
        """Return everything that decides about samples besides the photographs and their annotations."""
        scenes = {record.annotation.scene for record in self.records}
        folder = Path(self.scenes).expanduser()
        sizes = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in scenes)
        return (*super()._facts(), sizes)


def cut_out(photograph: NDArray[np.uint8], mask: NDArray[np.bool_], *, longer: int) -> Cutout:
    """Cut an object out along its mask and resize it, with antialiasing, without a trace of its surroundings.

    A pixel of the result belongs to the object if at least half of what it is made of does; its colour is the mean
    of that alone.

    Args:
        photograph: `(H, W, 3)` uint8.
        mask: `(H, W)` bool, with a true pixel.
        longer: length of the longer side of the box around the object, in pixels of the result.

    Example:
        >>> photograph = np.full((9, 9, 3), 7, dtype=np.uint8)
        >>> cutout = cut_out(photograph, np.eye(9, dtype=np.bool_)[::-1] | np.eye(9, dtype=np.bool_), longer=18)
        >>> cutout.mask.shape, set(cutout.colours[cutout.mask].flatten().tolist())
        ((18, 18), {7})
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = mask[box].shape
    size = tuple(max(1, round(length * longer / max(height, width))) for length in (height, width))
    share = _resized(mask[box], size)
    kept = share >= min(0.5, share.max())
    inked = photograph[box] * mask[box][..., None]
    colours = np.stack([_resized(inked[..., channel], size) for channel in range(3)], axis=-1)
    colours /= np.where(kept, share, 1)[..., None]
    return Cutout(np.rint(np.clip(colours, 0, 255)).astype(np.uint8), kept)


def paste(cutout: Cutout, scene: NDArray[np.uint8], *, at: tuple[float, float]) -> Item:
    """Paste an object on a scene, `(3, H, W)`, as far down and right as the shares `at` in (0, 1) of the room say.

    Example:
        >>> dot = Cutout(np.full((1, 1, 3), 7, dtype=np.uint8), np.ones((1, 1), dtype=np.bool_))
        >>> paste(dot, np.zeros((3, 2, 4), dtype=np.uint8), at=(0.9, 0.3)).pixels[0]
        array([[0, 0, 0, 0],
               [0, 7, 0, 0]], dtype=uint8)
    """
    height, width = cutout.mask.shape
    top, left = (
        math.floor(share * (side - length + 1))
        for share, side, length in zip(at, scene.shape[1:], (height, width), strict=True)
    )
    mask = np.zeros(scene.shape[1:], dtype=np.bool_)
    mask[top : top + height, left : left + width] = cutout.mask
    pixels = scene.copy()
    pixels[:, mask] = cutout.colours[cutout.mask].T
    return Item(pixels, mask, background=scene)


def _resized(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    height, width = size
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
