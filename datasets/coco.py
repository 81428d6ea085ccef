"""COCO: photographs with the outlines of the objects in them; also whatever is annotated in COCO's format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, get_args

from PIL import Image

from .coco_annotations import (
    NO_IMAGE,
    CocoImage,
    CocoObject,
    Size,
    Truth,
    object_mask,
    open_annotated,
    read_annotations,
)
from .files import BadSampleError, FileDataset, Listing, Masks, Record, inside, sample_name

NOT_ANNOTATED = "image without annotation"


class _Annotation(NamedTuple):
    """What a record says about its image."""

    size: Size
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True, eq=False)
class Coco(FileDataset):
    """Photographs with several objects each, annotated in COCO's format: one sample for each image and category.

    The mask of a sample is the union of all instances of its category, crowd regions included; `all_masks` is the
    union of all annotated objects. The label is the category; `present` has all categories of the image. Samples are
    called `000000397133#dog` and come in the order of file names. Images without an annotation are left out and
    counted in `skipped`.

    Masks come from pycocotools (polygons, run-length codes) at the size of the image and are then brought to the size
    of the input by nearest neighbour, where a very small object may have no pixel left: such a sample has no truth. So
    has one whose object lies in what `resize=crop` cuts off.

    Images are used as they are stored, because COCO's annotations refer to the stored pixels; the EXIF orientation is
    followed only where the annotated height and width say so.

    An annotation that cannot be right (outline outside of the image, negative box, run-length code of another size, no
    area at all), an annotation without its image and an unreadable image are errors, or with `on_bad_sample=skip` leave
    out all samples of the image: the mask of another object may lack something too.

    Args:
        images: folder of the images.
        annotations: JSON file with `images`, `annotations` and `categories` (COCO's `instances_….json`).
        truth: `"segmentation"` or `"box"`: what the masks are made of.
        split: see `FileDataset`, as for all other arguments.
        size: see there.
        resize: see there.
        normalize: see there.
        label_map: see there; samples whose category has no counterpart are left out and counted.
        on_bad_sample: see there.
        workers: see there.

    Raises:
        DatasetError: the annotation file is missing or inconsistent.
        BadSampleError: see above.

    Example:
        >>> Coco("coco/val2017", "coco/instances_val2017.json", label_map="imagenet").image_shape
        (3, 224, 224)
    """

    name: ClassVar[str] = "coco"
    places: ClassVar[frozenset[str]] = frozenset({"images", "annotations"})

    images: str | Path
    annotations: str | Path
    truth: Truth = "segmentation"

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        if self.truth not in get_args(Truth):
            raise ValueError(f"`truth` must be one of {', '.join(get_args(Truth))}, was {self.truth!r}")

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks: they do."""
        return True

    def listing(self) -> Listing:
        """Read the annotation file."""
        path, folder = Path(self.annotations).expanduser(), Path(self.images).expanduser()
        content = read_annotations(path)
        skipped: Counter[str] = Counter()
        for orphan in content.orphans:
            self.reject(skipped, BadSampleError(path, NO_IMAGE, f"annotation {orphan}"))
        records: list[Record] = []
        for image in content.images:
            records += _records(image, folder, content.categories)
            skipped[NOT_ANNOTATED] += not image.objects
        return Listing(content.categories, records, +skipped, (path,))

    def image_of(self, record: Record) -> Image.Image:
        """Return the image in the orientation of its annotation."""
        return open_annotated(record.path, record.annotation.size)

    def masks_of(self, record: Record, size: Size) -> Masks:
        """Return the union of the category's instances, and that of all objects."""
        objects: tuple[CocoObject, ...] = record.annotation.objects
        own = [each for each in objects if each.category == record.label]
        mask = object_mask(own, size, truth=self.truth, path=record.path)
        others = [each for each in objects if each.category != record.label]
        return Masks(mask, mask | object_mask(others, size, truth=self.truth, path=record.path))


def _records(image: CocoImage, folder: Path, categories: tuple[str, ...]) -> list[Record]:
    """Return a record for every category in an image."""
    annotation = _Annotation(image.size, image.objects)
    present = frozenset(each.category for each in image.objects)
    path = inside(folder, image.name)
    return [
        Record(f"{sample_name(image.name)}#{categories[label]}", image.name, path, label, present, annotation)
        for label in sorted(present)
    ]
