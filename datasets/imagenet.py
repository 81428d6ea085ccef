"""ImageNet (ILSVRC2012): photographs of a thousand kinds of things, from folders or from archives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Self, cast, get_args

from PIL import Image

from .coco_annotations import open_annotated
from .files import (
    IMAGE_SUFFIXES,
    BadSampleError,
    DatasetError,
    FileDataset,
    Listing,
    Masks,
    Record,
    files_in,
    open_image,
    sample_name,
)
from .limited_reading import MEBIBYTE, read_bytes, read_text
from .pascal_xml import (
    NO_ANNOTATION,
    Difficult,
    PascalAnnotation,
    PascalObject,
    Size,
    box_mask,
    counted,
    read_annotation,
)
from .tar_members import TarMember, read_member, tar_members
from .torchvision_arrays import failing_as_dataset_error

PLACES = {"train": ("train", "ILSVRC2012_img_train.tar"), "test": ("val", "ILSVRC2012_img_val.tar")}
"""What a part is called in `root`: a folder or an archive."""
DEVKIT_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
DEVKIT_META = "data/meta.mat"

NO_LABEL = "image without label"
NOT_AN_IMAGE = "file that is no image by its name"
NO_OBJECT = "image without an annotated object of its class"
UNKNOWN_CLASS = "image of a class that `synsets` lacks"
ONLY_DIFFICULT = "image whose objects are all difficult"
_SYNSET = re.compile(r"n\d{8}")
_MOST = 256 * MEBIBYTE  # a line for each of a million images has a quarter of it
_MOST_META = 16 * MEBIBYTE  # of the file of synsets, which has not quite two thousand


class _Image(NamedTuple):
    """An image: its place in the part, its file, and its place in that if it is an archive."""

    place: PurePosixPath
    path: Path
    member: TarMember | None


class _Annotation(NamedTuple):
    """What a record says besides its label: where its image is in an archive, and its boxes with their file."""

    member: TarMember | None
    boxes: PascalAnnotation | None
    file: Path


class _GroundTruth(NamedTuple):
    """The synset of each image, by its name without suffix; all synsets; and the files where this stands."""

    of: Mapping[str, str]
    synsets: Sequence[str]
    files: Sequence[Path]


@dataclass(frozen=True, eq=False)
class ImageNet(FileDataset):
    """Photographs with one label, in any of the layouts in which ImageNet is kept, and boxes where they are given.

    `root` holds `val` and `train`, or `ILSVRC2012_img_val.tar` and `ILSVRC2012_img_train.tar`, or is itself one of
    these. Archives are read where they are; nothing is unpacked. An image belongs to the class whose synset is the name
    of its folder (or, in the training archive, of the inner archive); images without such a folder, as in the
    archive of the validation images, need `ground_truth`:

    * a text file with the name of an image and its synset on each line, separated by spaces or a comma; what follows is
      passed over, and a first line may be a heading (Kaggle's `LOC_val_solution.csv` is such a file); or
    * the folder of the development kit, `ILSVRC2012_devkit_t12`.

    Classes are the synsets, in alphabetical order, which is the usual order of the 1000 classes. Where only some
    classes are in the folder, `synsets` names a file of all: without it, networks would get wrong indices.

    A sample is called `n01440764/ILSVRC2012_val_00000293`, however the images are kept, and comes in the order of these
    names. With `boxes`, its mask is the union of the boxes of its class, and `all_masks` that of all boxes. Corners are
    counted from 1 and belong to the box. Images are used as they are stored, unless the annotation has the height and
    width of the turned image.

    An image without label, and with `boxes` without annotation or without an object of its class, an annotation of
    another size than its image, a damaged file and, in an archive, a link or a name that leads out of it are
    errors, or are counted and left out with `on_bad_sample=skip`. Boxes without an image are not looked at.

    Args:
        root: see above.
        ground_truth: file or folder of the labels, or nothing.
        synsets: text file of all classes, in their order: each line begins with a synset (`LOC_synset_mapping.txt` is
            such a file); or nothing.
        boxes: folder of the XML files, `ILSVRC2012_val_00000293.xml` in itself or in any folder within it; or nothing.
        difficult: `"skip"` leaves out images whose objects are all flagged difficult, and counts them; `"keep"` treats
            difficult objects like all others; `"drop"` also leaves them out of `masks`.
        split: see `FileDataset`, as for all other arguments.
        size: see there.
        resize: see there; 256 is what networks for ImageNet are usually tested with.
        normalize: see there.
        label_map: see there.
        on_bad_sample: see there.
        workers: see there.

    Raises:
        DatasetError: a file or folder is missing or is not what it must be.
        BadSampleError: see above.

    Reference:
        O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 115(3), 2015.

    Example:
        >>> ImageNet("imagenet", ground_truth="ILSVRC2012_devkit_t12", resize=256).has_masks
        False
    """

    name: ClassVar[str] = "imagenet"
    places: ClassVar[frozenset[str]] = frozenset({"root", "ground_truth", "synsets", "boxes"})

    root: str | Path
    ground_truth: str | Path = ""
    synsets: str | Path = ""
    boxes: str | Path = ""
    difficult: Difficult = "skip"

    def __post_init__(self) -> None:
        """Check the configuration."""
        super().__post_init__()
        if self.difficult not in get_args(Difficult):
            raise ValueError(f"`difficult` must be one of {', '.join(get_args(Difficult))}, was {self.difficult!r}")

    @property
    def has_masks(self) -> bool:
        """Whether samples come with object masks: if there are boxes."""
        return bool(self.boxes)

    def with_split(self, split: str) -> Self:
        """Return the other part, where `root` holds both."""
        return replace(self, split=split) if self._part(split) else super().with_split(split)

    def listing(self) -> Listing:
        """Find the images, their labels and their boxes."""
        skipped: Counter[str] = Counter()
        truth, boxes = _ground_truth(self.ground_truth), _box_files(self.boxes)
        labelled = self._labelled(truth, skipped)
        classes, files = self._classes(truth, {_synset(name) for name in labelled})
        index = {synset: number for number, synset in enumerate(classes)}
        records: list[Record] = []
        for name, image in sorted(labelled.items()):
            synset = _synset(name)
            try:
                if synset not in index:
                    raise BadSampleError(image.path, UNKNOWN_CLASS, f"{synset}, of `{name}`")
                annotation = self._annotation(synset, image, boxes)
            except BadSampleError as error:
                self.reject(skipped, error)
                continue
            objects = annotation.boxes.objects if annotation.boxes else ()
            if objects and not self._own(objects, synset):
                skipped[ONLY_DIFFICULT] += 1
                continue
            present = frozenset(index[each.name] for each in objects if each.name in index)
            records.append(Record(sample_name(name), name, image.path, index[synset], present, annotation))
        files += [record.annotation.file for record in records if record.annotation.boxes]
        return Listing(classes, records, +skipped, files)

    def image_of(self, record: Record) -> Image.Image:
        """Return the image from its folder or archive, in the orientation of its boxes."""
        annotation: _Annotation = record.annotation
        data = None if annotation.member is None else read_member(record.path, annotation.member)
        if annotation.boxes is None or annotation.boxes.size is None:
            return open_image(record.path, upright=False, data=data)
        return open_annotated(record.path, annotation.boxes.size, data=data)

    def masks_of(self, record: Record, size: Size) -> Masks | None:
        """Return the boxes of the class, and all boxes."""
        annotation: _Annotation = record.annotation
        if annotation.boxes is None:
            return None
        objects = annotation.boxes.objects
        own = box_mask(self._own(objects, _synset(record.name)), size, path=annotation.file)
        return Masks(own, box_mask(objects, size, path=annotation.file))

    def _own(self, objects: Sequence[PascalObject], synset: str) -> list[PascalObject]:
        """Return the objects of a class that masks are made of."""
        return [each for each in compress(objects, counted(objects, self.difficult)) if each.name == synset]

    def _part(self, split: str) -> Path | None:
        """Return where `root` holds a part; `None` if it does not."""
        places = (Path(self.root).expanduser() / name for name in PLACES[split])
        return next((place for place in places if place.exists()), None)

    def _images(self, skipped: Counter[str]) -> Iterator[_Image]:
        """Find all images of the part."""
        place = self._part(self.split)
        if place is None:
            place = Path(self.root).expanduser()
            if any(map(self._part, PLACES)):
                raise DatasetError(
                    f"`{place}` must have one of {', '.join(PLACES[self.split])}, has only the other part"
                )
        if not place.exists():
            raise DatasetError(
                f"`imagenet` must be a folder or a tar archive, `{place}` is neither (that is `{place.resolve()}`): "
                "name the one that there is (`imagenet?root=DIR`)"
            )
        for found in _found(place):
            if isinstance(found, BadSampleError):
                self.reject(skipped, found)
            elif found.place.name.startswith("."):  # what file managers leave behind
                continue
            elif found.place.suffix.lower() in IMAGE_SUFFIXES:
                yield found
            else:
                skipped[NOT_AN_IMAGE] += 1

    def _labelled(self, truth: _GroundTruth, skipped: Counter[str]) -> dict[str, _Image]:
        """Return the images by names that begin with their synset."""
        labelled: dict[str, _Image] = {}
        for image in self._images(skipped):
            folder = image.place.parent.name
            synset = folder if _SYNSET.fullmatch(folder) else truth.of.get(image.place.stem)
            if synset is None:
                self.reject(skipped, BadSampleError(image.path, NO_LABEL, f"`{image.place}`; is `ground_truth` given?"))
                continue
            name = f"{synset}/{image.place.name}"
            if name in labelled:
                raise DatasetError(f"`{image.path}` and `{labelled[name].path}` have two images called `{name}`")
            labelled[name] = image
        return labelled

    def _classes(self, truth: _GroundTruth, found: set[str]) -> tuple[tuple[str, ...], list[Path]]:
        """Return all classes, and the files that say so."""
        if not self.synsets:
            return tuple(sorted({*truth.synsets, *found})), [*truth.files]
        path = Path(self.synsets).expanduser()
        synsets = tuple(words[0] for words in _words(path) if words)
        if len(set(synsets)) < len(synsets) or not all(map(_SYNSET.fullmatch, synsets)):
            raise DatasetError(f"`{path}` must have another synset, such as n01440764, at the beginning of each line")
        return synsets, [*truth.files, path]

    def _annotation(self, synset: str, image: _Image, boxes: Mapping[str, Path]) -> _Annotation:
        if not self.boxes:
            return _Annotation(image.member, None, image.path)
        path = boxes.get(image.place.stem)
        if path is None:
            raise BadSampleError(image.path, NO_ANNOTATION, f"`{image.place}`")
        annotation = read_annotation(path)
        if all(each.name != synset for each in annotation.objects):
            raise BadSampleError(path, NO_OBJECT, synset)
        return _Annotation(image.member, annotation, path)


def _synset(name: str) -> str:
    """Return the class that an image's name begins with."""
    return name.partition("/")[0]


def _found(place: Path) -> Iterator[_Image | BadSampleError]:
    """Find all files in a folder, in the archives in it, or in an archive."""
    if place.is_file():
        for member in tar_members(place):
            yield member if isinstance(member, BadSampleError) else _Image(member.name, place, member)
        return
    for path in files_in(place):
        if isinstance(path, BadSampleError):
            yield path
        elif path.suffix != ".tar":
            yield _Image(PurePosixPath(path.relative_to(place).as_posix()), path, None)
        else:
            for member in tar_members(path):
                yield member if isinstance(member, BadSampleError) else _Image(path.stem / member.name, path, member)


def _box_files(place: str | Path) -> Mapping[str, Path]:
    """Find annotation files, by the names of their images without suffix."""
    files: dict[str, Path] = {}
    if not place:
        return files
    folder = Path(place).expanduser()
    for path in files_in(folder):
        if isinstance(path, BadSampleError):
            raise path
        if path.suffix != ".xml":
            continue
        if path.stem in files:
            raise DatasetError(f"`{path}` and `{files[path.stem]}` are annotations of the same image: keep one of them")
        files[path.stem] = path
    if not files:
        raise DatasetError(f"`boxes` must be a folder of XML files, there is none in `{folder}`")
    return files


def _ground_truth(place: str | Path) -> _GroundTruth:
    """Read the labels of images that have no folder."""
    if not place:
        return _GroundTruth({}, (), ())
    path = Path(place).expanduser()
    if path.is_dir():
        return _devkit(path)
    pairs = [(PurePosixPath(words[0]).stem, words[1]) for words in _words(path) if len(words) > 1]
    if pairs and not _SYNSET.fullmatch(pairs[0][1]):
        del pairs[0]  # a heading
    wrong = [synset for _, synset in pairs if not _SYNSET.fullmatch(synset)]
    if wrong or not pairs or len(dict(pairs)) < len(pairs):
        reason = f"`{wrong[0]}` is no synset" if wrong else "there is none" if not pairs else "an image is there twice"
        raise DatasetError(f"`{path}` must have an image and its synset, such as n01440764, on each line: {reason}")
    return _GroundTruth(dict(pairs), sorted({synset for _, synset in pairs}), (path,))


def _words(path: Path) -> list[list[str]]:
    """Read the words of each line, which spaces or commas separate."""
    try:
        return [line.replace(",", " ").split() for line in read_text(path, most=_MOST).splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"`{path}` must be a text file, and cannot be read as one: {error}") from error


def _devkit(folder: Path) -> _GroundTruth:
    """Read the labels of the validation images from the development kit."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    truth, meta = folder / DEVKIT_TRUTH, folder / DEVKIT_META
    message = f"`{folder}` must be ImageNet's development kit, and cannot be read as one"
    try:
        with failing_as_dataset_error(message):
            rows = cast("Any", loadmat(BytesIO(read_bytes(meta, most=_MOST_META)), squeeze_me=True))["synsets"]
            # Synsets with children are not classes.
            synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if row["num_children"] == 0}
            numbers = [int(words[0]) for words in _words(truth) if words]
            of = {f"ILSVRC2012_val_{index:08d}": synsets[number] for index, number in enumerate(numbers, start=1)}
    except MatReadError as error:
        raise DatasetError(f"{message}: {error}") from error
    return _GroundTruth(of, sorted(synsets.values()), (truth, meta))
