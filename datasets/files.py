"""Datasets whose images are files: opened one by one, brought to one size, and never all in memory."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
import weakref
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import cached_property
from io import BytesIO
from itertools import groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from .base import Batch, Normalization
from .geometry import Geometry, Mode
from .label_spaces import network_classes

OnBadSample = Literal["error", "skip"]
NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
)
NO_COUNTERPART = "class without counterpart among the network's"
MISSING = "file is missing"
LINK_OUT = "link that leads out of its folder"
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name says: for others it starts programs (PostScript) or worse."""
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_AHEAD = 2  # batches that worker processes read while one is in use


class DatasetError(ValueError):
    """Files that are not the dataset they should be."""


class BadSampleError(DatasetError):
    """A file or an annotation that cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong, in words that are the same for all files with this fault: skipped ones are counted by it.
        detail: what is wrong with this one.
    """

    def __init__(self, path: Path | str, reason: str, detail: str = "") -> None:
        """Store what is wrong with which file."""
        super().__init__(path, reason, detail)
        self.path, self.reason, self.detail = path, reason, detail

    def __str__(self) -> str:
        """Say what is wrong, and what can be done about it."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"`{self.path}`: {self.reason}{detail}; mend or remove it, or leave such out: `on_bad_sample=skip`"


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of a sample before its image is opened.

    Attributes:
        id: name of the sample; samples of one image share the part before `#`.
        name: of the image within the dataset, with `/` between folders, the same on every machine.
        path: the file that holds the image.
        label: class index.
        present: class indices of everything annotated in the image.
        annotation: whatever the dataset needs to make the masks; it is sent to worker processes.
    """

    id: str
    name: str
    path: Path
    label: int
    present: frozenset[int] = frozenset()
    annotation: Any = None


class Listing(NamedTuple):
    """What a dataset's annotations say.

    Attributes:
        classes: names of the classes.
        records: the samples; those of one image stand next to each other.
        skipped: how many images or annotations were left out, by reason.
        annotations: files whose content decides about labels and masks, in a fixed order.
    """

    classes: tuple[str, ...]
    records: Sequence[Record]
    skipped: Mapping[str, int]
    annotations: Sequence[Path] = ()


class Masks(NamedTuple):
    """Annotation of a sample in the size of its image.

    Attributes:
        own: `(h, w)` bool, the objects of the sample's class.
        everything: `(h, w)` bool, all annotated objects; `None` where there are none but those of `own`.
    """

    own: NDArray[np.bool_]
    everything: NDArray[np.bool_] | None = None


class Item(NamedTuple):
    """A sample as it is sent from a worker process.

    Attributes:
        pixels: `(3, size, size)` uint8.
        mask: `(size, size)` bool, the objects of the sample's class.
        all_mask: likewise, all annotated objects; `None` where there are none but those of `mask`.
        original: `mask` in the size of the file's image; `None` where the image was cropped.
        background: like `pixels`, without the objects; `None` where that is not known.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None
    all_mask: NDArray[np.bool_] | None = None
    original: NDArray[np.bool_] | None = None
    background: NDArray[np.uint8] | None = None


class _Selection(NamedTuple):
    records: Sequence[Record]
    skipped: Mapping[str, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class FileDataset(ABC):
    """A dataset of image files: a subclass says what there is (`listing`) and how to make masks (`masks_of`).

    Subclasses are frozen dataclasses; their fields are the configuration. Nothing is read before it is needed:
    annotations when the samples are asked for, and kept; an image when its sample is taken, and not kept.

    A process that uses `workers` starts others, which import its main script: protect what the script does by
    `if __name__ == "__main__":`.

    Args:
        split: which part this is, `"train"` or `"test"`.
        size: height and width of the images that a network gets, in pixels.
        resize: how images of other sizes get there, `"squash"`, `"crop"` or a number, see `Geometry`.
        normalize: `"imagenet"` (mean and standard deviation of torchvision's networks) or `"half"` (pixel values from
            -1 to 1).
        label_map: which classes of a network count as a class of the dataset: `"imagenet"`, or a CSV file (see
            `label_spaces`). By default the network's classes are those of the dataset.
        on_bad_sample: `"error"` stops at an image or annotation that cannot be used; `"skip"` opens everything once,
            at first use, leaves out what cannot be used and counts it in `skipped`.
        workers: how many processes open images; 0 opens them in this one.

    Raises:
        ValueError: an argument is none of these.
    """

    name: ClassVar[str]
    places: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where something is: what is there counts for the `revision`, and not where."""

    split: str = "test"
    size: int = 224
    resize: Mode | int = "squash"
    normalize: str = "imagenet"
    label_map: str = ""
    on_bad_sample: OnBadSample = "error"
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the configuration."""
        choices = {
            "split": ("train", "test"),
            "normalize": tuple(NORMALIZATIONS),
            "on_bad_sample": get_args(OnBadSample),
        }
        for argument, known in choices.items():
            if getattr(self, argument) not in known:
                raise ValueError(f"`{argument}` must be one of {', '.join(known)}, was {getattr(self, argument)!r}")
        if self.workers < 0:
            raise ValueError(f"`workers` must be 0 or more, was {self.workers}")
        _ = self.geometry

    @abstractmethod
    def listing(self) -> Listing:
        """Read the annotations, but no image."""

    def masks_of(self, record: Record, size: tuple[int, int]) -> Masks | None:
        """Return the masks of a sample whose image has this height and width; `None` where there are none.

        It runs in worker processes: it knows the fields of the dataset and the record, and nothing that was read.

        Raises:
            BadSampleError: the annotation cannot be used.
        """
        del record, size
        return None

    def image_of(self, record: Record) -> Image.Image:
        """Return the RGB image of a sample, turned as its annotation expects it.

        Raises:
            BadSampleError: it cannot be read.
        """
        return open_image(record.path)

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks."""
        return False

    def reject(self, skipped: Counter[str], error: BadSampleError) -> None:
        """Count what cannot be used, or raise the error, as configured; for use in `listing`."""
        if self.on_bad_sample == "error":
            raise error
        skipped[error.reason] += 1

    def with_split(self, split: str) -> Self:
        """Return this dataset, if this is the part that is wanted; subclasses that know other parts override it."""
        if split != self.split:
            raise DatasetError(
                f"dataset `{self.name}` was given the files of its {self.split} part only, `{split}` was wanted: "
                "use a network with weights (`model@FILE`), or a dataset that knows both parts"
            )
        return self

    @cached_property
    def geometry(self) -> Geometry:
        """How images and masks get to their size."""
        try:
            return Geometry(self.size, self.resize)
        except ValueError as error:
            raise ValueError(str(error).replace("`mode`", "`resize`")) from None

    @property
    def normalization(self) -> Normalization:
        """How pixel values became the model's input."""
        return NORMALIZATIONS[self.normalize]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every image."""
        return 3, self.size, self.size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class indices."""
        return self._listing.classes

    @property
    def records(self) -> Sequence[Record]:
        """What is known of every sample before its image is opened."""
        return self._selection.records

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many images, annotations and, for classes that the network lacks, samples were left out, by reason."""
        return self._selection.skipped

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The name of every sample, in dataset order."""
        return tuple(record.id for record in self.records)

    @cached_property
    def labels(self) -> Tensor:
        """`(N,)` int64 class index of every sample."""
        return torch.tensor([record.label for record in self.records], dtype=torch.int64)

    @cached_property
    def present(self) -> Tensor:
        """`(N, K)` bool, which classes are annotated in the image of each sample."""
        present = torch.zeros(len(self), len(self.classes), dtype=torch.bool)
        for row, record in zip(present, self.records, strict=True):
            row[[record.label, *record.present]] = True
        return present

    @cached_property
    def network_classes(self) -> Tensor | None:
        """`(len(classes), M)` bool, which classes of a network count as each class; `None` where they are the same."""
        return network_classes(self.label_map, self.classes) if self.label_map else None

    @cached_property
    def revision(self) -> str:
        """SHA-256 of what decides about the samples, shortened to 16 hexadecimal digits.

        These are the bytes of the annotation files, the names and sizes of the image files, which samples were kept
        and the configuration, but not the places where the files are.
        """
        digest = hashlib.sha256(repr(self._facts()).encode())
        for path in self._listing.annotations:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        sizes = {path: path.stat().st_size for path in dict.fromkeys(record.path for record in self.records)}
        for record in self.records:
            digest.update(repr((record.id, record.name, record.label, sizes[record.path])).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.records)

    def take(self, indices: Sequence[int]) -> Batch:
        """Read the samples at these positions.

        Raises:
            BadSampleError: an image or its annotation cannot be used.
        """
        records = [self.records[index] for index in indices]
        return self._batch(records, self._read_all(records))

    def batches(self, size: int) -> Iterator[Batch]:
        """Read all samples in order, `size` at a time; the last batch may be smaller.

        With `workers`, the next two batches are read while one is in use.
        """
        waiting: deque[tuple[Sequence[Record], Iterator[Sequence[Item]]]] = deque()
        for start in range(0, len(self), size):
            records = self.records[start : start + size]
            waiting.append((records, self._read_all(records)))
            if len(waiting) > _AHEAD:
                yield self._batch(*waiting.popleft())
        while waiting:
            yield self._batch(*waiting.popleft())

    def __getstate__(self) -> dict[str, Any]:
        """Return the configuration alone: worker processes need no more."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _facts(self) -> tuple[Any, ...]:
        """Return everything that decides about samples besides the files."""
        elsewhere = {"workers", "download", "on_bad_sample", "label_map", *self.places}
        configuration = [(each.name, getattr(self, each.name)) for each in fields(self) if each.name not in elsewhere]
        counts_as = None if self.network_classes is None else self.network_classes.nonzero().tolist()
        return self.name, configuration, self.normalization, self.classes, counts_as

    @cached_property
    def _listing(self) -> Listing:
        listing = self.listing()
        twice = [name for name, count in Counter(record.id for record in listing.records).items() if count > 1]
        if twice:
            raise DatasetError(f"dataset `{self.name}` has {len(twice)} names for several samples each: `{twice[0]}`")
        return listing

    @cached_property
    def _selection(self) -> _Selection:
        """The samples that are used, and how many are not."""
        skipped = Counter(self._listing.skipped)
        records = self._existing(self._with_counterpart(self._listing.records, skipped), skipped)
        if self.on_bad_sample == "skip":
            records = self._readable(records, skipped)
        if not records:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in skipped.items())
            raise DatasetError(f"dataset `{self.name}` has no samples; left out were: {reasons or 'none'}")
        return _Selection(records, MappingProxyType(dict(sorted(skipped.items()))))

    def _with_counterpart(self, records: Sequence[Record], skipped: Counter[str]) -> Sequence[Record]:
        if self.network_classes is None:
            return records
        known = self.network_classes.any(dim=1).tolist()
        kept = [record for record in records if known[record.label]]
        if len(kept) < len(records):
            skipped[NO_COUNTERPART] += len(records) - len(kept)
        return kept

    def _existing(self, records: Sequence[Record], skipped: Counter[str]) -> Sequence[Record]:
        missing = {path for path in {record.path for record in records} if not path.is_file()}
        for path in sorted(missing):
            self.reject(skipped, BadSampleError(path, MISSING))
        return [record for record in records if record.path not in missing]

    def _readable(self, records: Sequence[Record], skipped: Counter[str]) -> Sequence[Record]:
        """Open everything once and keep the samples of the images that can be used."""
        kept: list[Record] = []
        images = [[*group] for _, group in groupby(records, key=lambda record: record.name)]
        for group, error in zip(images, self._each(self._find_fault, images), strict=True):
            if error is None:
                kept += group
            else:
                skipped[error.reason] += 1
        return kept

    def _find_fault(self, records: Sequence[Record]) -> BadSampleError | None:
        """Return why the samples of one image cannot be used; `None` if they can."""
        try:
            self.read_image(records)
        except BadSampleError as error:
            return error
        return None

    def _read_all(self, records: Sequence[Record]) -> Iterator[Sequence[Item]]:
        """Begin to read samples; every image is opened once for those of its samples that follow each other."""
        images = [[*group] for _, group in groupby(records, key=lambda record: record.name)]
        return self._each(self.read_image, images)

    def _each(self, function: Callable[[Sequence[Record]], Any], images: Iterable[Sequence[Record]]) -> Iterator[Any]:
        """Apply a function to the records of each image, in worker processes if there are any."""
        if self.workers == 0:
            return map(function, images)
        return self._from_workers([self._pool.submit(function, records) for records in images])

    def _from_workers(self, futures: Sequence[Future[Any]]) -> Iterator[Any]:
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a process that reads images for dataset `{self.name}` has died: protect what your script does by "
                '`if __name__ == "__main__":`, or read without them (`workers=0`)'
            ) from error

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
        weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
        return pool

    def read_image(self, records: Sequence[Record]) -> Sequence[Item]:
        """Open the image that some samples share, and make the masks of each; it runs in worker processes."""
        image = self.image_of(records[0])
        try:
            pixels = self.geometry.image(image)
        except ValueError as error:
            raise BadSampleError(records[0].path, "image that does not fit the geometry", str(error)) from error
        return [self._item(record, pixels, self.masks_of(record, (image.height, image.width))) for record in records]

    def _item(self, record: Record, pixels: NDArray[np.uint8], masks: Masks | None) -> Item:
        if masks is None:
            return Item(pixels)
        if not masks.own.any():
            raise BadSampleError(record.path, "object without area", record.id)
        everything = None if masks.everything is None else self.geometry.mask(masks.everything)
        original = masks.own if self.geometry.keeps_whole else None
        return Item(pixels, self.geometry.mask(masks.own), everything, original)

    def _batch(self, records: Sequence[Record], read: Iterable[Sequence[Item]]) -> Batch:
        items = [item for image in read for item in image]
        backgrounds = [item.background for item in items if item.background is not None]
        originals = [torch.from_numpy(item.original) for item in items if item.original is not None]
        return Batch(
            ids=tuple(record.id for record in records),
            images=self._normalized([item.pixels for item in items]),
            labels=torch.tensor([record.label for record in records], dtype=torch.int64),
            masks=_stacked([item.mask for item in items]),
            all_masks=_stacked([item.all_mask for item in items]),
            original_masks=tuple(originals) if originals else None,
            backgrounds=self._normalized(backgrounds) if backgrounds else None,
        )

    def _normalized(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return self.normalization.normalize(torch.from_numpy(np.stack(images)).float() / 255)


def _stacked(masks: Sequence[NDArray[np.bool_] | None]) -> Tensor | None:
    """Return `(B, H, W)`; `None` where the dataset has no such masks, which is so for all samples or for none."""
    given = [mask for mask in masks if mask is not None]
    return torch.from_numpy(np.stack(given)) if given else None


def open_image(source: Path, *, upright: bool = True, data: bytes | None = None) -> Image.Image:
    """Read an image file of any kind as RGB; of an animation, the first frame.

    Grey values become equal red, green and blue; 16 bits are scaled to 8, not clipped; palettes and CMYK are converted;
    what is transparent is laid on black.

    Args:
        source: the file.
        upright: turn the image as its EXIF orientation says, which viewers do; false leaves the pixels as stored.
        data: content of the file, where it is not a file of its own; `source` then only names it in errors.

    Raises:
        BadSampleError: the file is missing, truncated, no image, of a kind whose values have no known range, or so
            large that Pillow takes it for a decompression bomb.
    """
    image = _decoded(source, source if data is None else BytesIO(data), upright=upright)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # older Pillows read PNG as "I"
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in {"I", "F", "LAB"}:
        raise BadSampleError(source, "pixels of a kind without a known range", f"{image.format}, {image.mode}")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return image.convert("RGB")


def open_mask(path: Path) -> NDArray[np.bool_]:
    """Read a PNG mask as `(h, w)` bool: true where the value, palette index or a colour is not 0.

    Raises:
        BadSampleError: the file cannot be read (see `open_image`), or has an alpha channel, so that it does not say
            where the object is.
    """
    image = _decoded(path, path, upright=False)
    if image.format != "PNG" or image.mode not in {"1", "L", "P", "I", "I;16", "RGB"}:
        raise BadSampleError(path, "mask that is not a PNG without alpha channel", f"{image.format}, {image.mode}")
    values = np.asarray(image) != 0
    return values.any(axis=2) if values.ndim == 3 else values


def open_indices(path: Path) -> NDArray[np.uint8]:
    """Read a PNG whose palette indices, or grey values of 8 bits, mean something: `(h, w)` uint8.

    Raises:
        BadSampleError: the file cannot be read (see `open_image`), or is of another kind.
    """
    image = _decoded(path, path, upright=False)
    if image.format != "PNG" or image.mode not in {"L", "P"}:
        raise BadSampleError(path, "mask that is not a PNG with a palette", f"{image.format}, {image.mode}")
    return np.asarray(image)


def sample_name(name: str) -> str:
    """Return what samples are called that come from an image of this name: without suffix, and free of `#`.

    Example:
        >>> sample_name("val2017/000000397133.jpg")
        'val2017/000000397133'
    """
    return str(PurePosixPath(name).with_suffix("")).replace("#", "%23")


def inside(folder: Path, name: str) -> Path:
    """Return the place of `name`, a path with `/` or the system's separator, in a folder.

    Raises:
        DatasetError: the path leads out of the folder, by itself or by a link, is absolute, or is none.
    """
    if not is_inner(name):
        raise DatasetError(f"file name `{name}` must lead to a file in `{folder}`, but it leads out of it")
    if leads_out(folder / name, folder):
        raise DatasetError(f"file name `{name}` must lead to a file in `{folder}`, but a link leads out of it")
    return folder / name


def is_inner(name: str) -> bool:
    """Whether a path, with `/` or the system's separator, stays in the folder it begins in, but for links."""
    for kind in (PurePosixPath, PureWindowsPath):  # a name that is harmless here may not be so elsewhere
        path = kind(name)
        if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            return False
    return "\0" not in name


def files_in(folder: Path) -> Iterator[Path | BadSampleError]:
    """Find all files in a folder and in those within it, but for hidden ones.

    Links are followed, each place once.

    Yields:
        Every file; and an error, to be raised or counted, for every link that leads out of the folder: whoever packed
        it would otherwise choose which other files of this machine are read.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in (*folders, *names):
            path = Path(place) / name
            if name.startswith(".") or (path.is_symlink() and leads_out(path, folder)):
                if name in folders:
                    folders.remove(name)
                if not name.startswith("."):
                    yield BadSampleError(path, LINK_OUT, f"to `{os.path.realpath(path)}`")
            elif name not in folders:
                yield path


def leads_out(path: Path, folder: Path) -> bool:
    """Whether links make a path in a folder lead to a place outside of it."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _decoded(path: Path, source: Path | BytesIO, *, upright: bool) -> Image.Image:
    """Read all pixels of an image; its `format` is kept."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which says nothing about pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                image.load()
                turned = ImageOps.exif_transpose(image) if upright else image
                turned.format = image.format
                return turned
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError(path, "image larger than Pillow's limit of pixels", str(error)) from error
    except FileNotFoundError as error:
        raise BadSampleError(path, MISSING) from error
    except Exception as error:  # decoders of broken files raise whatever they like
        raise BadSampleError(path, "truncated, or not an image", f"{type(error).__name__}: {error}") from error
