"""ImageNet gives the same samples from folders and from archives, with labels and boxes from their files."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from interpeval.bench.resolve import resolve_dataset
from interpeval.datasets.base import Dataset
from interpeval.datasets.files import BadSampleError, DatasetError
from interpeval.datasets.imagenet import (
    NO_LABEL,
    NO_OBJECT,
    NOT_AN_IMAGE,
    ONLY_DIFFICULT,
    UNKNOWN_CLASS,
    ImageNet,
)
from interpeval.datasets.pascal_xml import NO_ANNOTATION
from interpeval.datasets.tar_members import UNSAFE
from pascal_files import document, filled, thing
from tar_files import archive, as_link

TENCH, SHARK, HEN = "n01440764", "n01484850", "n01514859"
NAMES = {f"ILSVRC2012_val_0000000{i}": synset for i, synset in enumerate((SHARK, TENCH, SHARK), start=1)}
IDS = tuple(sorted(f"{synset}/{name}" for name, synset in NAMES.items()))
SIZE = (6, 8)


def jpeg(seed):
    """A photograph of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


IMAGES = {name: jpeg(seed) for seed, name in enumerate(NAMES)}


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folders(root, part="val"):
    for name, synset in NAMES.items():
        put(root / part / synset / f"{name}.JPEG", IMAGES[name])
    return root


def labels(folder):
    return put(folder / "labels.txt", "".join(f"{name} {synset}\n" for name, synset in NAMES.items()).encode())


def devkit(folder):
    """The official kit: numbers of its own for the classes, with a class that other classes belong to."""
    rows = [(1, SHARK, 0), (2, HEN, 0), (3, TENCH, 0), (4, "n00001740", 2)]
    names = ("ILSVRC2012_ID", "WNID", "num_children")
    synsets = np.array(rows, dtype=[(name, object) for name in names])[:, None]
    (folder / "data").mkdir(parents=True)
    savemat(folder / "data" / "meta.mat", {"synsets": synsets})
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n3\n1\n")
    return folder


def layouts(folder):
    """The same images in every layout."""
    flat = {f"{name}.JPEG": data for name, data in IMAGES.items()}
    deep = {f"val/{NAMES[name]}/{name}.JPEG": data for name, data in IMAGES.items()}
    inner = {
        f"{synset}.tar": archive({f"{name}.JPEG": IMAGES[name] for name in NAMES if NAMES[name] == synset})
        for synset in (SHARK, TENCH)
    }
    truth = labels(folder)
    yield "folders", {"root": folders(folder / "folders")}
    yield "one folder of synsets", {"root": folders(folder / "one") / "val"}
    for name, data in flat.items():
        put(folder / "flat" / "val" / name, data)
    yield "flat", {"root": folder / "flat", "ground_truth": truth}
    put(folder / "tar" / "ILSVRC2012_img_val.tar", archive(flat))
    yield "flat archive", {"root": folder / "tar", "ground_truth": truth}
    yield "archive of folders", {"root": put(folder / "deep.tar", archive(deep))}
    yield "archive of archives", {"root": put(folder / "inner.tar", archive(inner))}
    for name, data in inner.items():
        put(folder / "split" / name, data)
    yield "folder of archives", {"root": folder / "split"}


def test_samples_are_the_same_in_every_layout(tmp_path):
    seen = {}
    for layout, arguments in layouts(tmp_path):
        dataset = ImageNet(size=16, **arguments)
        assert isinstance(dataset, Dataset)
        assert dataset.ids == IDS, layout
        assert dataset.classes == (TENCH, SHARK), layout
        assert dataset.labels.tolist() == [0, 1, 1], layout
        assert dataset.skipped == {}, layout
        assert not dataset.has_masks
        seen[layout] = dataset.take(range(3)).images
    assert all(torch.equal(images, seen["folders"]) for images in seen.values())
    stored = [np.asarray(Image.open(io.BytesIO(IMAGES[name.partition("/")[2]]))) for name in IDS]
    whole = ImageNet(tmp_path / "folders", size=8, resize="crop")
    pixels = whole.normalization.to_pixels(whole.take(range(3)).images) * 255
    for image, original in zip(pixels, stored, strict=True):
        resized = Image.fromarray(original).resize((int(8 * 8 / 6), 8), Image.Resampling.BILINEAR)
        middle = np.asarray(resized)[:, 1:9].transpose(2, 0, 1)
        np.testing.assert_allclose(image.numpy(), middle, rtol=0, atol=1e-3)


def test_samples_of_an_archive_can_be_read_in_a_worker(tmp_path):
    path = put(tmp_path / "all.tar", archive({f"{s}/{name}.JPEG": IMAGES[name] for name, s in NAMES.items()}))
    dataset = ImageNet(path, size=16)
    sent, records = pickle.loads(pickle.dumps((dataset, dataset.records)))  # noqa: S301  # pickled above
    for record, image in zip(records, dataset.take(range(3)).images, strict=True):
        (item,) = sent.read_image([record])
        assert torch.equal(dataset.normalization.normalize(torch.from_numpy(item.pixels).float() / 255), image)


def test_labels_are_read_from_tables_of_several_kinds_and_from_the_devkit(tmp_path):
    for name, data in IMAGES.items():
        put(tmp_path / "flat" / f"{name}.JPEG", data)
    kaggle = "ImageId,PredictionString\n" + "".join(f"{n},{s} 85 1 499 272 {s} 1 1 2 2\n" for n, s in NAMES.items())
    plain = "".join(f"val/{name}.JPEG\t{synset}\n\n" for name, synset in NAMES.items())
    for text in (kaggle, plain):
        path = put(tmp_path / "labels.csv", text.encode())
        dataset = ImageNet(tmp_path / "flat", ground_truth=path)
        assert dataset.ids == IDS
        assert dataset.classes == (TENCH, SHARK)
    dataset = ImageNet(tmp_path / "flat", ground_truth=devkit(tmp_path / "kit"))
    assert dataset.ids == IDS
    assert dataset.classes == (TENCH, SHARK, HEN)  # all of the kit, in alphabetical order; not the one above others
    assert dataset.labels.tolist() == [0, 1, 1]


def test_a_file_of_all_classes_gives_them_their_indices(tmp_path):
    path = put(tmp_path / "synsets.txt", f"{HEN} hen\n{TENCH} tench, Tinca tinca\n{SHARK} great white shark\n".encode())
    dataset = ImageNet(folders(tmp_path / "in"), synsets=path)
    assert dataset.classes == (HEN, TENCH, SHARK)
    assert dataset.labels.tolist() == [1, 2, 2]
    put(path, f"{TENCH}\n".encode())
    with pytest.raises(BadSampleError, match=UNKNOWN_CLASS):
        _ = ImageNet(tmp_path / "in", synsets=path).ids
    assert ImageNet(tmp_path / "in", synsets=path, on_bad_sample="skip").skipped == {UNKNOWN_CLASS: 2}


def annotated(tmp_path, **objects):
    """Folders with boxes; images without further word have one box."""
    for number, name in enumerate(NAMES, start=1):
        own = objects.get(f"_{number}", (thing(NAMES[name], 2, 2, 4, 3),))
        put(tmp_path / "boxes" / "val" / f"{name}.xml", document(*own, size=SIZE).encode())
    return {"root": folders(tmp_path / "images"), "boxes": tmp_path / "boxes", "size": 32}


def test_masks_are_the_boxes_of_the_class(tmp_path):
    several = (thing(SHARK, 2, 2, 4, 3), thing(SHARK, 7, 5, 8, 6), thing(TENCH, 1, 5, 2, 6))
    dataset = ImageNet(**annotated(tmp_path, _1=several))
    assert dataset.has_masks
    batch = dataset.take(range(3))
    boxes = {IDS[0]: [(2, 2, 4, 3)], IDS[1]: [(2, 2, 4, 3), (7, 5, 8, 6)], IDS[2]: [(2, 2, 4, 3)]}
    for name, mask in zip(batch.ids, batch.original_masks, strict=True):
        assert mask.tolist() == np.any([filled(box, SIZE) for box in boxes[name]], axis=0).tolist()
    everything = batch.all_masks & ~batch.masks
    assert everything.flatten(1).any(1).tolist() == [False, True, False]
    assert dataset.present.tolist() == [[True, False], [True, True], [False, True]]


@pytest.mark.parametrize(
    ("difficult", "count", "boxes"),
    [("skip", 2, [(2, 2, 3, 3), (5, 5, 6, 6)]), ("keep", 3, [(2, 2, 3, 3), (5, 5, 6, 6)]), ("drop", 2, [(2, 2, 3, 3)])],
)
def test_images_whose_objects_are_all_difficult_are_left_out_and_counted(tmp_path, difficult, count, boxes):
    arguments = annotated(
        tmp_path,
        _2=(thing(TENCH, 2, 2, 3, 3, difficult=0), thing(TENCH, 5, 5, 6, 6, difficult=1)),
        _3=(thing(SHARK, 1, 1, 2, 2, difficult=1), thing(TENCH, 1, 1, 2, 2)),
    )
    dataset = ImageNet(difficult=difficult, **arguments)
    assert len(dataset) == count
    assert dataset.skipped == ({} if difficult == "keep" else {ONLY_DIFFICULT: 1})
    mask = dataset.take([0]).original_masks[0]
    assert mask.tolist() == np.any([filled(box, SIZE) for box in boxes], axis=0).tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda image, xml: xml.unlink(), NO_ANNOTATION),
        (lambda image, xml: xml.write_text(document(thing(HEN, 1, 1, 2, 2), size=SIZE)), NO_OBJECT),
        (lambda image, xml: xml.write_text(document(size=SIZE)), NO_OBJECT),
        (lambda image, xml: xml.write_bytes(xml.read_bytes()[:-9]), "annotation that cannot be read"),
        (lambda image, xml: xml.write_text(document(thing(SHARK, 2, 1, 1, 2), size=SIZE)), "annotation that cannot"),
        (lambda image, xml: xml.write_text(document(thing(SHARK, 1, 8, 2, 9), size=SIZE)), "box outside of the image"),
        (lambda image, xml: xml.write_text(document(thing(SHARK, 1, 1, 2, 2), size=(60, 80))), "another size"),
        (lambda image, xml: image.write_bytes(image.read_bytes()[:150]), "truncated, or not an image"),
    ],
    ids=["no boxes", "other class", "no object", "truncated boxes", "negative", "outside", "other size", "truncated"],
)
def test_a_bad_sample_is_an_error_or_is_counted(tmp_path, change, reason):
    arguments = annotated(tmp_path)
    name = "ILSVRC2012_val_00000003"
    change(tmp_path / "images" / "val" / SHARK / f"{name}.JPEG", tmp_path / "boxes" / "val" / f"{name}.xml")
    strict = ImageNet(**arguments)
    with pytest.raises(BadSampleError, match=reason) as raised:
        strict.take(range(len(strict)))
    lenient = ImageNet(on_bad_sample="skip", **arguments)
    assert lenient.ids == IDS[:2]
    assert lenient.skipped == {raised.value.reason: 1}


def test_boxes_without_image_are_not_looked_at(tmp_path):
    arguments = annotated(tmp_path)
    put(tmp_path / "boxes" / "ILSVRC2012_val_00000009.xml", b"not even read")
    assert ImageNet(**arguments).ids == IDS


def test_images_without_label_and_other_files_are_errors_or_are_counted(tmp_path):
    root = folders(tmp_path / "in")
    put(root / "val" / "ILSVRC2012_val_00000009.JPEG", jpeg(9))
    put(root / "val" / "readme.txt", b"text")
    put(root / "val" / ".hidden.JPEG", b"")
    with pytest.raises(BadSampleError, match=NO_LABEL):
        _ = ImageNet(root).ids
    dataset = ImageNet(root, on_bad_sample="skip")
    assert dataset.ids == IDS
    assert dataset.skipped == {NO_LABEL: 1, NOT_AN_IMAGE: 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../../evil.JPEG", jpeg(7)),
        ("/evil.JPEG", jpeg(7)),
        (f"{TENCH}/l.JPEG", as_link(tarfile.SYMTYPE, "/etc/fstab")),
    ],
)
def test_what_leads_out_of_an_archive_is_an_error_or_is_counted(tmp_path, name, content):
    good = {f"{synset}/{each}.JPEG": IMAGES[each] for each, synset in NAMES.items()}
    path = put(tmp_path / "in" / "all.tar", archive({name: content, **good}))
    with pytest.raises(BadSampleError, match=UNSAFE):
        _ = ImageNet(path).ids
    dataset = ImageNet(path, size=16, on_bad_sample="skip")
    assert (dataset.ids, dataset.skipped) == (IDS, {UNSAFE: 1})
    assert dataset.take(range(3)).images.shape == (3, 3, 16, 16)
    assert [each.name for each in tmp_path.rglob("*")] == ["in", "all.tar"]  # nothing was unpacked


def test_a_truncated_archive_is_an_error(tmp_path):
    data = archive({f"{synset}/{name}.JPEG": IMAGES[name] for name, synset in NAMES.items()})
    for size in (len(IMAGES["ILSVRC2012_val_00000001"]), 1024, 3000):
        with pytest.raises(DatasetError, match=r"truncated|no end mark"):
            _ = ImageNet(put(tmp_path / "all.tar", data[:size]), on_bad_sample="skip").ids


def test_two_images_of_one_name_are_an_error(tmp_path):
    root = folders(tmp_path / "in")
    put(root / "val" / "more" / TENCH / "ILSVRC2012_val_00000002.JPEG", jpeg(1))
    with pytest.raises(DatasetError, match=r"have two images called `n01440764/ILSVRC2012_val_00000002.JPEG`"):
        _ = ImageNet(root).ids
    arguments = annotated(tmp_path)
    put(tmp_path / "boxes" / "more" / "ILSVRC2012_val_00000002.xml", b"")
    with pytest.raises(DatasetError, match="annotations of the same image"):
        _ = ImageNet(**arguments).ids


def test_parts_are_those_of_the_root(tmp_path):
    root = folders(tmp_path / "in")
    put(root / "train" / TENCH / f"{TENCH}_10026.JPEG", jpeg(5))
    dataset = ImageNet(root)
    assert dataset.with_split("train").ids == (f"{TENCH}/{TENCH}_10026",)
    assert dataset.with_split("train").with_split("test").ids == IDS
    with pytest.raises(DatasetError, match="`train` was wanted"):
        ImageNet(root / "val").with_split("train")
    with pytest.raises(DatasetError, match=r"must have one of train, ILSVRC2012_img_train.tar, has only the other"):
        _ = ImageNet(folders(tmp_path / "half"), split="train").ids


def test_links_in_folders_may_lead_in_circles(tmp_path):
    root = folders(tmp_path / "in")
    (root / "val" / TENCH / "back").symlink_to(root / "val")
    assert ImageNet(root).ids == IDS


def test_the_revision_follows_what_is_read(tmp_path):
    arguments = annotated(tmp_path)
    before = ImageNet(**arguments).revision
    assert ImageNet(**arguments).revision == before
    others = {ImageNet(**{**arguments, **change}).revision for change in ({"boxes": ""}, {"difficult": "drop"})}
    xml = tmp_path / "boxes" / "val" / "ILSVRC2012_val_00000001.xml"
    xml.write_text(xml.read_text().replace("<xmax>4", "<xmax>5"))
    assert len({before, ImageNet(**arguments).revision, *others}) == 4


def test_the_name_with_arguments_gives_the_dataset(tmp_path):
    dataset = resolve_dataset(f"imagenet?root={folders(tmp_path / 'in')}&size=16&resize=crop&normalize=half")
    assert isinstance(dataset, ImageNet)
    assert dataset.image_shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is none"),
        ("a n01440764\nb tench\n", "`tench` is no synset"),
        ("a n01440764\na n01484850\n", "an image is there twice"),
        ("\xff\xfe", "no synset|there is none"),
    ],
)
def test_labels_that_are_none_are_errors(tmp_path, text, message):
    path = put(tmp_path / "labels.txt", text.encode())
    with pytest.raises(DatasetError, match=message):
        _ = ImageNet(folders(tmp_path / "in"), ground_truth=path).ids


def test_files_that_are_missing_or_something_else_are_named(tmp_path):
    root = folders(tmp_path / "in")
    for argument in ("ground_truth", "synsets"):
        with pytest.raises(DatasetError, match=r"none.txt` must be a text file"):
            _ = ImageNet(root, **{argument: tmp_path / "none.txt"}).ids
        with pytest.raises(DatasetError, match=r"must be a text file|must be ImageNet's development kit"):
            _ = ImageNet(root, **{argument: root}).ids
    with pytest.raises(DatasetError, match="`boxes` must be a folder of XML files"):
        _ = ImageNet(root, boxes=tmp_path / "none").ids
    with pytest.raises(DatasetError, match="`imagenet` must be a folder or a tar archive"):
        _ = ImageNet(tmp_path / "none").ids
    with pytest.raises(DatasetError, match="must have another synset"):
        _ = ImageNet(root, synsets=put(tmp_path / "twice.txt", f"{TENCH}\n{TENCH}\n".encode())).ids
    (devkit(tmp_path / "kit") / "data" / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(DatasetError, match="development kit"):
        _ = ImageNet(root, ground_truth=tmp_path / "kit").ids


def test_a_development_kit_is_read_up_to_a_size(tmp_path):
    with (devkit(tmp_path / "kit") / "data" / "meta.mat").open("ab") as file:
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(DatasetError, match=r"development kit.*must have at most 16 MiB"):
        _ = ImageNet(folders(tmp_path / "in"), ground_truth=tmp_path / "kit").ids


def test_a_wrong_argument_is_refused():
    with pytest.raises(ValueError, match="`difficult` must be one of skip, keep, drop, was 'no'"):
        ImageNet("anywhere", difficult="no")
