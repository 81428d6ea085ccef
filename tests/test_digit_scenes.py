"""Scenes are functions of their names, their masks are exactly what the digit covers, and clutter tells nothing."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from interpeval.datasets.base import Dataset
from interpeval.datasets.digit_scenes import (
    DIGIT_SIDES,
    EDGE_OPACITY,
    FRAGMENT_REACH,
    FRAGMENTS,
    INK_THRESHOLD,
    OPAQUE_INK,
    SCENE_SIDE,
    SCENES_PER_DIGIT,
    DigitScenes,
    Layout,
    filled_boxes,
    mask_boxes,
    render,
    scene_layout,
    scene_names,
)
from interpeval.datasets.digits import Digits, SourceDigits, source_digits, source_split
from interpeval.datasets.philox import sample_keys, uniform
from interpeval.datasets.textures import TEXTURES, texture

SOURCE = load_digits()
SOME = 150


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes(split="test")


@pytest.fixture(scope="module")
def training_scenes() -> DigitScenes:
    return DigitScenes(split="train")


@pytest.fixture(scope="module")
def layout(scenes: DigitScenes) -> Layout:
    return scene_layout(scenes.ids, seed=0)


def masks_of(scenes: DigitScenes) -> NDArray[np.bool_]:
    masks = scenes.arrays.masks
    assert masks is not None
    return masks


def first(layout: Layout, count: int = SOME) -> Layout:
    return Layout(*(part[:count] for part in layout))


def sources(dataset: DigitScenes) -> list[int]:
    """The source digits that the scenes' names tell."""
    return [int(name.split("-")[1]) for name in dataset.ids]


def squares(layout: Layout) -> NDArray[np.bool_]:
    """The squares that every scene's digits are enlarged to."""
    filled = np.zeros((len(layout.digits), SCENE_SIDE, SCENE_SIDE), dtype=np.bool_)
    for square, corners, sides in zip(filled, layout.corners, layout.sides, strict=True):
        for (top, left), side in zip(corners, sides, strict=True):
            square[top : top + side, left : left + side] = True
    return filled


def slow_ink(image: NDArray[np.float64], side: int, row: float, column: float) -> float:
    """Ink at one pixel of a digit enlarged to `side`: a tent of one source pixel around every source pixel."""
    y, x = ((place + 0.5) * 8 / side - 0.5 for place in (row, column))
    near = [(v, u) for v in range(8) for u in range(8) if abs(y - v) < 1 and abs(x - u) < 1]
    return sum(float(image[v, u]) / 16 * (1 - abs(y - v)) * (1 - abs(x - u)) for v, u in near)


def test_digit_scenes_is_a_dataset_that_tells_its_members_truly(scenes: DigitScenes) -> None:
    assert isinstance(scenes, Dataset)
    batch = scenes.take([0, 1])
    assert tuple(batch.images.shape[1:]) == scenes.image_shape
    assert batch.masks is not None
    assert tuple(batch.masks.shape[1:]) == scenes.image_shape[1:]
    pixels = torch.from_numpy(scenes.arrays.pixels[:2]).double() / 255
    torch.testing.assert_close(batch.images.double(), pixels * 2 - 1)


def test_a_scene_is_labelled_by_the_source_digit_of_its_name(scenes: DigitScenes) -> None:
    assert scenes.labels.tolist() == SOURCE.target[sources(scenes)].tolist()


def test_scenes_divide_the_source_digits_as_the_plain_digits_do(
    scenes: DigitScenes, training_scenes: DigitScenes
) -> None:
    assert not set(sources(scenes)) & set(sources(training_scenes))
    for dataset in (scenes, training_scenes):
        plain = {int(name.removeprefix("digits-")) for name in Digits(split=dataset.split).ids}
        repetitions = SCENES_PER_DIGIT[dataset.split]
        assert Counter(sources(dataset)) == dict.fromkeys(plain, repetitions)
        assert len(set(dataset.ids)) == len(dataset.ids)


def test_the_mask_is_the_ink_of_the_enlarged_source_digit(scenes: DigitScenes, layout: Layout) -> None:
    for scene in range(0, 60, 6):
        top, left = layout.corners[scene, 0]
        side = int(layout.sides[scene, 0])
        ink = np.array(
            [
                [slow_ink(SOURCE.images[layout.digits[scene, 0]], side, y - top, x - left) for x in range(SCENE_SIDE)]
                for y in range(SCENE_SIDE)
            ]
        )
        assert np.abs(ink - INK_THRESHOLD).min() > 1e-9, "a tie would make the comparison a matter of rounding"
        assert np.array_equal(masks_of(scenes)[scene], ink >= INK_THRESHOLD)


def test_without_the_digit_the_pixels_of_the_mask_and_no_others_look_different(
    scenes: DigitScenes, training_scenes: DigitScenes
) -> None:
    for dataset in (scenes, training_scenes):
        ids, pixels, masks = dataset.ids[:2000], dataset.arrays.pixels[:2000], masks_of(dataset)[:2000]
        without, same_masks = render(ids, scene_layout(ids, seed=0), source_digits(), seed=0, with_digits=False)
        assert np.array_equal((pixels != without).any(axis=1), masks)
        assert np.array_equal(same_masks[:, 0], masks)


def test_every_scene_has_a_mask_inside_of_its_square(scenes: DigitScenes, layout: Layout) -> None:
    masks = masks_of(scenes)
    assert masks.any(axis=(1, 2)).all()
    assert not (masks & ~squares(layout)).any()
    least, most = DIGIT_SIDES
    assert set(layout.sides.flatten().tolist()) == set(range(least, most + 1))


def test_the_digit_covers_wholly_where_its_ink_is_strong(scenes: DigitScenes, layout: Layout) -> None:
    """Opaque pixels show the digit's colour and the camera's noise, whatever lies behind; edge pixels do not."""
    scene = 0
    top, left = layout.corners[scene, 0]
    ink = {
        (y, x): slow_ink(SOURCE.images[layout.digits[scene, 0]], int(layout.sides[scene, 0]), y - top, x - left)
        for y, x in np.argwhere(masks_of(scenes)[scene]).tolist()
    }
    without, _ = render(scenes.ids[:1], first(layout, 1), source_digits(), seed=0, with_digits=False)
    digit, ground = (image.astype(float) for image in (scenes.arrays.pixels[scene], without[scene]))
    opaque = np.array([digit[:, y, x] for (y, x), amount in ink.items() if amount >= OPAQUE_INK])
    colour = opaque.mean(axis=0)
    assert np.abs(opaque - colour).max() <= 2 * 0.03 * 255 + 1
    # An edge pixel is a blend of that colour and what lay there; the noise, in both, cancels in part only.
    for (y, x), amount in ink.items():
        share = min(1.0, EDGE_OPACITY + (1 - EDGE_OPACITY) * (amount - INK_THRESHOLD) / (OPAQUE_INK - INK_THRESHOLD))
        blend = ground[:, y, x] + share * (colour - ground[:, y, x])
        assert np.abs(digit[:, y, x] - blend).max() <= 2 * 0.03 * 255 + 1


def test_boxes_are_tight_around_the_masks(scenes: DigitScenes) -> None:
    assert scenes.boxes.dtype == np.int64
    for mask, (x0, y0, x1, y1) in zip(masks_of(scenes), scenes.boxes.tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_mask_boxes_of_masks_known_by_hand() -> None:
    masks = np.zeros((3, 4, 6), dtype=np.bool_)
    masks[0, 1, 2] = masks[1] = masks[2, 0, 5] = masks[2, 3, 1] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 3, 2], [0, 0, 6, 4], [1, 0, 6, 4]]


def test_a_scene_depends_on_its_name_and_the_seed_alone(scenes: DigitScenes) -> None:
    order = np.random.default_rng(0).permutation(len(scenes))[:40]
    ids = [scenes.ids[index] for index in order]
    pixels, masks = render(ids, scene_layout(ids, seed=0), source_digits(), seed=0)
    assert np.array_equal(pixels, scenes.arrays.pixels[order])
    assert np.array_equal(masks[:, 0], masks_of(scenes)[order])
    assert DigitScenes(split="test").revision == scenes.revision


def test_another_seed_makes_other_scenes_of_the_same_digits(scenes: DigitScenes) -> None:
    others = DigitScenes(split="test", seed=1)
    assert others.ids == scenes.ids
    assert torch.equal(others.labels, scenes.labels)
    assert others.revision != scenes.revision
    same = (others.arrays.pixels == scenes.arrays.pixels).reshape(len(scenes), -1).mean(axis=1)
    assert same.max() < 0.1
    assert masks_of(others).any(axis=(1, 2)).all()


def test_scenes_of_one_digit_differ() -> None:
    ids = ("scene-0000-0", "scene-0000-1")
    layout = scene_layout(ids, seed=0)
    pixels, _ = render(ids, layout, source_digits(), seed=0)
    assert layout.digits.tolist() == [[0], [0]]
    assert (pixels[0] == pixels[1]).mean() < 0.1


def test_fragments_are_cut_from_digits_of_other_classes_in_the_same_part(
    scenes: DigitScenes, training_scenes: DigitScenes
) -> None:
    for dataset in (scenes, training_scenes):
        layout = scene_layout(dataset.ids, seed=0)
        assert np.isin(layout.fragments, source_split()[dataset.split]).all()
        assert not (SOURCE.target[layout.fragments] == SOURCE.target[layout.digits]).any()


def test_the_clutter_stays_as_it_is_when_all_digits_of_the_class_are_blanked(
    scenes: DigitScenes, layout: Layout
) -> None:
    """What is painted, not only what is listed, comes from other classes; blanking any other class shows."""
    eights = np.flatnonzero(scenes.labels.numpy() == 8)
    ids = [scenes.ids[index] for index in eights]
    of_eights = Layout(*(part[eights] for part in layout))

    def clutter(blanked: int | None) -> NDArray[np.uint8]:
        images = np.where((source_digits().labels == blanked)[:, None, None], 0, source_digits().images)
        return render(ids, of_eights, SourceDigits(images, source_digits().labels), seed=0, with_digits=False)[0]

    everything = clutter(None)
    changed = [int((clutter(label) != everything).any(axis=(1, 2, 3)).sum()) for label in range(10)]
    assert changed[8] == 0
    assert min(count for label, count in enumerate(changed) if label != 8) > 0


def test_fragments_are_painted_as_many_as_listed_and_never_into_the_square_of_the_digit(
    scenes: DigitScenes, layout: Layout
) -> None:
    ids, part = scenes.ids[:SOME], first(layout)
    assert set(layout.fragment_count.tolist()) == set(range(FRAGMENTS[0], FRAGMENTS[1] + 1))
    painted = [
        render(ids, part._replace(fragment_count=np.minimum(part.fragment_count, count)), source_digits(), seed=0)[0]
        for count in range(FRAGMENTS[1] + 1)
    ]
    for number, (before, after) in enumerate(pairwise(painted)):
        differ = (before != after).any(axis=1)
        assert not (differ & squares(part)).any()
        assert not differ[part.fragment_count <= number].any()
        assert differ[part.fragment_count > number].any(axis=(1, 2)).mean() > 0.9  # a few lie beyond the border
        for scene in range(SOME):
            rows, columns = np.nonzero(differ[scene])
            away = np.hypot(
                rows - part.fragment_centers[scene, number, 0], columns - part.fragment_centers[scene, number, 1]
            )
            assert away.max(initial=0) <= min(FRAGMENT_REACH, part.fragment_sides[scene, number] // 4)


def test_a_fragment_is_a_disc_of_the_enlarged_source_digit(scenes: DigitScenes, layout: Layout) -> None:
    """Painted pixels are those within the disc where the enlarged digit, moved to its place, has ink."""
    some, ids = first(layout, 20), scenes.ids[:20]
    none, one = (some._replace(fragment_count=np.full(20, count)) for count in (0, 1))
    before, _ = render(ids, none, source_digits(), seed=0)
    after, _ = render(ids, one, source_digits(), seed=0)
    offsets = range(-FRAGMENT_REACH, FRAGMENT_REACH + 1)
    for scene in range(20):
        image, side = SOURCE.images[some.fragments[scene, 0]], int(some.fragment_sides[scene, 0])
        row, column = some.fragment_pixels[scene, 0].tolist()
        assert image[row, column] > 0
        differ = (before[scene] != after[scene]).any(axis=0)
        for y, x in [(y, x) for y in offsets for x in offsets]:
            place = tuple(some.fragment_centers[scene, 0] + (y, x))
            ink = slow_ink(image, side, (row + 0.5) * side / 8 - 0.5 + y, (column + 0.5) * side / 8 - 0.5 + x)
            tied = abs(ink - INK_THRESHOLD) < 1e-9  # either way is right
            if not tied and min(place) >= 0 and max(place) < SCENE_SIDE:
                assert differ[place] == (y**2 + x**2 <= (side // 4) ** 2 and ink >= INK_THRESHOLD)


def test_colours_tell_nothing_about_the_class(training_scenes: DigitScenes) -> None:
    """Mean colours of digit and surroundings: the class explains no more of their variance than chance does."""
    pixels, masks = training_scenes.arrays.pixels, masks_of(training_scenes)[:, None]
    inside = pixels.mean(axis=(2, 3), where=masks)
    outside = pixels.mean(axis=(2, 3), where=~masks)
    labels = training_scenes.labels.numpy()
    # A share explained by chance, times the number of scenes, is chi-square with 9 degrees of freedom. 32 is its
    # 99.98 % point: six shares are asked for.
    by_chance = 32 / len(labels)
    assert max(explained(values, labels) for values in (*inside.T, *outside.T)) < by_chance
    x0, y0, x1, y1 = training_scenes.boxes.T
    assert explained((x1 - x0) / (y1 - y0), labels) > 10 * by_chance  # the same measure sees that a 1 is narrow


def explained(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Share of the variance that lies between classes."""
    means = np.array([values[labels == label].mean() for label in range(10)])
    return float(((means[labels] - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "all"}, '`split` must be "train" or "test", was \'all\''),
        ({"objects": 0}, "`objects` must be a whole number from 1 to 3, was 0"),
        ({"objects": 2.0}, "`objects` must be a whole number from 1 to 3, was 2.0"),
        ({"objects": 4}, "`objects` must be a whole number from 1 to 3, was 4"),
        ({"truth": "ink"}, '`truth` must be "mask" or "box", was \'ink\''),
        ({"textures": True, "label": "digit"}, '`label` must be "object" or "scene", was \'digit\''),
        ({"label": "scene"}, '`textures` must be true with `label="scene"`'),
        ({"textures": True, "objects": 2}, "`objects` must be 1 with `textures`, was 2"),
    ],
)
def test_an_impossible_argument_is_refused_with_the_possible_ones(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitScenes(**arguments)


def test_the_default_scenes_are_still_those_that_published_numbers_were_measured_on(
    scenes: DigitScenes, training_scenes: DigitScenes
) -> None:
    """These digests are of the first version, before there were variants."""
    assert scenes.revision == "8749e321319cd528"
    assert training_scenes.revision == "cfb785cdaa5711ab"
    assert DigitScenes(seed=1).revision == "e99460887a666bea"


# --- several digits ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest) -> DigitScenes:
    return DigitScenes(objects=request.param)


def test_a_scene_of_several_digits_is_a_sample_for_each(several: DigitScenes, scenes: DigitScenes) -> None:
    names, count = scene_names("test"), several.objects
    assert names == scenes.ids
    assert several.ids == tuple(
        f"{name.partition('#')[0]}#{label}" for name, label in zip(several.ids, several.labels.tolist(), strict=True)
    )
    labels = several.labels.view(-1, count)
    assert torch.equal(labels[:, 0], scenes.labels)  # the digit that names the scene comes first
    assert all(len({*row}) == count for row in labels.tolist())
    pixels = several.arrays.pixels.reshape(-1, count, *several.image_shape)
    assert (pixels == pixels[:, :1]).all()
    expected = torch.zeros(len(names), 10, dtype=torch.bool).scatter_(1, labels, value=True)
    assert several.present is not None
    assert torch.equal(several.present, expected.repeat_interleave(count, dim=0))
    assert isinstance(several, Dataset)


def test_each_of_several_masks_is_the_ink_of_its_own_digit(several: DigitScenes) -> None:
    layout = scene_layout(scene_names("test"), seed=0, objects=several.objects)
    assert SOURCE.target[layout.digits].flatten().tolist() == several.labels.tolist()
    for scene in range(0, 40, 8):
        for number in range(several.objects):
            top, left = layout.corners[scene, number]
            image, side = SOURCE.images[layout.digits[scene, number]], int(layout.sides[scene, number])
            ink = np.array(
                [[slow_ink(image, side, y - top, x - left) for x in range(SCENE_SIDE)] for y in range(SCENE_SIDE)]
            )
            assert np.array_equal(masks_of(several)[scene * several.objects + number], ink >= INK_THRESHOLD)


def test_several_masks_do_not_overlap_and_together_are_what_the_digits_change(several: DigitScenes) -> None:
    names, count = scene_names("test"), several.objects
    masks = masks_of(several).reshape(-1, count, SCENE_SIDE, SCENE_SIDE)
    assert masks.any(axis=(2, 3)).all()
    assert masks.sum(axis=1).max() == 1
    everything = several.arrays.all_masks
    assert everything is not None
    assert np.array_equal(everything, np.repeat(masks.any(axis=1), count, axis=0))
    layout = scene_layout(names, seed=0, objects=count)
    without, _ = render(names, layout, source_digits(), seed=0, with_digits=False)
    assert np.array_equal((several.arrays.pixels[::count] != without).any(axis=1), masks.any(axis=1))


def test_all_digits_and_fragments_of_a_scene_are_of_one_part_and_of_different_classes(several: DigitScenes) -> None:
    for split in ("train", "test"):
        pool = source_split()[split]
        names = [f"scene-{index:04d}-0" for index in pool[::3]]
        layout = scene_layout(names, seed=0, objects=several.objects)
        assert np.isin(layout.digits, pool).all()
        assert np.isin(layout.fragments, pool).all()
        shown, cut = SOURCE.target[layout.digits], SOURCE.target[layout.fragments]
        assert not (shown[:, :, None] == cut[:, None, :]).any()
        assert set(shown[:, -1].tolist()) == set(range(10))


def test_fragments_do_not_touch_the_squares_of_several_digits(several: DigitScenes) -> None:
    names = scene_names("test")[:SOME]
    layout = scene_layout(names, seed=0, objects=several.objects)
    none = layout._replace(fragment_count=np.zeros(SOME, dtype=np.int64))
    plain, _ = render(names, none, source_digits(), seed=0)
    painted = (plain != several.arrays.pixels[: SOME * several.objects : several.objects]).any(axis=1)
    assert not (painted & squares(layout)).any()
    assert painted.any(axis=(1, 2)).all()


def test_every_quarter_holds_as_many_digits_as_the_others(several: DigitScenes) -> None:
    layout = scene_layout([f"scene-0000-{repetition}" for repetition in range(1000)], seed=0, objects=several.objects)
    middle = layout.corners + layout.sides[..., None] // 2
    quarters = 2 * (middle[..., 0] >= SCENE_SIDE // 2) + (middle[..., 1] >= SCENE_SIDE // 2)
    assert all(len({*row}) == several.objects for row in quarters.tolist())
    for number in range(several.objects):
        counts = np.bincount(quarters[:, number], minlength=4)
        # Chi-square with 3 degrees of freedom: 21.1 is its 99.99 % point.
        assert ((counts - 250) ** 2 / 250).sum() < 21.1


@pytest.mark.parametrize(("objects", "scenes_per_digit"), [(1, 10), (2, 5), (3, 3)])
def test_training_scenes_of_several_digits_are_about_as_many_samples_as_those_of_one(
    objects: int, scenes_per_digit: int
) -> None:
    names = scene_names("train", objects=objects)
    assert Counter(int(name.split("-")[1]) for name in names) == dict.fromkeys(
        source_split()["train"].tolist(), scenes_per_digit
    )
    assert len(set(names)) == len(names)


def test_a_batch_of_scenes_of_several_digits_has_all_masks_and_depends_on_nothing_else(several: DigitScenes) -> None:
    rows = [7, 0, 4]
    batch = several.take(rows)
    whole = next(several.batches(8))
    assert batch.all_masks is not None
    assert whole.masks is not None
    assert whole.all_masks is not None
    assert torch.equal(batch.images, whole.images[rows])
    assert torch.equal(batch.all_masks, whole.all_masks[rows])
    names = [several.ids[row].partition("#")[0] for row in rows]
    pixels, _ = render(names, scene_layout(names, seed=0, objects=several.objects), source_digits(), seed=0)
    assert np.array_equal(pixels, several.arrays.pixels[rows])


# --- boxes -------------------------------------------------------------------------------------------------------


def test_filled_boxes_of_masks_known_by_hand() -> None:
    masks = np.zeros((3, 4, 6), dtype=np.bool_)
    masks[0, 1, 2] = masks[1, 0, 5] = masks[1, 2, 1] = True
    expected = np.zeros_like(masks)
    expected[0, 1, 2] = expected[1, :3, 1:] = True
    assert np.array_equal(filled_boxes(masks), expected)


@pytest.mark.parametrize("objects", [1, 2])
def test_box_truth_fills_the_boxes_of_the_same_scenes(objects: int, scenes: DigitScenes) -> None:
    ink = scenes if objects == 1 else DigitScenes(objects=objects)
    boxed = DigitScenes(objects=objects, truth="box")
    assert np.array_equal(boxed.arrays.pixels, ink.arrays.pixels)
    assert np.array_equal(boxed.boxes, ink.boxes)
    assert boxed.revision != ink.revision
    for mask, (x0, y0, x1, y1) in zip(masks_of(boxed), ink.boxes.tolist(), strict=True):
        assert mask[y0:y1, x0:x1].all()
        assert mask.sum() == (y1 - y0) * (x1 - x0)
    if objects == 2:
        together = masks_of(boxed).reshape(-1, 2, SCENE_SIDE, SCENE_SIDE).any(axis=1)
        assert np.array_equal(boxed.arrays.all_masks, np.repeat(together, 2, axis=0))


# --- textures ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def textured() -> DigitScenes:
    return DigitScenes(textures=True, label="scene")


def test_digits_and_textures_label_the_same_images(textured: DigitScenes, scenes: DigitScenes) -> None:
    digits = DigitScenes(textures=True)
    assert np.array_equal(digits.arrays.pixels, textured.arrays.pixels)
    assert torch.equal(digits.labels, scenes.labels)
    assert digits.classes == tuple("0123456789")
    assert textured.classes == tuple(TEXTURES)
    assert digits.revision != textured.revision
    assert digits.has_backgrounds
    assert textured.has_backgrounds
    assert not scenes.has_backgrounds
    assert scenes.take([0]).backgrounds is None


def test_backgrounds_are_the_images_without_their_digits(textured: DigitScenes) -> None:
    batch = textured.take(range(len(textured)))
    assert batch.backgrounds is not None
    assert batch.masks is not None
    differ = (batch.images != batch.backgrounds).any(dim=1)
    assert torch.equal(differ, batch.masks)
    nothing = scene_layout(textured.ids, seed=0, textures=True).fragment_count
    assert not nothing.any()


def test_backgrounds_show_the_texture_that_the_label_says(textured: DigitScenes) -> None:
    """Of all textures with this scene's length and place, that of the label is most like the luminance."""
    batch = textured.take(range(len(textured)))
    assert batch.backgrounds is not None
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    shown = (batch.backgrounds.double() * luma.view(3, 1, 1)).sum(dim=1).flatten(1)
    draws = uniform(0, "digit_scenes/texture", sample_keys(textured.ids), 0, 3).numpy()
    likeness = []
    for kind in range(len(TEXTURES)):
        share = texture(np.full(len(textured), kind), draws, side=SCENE_SIDE)
        pairs = zip(shown.numpy(), share.reshape(len(textured), -1), strict=True)
        likeness.append([np.corrcoef(one, other)[0, 1] for one, other in pairs])
    assert np.array_equal(np.argmax(np.abs(likeness), axis=0), textured.labels.numpy())


def test_every_training_digit_stands_once_on_each_texture() -> None:
    textures = scene_layout(scene_names("train"), seed=0, textures=True).textures.reshape(-1, 10)
    assert (np.sort(textures, axis=1) == np.arange(10)).all()
    assert len({*textures[:, 0].tolist()}) == 10  # and not in the same order


def test_the_texture_of_a_test_scene_says_nothing_about_its_digit(textured: DigitScenes) -> None:
    table = np.zeros((10, 10))
    np.add.at(table, (SOURCE.target[sources(textured)], textured.labels.numpy()), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    # Chi-square with 81 degrees of freedom: 135 is its 99.98 % point.
    assert ((table - expected) ** 2 / expected).sum() < 135
