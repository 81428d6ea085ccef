"""Images of one's own: a folder for each class, with or without masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from PIL import Image

from .coco_annotations import NO_IMAGE as NO_LISTED_IMAGE
from .coco_annotations import CocoImage, CocoObject, Size, object_mask, open_annotated, read_annotations
from .files import (
    IMAGE_SUFFIXES,
    MISSING,
    BadSampleError,
    DatasetError,
    FileDataset,
    Listing,
    Masks,
    Record,
    files_in,
    inside,
    open_image,
    open_mask,
)

NO_CLASS = "image outside of the folders of the classes"
NO_MASK = "image without mask"
NO_IMAGE = "mask without image"
NOT_LISTED = "image that the annotations do not list"
NO_OBJECT = "image without an annotated object of its class"
OTHER_SIZE = "mask of another size than its image"
NOT_AN_IMAGE = "file that is no image by its name"


class _Outlines(NamedTuple):
    """What COCO-style annotations say about an image: its size, the objects of its class, and the others."""

    size: Size
    own: tuple[CocoObject, ...]
    others: tuple[CocoObject, ...]


@dataclass(frozen=True, eq=False)
class ImageFolder(FileDataset):
    """Images in folders: `root/CLASS/…/image.jpg`, with masks from a folder of PNG files or in COCO's format.

    The classes are the folders in `root`, in alphabetical order; folders within them are searched too. A sample is
    called like its file, `cat/indoors/01.jpg`, and samples come in the order of these names. Hidden files and folders
    are passed over; files whose suffix is that of no image are counted in `skipped`, and so are images in `root` itself
    and, with annotations, images without an object of their class.

    Masks in a folder have the names of their images with the suffix `.png` (`masks/cat/indoors/01.png`) and their size
    as it is displayed: images are turned as their EXIF orientation says. What is not 0 in a mask is the object.

    With annotations in COCO's format, file names are relative to `root`, and the mask is the union of the objects whose
    category is called like the class; `all_masks` has all objects. Sizes and orientation are as for `coco`.

    An image without mask, a mask without image or without object, and an image that the annotations do not list are
    errors, or with `on_bad_sample=skip` counted and left out.

    Args:
        root: the folder of the classes.
        masks: folder of the masks, or nothing.
        annotations: JSON file in COCO's format, or nothing.
        split: see `FileDataset`, as for all other arguments.
        size: see there.
        resize: see there; 256 is what networks for ImageNet are usually tested with.
        normalize: see there.
        label_map: see there; samples whose class has no counterpart are left out and counted.
        on_bad_sample: see there.
        workers: see there.

    Raises:
        ValueError: both `masks` and `annotations` are given.
        DatasetError: `root` has no folders, or a folder or file is missing.
        BadSampleError: see above.

    Example:
        >>> ImageFolder("pictures", size=64).image_shape
        (3, 64, 64)
    """

    name: ClassVar[str] = "image_folder"
    places: ClassVar[frozenset[str]] = frozenset({"root", "masks", "annotations"})

    root: str | Path
    masks: str | Path = ""
    annotations: str | Path = ""

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        if self.masks and self.annotations:
            raise ValueError("masks must come from `masks` or from `annotations`, both were given")

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks."""
        return bool(self.masks or self.annotations)

    def listing(self) -> Listing:
        """Find the images, and what belongs to them."""
        root = _folder("root", self.root)
        classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not _hidden(path.name)))
        if not classes:
            raise DatasetError(f"`root` must have a folder for each class, `{root}` has none")
        skipped: Counter[str] = Counter()
        names = self._image_names(root, skipped)
        skipped[NO_CLASS] += sum("/" not in name for name in names)
        names = [name for name in names if "/" in name]
        records = [Record(name.replace("#", "%23"), name, root / name, _label(name, classes)) for name in names]
        if self.masks:
            records, used = self._with_masks(records, skipped)
        elif self.annotations:
            records, used = self._with_outlines(records, classes, skipped)
        else:
            used = []
        return Listing(classes, records, +skipped, used)

    def image_of(self, record: Record) -> Image.Image:
        """Return the image as it is displayed, or as its annotation sees it."""
        if isinstance(record.annotation, _Outlines):
            return open_annotated(record.path, record.annotation.size)
        return open_image(record.path)

    def masks_of(self, record: Record, size: Size) -> Masks | None:
        """Return the mask of the file, or that of the annotated objects."""
        match record.annotation:
            case _Outlines(own=own, others=others):
                mask = object_mask(own, size, truth="segmentation", path=record.path)
                return Masks(mask, mask | object_mask(others, size, truth="segmentation", path=record.path))
            case Path() as path:
                mask = open_mask(path)
                if mask.shape != size:
                    raise BadSampleError(path, OTHER_SIZE, f"{_by(mask.shape)}, the image has {_by(size)} pixels")
                return Masks(mask)
            case _:
                return None

    def _image_names(self, root: Path, skipped: Counter[str]) -> list[str]:
        """Return the relative names of all images, sorted."""
        names: list[str] = []
        for found in files_in(root):
            if isinstance(found, BadSampleError):
                self.reject(skipped, found)
            elif found.suffix.lower() in IMAGE_SUFFIXES:
                names.append(found.relative_to(root).as_posix())
            else:
                skipped[NOT_AN_IMAGE] += 1
        return sorted(names)

    def _with_masks(self, records: list[Record], skipped: Counter[str]) -> tuple[list[Record], list[Path]]:
        """Give every record its mask; also return the masks."""
        folder = _folder("masks", self.masks)
        unused = {name for name in self._image_names(folder, Counter()) if name.endswith(".png")}
        kept: list[Record] = []
        for record, name in zip(records, _mask_names(records), strict=True):
            if (folder / name).is_file():
                kept.append(replace(record, annotation=inside(folder, name)))
            else:
                self.reject(skipped, BadSampleError(record.path, NO_MASK, f"there is no `{folder / name}`"))
            unused.discard(name)
        for name in sorted(unused):
            self.reject(skipped, BadSampleError(folder / name, NO_IMAGE))
        return kept, [record.annotation for record in kept]

    def _with_outlines(
        self, records: list[Record], classes: tuple[str, ...], skipped: Counter[str]
    ) -> tuple[list[Record], list[Path]]:
        """Give every record its objects; also return the annotation file."""
        path = Path(self.annotations).expanduser()
        content = read_annotations(path)
        listed = {image.name: image for image in content.images}
        for orphan in content.orphans:
            self.reject(skipped, BadSampleError(path, NO_LISTED_IMAGE, f"annotation {orphan}"))
        for name in sorted(listed.keys() - {record.name for record in records}):
            self.reject(skipped, BadSampleError(path, MISSING, name))
        kept: list[Record] = []
        for record in records:
            if record.name not in listed:
                self.reject(skipped, BadSampleError(record.path, NOT_LISTED))
                continue
            outlines = _outlines(listed[record.name], classes[record.label], content.categories)
            if outlines.own:
                kept.append(replace(record, annotation=outlines))
            skipped[NO_OBJECT] += not outlines.own
        return kept, [path]


def _folder(argument: str, place: str | Path) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"`{argument}` must be a folder, `{folder}` is none (looked in {Path.cwd()})")
    return folder


def _mask_names(records: list[Record]) -> list[str]:
    names = [str(PurePosixPath(record.name).with_suffix(".png")) for record in records]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(f"mask `{twice[0]}` would belong to several images, whose names differ in the suffix only")
    return names


def _outlines(image: CocoImage, name: str, categories: tuple[str, ...]) -> _Outlines:
    own = tuple(each for each in image.objects if categories[each.category] == name)
    return _Outlines(image.size, own, tuple(each for each in image.objects if categories[each.category] != name))


def _label(name: str, classes: tuple[str, ...]) -> int:
    return classes.index(name.partition("/")[0])


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
