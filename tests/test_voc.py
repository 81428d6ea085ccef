"""Pascal VOC: one sample for each image and class, with masks from boxes or from outlines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from interpeval.bench.resolve import resolve_dataset
from interpeval.datasets.base import Dataset
from interpeval.datasets.files import BadSampleError, DatasetError
from interpeval.datasets.label_spaces import COCO_IN_IMAGENET
from interpeval.datasets.pascal_xml import NO_ANNOTATION
from interpeval.datasets.voc import (
    AS_IN_COCO,
    CLASSES,
    NO_OBJECT,
    ONLY_DIFFICULT,
    OTHER_SIZE,
    UNKNOWN_CLASS,
    UNKNOWN_OBJECT,
    Voc,
)
from pascal_files import document, filled, thing

SIZE = (6, 8)
CAT, DOG = CLASSES.index("cat"), CLASSES.index("dog")


class Devkit:
    """A VOC folder that is being written."""

    def __init__(self, root):
        self.root = root
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True)

    def add(self, name, *objects, sets=("val",), size=SIZE, told=SIZE):
        """Add an image with an annotation."""
        Image.new("RGB", (size[1], size[0]), (0, 200, 0)).save(self.root / "JPEGImages" / f"{name}.jpg")
        (self.root / "Annotations" / f"{name}.xml").write_text(document(*objects, size=told))
        for each in sets:
            self.list(each, name)
        return self

    def list(self, name, *lines):
        """Add lines to the list of a set."""
        for folder in ("Main", "Segmentation"):
            with (self.root / "ImageSets" / folder / f"{name}.txt").open("a") as file:
                file.writelines(f"{line}\n" for line in lines)
        return self

    def outlines(self, kind, name, values):
        """Add outlines as VOC's PNG files with a palette."""
        image = Image.fromarray(np.asarray(values, dtype=np.uint8), mode="P")
        image.putpalette([value % 256 for value in range(7, 7 + 768)])  # colours that are not the indices
        folder = self.root / f"Segmentation{kind}"
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{name}.png")
        return self


@pytest.fixture
def devkit(tmp_path):
    return Devkit(tmp_path / "VOC2012")


def painted(size=SIZE, **pixels):
    """Indices that are 0 but for rectangles (first column, first row, last column, last row, from 1): `_7=(…)`."""
    values = np.zeros(size, dtype=np.uint8)
    for number, box in pixels.items():
        values[np.array(filled(box, size))] = int(number.removeprefix("_"))
    return values


def test_an_image_is_a_sample_for_each_of_its_classes(devkit):
    devkit.add("2007_2", thing("dog", 1, 1, 2, 2), thing("cat", 2, 2, 4, 3), thing("cat", 7, 5, 8, 6))
    devkit.add("2007_1", thing("person", 1, 1, 8, 6))
    dataset = Voc(devkit.root, size=32)
    assert isinstance(dataset, Dataset)
    assert dataset.ids == ("2007_2#cat", "2007_2#dog", "2007_1#person")  # in the order of the list
    assert [dataset.classes[label] for label in dataset.labels] == ["cat", "dog", "person"]
    assert dataset.present[:2].nonzero().tolist() == [[0, CAT], [0, DOG], [1, CAT], [1, DOG]]
    batch = dataset.take(range(3))
    assert batch.original_masks is not None
    boxes = [[(2, 2, 4, 3), (7, 5, 8, 6)], [(1, 1, 2, 2)], [(1, 1, 8, 6)]]
    for mask, own in zip(batch.original_masks, boxes, strict=True):
        assert mask.tolist() == np.any([filled(box, SIZE) for box in own], axis=0).tolist()
    assert torch.equal(batch.all_masks[0], batch.masks[0] | batch.masks[1])
    assert dataset.skipped == {}


def test_a_box_and_its_image_stay_together_in_every_geometry(devkit):
    devkit.add("1", thing("cat", 11, 21, 30, 50), size=(60, 90), told=(60, 90))
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:50, 10:30] = 255
    Image.fromarray(pixels).save(devkit.root / "JPEGImages" / "1.jpg", quality=100)
    for resize in ("squash", "crop"):
        dataset = Voc(devkit.root, size=40, resize=resize)
        batch = dataset.take([0])
        bright = dataset.normalization.to_pixels(batch.images)[0].mean(0) > 0.5
        assert (bright != batch.masks[0]).sum() <= 40  # half a pixel along the edge
        assert 100 < batch.masks[0].sum() < 600


@pytest.mark.parametrize(
    ("difficult", "ids", "box", "skipped"),
    [
        ("skip", ("1#cat",), [(1, 1, 2, 2), (5, 5, 6, 6)], {ONLY_DIFFICULT: 1}),
        ("keep", ("1#cat", "1#dog"), [(1, 1, 2, 2), (5, 5, 6, 6)], {}),
        ("drop", ("1#cat",), [(1, 1, 2, 2)], {ONLY_DIFFICULT: 1}),
    ],
)
def test_difficult_objects_count_as_one_wants(devkit, difficult, ids, box, skipped):
    devkit.add(
        "1",
        thing("cat", 1, 1, 2, 2, difficult=0),
        thing("cat", 5, 5, 6, 6, difficult=1),
        thing("dog", 3, 3, 4, 4, difficult=1),
    )
    dataset = Voc(devkit.root, difficult=difficult, size=32)
    assert (dataset.ids, dataset.skipped) == (ids, skipped)
    batch = dataset.take([0])
    assert batch.original_masks[0].tolist() == np.any([filled(each, SIZE) for each in box], axis=0).tolist()
    assert dataset.present[0].nonzero().flatten().tolist() == [CAT, DOG]
    everything = Voc(devkit.root, difficult="keep", size=32).take([0]).all_masks
    assert torch.equal(batch.all_masks, everything)


def test_class_outlines_are_the_pixels_of_the_class_without_what_is_void(devkit):
    devkit.add("1", thing("person", 1, 1, 8, 6))  # the XML file is not read
    values = painted(_8=(1, 1, 3, 3), _12=(5, 1, 6, 6), _255=(3, 1, 5, 1))
    devkit.outlines("Class", "1", values)
    dataset = Voc(devkit.root, truth="class", size=32)
    assert dataset.ids == ("1#cat", "1#dog")
    batch = dataset.take([0, 1])
    assert [mask.numpy().tolist() for mask in batch.original_masks] == [(values == n).tolist() for n in (8, 12)]
    assert torch.equal(batch.all_masks[0], batch.masks[0] | batch.masks[1])
    assert not batch.all_masks[0][:4, 12:16].any()  # void
    (devkit.root / "Annotations" / "1.xml").unlink()
    assert Voc(devkit.root, truth="class", size=32).ids == dataset.ids


def test_object_outlines_are_those_of_the_objects_of_the_class(devkit):
    devkit.add("1", thing("cat", 1, 1, 2, 2), thing("dog", 1, 1, 2, 2), thing("cat", 1, 1, 2, 2, difficult=1))
    values = painted(_1=(1, 1, 2, 6), _2=(3, 1, 4, 6), _3=(6, 1, 7, 6), _255=(5, 1, 5, 6))
    devkit.outlines("Object", "1", values)
    dataset = Voc(devkit.root, truth="object", size=32)
    assert dataset.ids == ("1#cat", "1#dog")
    cats, dogs = dataset.take([0, 1]).original_masks
    assert cats.tolist() == np.isin(values, [1, 3]).tolist()
    assert dogs.tolist() == (values == 2).tolist()
    (easy,) = Voc(devkit.root, truth="object", difficult="drop", size=32).take([0]).original_masks
    assert easy.tolist() == (values == 1).tolist()


def test_parts_are_their_lists(devkit):
    devkit.add("a", thing("cat", 1, 1, 2, 2), sets=("train",))
    devkit.add("b", thing("cat", 1, 1, 2, 2), sets=("val", "trainval"))
    devkit.add("c", thing("cat", 1, 1, 2, 2), sets=("test", "trainval"))
    dataset = Voc(devkit.root)
    assert dataset.ids == ("b#cat",)
    assert dataset.with_split("train").ids == ("a#cat",)
    other = Voc(devkit.root, image_set="test")
    assert other.ids == ("c#cat",)
    assert other.with_split("test").ids == ("c#cat",)
    assert other.with_split("train").ids == ("a#cat",)


def test_imagenets_classes_are_known_by_their_names_in_coco(devkit):
    devkit.add("1", thing("sofa", 1, 1, 2, 2), thing("person", 3, 3, 4, 4), thing("cat", 3, 3, 4, 4))
    dataset = Voc(devkit.root, label_map="imagenet")
    assert dataset.ids == ("1#cat", "1#sofa")
    counts = dataset.network_classes[CLASSES.index("sofa")]
    assert counts.nonzero().flatten().tolist() == [*COCO_IN_IMAGENET["couch"]]
    assert set(AS_IN_COCO.values()) <= set(COCO_IN_IMAGENET)
    assert set(AS_IN_COCO) <= set(CLASSES)
    assert sum(dataset.skipped.values()) == 1


def test_the_name_with_arguments_gives_the_dataset_and_it_can_be_sent_to_a_worker(devkit):
    devkit.add("1", thing("cat", 1, 1, 2, 2))
    dataset = resolve_dataset(f"voc?root={devkit.root}&size=16&difficult=keep")
    assert isinstance(dataset, Voc)
    assert dataset.take([0]).images.shape == (1, 3, 16, 16)
    sent = pickle.loads(pickle.dumps((dataset, dataset.records[0])))  # noqa: S301  # pickled above
    assert torch.equal(sent[0].take([0]).images, dataset.take([0]).images)
    assert np.array_equal(sent[0].read_image([sent[1]])[0].mask, dataset.take([0]).masks[0].numpy())


def test_the_revision_follows_what_is_read_and_not_where(devkit, tmp_path):
    devkit.add("1", thing("cat", 1, 1, 2, 2))
    before = Voc(devkit.root).revision
    moved = tmp_path / "moved"
    devkit.root.rename(moved)
    assert Voc(moved).revision == before
    assert Voc(moved, difficult="drop").revision != before
    (moved / "Annotations" / "1.xml").write_text(document(thing("cat", 1, 1, 2, 3), size=SIZE))
    assert Voc(moved).revision != before


def test_images_without_objects_are_left_out_and_counted(devkit):
    devkit.add("1").add("2", thing("cat", 1, 1, 2, 2))
    assert Voc(devkit.root).ids == ("2#cat",)
    assert Voc(devkit.root).skipped == {NO_OBJECT: 1}


def test_images_are_turned_only_where_the_annotation_says_so(devkit):
    upright = Image.new("RGB", (8, 6), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 4, 6))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    for name, told in (("stored", (6, 8)), ("turned", (8, 6))):
        devkit.add(name, thing("cat", 1, 1, 2, 2), told=told)
        upright.save(devkit.root / "JPEGImages" / f"{name}.jpg", exif=exif, quality=100)
    dataset = Voc(devkit.root, size=16)
    stored, turned = dataset.normalization.to_pixels(dataset.take([0, 1]).images).mean(1) > 0.5
    assert stored[:, :6].all()
    assert not stored[:, 10:].any()
    assert turned[:6].all()
    assert not turned[10:].any()


def broken(devkit, fault):
    """Add a sound image, and one with a fault."""
    devkit.add("good", thing("cat", 1, 1, 2, 2)).add("bad", thing("cat", 1, 1, 2, 2))
    image, xml = devkit.root / "JPEGImages" / "bad.jpg", devkit.root / "Annotations" / "bad.xml"
    match fault:
        case "no annotation":
            xml.unlink()
        case "no image":
            image.unlink()
        case "truncated annotation":
            xml.write_bytes(xml.read_bytes()[:-20])
        case "truncated image":
            image.write_bytes(image.read_bytes()[:200])
        case "negative box":
            xml.write_text(document(thing("cat", 4, 1, 2, 2), size=SIZE))
        case "box outside":
            xml.write_text(document(thing("cat", 9, 1, 12, 2), size=SIZE))
        case "other size":
            xml.write_text(document(thing("cat", 1, 1, 2, 2), size=(60, 80)))
        case "unknown class":
            xml.write_text(document(thing("unicorn", 1, 1, 2, 2), size=SIZE))


FAULTS = {
    "no annotation": NO_ANNOTATION,
    "no image": "missing",
    "truncated annotation": "annotation that cannot be read",
    "truncated image": "truncated, or not an image",
    "negative box": "annotation that cannot be read",
    "box outside": "box outside of the image",
    "other size": "image of another size than its annotation says",
    "unknown class": UNKNOWN_CLASS,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_sample_is_an_error_or_is_counted(devkit, fault):
    broken(devkit, fault)
    strict = Voc(devkit.root, size=16)
    with pytest.raises(BadSampleError, match=FAULTS[fault]) as raised:
        strict.take(range(len(strict)))
    lenient = Voc(devkit.root, size=16, on_bad_sample="skip")
    assert lenient.ids == ("good#cat",)
    assert lenient.skipped == {raised.value.reason: 1}
    assert lenient.take([0]).masks.any()


@pytest.mark.parametrize(
    ("truth", "values", "reason"),
    [
        ("class", painted(_21=(1, 1, 2, 2)), UNKNOWN_CLASS),
        ("class", painted((6, 7), _8=(1, 1, 2, 2)), OTHER_SIZE),
        ("object", painted(_2=(1, 1, 2, 2)), UNKNOWN_OBJECT),
        ("object", painted(), "object without area"),
        ("object", painted(_255=(1, 1, 8, 6)), "object without area"),
    ],
)
def test_outlines_that_do_not_fit_are_errors_or_are_counted(devkit, truth, values, reason):
    for name in ("good", "bad"):
        devkit.add(name, thing("cat", 1, 1, 2, 2))
        devkit.outlines(truth.capitalize(), name, painted(**{"_1" if truth == "object" else "_8": (1, 1, 2, 2)}))
    devkit.outlines(truth.capitalize(), "bad", values)
    strict = Voc(devkit.root, size=16, truth=truth)
    with pytest.raises(BadSampleError, match=reason):
        strict.take(range(len(strict)))
    lenient = Voc(devkit.root, size=16, truth=truth, on_bad_sample="skip")
    assert lenient.ids == ("good#cat",)
    assert lenient.skipped == {reason: 1}


def test_outlines_in_colours_or_without_file_are_errors(devkit):
    devkit.add("1", thing("cat", 1, 1, 2, 2))
    with pytest.raises(BadSampleError, match="missing"):
        _ = Voc(devkit.root, truth="class").ids
    devkit.outlines("Class", "1", painted(_8=(1, 1, 2, 2)))
    path = devkit.root / "SegmentationClass" / "1.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(BadSampleError, match="not a PNG with a palette"):
        _ = Voc(devkit.root, truth="class").ids


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret"])
def test_a_list_does_not_lead_out_of_the_folder(devkit, name):
    devkit.list("val", name)
    with pytest.raises(DatasetError, match="leads out of it"):
        _ = Voc(devkit.root).ids


def test_an_image_that_is_listed_twice_is_an_error(devkit):
    devkit.add("1", thing("cat", 1, 1, 2, 2), sets=("val", "val"))
    with pytest.raises(DatasetError, match=r"1 names for several samples.*`1#cat`"):
        _ = Voc(devkit.root).ids


def test_missing_folders_and_lists_are_named(devkit, tmp_path):
    with pytest.raises(DatasetError, match=r"must have a folder `JPEGImages` in .*root=VOCdevkit/VOC2012"):
        _ = Voc(tmp_path).ids
    with pytest.raises(DatasetError, match=r"must have a list of its images in .*ImageSets/Main/val.txt"):
        _ = Voc(devkit.root).ids
    devkit.list("val", "2008_000001 -1")
    with pytest.raises(DatasetError, match="lists of single classes are no sets"):
        _ = Voc(devkit.root).ids


@pytest.mark.parametrize(("argument", "value"), [("truth", "outline"), ("difficult", "yes"), ("split", "val")])
def test_a_wrong_argument_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of"):
        Voc("anywhere", **{argument: value})
