"""One sample for each image and category of a dataset in COCO's format, with exact masks."""

import json
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from coco_files import annotation, rectangle, run_lengths, written
from interpeval.bench.resolve import resolve_dataset
from interpeval.datasets.coco import NOT_ANNOTATED, Coco
from interpeval.datasets.coco_annotations import BROKEN_OBJECT, NO_IMAGE, OTHER_SIZE
from interpeval.datasets.files import MISSING, NO_COUNTERPART, BadSampleError, DatasetError

CAT, DOG, HOT_DOG = 3, 7, 9  # ids of the categories; their class indices are 0, 1, 2


def covered(size, *places):
    """A mask of rectangles (left, top, right, bottom)."""
    mask = np.zeros(size, dtype=bool)
    for left, top, right, bottom in places:
        mask[top:bottom, left:right] = True
    return mask


def test_an_image_is_a_sample_for_each_of_its_categories(tmp_path):
    path = written(
        tmp_path,
        [
            annotation(1, 2, DOG, [rectangle(0, 0, 3, 2)]),
            annotation(2, 2, CAT, [rectangle(4, 4, 6, 6)]),
            annotation(3, 2, DOG, run_lengths(covered((6, 6), (5, 0, 6, 6))), iscrowd=1),
            annotation(4, 1, HOT_DOG, [rectangle(1, 1, 5, 5)]),
        ],
        sizes={1: (6, 6), 2: (6, 6), 3: (6, 6)},
    )
    dataset = Coco(tmp_path, path, size=6)
    assert dataset.classes == ("cat", "dog", "hot dog")
    assert dataset.ids == ("001#hot dog", "002#cat", "002#dog")
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.present.tolist() == [[False, False, True], [True, True, False], [True, True, False]]
    assert dataset.skipped == {NOT_ANNOTATED: 1}
    cat, dogs = covered((6, 6), (4, 4, 6, 6)), covered((6, 6), (0, 0, 3, 2), (5, 0, 6, 6))
    hot_dog = covered((6, 6), (1, 1, 5, 5))
    batch = dataset.take(range(3))
    np.testing.assert_array_equal(batch.masks.numpy(), np.stack([hot_dog, cat, dogs]))
    np.testing.assert_array_equal(batch.all_masks.numpy(), np.stack([hot_dog, cat | dogs, cat | dogs]))
    for mask, original in zip(batch.masks, batch.original_masks, strict=True):
        assert torch.equal(mask, original)
    assert torch.allclose(dataset.normalization.to_pixels(batch.images)[:, 1], torch.tensor(200 / 255))


def test_boxes_are_another_truth(tmp_path):
    path = written(tmp_path, [annotation(1, 1, DOG, bbox=[1, 2, 4, 3]), annotation(2, 1, CAT, None, bbox=[0, 0, 1, 1])])
    dataset = Coco(tmp_path, path, truth="box", size=24)
    first, second = dataset.take(range(2)).original_masks
    np.testing.assert_array_equal(first.numpy(), covered((6, 8), (0, 0, 1, 1)))
    np.testing.assert_array_equal(second.numpy(), covered((6, 8), (1, 2, 5, 5)))
    assert dataset.revision != Coco(tmp_path, path, size=24).revision


def test_the_order_of_the_file_does_not_matter(tmp_path):
    annotations = [annotation(number, image, DOG) for number, image in ((1, 3), (2, 1), (3, 2))]
    path = written(tmp_path, annotations, sizes={3: (6, 8), 1: (6, 8), 2: (6, 8)})
    assert Coco(tmp_path, path).ids == ("001#dog", "002#dog", "003#dog")


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(9, 40), width=st.integers(9, 40), size=st.integers(8, 33), seed=st.integers(0, 999),
    resize=st.sampled_from(["squash", "crop"]), as_polygon=st.booleans(),
)  # fmt: skip
def test_masks_stay_on_their_objects(tmp_path_factory, height, width, size, seed, resize, as_polygon):
    # The object is painted red: where only red, or none, went into a pixel, the mask must say so.
    folder = tmp_path_factory.mktemp("painted")
    generator = np.random.default_rng(seed)
    left, top = generator.integers(0, width - 3), generator.integers(0, height - 3)
    right, bottom = generator.integers(left + 3, width + 1), generator.integers(top + 3, height + 1)
    mask = covered((height, width), (left, top, right, bottom))
    outline = [rectangle(*map(int, (left, top, right, bottom)))] if as_polygon else run_lengths(mask)
    path = written(folder, [annotation(1, 1, DOG, outline)], sizes={1: (height, width)})
    Image.fromarray(np.where(mask[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8)).save(folder / "001.png")
    dataset = Coco(folder, path, size=size, resize=resize)
    batch = dataset.take([0])
    red = dataset.normalization.to_pixels(batch.images)[0, 0]
    assert not ((red < 1e-4) & batch.masks[0]).any()
    assert not ((red > 1 - 1e-4) & ~batch.masks[0]).any()


def test_a_mask_beside_its_object_would_be_noticed(tmp_path):
    path = written(tmp_path, [annotation(1, 1, DOG, [rectangle(2, 2, 6, 6)])], sizes={1: (8, 8)})
    Image.fromarray(np.where(covered((8, 8), (3, 2, 7, 6))[..., None], [255, 0, 0], 0).astype(np.uint8)).save(
        tmp_path / "001.png"
    )
    dataset = Coco(tmp_path, path, size=16)
    batch = dataset.take([0])
    red = dataset.normalization.to_pixels(batch.images)[0, 0]
    assert ((red < 1e-4) & batch.masks[0]).any()
    assert ((red > 1 - 1e-4) & ~batch.masks[0]).any()


def test_an_object_outside_of_the_crop_has_no_mask_left(tmp_path):
    path = written(
        tmp_path, [annotation(1, 1, CAT), annotation(2, 1, DOG, [rectangle(6, 0, 9, 6)])], sizes={1: (6, 18)}
    )
    batch = Coco(tmp_path, path, size=6, resize="crop").take(range(2))
    assert batch.masks.flatten(1).sum(dim=1).tolist() == [0, 18]
    assert batch.original_masks is None


FAULTS = {  # what is wrong with the second of three images, and by what reason it is counted
    "outline outside of the image": ([annotation(2, 2, DOG, [rectangle(20, 0, 24, 6)])], BROKEN_OBJECT),
    "box of a polygon": ([annotation(2, 2, DOG, [[0, 0, 2, 2]])], BROKEN_OBJECT),
    "code of another size": ([annotation(2, 2, DOG, run_lengths(np.ones((5, 8))))], BROKEN_OBJECT),
    "no area": ([annotation(2, 2, DOG, run_lengths(np.zeros((6, 8))))], "object without area"),
    "area without pixels": ([annotation(2, 2, DOG, [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]])], "object without area"),
    "one of two is wrong": (
        [annotation(2, 2, CAT), annotation(5, 2, DOG, [rectangle(20, 0, 24, 6)])],
        BROKEN_OBJECT,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_annotation_costs_its_image(tmp_path, fault):
    wrong, reason = FAULTS[fault]
    path = written(
        tmp_path, [annotation(1, 1, CAT), *wrong, annotation(3, 3, CAT)], sizes=dict.fromkeys((1, 2, 3), (6, 8))
    )
    dataset = Coco(tmp_path, path, size=8)
    assert dataset.take([0]).masks.any()
    with pytest.raises(BadSampleError, match=r"002\.png`: ") as caught:
        dataset.take(range(1, len(dataset) - 1))
    assert caught.value.reason == reason
    skipping = Coco(tmp_path, path, size=8, on_bad_sample="skip")
    assert skipping.ids == ("001#cat", "003#cat")
    assert skipping.skipped == {reason: 1}
    assert skipping.revision != dataset.revision


def test_a_negative_box_costs_its_image(tmp_path):
    path = written(
        tmp_path,
        [annotation(1, 1, CAT, bbox=[4, 4, -2, 2]), annotation(2, 2, CAT)],
        sizes={1: (6, 8), 2: (6, 8)},
    )
    with pytest.raises(BadSampleError, match="the box has a negative size: -2×2"):
        Coco(tmp_path, path, truth="box").take([0])
    assert Coco(tmp_path, path, truth="box", on_bad_sample="skip").skipped == {BROKEN_OBJECT: 1}


def test_an_annotation_of_no_listed_image_is_found(tmp_path):
    path = written(tmp_path, [annotation(1, 1, CAT), annotation(2, 99, CAT)])
    with pytest.raises(BadSampleError, match=r"annotation of an image that is not listed \(annotation 2"):
        len(Coco(tmp_path, path))
    skipping = Coco(tmp_path, path, on_bad_sample="skip")
    assert (skipping.ids, skipping.skipped) == (("001#cat",), {NO_IMAGE: 1})


def test_an_image_without_its_file_is_found(tmp_path):
    path = written(tmp_path, [annotation(1, 1, CAT), annotation(2, 2, CAT)], sizes={1: (6, 8), 2: (6, 8)})
    (tmp_path / "002.png").unlink()
    with pytest.raises(BadSampleError, match=r"002\.png`: file is missing"):
        len(Coco(tmp_path, path))
    skipping = Coco(tmp_path, path, on_bad_sample="skip")
    assert (skipping.ids, skipping.skipped) == (("001#cat",), {MISSING: 1})


def test_an_image_of_another_size_than_annotated_is_found(tmp_path):
    path = written(tmp_path, [annotation(1, 1, CAT)])
    Image.new("RGB", (9, 6)).save(tmp_path / "001.png")
    with pytest.raises(BadSampleError, match="6×9, annotated 6×8") as caught:
        Coco(tmp_path, path).take([0])
    assert caught.value.reason == OTHER_SIZE


def test_file_names_cannot_lead_out_of_the_folder(tmp_path):
    image = {"id": 1, "file_name": "../001.png", "height": 6, "width": 8}
    path = written(tmp_path, [annotation(1, 1, CAT)], images=[image])
    with pytest.raises(DatasetError, match=r"`\.\./001\.png` must lead to a file in"):
        len(Coco(tmp_path, path))


def test_two_images_whose_samples_would_have_one_name_are_refused(tmp_path):
    images = [
        {"id": number, "file_name": f"a.{kind}", "height": 6, "width": 8} for number, kind in ((1, "png"), (2, "jpg"))
    ]
    path = written(tmp_path, [annotation(1, 1, CAT), annotation(2, 2, CAT)], images=images)
    with pytest.raises(DatasetError, match="1 names for several samples each: `a#cat`"):
        len(Coco(tmp_path, path))


def test_an_imagenet_network_can_be_scored(tmp_path):
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "zebra"}]
    path = written(tmp_path, [annotation(1, 1, 1), annotation(2, 1, 2)], categories=categories)
    dataset = Coco(tmp_path, path, label_map="imagenet")
    assert dataset.ids == ("001#zebra",)
    assert dataset.skipped == {NO_COUNTERPART: 1}
    assert dataset.network_classes.nonzero().tolist() == [[1, 340]]
    assert dataset.present.tolist() == [[True, True]]


def test_the_catalog_makes_it_from_a_name(tmp_path):
    path = written(tmp_path, [annotation(1, 1, CAT)])
    dataset = resolve_dataset(f"coco?images={tmp_path}&annotations={path}&size=32&resize=crop&truth=box")
    assert dataset.ids == ("001#cat",)
    assert dataset.image_shape == (3, 32, 32)


def test_another_truth_is_refused():
    with pytest.raises(ValueError, match="`truth` must be one of segmentation, box, was 'outline'"):
        Coco("images", "instances.json", truth="outline")


@pytest.fixture(scope="module")
def photographs(real_data):
    """The sample of COCO's photographs, and pycocotools' own reading of it."""
    path = real_data / "coco" / "annotations" / "instances_val2017.json"
    return Coco(real_data / "coco" / "val2017", path), COCO(str(path))


def test_the_photographs_have_the_samples_that_pycocotools_counts(photographs):
    dataset, coco = photographs
    annotations = coco.loadAnns(coco.getAnnIds())
    names = {number: image["file_name"].removesuffix(".jpg") for number, image in coco.imgs.items()}
    expected = {f"{names[each['image_id']]}#{coco.cats[each['category_id']]['name']}" for each in annotations}
    assert set(dataset.ids) == expected
    assert len(dataset) == len(expected) == 205
    assert len(annotations) == sum({record.name: len(record.annotation.objects) for record in dataset.records}.values())
    assert len({name.partition("#")[0] for name in dataset.ids}) == len(coco.imgs) == 62
    assert dataset.classes == tuple(category["name"] for category in coco.loadCats(sorted(coco.getCatIds())))
    counts = Counter(dataset.classes[label] for label in dataset.labels.tolist())
    assert counts == {
        category["name"]: len(coco.getImgIds(catIds=[number]))
        for number, category in coco.cats.items()
        if coco.getImgIds(catIds=[number])
    }
    assert dataset.skipped == {}


def test_the_photographs_have_the_masks_that_pycocotools_makes(photographs):
    dataset, coco = photographs
    images = {image["file_name"].removesuffix(".jpg"): number for number, image in coco.imgs.items()}
    categories = {category["name"]: number for number, category in coco.cats.items()}
    checked = 0
    for batch in dataset.batches(41):
        for name, mask in zip(batch.ids, batch.original_masks, strict=True):
            image, category = name.split("#")
            instances = coco.loadAnns(coco.getAnnIds(imgIds=[images[image]], catIds=[categories[category]]))
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                expected = np.any([coco.annToMask(each) for each in instances], axis=0)
            np.testing.assert_array_equal(mask.numpy(), expected, err_msg=name)
            checked += len(instances)
    assert checked == 472


def test_the_photographs_keep_their_masks_share_of_the_image(photographs):
    dataset, _ = photographs
    for batch in dataset.batches(41):
        for mask, original in zip(batch.masks, batch.original_masks, strict=True):
            length = original.float().diff(dim=0).abs().mean() + original.float().diff(dim=1).abs().mean()
            # Sampling errors lie on the outline, whose length bounds them; they have no preferred sign.
            assert abs(mask.float().mean() - original.float().mean()) <= 0.5 * length + 1e-3


def test_crowds_of_the_photographs_are_in_the_masks(photographs, real_data):
    dataset, coco = photographs
    crowds = [each for each in coco.loadAnns(coco.getAnnIds()) if each["iscrowd"]]
    assert len(crowds) == 4
    content = json.loads((real_data / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    for crowd in crowds:
        name = next(image["file_name"] for image in content["images"] if image["id"] == crowd["image_id"])
        sample = f"{name.removesuffix('.jpg')}#{coco.cats[crowd['category_id']]['name']}"
        mask = dataset.take([dataset.ids.index(sample)]).original_masks[0].numpy()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            region = coco.annToMask(crowd).astype(bool)
        assert region.any()
        assert mask[region].all()
