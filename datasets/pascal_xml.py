"""Reading boxes in the XML format of Pascal VOC, which ImageNet uses too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder  # builds only; `_parsed` refuses what is harmful
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from .files import BadSampleError
from .limited_reading import DEPTH, MEBIBYTE, read_bytes

Size = tuple[int, int]
Difficult = Literal["skip", "keep", "drop"]
NO_ANNOTATION = "image without annotation"
BROKEN = "annotation that cannot be read"
OUTSIDE = "box outside of the image"
_MOST = 4 * MEBIBYTE  # files in use have a few kilobytes


class PascalObject(NamedTuple):
    """An annotated object.

    Attributes:
        name: of its class.
        box: first column, first row, last column and last row, counted from 1.
        difficult: whether it was found to be hard to recognise.
    """

    name: str
    box: tuple[int, int, int, int]
    difficult: bool


class PascalAnnotation(NamedTuple):
    """What an annotation file says.

    Attributes:
        size: height and width of the annotated image; `None` where the file does not say.
        objects: all annotated objects, in the order of the file.
    """

    size: Size | None
    objects: tuple[PascalObject, ...]


def read_annotation(path: Path) -> PascalAnnotation:
    """Read an annotation file.

    Fractions of pixels, which some files have, are rounded. Parts of objects are passed over.

    Raises:
        BadSampleError: it is missing, damaged or no such file, declares a document type (with which a file can make
            its reader load others, or fill the memory), or has a box of negative size.
    """
    try:
        return _annotation(_parsed(read_bytes(path, most=_MOST)))
    except FileNotFoundError as error:
        raise BadSampleError(path, NO_ANNOTATION) from error
    except (expat.ExpatError, ValueError, LookupError, OSError, OverflowError) as error:
        raise BadSampleError(path, BROKEN, str(error)) from error


def counted(objects: Sequence[PascalObject], difficult: Difficult) -> tuple[bool, ...]:
    """Return which objects samples are made of.

    Args:
        objects: all objects of an image.
        difficult: `"keep"` takes difficult objects like all others, `"drop"` takes none of them, and `"skip"` takes
            them only beside another object of their class that is not difficult.

    Example:
        >>> cats = [PascalObject("cat", (1, 1, 2, 2), False), PascalObject("cat", (3, 3, 4, 4), True)]
        >>> counted(cats, "skip"), counted(cats, "drop"), counted(cats[1:], "skip")
        ((True, True), (True, False), (False,))
    """
    easy = {each.name for each in objects if not each.difficult}
    return tuple(
        not each.difficult or difficult == "keep" or (difficult == "skip" and each.name in easy) for each in objects
    )


def box_mask(objects: Sequence[PascalObject], size: Size, *, path: Path) -> NDArray[np.bool_]:
    """Return the `(h, w)` bool union of the objects' boxes; what lies outside of the image is cut off.

    Args:
        objects: the objects.
        size: height and width of the image.
        path: the annotation file, for errors.

    Raises:
        BadSampleError: a whole box lies outside of the image.

    Example:
        >>> cat = PascalObject("cat", (2, 1, 3, 1), False)
        >>> box_mask([cat], (2, 4), path=Path("1.xml")).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    union = np.zeros(size, dtype=np.bool_)
    for each in objects:
        left, top, right, bottom = each.box
        if right < 1 or bottom < 1 or left > size[1] or top > size[0]:
            raise BadSampleError(path, OUTSIDE, f"{each.name} at {each.box}, the image is {size[1]}×{size[0]} pixels")
        union[max(top - 1, 0) : bottom, max(left - 1, 0) : right] = True
    return union


def _parsed(data: bytes) -> Element:
    """Parse a document that declares no types and hence no entities, and does not nest without end."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    open_elements = 0

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal open_elements
        open_elements += 1
        if open_elements > DEPTH:
            raise ValueError(f"its elements are more than {DEPTH} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal open_elements
        open_elements -= 1
        builder.end(name)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()


def _annotation(root: Element) -> PascalAnnotation:
    size = root.find("size")
    height, width = (0, 0) if size is None else (_number(size, "height"), _number(size, "width"))
    return PascalAnnotation((height, width) if height and width else None, tuple(map(_object, root.iterfind("object"))))


def _object(element: Element) -> PascalObject:
    box = element.find("bndbox")
    name = element.findtext("name", "").strip()
    if box is None or not name:
        raise ValueError("an object has no name or no box")
    left, top, right, bottom = (_number(box, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise ValueError(f"the box of {name} has a negative size: x {left} to {right}, y {top} to {bottom}")
    difficult = element.findtext("difficult", "0").strip()
    if difficult not in {"0", "1"}:
        raise ValueError(f"`difficult` of {name} must be 0 or 1, was {difficult!r}")
    return PascalObject(name, (left, top, right, bottom), difficult == "1")


def _number(element: Element, name: str) -> int:
    return round(float(element.findtext(name, "")))
