"""Pascal VOC: photographs with boxes and outlines of twenty kinds of objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from .coco_annotations import open_annotated
from .files import (
    BadSampleError,
    DatasetError,
    FileDataset,
    Listing,
    Masks,
    Record,
    inside,
    open_image,
    open_indices,
    sample_name,
)
from .label_spaces import network_classes
from .limited_reading import MEBIBYTE, read_text
from .pascal_xml import Difficult, PascalObject, Size, box_mask, counted, read_annotation

Truth = Literal["box", "class", "object"]
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
AS_IN_COCO = MappingProxyType({"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"})
"""What COCO calls the classes that have another name there and a counterpart in ImageNet."""

VOID = 255
"""Palette index of pixels that belong to no object for sure: borders, and what was hard to tell."""
ONLY_DIFFICULT = "class whose objects are all difficult"
NO_OBJECT = "image without object"
UNKNOWN_CLASS = "object of an unknown class"
UNKNOWN_OBJECT = "outline of an object that is not annotated"
OTHER_SIZE = "mask of another size than its image"
_MOST = 64 * MEBIBYTE


class _Annotation(NamedTuple):
    """What is annotated in an image.

    Attributes:
        present: all classes in it.
        samples: those of them that are samples.
        files: where this stands; masks are made of the last one.
        size: annotated height and width, if known.
        objects: all objects, in the order of the XML file.
    """

    present: frozenset[int]
    samples: frozenset[int]
    files: tuple[Path, ...]
    size: Size | None = None
    objects: tuple[PascalObject, ...] = ()


@dataclass(frozen=True, eq=False)
class Voc(FileDataset):
    """Photographs with several objects each, in the layout of Pascal VOC: one sample for each image and class.

    The label is the class; `present` has all annotated classes of the image, `all_masks` all annotated objects. Samples
    are called `2007_000032#aeroplane` and come in the order of the set's list. What the masks are made of, `truth`:

    * `"box"`: the boxes of `Annotations/2007_000032.xml`, whose corners are counted from 1 and belong to the box;
    * `"class"`: the pixels of the class in `SegmentationClass/2007_000032.png`; no XML file is read, and no object is
      known to be difficult;
    * `"object"`: the pixels in `SegmentationObject/2007_000032.png` of the objects that have the class in the XML file.

    Pixels that are void (255) belong to no object.

    Images are used as they are stored, unless the XML file has the height and width of the turned image. A file that is
    missing or damaged, an object of another class than VOC's twenty, an annotation of another size than its image and a
    box outside of the image are errors, or are counted and left out with `on_bad_sample=skip`.

    Args:
        root: the folder with `JPEGImages`, such as `VOCdevkit/VOC2012`.
        truth: `"box"`, `"class"` or `"object"`.
        difficult: `"skip"` leaves out classes whose objects in an image are all flagged difficult, and counts them;
            `"keep"` treats difficult objects like all others; `"drop"` also leaves them out of `masks`.
        image_set: the list of images, as in `ImageSets/Main/test.txt` (for outlines `ImageSets/Segmentation`); by
            default `train` for the training part and `val` for the test part.
        split: see `FileDataset`, as for all other arguments.
        size: see there.
        resize: see there.
        normalize: see there.
        label_map: see there; `"imagenet"` knows the classes of VOC by their names in COCO.
        on_bad_sample: see there.
        workers: see there.

    Raises:
        DatasetError: a folder or list is missing.
        BadSampleError: see above.

    Reference:
        M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The Pascal Visual Object Classes (VOC)
        Challenge", IJCV 88(2), 2010.

    Example:
        >>> Voc("VOCdevkit/VOC2012", truth="class", label_map="imagenet").network_classes.sum(dim=1)[:2].tolist()
        [3, 2]
    """

    name: ClassVar[str] = "voc"
    places: ClassVar[frozenset[str]] = frozenset({"root"})

    root: str | Path
    truth: Truth = "box"
    difficult: Difficult = "skip"
    image_set: str = ""

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        for argument, choices in (("truth", get_args(Truth)), ("difficult", get_args(Difficult))):
            if getattr(self, argument) not in choices:
                raise ValueError(f"`{argument}` must be one of {', '.join(choices)}, was {getattr(self, argument)!r}")

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks: they do."""
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return CLASSES

    @cached_property
    def network_classes(self) -> Tensor | None:
        """`(20, M)` bool, which classes of a network count as each class; `None` where they are the same."""
        if self.label_map == "imagenet":
            return network_classes(self.label_map, [AS_IN_COCO.get(name, name) for name in CLASSES])
        return super().network_classes

    def with_split(self, split: str) -> Self:
        """Return the other part: that of the set `train` or `val`."""
        return self if split == self.split else replace(self, split=split, image_set="")

    def listing(self) -> Listing:
        """Read the list of the set and the annotations of its images."""
        folder = Path(self.root).expanduser()
        if not (folder / "JPEGImages").is_dir():
            raise DatasetError(
                f"`voc` must have a folder `JPEGImages` in `{folder}` (that is `{folder.resolve()}`), there is none: "
                "name the folder that has it, such as `voc?root=VOCdevkit/VOC2012`"
            )
        listed = folder / "ImageSets" / ("Main" if self.truth == "box" else "Segmentation") / f"{self._set}.txt"
        skipped: Counter[str] = Counter()
        records: list[Record] = []
        used = [listed]
        for name in _names(listed):
            image = inside(folder / "JPEGImages", f"{name}.jpg")
            try:
                annotation = self._annotation(folder, name)
            except BadSampleError as error:
                self.reject(skipped, error)
                continue
            used += annotation.files
            skipped[NO_OBJECT] += not annotation.present
            skipped[ONLY_DIFFICULT] += len(annotation.present - annotation.samples)
            records += [
                Record(
                    f"{sample_name(name)}#{CLASSES[label]}", image.name, image, label, annotation.present, annotation
                )
                for label in sorted(annotation.samples)
            ]
        return Listing(CLASSES, records, +skipped, used)

    def image_of(self, record: Record) -> Image.Image:
        """Return the image in the orientation of its annotation."""
        size: Size | None = record.annotation.size
        return open_image(record.path, upright=False) if size is None else open_annotated(record.path, size)

    def masks_of(self, record: Record, size: Size) -> Masks:
        """Return the boxes or pixels of the class, and those of all objects."""
        annotation: _Annotation = record.annotation
        path = annotation.files[-1]
        own = [
            (number, each)
            for number, (each, counts) in enumerate(
                zip(annotation.objects, counted(annotation.objects, self.difficult), strict=True), start=1
            )
            if counts and each.name == CLASSES[record.label]
        ]
        if self.truth == "box":
            everything = box_mask(annotation.objects, size, path=path)
            return Masks(box_mask([each for _, each in own], size, path=path), everything)
        indices = open_indices(path)
        if indices.shape != size:
            raise BadSampleError(path, OTHER_SIZE, f"{indices.shape}, the image has {size} (height, width)")
        numbers = [record.label + 1] if self.truth == "class" else [number for number, _ in own]
        return Masks(np.isin(indices, numbers), (indices > 0) & (indices != VOID))

    @property
    def _set(self) -> str:
        return self.image_set or {"train": "train", "test": "val"}[self.split]

    def _annotation(self, folder: Path, name: str) -> _Annotation:
        """Read what is annotated in an image."""
        outlines = inside(folder / f"Segmentation{self.truth.capitalize()}", f"{name}.png")
        if self.truth == "class":
            labels = frozenset(number - 1 for number in _numbers(outlines, len(CLASSES), UNKNOWN_CLASS))
            return _Annotation(labels, labels, (outlines,))
        path = inside(folder / "Annotations", f"{name}.xml")
        size, objects = read_annotation(path)
        unknown = [each.name for each in objects if each.name not in CLASSES]
        if unknown:
            raise BadSampleError(path, UNKNOWN_CLASS, f"`{unknown[0]}`; known are {', '.join(CLASSES)}")
        if self.truth == "object":
            _numbers(outlines, len(objects), UNKNOWN_OBJECT)
        labels = [CLASSES.index(each.name) for each in objects]
        samples = compress(labels, counted(objects, self.difficult))
        files = (path,) if self.truth == "box" else (path, outlines)
        return _Annotation(frozenset(labels), frozenset(samples), files, size, objects)


def _names(path: Path) -> list[str]:
    """Read the names of a set's images."""
    try:
        lines = read_text(path, most=_MOST).splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"`voc` must have a list of its images in `{path}`: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if len(name.split()) > 1:
            raise DatasetError(
                f"`{path}` must have the name of one image on each line, has `{name}`: the lists of single classes are "
                "no sets"
            )
    return names


def _numbers(path: Path, most: int, fault: str) -> list[int]:
    """Read which numbers stand in an image of outlines, but for the background and what is void."""
    numbers = [int(number) for number in np.unique(open_indices(path)) if number not in {0, VOID}]
    if numbers and numbers[-1] > most:
        raise BadSampleError(path, fault, f"number {numbers[-1]} of {most}")
    return numbers
