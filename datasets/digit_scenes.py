"""Scenes made of real digits: whole digits to name, among fragments of others, with their true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from .base import ArrayDataset, Arrays, Normalization
from .digits import CLASSES, INK_LEVELS, SourceDigits, bilinear, check_split, enlarge, source_digits, source_split
from .philox import permutation, random_words, sample_keys, uniform
from .textures import TEXTURES, texture

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Label = Literal["object", "scene"]
Truth = Literal["mask", "box"]

SCENE_SIDE = 64
SCENES_PER_DIGIT = {"train": 10, "test": 1}
MOST_OBJECTS = 3
"""Each of several digits has a quarter of the scene to itself, and one quarter is left for fragments."""

DIGIT_SIDES = (22, 32)
"""Least and greatest side of the square that a source digit is enlarged to, in pixels."""
INK_THRESHOLD = 0.45
"""A pixel belongs to a digit where the enlarged digit has at least this share of full ink."""
OPAQUE_INK = 0.85
"""Share of full ink from where a digit covers the background wholly."""
EDGE_OPACITY = 0.35
"""How much of the background a digit covers where it has just the threshold's ink."""

FRAGMENTS = (3, 6)
"""Least and greatest number of fragments of other digits in a scene."""
FRAGMENT_SIDES = (20, 28)
"""Like `DIGIT_SIDES`, for the digits that fragments are cut from."""
FRAGMENT_REACH = FRAGMENT_SIDES[1] // 4
"""Radius in pixels of the largest disc that cuts out fragments: half as wide as the digit, so 11 to 15 pixels."""

BACKGROUND_LUMINANCE = (0.36, 0.64)
TEXTURE_CONTRAST = (0.04, 0.12)
"""Least and greatest luminance difference between the background's colours and its mean."""
INK_CONTRAST = 0.28
"""Least luminance difference between a digit or fragment and the mean of the background."""
LIGHTEST = 0.96
"""Greatest luminance of a digit or fragment; the darkest is as near to black."""
CHROMA = 0.25
TEXTURE_CELLS = (4, 8, 16)
NOISE_CONTRAST = 0.03

SMOOTH = -1
"""Stands for a background of smooth noise, which has no class."""

_LUMA = np.array((0.299, 0.587, 0.114))
_RENDERED_AT_ONCE = 128


class Layout(NamedTuple):
    """What is where in some scenes; `N` scenes, `D` digits and `J` fragments each.

    Attributes:
        digits: `(N, D)` source index of the digits to name.
        sides: `(N, D)` side in pixels of the square that a digit is enlarged to.
        corners: `(N, D, 2)` row and column of that square's first pixel.
        fragments: `(N, J)` source index of the digit that a fragment is cut from.
        fragment_count: `(N,)` how many of the J fragments are painted.
        fragment_sides: `(N, J)` side in pixels that this digit is enlarged to before it is cut.
        fragment_pixels: `(N, J, 2)` the source pixel, row and column, in the middle of the disc; it has ink.
        fragment_centers: `(N, J, 2)` row and column of the scene where the middle of the disc goes.
        textures: `(N,)` index of the background's class in `TEXTURES`, or `SMOOTH`.
    """

    digits: Integers
    sides: Integers
    corners: Integers
    fragments: Integers
    fragment_count: Integers
    fragment_sides: Integers
    fragment_pixels: Integers
    fragment_centers: Integers
    textures: Integers


@dataclass(frozen=True)
class DigitScenes(ArrayDataset):
    """Colour scenes `(3, 64, 64)` with one real handwritten digit, whose class is the label and whose ink is the mask.

    The digit is enlarged to 22 to 32 pixels and painted at a random place of a random texture, in a random colour
    lighter or darker than it. Three to six fragments of digits of *other* classes lie around it, in contrasts like
    its own. They are cut out by discs half as wide as their digits, so that they cannot be read, and they do not
    touch the square that the digit to be named fills. Colours, sizes and places say nothing about the class; that
    it is absent from the fragments says a little. The mask is exact: without the digit its pixels, and no others,
    would look different.

    Every scene is a pure function of (`seed`, sample name), in elementwise float64 arithmetic rounded to bytes, and
    therefore the same on all machines. `scene-0042-1` is the second scene of source digit 42. The split is that of
    `digits`, and fragments come from the digits of the same part.

    With `objects=2` or `3` a scene has that many whole digits of different classes, each in a quarter of its own, and
    is a sample for each of them: `scene-0042-1#7` asks for its 7. Fragments are of none of these classes; `present`
    and `all_masks` tell of all digits of the scene.

    With `textures=True` the background is one of ten classes of texture and nothing but the digit is on it, so that
    `label="object"` and `label="scene"` ask two questions of the same images, and the digits are a feature that all
    scenes have in common, as `bam` wants it; `backgrounds` are the scenes without their digits. Every training digit
    stands once on each texture.

    Args:
        split: `"train"` (1258 digits, ten samples each; nine with three objects) or `"test"` (539 digits, one scene
            each).
        seed: another seed makes other scenes of the same digits.
        objects: how many whole digits a scene has, 1 to 3.
        truth: `"mask"`, the ink of the digit, or `"box"`, the whole of the tight box around it.
        textures: whether backgrounds have classes.
        label: `"object"`, the digit, or `"scene"`, the class of the texture; the mask is the digit's in both cases.

    Raises:
        ValueError: an argument is none of these, or `textures` do not go with the others.

    Example:
        >>> scene = DigitScenes(split="test").take([0])
        >>> scene.ids, tuple(scene.images.shape), tuple(scene.masks.shape)
        (('scene-0001-0',), (1, 3, 64, 64), (1, 64, 64))
    """

    name: ClassVar[str] = "digit_scenes"
    normalization: ClassVar[Normalization] = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    image_shape: ClassVar[tuple[int, int, int]] = (3, SCENE_SIDE, SCENE_SIDE)
    has_masks: ClassVar[bool] = True

    split: str = "test"
    seed: int = 0
    objects: int = 1
    truth: Truth = "mask"
    textures: bool = False
    label: Label = "object"

    def __post_init__(self) -> None:
        """Check the configuration."""
        check_split(self.split)
        if not isinstance(self.objects, int) or not 1 <= self.objects <= MOST_OBJECTS:
            raise ValueError(f"`objects` must be a whole number from 1 to {MOST_OBJECTS}, was {self.objects!r}")
        for name, choices in (("truth", get_args(Truth)), ("label", get_args(Label))):
            if getattr(self, name) not in choices:
                allowed = " or ".join(f'"{choice}"' for choice in choices)
                raise ValueError(f"`{name}` must be {allowed}, was {getattr(self, name)!r}")
        if self.textures and self.objects > 1:
            raise ValueError(f"`objects` must be 1 with `textures`, was {self.objects}")
        if self.label == "scene" and not self.textures:
            raise ValueError('`textures` must be true with `label="scene"`: other backgrounds have no class')

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # two label spaces
        """Names of the digits, or of the textures."""
        return CLASSES if self.label == "object" else tuple(TEXTURES)

    @property
    def has_backgrounds(self) -> bool:
        """Whether samples come with their images without the digit."""
        return self.textures

    def load(self) -> Arrays:
        """Render the scenes of this split."""
        scenes = scene_names(self.split, objects=self.objects)
        layout = scene_layout(scenes, seed=self.seed, objects=self.objects, textures=self.textures)
        pixels, masks = render(scenes, layout, source_digits(), seed=self.seed)
        if self.truth == "box":
            masks = filled_boxes(masks.reshape(-1, SCENE_SIDE, SCENE_SIDE)).reshape(masks.shape)
        digits = source_digits().labels[layout.digits]
        if self.objects > 1:
            return _items(scenes, pixels, digits, masks)
        backgrounds = None
        if self.textures:
            backgrounds, _ = render(scenes, layout, source_digits(), seed=self.seed, with_digits=False)
        labels = digits[:, 0] if self.label == "object" else layout.textures
        return Arrays(scenes, pixels, labels, masks[:, 0], backgrounds=backgrounds)

    @cached_property
    def boxes(self) -> Integers:
        """`(N, 4)` int64: the tight box around every mask as x0, y0, x1, y1, the last two exclusive."""
        return mask_boxes(cast("Booleans", self.arrays.masks))


def mask_boxes(masks: Booleans) -> Integers:
    """Return the `(N, 4)` tight boxes (x0, y0, x1, y1; ends exclusive) around `(N, H, W)` masks that are not empty."""
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    starts = columns.argmax(axis=1), rows.argmax(axis=1)
    ends = masks.shape[2] - columns[:, ::-1].argmax(axis=1), masks.shape[1] - rows[:, ::-1].argmax(axis=1)
    return np.stack((*starts, *ends), axis=1).astype(np.int64)


def filled_boxes(masks: Booleans) -> Booleans:
    """Fill the tight box around each of `(N, H, W)` masks.

    Example:
        >>> filled_boxes(np.eye(3, dtype=np.bool_)[None, :2]).astype(int)
        array([[[1, 1, 0],
                [1, 1, 0]]])
    """
    rows, columns = _filled(np.asarray(masks.any(axis=2))), _filled(np.asarray(masks.any(axis=1)))
    return rows[:, :, None] & columns[:, None, :]


def _filled(flags: Booleans) -> Booleans:
    """Set all flags between the first and the last one that is set, row by row."""
    begun, left = (np.logical_or.accumulate(part, axis=1) for part in (flags, flags[:, ::-1]))
    return begun & left[:, ::-1]


def _items(scenes: Sequence[str], pixels: NDArray[np.uint8], digits: Integers, masks: Booleans) -> Arrays:
    """Turn scenes of several digits, `(N, D)` classes and `(N, D, H, W)` masks, into a sample for each digit."""
    count = digits.shape[1]
    present = np.zeros((len(scenes), len(CLASSES)), dtype=np.bool_)
    np.put_along_axis(present, digits, values=True, axis=1)
    return Arrays(
        ids=tuple(f"{scene}#{CLASSES[digit]}" for scene, row in zip(scenes, digits, strict=True) for digit in row),
        pixels=np.repeat(pixels, count, axis=0),
        labels=digits.reshape(-1),
        masks=masks.reshape(-1, *masks.shape[2:]),
        all_masks=np.repeat(masks.any(axis=1), count, axis=0),
        present=np.repeat(present, count, axis=0),
    )


def scene_names(split: str, *, objects: int = 1) -> tuple[str, ...]:
    """Name the scenes of a split, after the source digits that come first in them."""
    repetitions = range(max(1, SCENES_PER_DIGIT[split] // objects))
    return tuple(f"scene-{index:04d}-{repetition}" for index in source_split()[split] for repetition in repetitions)


def scene_layout(ids: Sequence[str], *, seed: int, objects: int = 1, textures: bool = False) -> Layout:
    """Draw what is where in the scenes of these names; a scene's split follows from its source digit.

    Args:
        ids: names of the N scenes.
        seed: the dataset's seed.
        objects: how many whole digits there are.
        textures: whether backgrounds are of a class; there are no fragments then.
    """
    draws = _uniform(seed, "digit", ids, (objects, 4))
    digits = np.array([[int(name.split("-")[1])] for name in ids], dtype=np.int64)
    for number in range(1, objects):
        digits = np.concatenate((digits, _of_other_classes(digits, draws[:, [number], 3])), axis=1)
    sides = _whole(draws[..., 0], *DIGIT_SIDES)
    corners = _corners(seed, ids, sides, draws[..., 1:3])
    pieces = _uniform(seed, "fragments", ids, (FRAGMENTS[1], 4))
    fragments = _of_other_classes(digits, pieces[..., 0])
    return Layout(
        digits=digits,
        sides=sides,
        corners=corners,
        fragments=fragments,
        fragment_count=_whole(draws[:, 0, 3], *FRAGMENTS) * (not textures),
        fragment_sides=_whole(pieces[..., 1], *FRAGMENT_SIDES),
        fragment_pixels=_inked_pixels(source_digits().images[fragments], pieces[..., 2]),
        fragment_centers=_places_outside(corners, sides, pieces[..., 3]),
        textures=_texture_classes(seed, ids) if textures else np.full(len(ids), SMOOTH),
    )


def render(
    ids: Sequence[str], layout: Layout, source: SourceDigits, *, seed: int, with_digits: bool = True
) -> tuple[NDArray[np.uint8], Booleans]:
    """Paint scenes: texture, then fragments, then the digits, then the noise of a camera.

    Args:
        ids: names of the N scenes; colours, texture and noise are drawn by them.
        layout: what is where in these scenes.
        source: the digits that the layout's indices mean.
        seed: the dataset's seed.
        with_digits: false leaves the digits to be named out, and changes nothing else.

    Returns:
        `(N, 3, 64, 64)` uint8 pixels and `(N, D, 64, 64)` bool masks of the digits, which do not overlap.
    """
    pixels = np.empty((len(ids), 3, SCENE_SIDE, SCENE_SIDE), dtype=np.uint8)
    masks = np.empty((*layout.digits.shape, SCENE_SIDE, SCENE_SIDE), dtype=np.bool_)
    for start in range(0, len(ids), _RENDERED_AT_ONCE):
        part = slice(start, start + _RENDERED_AT_ONCE)
        some, where = ids[part], Layout(*(values[part] for values in layout))
        background, fragments, digits = _colours(seed, some, where.digits.shape[1])
        canvas = _background(seed, some, background, where.textures)
        for number in range(FRAGMENTS[1]):
            _paint_fragment(canvas, where, source, number, fragments[:, number])
        for number in range(where.digits.shape[1]):
            ink = _digit_ink(source.images[where.digits[:, number]], where.sides[:, number], where.corners[:, number])
            masks[part, number] = ink >= INK_THRESHOLD
            if with_digits:
                canvas += _opacity(ink)[..., None] * (digits[:, number, None, None] - canvas)
        canvas += _noise(seed, some)
        pixels[part] = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8).transpose(0, 3, 1, 2)
    return pixels, masks


def _uniform(seed: int, stream: str, ids: Sequence[str], shape: tuple[int, ...]) -> Floats:
    """Draw `(N, *shape)` numbers in (0, 1) for the scenes of these names."""
    size = int(np.prod(shape))
    drawn: Floats = uniform(seed, f"digit_scenes/{stream}", sample_keys(ids), 0, size).numpy()
    return drawn.reshape(len(ids), *shape)


def _whole(draws: Floats, least: int, most: int | Integers) -> Integers:
    """Turn numbers in (0, 1) into whole numbers from `least` to `most`, both included."""
    return (least + np.floor(draws * (most - least + 1))).astype(np.int64)


def _of_other_classes(digits: Integers, draws: Floats) -> Integers:
    """Pick `(N, J)` source digits of the same split as `digits`, `(N, D)`, but of other classes than theirs."""
    labels = source_digits().labels
    picked = np.empty(draws.shape, dtype=np.int64)
    for pool in source_split().values():
        ours = np.isin(digits[:, 0], pool)
        for taken in np.unique(labels[digits[ours]], axis=0):
            scenes = ours & (labels[digits] == taken).all(axis=1)
            others = pool[~np.isin(labels[pool], taken)]
            picked[scenes] = others[_whole(draws[scenes], 0, len(others) - 1)]
    return picked


def _corners(seed: int, ids: Sequence[str], sides: Integers, draws: Floats) -> Integers:
    """Place squares of `(N, D)` sides: one anywhere in the scene, several each in a random quarter of its own."""
    if sides.shape[1] == 1:
        return _whole(draws, 0, SCENE_SIDE - sides[..., None])
    half = SCENE_SIDE // 2
    quarters = permutation(seed, "digit_scenes/quarters", sample_keys(ids), 0, 4).numpy()[:, : sides.shape[1]]
    return half * np.stack(np.divmod(quarters, 2), axis=-1) + _whole(draws, 0, half - sides[..., None])


def _texture_classes(seed: int, ids: Sequence[str]) -> Integers:
    """Take textures in turn for the scenes of one source digit, from a random one on."""
    digits, repetitions = zip(*(name.rsplit("-", 1) for name in ids), strict=True)
    first = _whole(_uniform(seed, "first texture", digits, (1,))[:, 0], 0, len(TEXTURES) - 1)
    return (first + np.array(repetitions, dtype=np.int64)) % len(TEXTURES)


def _inked_pixels(images: Integers, draws: Floats) -> Integers:
    """Pick a pixel `(N, J, 2)` of every `(N, J, 8, 8)` image with a probability proportional to its ink."""
    ink = images.reshape(*draws.shape, -1).cumsum(axis=-1)
    level = np.floor(draws * ink[..., -1])
    index = (ink <= level[..., None]).sum(axis=-1)
    return np.stack(np.divmod(index, images.shape[-1]), axis=-1)


def _places_outside(corners: Integers, sides: Integers, draws: Floats) -> Integers:
    """Pick `(N, J, 2)` middles of fragments, uniform among the pixels from where no fragment touches a square."""
    gap = FRAGMENT_REACH + 1
    row, column = np.divmod(np.arange(SCENE_SIDE**2), SCENE_SIDE)
    picked = np.empty(draws.shape, dtype=np.int64)
    for scene, squares in enumerate(zip(corners, sides, strict=True)):
        beside = np.ones(SCENE_SIDE**2, dtype=np.bool_)
        for (top, left), side in zip(*squares, strict=True):
            above, below = row < top - gap, row >= top + side + gap
            beside &= above | below | (column < left - gap) | (column >= left + side + gap)
        free = np.flatnonzero(beside)
        picked[scene] = free[_whole(draws[scene], 0, len(free) - 1)]
    return np.stack(np.divmod(picked, SCENE_SIDE), axis=-1)


def _enlarged_ink(images: Integers, sides: Integers, rows: Floats, columns: Floats) -> Floats:
    """Enlarge digits `(N, 8, 8)` to `sides` and read them there: ink from 0 to 1, none outside of the digit."""
    padded = np.pad(images / INK_LEVELS, ((0, 0), (1, 1), (1, 1)))
    step = images.shape[-1] / sides[:, None]
    return bilinear(padded, (rows + 0.5) * step + 0.5, (columns + 0.5) * step + 0.5)


def _digit_ink(images: Integers, sides: Integers, corners: Integers) -> Floats:
    """Enlarge `(N, 8, 8)` digits to their sides and put them at their corners: `(N, 64, 64)` ink."""
    pixel = np.arange(SCENE_SIDE, dtype=np.float64)
    return _enlarged_ink(images, sides, pixel - corners[:, [0]], pixel - corners[:, [1]])


def _opacity(ink: Floats) -> Floats:
    """Cover wholly where there is much ink, partly at the edge, and not at all below the threshold."""
    inside = _between((ink - INK_THRESHOLD) / (OPAQUE_INK - INK_THRESHOLD), EDGE_OPACITY, 1)
    return np.where(ink >= INK_THRESHOLD, np.minimum(inside, 1), 0)


def _paint_fragment(canvas: Floats, layout: Layout, source: SourceDigits, number: int, colours: Floats) -> None:
    """Paint one fragment into every `(N, 64, 64, 3)` scene that has so many; parts beyond the border are lost."""
    offset = np.arange(-FRAGMENT_REACH, FRAGMENT_REACH + 1)
    sides, pixels = layout.fragment_sides[:, number], layout.fragment_pixels[:, number]
    middle = (pixels + 0.5) * (sides / source.images.shape[-1])[:, None] - 0.5
    ink = _enlarged_ink(
        source.images[layout.fragments[:, number]], sides, middle[:, [0]] + offset, middle[:, [1]] + offset
    )
    disc = offset[:, None] ** 2 + offset**2 <= (sides[:, None, None] // 4) ** 2
    shown = disc & (number < layout.fragment_count)[:, None, None]
    rows, columns = (layout.fragment_centers[:, number, [axis]] + offset for axis in (0, 1))
    inside = _in_scene(rows)[:, :, None] & _in_scene(columns)[:, None, :]
    scene, row, column = np.nonzero(shown & inside)
    at = scene, rows[scene, row], columns[scene, column]
    canvas[at] += _opacity(ink[scene, row, column])[:, None] * (colours[scene] - canvas[at])


def _in_scene(positions: Integers) -> Booleans:
    return (positions >= 0) & (positions < SCENE_SIDE)


def _colours(seed: int, ids: Sequence[str], objects: int) -> tuple[Floats, Floats, Floats]:
    """Draw two background colours, `(N, 2, 3)`, and those of every fragment and of every digit, `(N, …, 3)`."""
    marks = FRAGMENTS[1] + objects
    scene = _uniform(seed, "background", ids, (2,))
    mean = _between(scene[:, [0]], *BACKGROUND_LUMINANCE)
    difference = _between(scene[:, [1]], *TEXTURE_CONTRAST)
    background = np.concatenate((mean - difference, mean + difference), axis=1)
    lighter, how_much = np.moveaxis(_uniform(seed, "contrasts", ids, (marks, 2)), -1, 0)
    light = _between(how_much, mean + INK_CONTRAST, LIGHTEST)
    dark = _between(how_much, mean - INK_CONTRAST, 1 - LIGHTEST)
    luminance = np.concatenate((background, np.where(lighter < 0.5, light, dark)), axis=1)
    chroma = CHROMA * (2 * _uniform(seed, "chroma", ids, (2 + marks, 3)) - 1)
    weighted = chroma * _LUMA
    grey = weighted[..., 0] + weighted[..., 1] + weighted[..., 2]
    colours = np.clip(luminance[..., None] + chroma - grey[..., None], 0, 1)
    # The colours of further digits are drawn last: those of scenes with one digit stay what they are.
    further = 3 + FRAGMENTS[1]
    return colours[:, :2], colours[:, 3:further], np.concatenate((colours[:, [2]], colours[:, further:]), axis=1)


def _between(draws: Floats, start: Floats | float, end: Floats | float) -> Floats:
    return start + draws * (end - start)


def _background(seed: int, ids: Sequence[str], colours: Floats, textures: Integers) -> Floats:
    """Blend two colours per scene, `(N, 2, 3)`, by a texture or by smooth noise of several scales: `(N, 64, 64, 3)`."""
    share = np.zeros((len(ids), SCENE_SIDE, SCENE_SIDE))
    for cells in TEXTURE_CELLS:
        share += enlarge(_uniform(seed, f"texture {cells}", ids, (cells, cells)), SCENE_SIDE) / len(TEXTURE_CELLS)
    drawn = textures != SMOOTH
    share[drawn] = texture(textures[drawn], _uniform(seed, "texture", ids, (3,))[drawn], side=SCENE_SIDE)
    first, second = colours[:, 0, None, None], colours[:, 1, None, None]
    return first + share[..., None] * (second - first)


def _noise(seed: int, ids: Sequence[str]) -> Floats:
    """Draw a camera's noise, equal in all channels, `(N, 64, 64, 1)`: four pixels from the bytes of one word."""
    words = random_words(seed, "digit_scenes/noise", sample_keys(ids), 0, SCENE_SIDE**2 // 4).numpy()
    levels = (words[..., None] >> np.array((0, 8, 16, 24))) & 255
    return NOISE_CONTRAST * (levels.reshape(len(ids), SCENE_SIDE, SCENE_SIDE, 1) / 127.5 - 1)
