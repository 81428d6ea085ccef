"""Folders of images with masks from files or from annotations."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coco_files import annotation, rectangle, written
from interpeval.bench.resolve import resolve_dataset
from interpeval.datasets.files import LINK_OUT, MISSING, BadSampleError, DatasetError
from interpeval.datasets.image_folder import (
    NO_CLASS,
    NO_IMAGE,
    NO_MASK,
    NO_OBJECT,
    NOT_AN_IMAGE,
    NOT_LISTED,
    OTHER_SIZE,
    ImageFolder,
)

UNREADABLE = "truncated, or not an image"


def put(root, name, pixels=None, **options):
    """Save an image, grey unless told otherwise, under a name with folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((6, 8), 100, dtype=np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Three images of two classes."""
    root = tmp_path / "pictures"
    for name in ("dog/2.jpg", "cat/indoors/1.png", "cat/0.PNG"):
        put(root, name)
    return root


def random_mask(seed, shape=(6, 8)):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    mask[0, 0] = True
    return mask


@pytest.fixture
def masks(tmp_path, pictures):
    """A mask for each of the images."""
    folder = tmp_path / "masks"
    for seed, name in enumerate(("cat/0.png", "cat/indoors/1.png", "dog/2.png")):
        put(folder, name, random_mask(seed))
    return folder


def test_folders_are_classes_and_samples_are_called_like_their_files(pictures):
    dataset = ImageFolder(pictures, size=16)
    assert dataset.classes == ("cat", "dog")
    assert dataset.ids == ("cat/0.PNG", "cat/indoors/1.png", "dog/2.jpg")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.present.tolist() == [[True, False], [True, False], [False, True]]
    assert not dataset.has_masks
    batch = dataset.take(range(3))
    assert batch.masks is batch.all_masks is batch.original_masks is None
    assert torch.allclose(dataset.normalization.to_pixels(batch.images), torch.tensor(100 / 255))


def test_hidden_files_are_passed_over_and_others_are_counted(pictures):
    put(pictures, ".trash/0.png")
    put(pictures, "cat/.hidden/0.png")
    put(pictures, "cat/._0.png")
    put(pictures, "loose.png")
    for name in ("cat/notes.txt", "dog/Thumbs.db"):
        (pictures / name).write_bytes(b"text")
    (pictures / "gnu").mkdir()
    dataset = ImageFolder(pictures, size=16)
    assert dataset.ids == ("cat/0.PNG", "cat/indoors/1.png", "dog/2.jpg")
    assert dataset.classes == ("cat", "dog", "gnu")  # a class may be without images, and has its index all the same
    assert dataset.skipped == {NO_CLASS: 1, NOT_AN_IMAGE: 2}


def test_links_within_the_folder_are_followed_but_not_in_circles(pictures):
    put(pictures, ".kept/3.png")
    (pictures / "dog" / "more").symlink_to(pictures / ".kept")
    (pictures / ".kept" / "back").symlink_to(pictures)
    dataset = ImageFolder(pictures, size=16)
    assert dataset.ids == ("cat/0.PNG", "cat/indoors/1.png", "dog/2.jpg", "dog/more/3.png")
    linked = pictures.parent / "linked"
    linked.symlink_to(pictures)
    assert ImageFolder(linked, size=16).ids == dataset.ids


@pytest.mark.parametrize("place", ["dog/more", "dog/3.png", "more"])
def test_links_that_lead_out_of_the_folder_are_not_followed(pictures, place):
    put(pictures.parent / "elsewhere", "more/3.png")
    (pictures / place).symlink_to(pictures.parent / "elsewhere" / ("more/3.png" if place.endswith(".png") else ""))
    with pytest.raises(BadSampleError, match=f"{place}`: {LINK_OUT}"):
        _ = ImageFolder(pictures, size=16).ids
    dataset = ImageFolder(pictures, size=16, on_bad_sample="skip")
    assert dataset.ids == ("cat/0.PNG", "cat/indoors/1.png", "dog/2.jpg")
    assert dataset.skipped[LINK_OUT] == 1


def test_masks_have_the_names_of_their_images(pictures, masks):
    dataset = ImageFolder(pictures, masks, size=24)
    assert dataset.has_masks
    batch = dataset.take([2, 0, 1])
    for seed, mask, original in zip((2, 0, 1), batch.masks, batch.original_masks, strict=True):
        np.testing.assert_array_equal(original.numpy(), random_mask(seed))
        np.testing.assert_array_equal(mask.numpy(), random_mask(seed).repeat(4, axis=0).repeat(3, axis=1))
    assert batch.all_masks is None


def test_the_revision_follows_the_masks(pictures, masks):
    without, before = ImageFolder(pictures, size=16).revision, ImageFolder(pictures, masks, size=16).revision
    put(masks, "cat/0.png", random_mask(7))
    after = ImageFolder(pictures, masks, size=16).revision
    assert len({without, before, after}) == 3


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(8, 33), seed=st.integers(0, 999),
    resize=st.sampled_from(["squash", "crop"]), orientation=st.integers(1, 8),
)  # fmt: skip
def test_masks_stay_on_turned_images(tmp_path_factory, height, width, size, seed, resize, orientation):
    # The displayed image is red where its mask is: it is stored in any of the eight orientations.
    folder = tmp_path_factory.mktemp("turned")
    shown = random_mask(seed, (height, width))
    flipped = {2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.T, 6: np.rot90(shown)}
    flipped |= {1: shown, 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.where(flipped[orientation][..., None], [255, 0, 0], 0).astype(np.uint8)
    put(folder / "pictures", "dog/0.png", stored, exif=exif)
    put(folder / "masks", "dog/0.png", shown)
    dataset = ImageFolder(folder / "pictures", folder / "masks", size=size, resize=resize)
    batch = dataset.take([0])
    red = dataset.normalization.to_pixels(batch.images)[0, 0]
    assert not ((red < 1e-4) & batch.masks[0]).any()
    assert not ((red > 1 - 1e-4) & ~batch.masks[0]).any()


def test_a_mask_of_the_stored_instead_of_the_displayed_image_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "pictures", "dog/0.png", exif=exif)
    put(tmp_path / "masks", "dog/0.png", random_mask(0))
    with pytest.raises(BadSampleError, match="6×8, the image has 8×6 pixels") as caught:
        ImageFolder(tmp_path / "pictures", tmp_path / "masks").take([0])
    assert caught.value.reason == OTHER_SIZE


def test_an_image_without_mask_is_found(pictures, masks):
    (masks / "cat/0.png").unlink()
    with pytest.raises(BadSampleError, match=r"cat/0\.PNG`: image without mask \(there is no `.*masks/cat/0\.png`\)"):
        len(ImageFolder(pictures, masks))
    skipping = ImageFolder(pictures, masks, on_bad_sample="skip")
    assert skipping.ids == ("cat/indoors/1.png", "dog/2.jpg")
    assert skipping.skipped == {NO_MASK: 1}


def test_a_mask_without_image_is_found(pictures, masks):
    put(masks, "dog/3.png", random_mask(3))
    with pytest.raises(BadSampleError, match=r"dog/3\.png`: mask without image"):
        len(ImageFolder(pictures, masks))
    skipping = ImageFolder(pictures, masks, on_bad_sample="skip")
    assert (len(skipping), skipping.skipped) == (3, {NO_IMAGE: 1})


def test_bad_masks_and_images_are_left_out_and_counted(pictures, masks):
    put(masks, "cat/0.png", np.zeros((6, 8), dtype=bool))
    put(masks, "dog/2.png", random_mask(1, (6, 9)))
    (pictures / "cat/indoors/1.png").write_bytes(b"no image")
    put(pictures, "dog/3.png")
    put(masks, "dog/3.png", random_mask(4))
    with pytest.raises(BadSampleError, match="object without area"):
        ImageFolder(pictures, masks).take([0])
    skipping = ImageFolder(pictures, masks, on_bad_sample="skip")
    assert skipping.ids == ("dog/3.png",)
    assert skipping.skipped == {"object without area": 1, OTHER_SIZE: 1, UNREADABLE: 1}


def test_one_mask_for_two_images_is_refused(pictures, masks):
    put(pictures, "dog/2.png")
    with pytest.raises(DatasetError, match=r"mask `dog/2\.png` would belong to several images"):
        len(ImageFolder(pictures, masks))


def listed(pictures, annotations, names=("cat/0.PNG", "cat/indoors/1.png", "dog/2.jpg")):
    """Write annotations of the images in COCO's format; categories 3, 7 and 9 are cat, dog and hot dog."""
    images = [{"id": number, "file_name": name, "height": 6, "width": 8} for number, name in enumerate(names)]
    return written(pictures.parent, annotations, sizes={}, images=images)


def test_annotations_give_the_objects_of_the_class(pictures):
    cat, dog = rectangle(0, 0, 3, 2), rectangle(4, 3, 8, 6)
    path = listed(
        pictures,
        [
            annotation(1, 0, 3, [cat]), annotation(2, 0, 7, [dog]), annotation(3, 0, 3, [rectangle(7, 0, 8, 1)]),
            annotation(4, 1, 7, [dog]), annotation(5, 2, 7, [dog]),
        ],
    )  # fmt: skip
    dataset = ImageFolder(pictures, annotations=path, size=24)
    assert dataset.ids == ("cat/0.PNG", "dog/2.jpg")
    assert dataset.skipped == {NO_OBJECT: 1}  # a picture of a cat in which only a dog is annotated
    batch = dataset.take([0, 1])
    cats, dogs = np.zeros((6, 8), dtype=bool), np.zeros((6, 8), dtype=bool)
    cats[:2, :3] = cats[0, 7] = True
    dogs[3:, 4:] = True
    np.testing.assert_array_equal(batch.original_masks[0].numpy(), cats)
    np.testing.assert_array_equal(batch.original_masks[1].numpy(), dogs)
    np.testing.assert_array_equal(batch.all_masks[0].numpy(), (cats | dogs).repeat(4, axis=0).repeat(3, axis=1))


def test_images_and_annotations_must_belong_together(pictures):
    everything = [annotation(number, number, category) for number, category in enumerate((3, 3, 7))]
    path = listed(pictures, everything[:2], ("cat/0.PNG", "cat/indoors/1.png"))
    with pytest.raises(BadSampleError, match=r"dog/2\.jpg`: image that the annotations do not list"):
        len(ImageFolder(pictures, annotations=path))
    assert ImageFolder(pictures, annotations=path, on_bad_sample="skip").skipped == {NOT_LISTED: 1}
    path = listed(pictures, everything)
    (pictures / "dog/2.jpg").unlink()
    with pytest.raises(BadSampleError, match=r"instances.json`: file is missing \(dog/2\.jpg\)"):
        len(ImageFolder(pictures, annotations=path))
    assert ImageFolder(pictures, annotations=path, on_bad_sample="skip").skipped == {MISSING: 1}
    content = json.loads(path.read_text(encoding="utf-8"))
    content["images"].pop()
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadSampleError, match=r"annotation of an image that is not listed \(annotation 2"):
        len(ImageFolder(pictures, annotations=path))


def test_names_with_a_hash_stay_names_of_one_image_each(pictures):
    put(pictures, "cat/a#1.png")
    assert "cat/a%231.png" in ImageFolder(pictures).ids


def test_the_catalog_makes_it_from_a_name(pictures, masks):
    dataset = resolve_dataset(f"image_folder?root={pictures}&masks={masks}&size=32&resize=crop")
    assert (len(dataset), dataset.image_shape, dataset.has_masks) == (3, (3, 32, 32), True)


def test_missing_folders_are_named(pictures, tmp_path):
    with pytest.raises(DatasetError, match=r"`root` must be a folder, `.*none` is none"):
        len(ImageFolder(tmp_path / "none"))
    with pytest.raises(DatasetError, match=r"`masks` must be a folder"):
        len(ImageFolder(pictures, tmp_path / "none"))
    with pytest.raises(DatasetError, match="`root` must have a folder for each class"):
        len(ImageFolder(pictures / "dog"))
    with pytest.raises(ValueError, match="both were given"):
        ImageFolder(pictures, "masks", "instances.json")
