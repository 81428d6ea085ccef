"""Drawings of Google's game Quick, Draw!, from its bitmaps or from its strokes."""

from __future__ import annotations

import gzip
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .base import Arrays
from .files import DatasetError
from .limited_reading import MEBIBYTE, parse_json
from .torchvision_arrays import FolderArrays, failing_as_dataset_error

Bitmaps = NDArray[np.uint8]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SIDE = 28
DRAWINGS_PER_CLASS = 10_000
TRAIN_FIFTHS = 4
"""Fifths of the rows of a class that are for training: 8000 of 10,000."""

CANVAS = 256
"""Side of the square that strokes are given in; line width and padding are in its units."""
LINE_WIDTH = 16
PADDING = 16
FINENESS = 8
"""Points per pixel in each direction at which the distance to a line is measured."""
_FARTHEST = 1e6
_LONGEST = MEBIBYTE
_MOST = 8192 * MEBIBYTE

BITMAP_FILES = ("full_numpy_bitmap_{}.npy", "{}.npy")
STROKE_FILES = ("{}.ndjson", "{}.ndjson.gz", "full_simplified_{}.ndjson")


class Source(NamedTuple):
    """The drawings of one class in a file.

    Attributes:
        path: the file.
        size: how many drawings there are.
        read: from `(n,)` row numbers to `(n, 28, 28)` uint8.
    """

    path: Path
    size: int
    read: Callable[[Integers], Bitmaps]


@dataclass(frozen=True)
class QuickDraw(FolderArrays):
    """Drawings of ten kinds of things, `(1, 28, 28)`, white lines on black, pixel values in [0, 1] unless normalised.

    The classes are those of FLINT, in alphabetical order. FLINT took 10,000 random rows of Google's bitmaps of each
    class and published which: `rows` is the folder of these files, and without it the first 10,000 rows are taken.
    Of these, rows 0 to 7999 are for training and 8000 to 9999 for testing; where a class has fewer drawings, its first
    four fifths are for training. `quickdraw-cat-08123` is row 8123 of the selected cats. (FLINT's rows name one ant
    twice; so it stays.)

    For every class, the first that exists of these files in the folder `root` is read; nothing is unpickled:

    * `full_numpy_bitmap_cat.npy` or `cat.npy`: Google's bitmaps, `(N, 784)` or `(N, 28, 28)` uint8;
    * `cat.ndjson`, `cat.ndjson.gz` or `full_simplified_cat.ndjson`: strokes, a drawing with `word` and `drawing` on
      every line. Google's files hold the same drawings in the same order as its bitmaps. `rasterise` draws them: its
      images differ from Google's by 0.3 grey levels on average and by 13 at most (measured on 125 drawings).

    `root` may also be one `.ndjson` file of several classes, or an `.npz` file with bitmaps `x`, class numbers `y` and
    the classes' names `classes`.

    Args:
        root: the folder, or the file.
        split: `"train"` or `"test"`.
        size: side of the images in pixels; `None` leaves them as they are.
        normalize: `"none"` or `"half"` (values in [-1, 1]).
        words: the classes, separated by commas, in the order of the class indices.
        rows: folder of `cat_id.npy` and so on: whole numbers, which rows of a class are selected, in this order.

    Raises:
        ValueError: an argument is none of these.
        DatasetError: (when samples are asked for) files are missing, damaged, or hold something else.

    Reference:
        "The Quick, Draw! Dataset", Google Creative Lab, 2017. J. Parekh, P. Mozharovskyi, F. d'Alché-Buc, "A Framework
        to Learn with Interpretation", NeurIPS 2021.

    Example:
        >>> QuickDraw(root="data", words="cat,hot dog").classes
        ('cat', 'hot dog')
    """

    name: ClassVar[str] = "quickdraw"
    has_masks: ClassVar[bool] = False
    source_shape: ClassVar[tuple[int, int, int]] = (1, SIDE, SIDE)

    words: str = "ant,apple,banana,carrot,cat,cow,dog,frog,grapes,lion"
    rows: str | Path | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not all(self.classes) or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"`words` must be different words, separated by commas, was {self.words!r}")

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # follows from `words`
        """Names of the classes, in the order of the class indices."""
        return tuple(word.strip() for word in self.words.split(","))

    def load(self) -> Arrays:
        """Read or draw the drawings of this split, class by class."""
        shared = self._shared()
        ids: list[str] = []
        pixels: list[Bitmaps] = []
        labels: list[Integers] = []
        for label, word in enumerate(self.classes):
            source = _of_word(shared or self._own(word), word, self.folder)
            rows = self._selected(word, source)
            cut = len(rows) * TRAIN_FIFTHS // 5
            part = slice(cut) if self.split == "train" else slice(cut, None)
            with failing_as_dataset_error(f"cannot read `{source.path}`"):
                pixels.append(source.read(rows[part]))
            ids += [f"{self.name}-{word}-{row:05d}" for row in range(len(rows))[part]]
            labels.append(np.full(len(rows[part]), label, dtype=np.int64))
        if not ids:
            raise DatasetError(f"`{self.folder}` has too few drawings: none is left for the {self.split} part")
        return Arrays(tuple(ids), np.concatenate(pixels)[:, None], np.concatenate(labels), masks=None)

    def _shared(self) -> Mapping[str, Source] | None:
        """Read the file of several classes, if `root` is one."""
        if not self.folder.is_file():
            return None
        with failing_as_dataset_error(f"cannot read `{self.folder}`"):
            return _from_npz(self.folder) if self.folder.suffix == ".npz" else _from_strokes(self.folder)

    def _own(self, word: str) -> Mapping[str, Source]:
        """Read the file of one class."""
        names = [pattern.format(word) for pattern in (*BITMAP_FILES, *STROKE_FILES)]
        path = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if path is None:
            raise DatasetError(
                f"`quickdraw` has no drawings of `{word}` in `{self.folder}`: there must "
                f"be one of {', '.join(f'`{name}`' for name in names)}; name the folder that has them "
                "(`quickdraw?root=DIR`) or take other classes (`words=cat,dog`)"
            )
        with failing_as_dataset_error(f"cannot read `{path}`"):
            if path.suffix == ".npy":
                return {word: _of_bitmaps(path, np.load(path, mmap_mode="r", allow_pickle=False))}
            return _from_strokes(path)

    def _selected(self, word: str, source: Source) -> Integers:
        """Return which rows of a class belong to the dataset."""
        if self.rows is None:
            return np.arange(min(source.size, DRAWINGS_PER_CLASS))
        path = Path(self.rows).expanduser() / f"{word}_id.npy"
        with failing_as_dataset_error(f"cannot read the rows of `{word}` in `{path}`"):
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
            raise DatasetError(f"`{path}` must hold whole numbers (N,), holds {rows.dtype} {rows.shape}")
        if rows.min() < 0 or rows.max() >= source.size:
            raise DatasetError(
                f"`{path}` names rows {rows.min()} to {rows.max()}, but `{source.path}` has {source.size} drawings of "
                f"`{word}`: use the file that these rows belong to, or none"
            )
        return rows.astype(np.int64)


def rasterise(strokes: Sequence[Sequence[Sequence[float]]]) -> Bitmaps:
    """Draw strokes as Google drew its bitmaps: white lines on black, centred, smoothed at the edges.

    On a square of 256 units with a border of 24 around it, lines are 16 units wide with round ends and joints. A
    drawing is centred by its greatest coordinates. The grey value of a pixel is the share of it that a line covers
    (measured at 8×8 points); strokes are painted one over the other. Google simplified its drawings to whole
    numbers from 0 to 255; raw ones, which exceed this, are moved to the corner and scaled to 255 first.

    Args:
        strokes: for each stroke, its x and its y coordinates (what follows, as the times of raw drawings, is ignored).

    Returns:
        `(28, 28)` uint8.

    Raises:
        ValueError: there is no stroke, or one is not at least one point of finite coordinates.

    Example:
        >>> image = rasterise([[[0, 255], [0, 0]]])  # a horizontal line
        >>> [row for row in range(28) if image[row].any()], image[14, [0, 1, 13, 26, 27]].tolist()
        ([13, 14], [0, 61, 188, 61, 0])
    """
    unit = SIDE / (CANVAS + 2 * PADDING + LINE_WIDTH)  # pixels
    points = _in_canvas([_stroke(stroke) for stroke in strokes])
    shift = (CANVAS - np.concatenate(points).max(axis=0)) / 2 + PADDING + LINE_WIDTH / 2
    image = np.zeros((SIDE, SIDE))
    for stroke in points:
        share = _coverage((stroke + shift) * unit, unit * LINE_WIDTH / 2)
        image += (1 - image) * share
    return np.rint(255 * image).astype(np.uint8)


def _stroke(stroke: Sequence[Sequence[float]]) -> Floats:
    """Return a stroke as `(n, 2)` points."""
    x, y = (np.asarray(values, dtype=np.float64) for values in stroke[:2])
    if x.ndim != 1 or x.shape != y.shape or not len(x) or not (np.abs((x, y)) <= _FARTHEST).all():
        raise ValueError(
            f"a stroke must be as many x as y coordinates, at least one, of at most {_FARTHEST:g}, "
            f"was {x.shape} and {y.shape}"
        )
    return np.stack((x, y), axis=1)


def _in_canvas(points: Sequence[Floats]) -> Sequence[Floats]:
    """Move and scale a raw drawing; leave others as they are."""
    if not points:
        raise ValueError("a drawing must have at least one stroke, had none")
    every = np.concatenate(points)
    if every.min() >= 0 and every.max() < CANVAS:
        return points
    corner, extent = every.min(axis=0), np.ptp(every, axis=0).max()
    return [(stroke - corner) * ((CANVAS - 1) / max(extent, 1)) for stroke in points]


def _coverage(points: Floats, radius: float) -> Floats:
    """Return the `(28, 28)` shares of pixels that lie within `radius` of the line through `(n, 2)` points."""
    first = np.floor(points.min(axis=0) - radius).astype(np.int64)
    last = np.ceil(points.max(axis=0) + radius).astype(np.int64)
    width, height = last - first
    columns = first[0] + (np.arange(width * FINENESS) + 0.5) / FINENESS
    rows = first[1] + (np.arange(height * FINENESS) + 0.5) / FINENESS
    nearest = np.full((len(rows), len(columns)), np.inf)
    reach = radius + 0.5 / FINENESS
    for start, end in pairwise(points) if len(points) > 1 else [(points[0], points[0])]:
        low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
        across = slice(*np.searchsorted(columns, (low[0], high[0])))
        down = slice(*np.searchsorted(rows, (low[1], high[1])))
        squared = _squared_distance(columns[None, across], rows[down, None], start, end)
        nearest[down, across] = np.minimum(nearest[down, across], squared)
    # A point stands for a small square, through which the edge of the line may pass.
    covered = np.clip((radius - np.sqrt(nearest)) * FINENESS + 0.5, 0, 1)
    shares = np.zeros((SIDE, SIDE))
    blocks = covered.reshape(height, FINENESS, width, FINENESS)
    shares[first[1] : last[1], first[0] : last[0]] = blocks.mean(axis=(1, 3))
    return shares


def _squared_distance(x: Floats, y: Floats, start: Floats, end: Floats) -> Floats:
    """Return squared distances of the points at `(1, w)` columns and `(h, 1)` rows from a line between two points."""
    x, y, (dx, dy) = x - start[0], y - start[1], end - start
    along = np.clip((x * dx + y * dy) / max(dx**2 + dy**2, 1e-12), 0, 1)
    return (x - along * dx) ** 2 + (y - along * dy) ** 2


def _of_word(sources: Mapping[str, Source], word: str, place: Path) -> Source:
    if word not in sources:
        raise DatasetError(f"`{place}` has no drawings of `{word}`; it has: {', '.join(sorted(sources)) or 'none'}")
    return sources[word]


def _of_bitmaps(path: Path, bitmaps: Bitmaps) -> Source:
    """Check the bitmaps of one class."""
    if bitmaps.dtype != np.uint8 or bitmaps.shape[1:] not in {(SIDE, SIDE), (SIDE**2,)}:
        raise DatasetError(f"`{path}` must hold bitmaps (N, 784) uint8, holds {bitmaps.shape} {bitmaps.dtype}")

    def read(rows: Integers) -> Bitmaps:
        return np.asarray(bitmaps[rows]).reshape(-1, SIDE, SIDE)

    return Source(path, len(bitmaps), read)


def _from_npz(path: Path) -> Mapping[str, Source]:
    """Read bitmaps of several classes."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MOST:
        raise DatasetError(f"`{path}` must unpack to at most {_MOST} bytes, unpacks to {size}")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # NumPy may leave a path open
        bitmaps, labels, names = (file[key] for key in ("x", "y", "classes"))
    if labels.shape != (len(bitmaps),) or labels.dtype.kind not in "iu" or (len(labels) and labels.max() >= len(names)):
        raise DatasetError(f"`{path}` must hold a class number `y` for each of its {len(bitmaps)} bitmaps `x`")
    return {str(name): _of_bitmaps(path, bitmaps[labels == label]) for label, name in enumerate(names)}


def _from_strokes(path: Path) -> Mapping[str, Source]:
    """Read drawings of one or several classes, which are drawn when their rows are asked for."""
    lines: defaultdict[str, list[bytes]] = defaultdict(list)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in _lines(path, cast("BinaryIO", file)):
            word = parse_json(line)["word"]
            if not isinstance(word, str):
                raise TypeError(f"every line must have a `word` that is text, one is {word!r}")
            lines[word].append(line)
    return {word: Source(path, len(own), _drawing(own)) for word, own in lines.items()}


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Read lines, of a length and a number that a packed file of any size cannot exceed."""
    total = 0
    while line := file.readline(_LONGEST + 1):
        total += len(line)
        if len(line) > _LONGEST or total > _MOST:
            raise DatasetError(
                f"`{path}` must have lines of at most {_LONGEST} bytes and {_MOST} in all (unpacked), has more"
            )
        if line.strip():
            yield line


def _drawing(lines: Sequence[bytes]) -> Callable[[Integers], Bitmaps]:
    def read(rows: Integers) -> Bitmaps:
        images = [rasterise(parse_json(lines[row])["drawing"]) for row in rows]
        return np.stack(images) if images else np.zeros((0, SIDE, SIDE), dtype=np.uint8)

    return read
