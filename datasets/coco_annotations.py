"""Reading annotations in COCO's JSON format, and making masks of them."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycocotools_mask

from .files import BadSampleError, DatasetError, open_image
from .limited_reading import MEBIBYTE, read_json

Truth = Literal["segmentation", "box"]
Size = tuple[int, int]
_CODES = cast("Any", pycocotools_mask)  # its stub does not know that it takes polygons and lists
NO_IMAGE = "annotation of an image that is not listed"
BROKEN_OBJECT = "annotation that cannot be a mask"
OTHER_SIZE = "image of another size than its annotation says"
_MOST = 4096 * MEBIBYTE  # the largest files in use have one and a half thousand
_RUN_BITS = 60


class CocoObject(NamedTuple):
    """An annotated object.

    Attributes:
        id: of the annotation.
        category: class index, in the order of the category ids.
        segmentation: polygons, or a run-length code, as it stands in the file.
        box: x, y, width and height, as it stands in the file.
        crowd: whether it is a region of many objects.
    """

    id: int
    category: int
    segmentation: Any
    box: Any
    crowd: bool = False


class CocoImage(NamedTuple):
    """An image and what is annotated in it.

    Attributes:
        name: file name within the folder of images.
        size: height and width that the annotations refer to.
        objects: all annotated objects.
    """

    name: str
    size: Size
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True, eq=False)
class CocoAnnotations:
    """The content of an annotation file.

    Attributes:
        categories: names of the categories, in the order of their ids.
        images: all images, by name.
        orphans: ids of annotations whose image is not listed.
    """

    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]
    orphans: tuple[int, ...]


def read_annotations(path: Path) -> CocoAnnotations:
    """Read an annotation file ("instances") and check that it is consistent.

    Raises:
        DatasetError: it is missing, no JSON, lacks something, or has the same id or name for two things.
    """
    content = _json(path)
    images, annotations, categories = (_entries(content, key, path) for key in ("images", "annotations", "categories"))
    for entries, key in (
        (images, "id"), (images, "file_name"), (annotations, "id"), (categories, "id"), (categories, "name"),
    ):  # fmt: skip
        _check_once(entries, key, path)
    categories.sort(key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    objects: defaultdict[Any, list[CocoObject]] = defaultdict(list)
    for each in annotations:
        _check_number(each, "image_id", path)
        _check_number(each, "category_id", path)
        if each["category_id"] not in index:
            raise DatasetError(
                f"`{path}`: annotation {each['id']} has the category {each['category_id']}, which is not listed"
            )
        objects[each["image_id"]].append(
            CocoObject(
                each["id"],
                index[each["category_id"]],
                each.get("segmentation"),
                each.get("bbox"),
                bool(each.get("iscrowd")),
            )
        )
    known = {image["id"] for image in images}
    return CocoAnnotations(
        tuple(category["name"] for category in categories),
        tuple(sorted(CocoImage(each["file_name"], _size(each, path), tuple(objects[each["id"]])) for each in images)),
        tuple(each["id"] for each in annotations if each["image_id"] not in known),
    )


def object_mask(objects: Iterable[CocoObject], size: Size, *, truth: Truth, path: Path) -> NDArray[np.bool_]:
    """Return the `(h, w)` bool union of some objects.

    A polygon or run-length code is decoded by pycocotools, which cuts off what lies outside of the image. A box is
    filled: a pixel belongs to it if its centre lies within.

    Args:
        objects: the objects.
        size: height and width of the image.
        truth: take the segmentations or the boxes.
        path: the image, for errors.

    Raises:
        BadSampleError: an annotation is malformed, does not fit the image's size or lies outside of the image.
    """
    union: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_)
    for each in objects:
        try:
            union |= _filled(each.box, size) if truth == "box" else _segmented(each.segmentation, size)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadSampleError(path, BROKEN_OBJECT, f"annotation {each.id}: {error}") from error
    return union


def open_annotated(path: Path, size: Size, *, data: bytes | None = None) -> Any:
    """Return an image as RGB, in the orientation that its annotation has.

    COCO's annotations refer to the pixels as they are stored, whatever the EXIF orientation says. A file is turned
    only where its stored pixels do not have the annotated height and width and the turned ones do.

    Args:
        path: the file.
        size: annotated height and width.
        data: its content, as in `open_image`.

    Raises:
        BadSampleError: it cannot be read, or its size is not the annotated one.
    """
    for upright in (False, True):
        image = open_image(path, upright=upright, data=data)
        if (image.height, image.width) == size:
            return image
    raise BadSampleError(path, OTHER_SIZE, f"{image.height}×{image.width}, annotated {size[0]}×{size[1]}")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path, most=_MOST)
    except (OSError, ValueError) as error:
        raise DatasetError(f"`annotations` must be a JSON file in COCO's format, `{path}` is not: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(
            f"`{path}` must hold a JSON object, as COCO's annotation files do, was a {type(content).__name__}"
        )
    return cast("Mapping[str, Any]", content)


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[Any]", entries)):
        raise DatasetError(f"`{path}` must have a list of objects under `{key}`, as COCO's `instances` files do")
    return cast("list[dict[str, Any]]", entries)


def _check_once(entries: Sequence[Mapping[str, Any]], key: str, path: Path) -> None:
    """Check that every entry has a `key` of its own."""
    for entry in entries:
        if "name" in key:
            _check_name(entry, key, path)
        else:
            _check_number(entry, key, path)
    twice = [value for value, count in Counter(entry[key] for entry in entries).items() if count > 1]
    if twice:
        raise DatasetError(f"`{path}`: `{key}` must differ between entries, {len(twice)} occur twice, as {twice[0]!r}")


def _check_number(entry: Mapping[str, Any], key: str, path: Path) -> None:
    if type(entry.get(key)) is not int:
        raise DatasetError(f"`{path}`: an entry must have `{key}` (int), was {entry.get(key)!r}")


def _check_name(entry: Mapping[str, Any], key: str, path: Path) -> None:
    """Check for text that can be written in UTF-8: JSON's escapes can say more."""
    name = entry.get(key)
    if not isinstance(name, str) or any("\ud800" <= character <= "\udfff" for character in name):
        raise DatasetError(f"`{path}`: an entry must have `{key}` (str), was {name!r}")


def _size(image: Mapping[str, Any], path: Path) -> Size:
    size = image.get("height"), image.get("width")
    if not all(type(length) is int and length > 0 for length in size):
        raise DatasetError(f"`{path}`: image {image['id']} must have `height` and `width` in pixels, had {size}")
    return cast("Size", size)


def _segmented(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        code = _checked_code(cast("Mapping[str, Any]", segmentation), size)
    else:
        polygons = [[*_checked_polygon(polygon, size)] for polygon in _sequence(segmentation)]
        if not polygons:
            raise ValueError("it has no polygon")
        corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        _check_overlap(left, top, right, bottom, size)
        code = _CODES.merge(_CODES.frPyObjects(polygons, *size))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # pycocotools meets NumPy 2
        decoded: NDArray[np.bool_] = _CODES.decode(code).astype(np.bool_)
    return decoded


def _filled(box: Any, size: Size) -> NDArray[np.bool_]:
    x, y, width, height = _numbers(_sequence(box))
    if width < 0 or height < 0:
        raise ValueError(f"the box has a negative size: {width:g}×{height:g}")
    _check_overlap(x, y, x + width, y + height, size)
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    return ((rows >= y) & (rows < y + height))[:, None] & ((columns >= x) & (columns < x + width))


def _checked_polygon(polygon: Any, size: Size) -> Iterator[float]:
    """Check what pycocotools takes without a word, or would take for something else: four numbers are a box to it."""
    numbers = [*_numbers(_sequence(polygon))]
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"a polygon must be x, y of at least three corners, had {len(numbers)} numbers")
    for number, length in zip(numbers, (size[1], size[0]) * (len(numbers) // 2), strict=True):
        if not -length <= number <= 2 * length:
            raise ValueError(f"a corner of a polygon lies far outside of the image: {number:g} of {length} pixels")
    return iter(numbers)


def _checked_code(code: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
    """Return a run-length code as pycocotools wants it, once its runs are found to fill the image exactly."""
    if [*_sequence(code.get("size"))] != [*size]:
        raise ValueError(f"the run-length code is of size {code.get('size')}, the image is {[*size]} (height, width)")
    counts = code.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else [*_sequence(counts)]
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"the run-length code must have as many pixels as the image, {size[0] * size[1]}")
    if isinstance(counts, str):
        return code
    return cast("Mapping[str, Any]", _CODES.frPyObjects(dict(code), *size))


def _runs(text: str) -> list[int]:
    """Decode COCO's compressed counts: five bits a character, lowest first; from the fourth run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the run-length code has a character that no code has: {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _RUN_BITS:
            raise ValueError("the run-length code has a number of more digits than an image has pixels")
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run-length code ends within a number")
    return runs


def _check_overlap(left: float, top: float, right: float, bottom: float, size: Size) -> None:
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise ValueError(
            f"x from {left:g} to {right:g} and y from {top:g} to {bottom:g} lie outside of an image "
            f"of height {size[0]} and width {size[1]}"
        )


def _sequence(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list is missing, found {type(value).__name__}")
    return cast("list[Any]", value)


def _numbers(values: Sequence[Any]) -> Iterator[float]:
    for value in values:
        if not isinstance(value, int | float) or not abs(value) < math.inf:
            raise ValueError(f"coordinates must be finite numbers, one was {value!r}")
        yield float(value)
