"""Which classes of a network count as a class of a dataset, where the two do not have the same classes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from .limited_reading import MEBIBYTE, read_text

IMAGENET_CLASSES = 1000
_MOST_CLASSES = 10**7  # a mistyped index must not fill the memory
COCO_IN_IMAGENET: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "airplane": (404, 895, 908),
        "backpack": (414,),
        "banana": (954,),
        "bear": (294, 295, 296, 297),
        "bench": (703,),
        "bicycle": (444, 671),
        "broccoli": (937,),
        "bus": (654, 779, 874),
        "cat": (281, 282, 283, 284, 285),
        "cell phone": (487,),
        "clock": (409, 530, 892),
        "couch": (831,),
        "cow": (345, 346, 690),
        "cup": (504, 968),
        "dog": tuple(range(151, 269)),
        "elephant": (101, 385, 386),
        "horse": (339, 603),
        "hot dog": (934,),
        "keyboard": (508, 878),
        "laptop": (620, 681),
        "microwave": (651,),
        "motorcycle": (665, 670),
        "mouse": (673,),
        "orange": (950,),
        "parking meter": (704,),
        "pizza": (963,),
        "refrigerator": (760,),
        "remote": (761,),
        "sheep": (348, 349),
        "stop sign": (919,),
        "teddy bear": (850,),
        "toaster": (859,),
        "toilet": (861,),
        "traffic light": (920,),
        "train": (466, 547, 705, 820, 829),
        "tv": (664, 782, 851),
        "umbrella": (879,),
        "vase": (883,),
        "zebra": (340,),
    }
)
"""ImageNet's class indices (in the usual order of the 1000 classes) that count as a category of COCO."""


class LabelMapError(ValueError):
    """A map of label spaces that cannot be read, or that does not fit the dataset."""


def network_classes(label_map: str, classes: Sequence[str]) -> Tensor:
    """Return which classes of a network count as each class of a dataset.

    Args:
        label_map: `"imagenet"`: the 1000 ImageNet classes, for class names as in COCO; or a CSV file of two columns,
            the name of a class of the dataset and the index of a class of the network, from 0, or several with spaces
            between them. A class may have several lines, and the first line may be a heading.
        classes: names of the dataset's classes.

    Returns:
        `(len(classes), M)` bool. For a file, M is the greatest index in it plus one: a network may have more classes.

    Raises:
        LabelMapError: the file is missing or is no such table, a name is no class of the dataset, or no class has a
            counterpart.

    Example:
        >>> network_classes("imagenet", ("cat", "person")).sum(dim=1).tolist()
        [5, 0]
    """
    if label_map == "imagenet":
        pairs = [(name, index) for name in classes for index in COCO_IN_IMAGENET.get(name, ())]
        size = IMAGENET_CLASSES
    else:
        pairs = _read(Path(label_map), classes)
        size = 1 + max((index for _, index in pairs), default=0)
    if not pairs:
        raise LabelMapError(f"`label_map={label_map}` has no counterpart for any class of the dataset: {_few(classes)}")
    table = torch.zeros(len(classes), size, dtype=torch.bool)
    for name, index in pairs:
        table[classes.index(name), index] = True
    return table


def _read(path: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Read the pairs of a CSV file."""
    try:
        rows = [*csv.reader(read_text(path, most=MEBIBYTE).splitlines())]
    except (OSError, ValueError, csv.Error) as error:
        raise LabelMapError(
            f"`label_map` must be `imagenet` or a CSV file, `{path}` cannot be read: {error}"
        ) from error
    if rows and len(rows[0]) == 2 and rows[0][0].strip() not in classes and not _are_numbers(rows[0][1]):
        rows[0] = []  # a heading
    pairs: list[tuple[str, int]] = []
    for number, row in enumerate(rows, start=1):
        if any(cell.strip() for cell in row):
            pairs += _pairs(row, classes, f"`{path}`, line {number}")
    return pairs


def _pairs(row: Sequence[str], classes: Sequence[str], place: str) -> list[tuple[str, int]]:
    if len(row) != 2 or not _are_numbers(row[1]):
        raise LabelMapError(
            f"{place}: must be a class and the index of a network's class below {_MOST_CLASSES}, was `{','.join(row)}`"
        )
    name = row[0].strip()
    if name not in classes:
        raise LabelMapError(f"{place}: `{name}` is no class of the dataset; its classes are: {_few(classes)}")
    return [(name, int(index)) for index in row[1].split()]


def _are_numbers(text: str) -> bool:
    """Whether this is a class index or several."""
    numbers = text.split()
    return bool(numbers) and all(
        number.isascii() and number.isdigit() and len(number) < len(str(_MOST_CLASSES)) for number in numbers
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
