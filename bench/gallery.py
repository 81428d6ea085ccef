"""The heatmap gallery: the same samples under every explainer, side by side."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..leaderboards.cases import Cases, Subject, subject_named
from ..leaderboards.page_gallery import Gallery, GallerySample, Picture
from .plan import names_of
from .store import Unit

_CELL = 1.15  # inches
_MOST = 16  # heatmaps side by side; more go into further blocks
_SIGNED, _POSITIVE = "RdBu_r", "cividis"  # both are safe for colour-blind readers
_LARGEST = 128  # pixels of a picture in a page
PERCENTILE = 99.5
"""Of the magnitudes in a map, what its darkest colour stands for: one bright pixel must not darken all others."""


def gallery_figure(units: Sequence[Unit], path: Path) -> None:
    """Draw image, mask and every explainer's heatmap for the samples that units keep previews of, as PNG.

    A map with negative values is shown in red (for) and blue (against) around white; one without from dark to
    bright. Every map has a scale of its own: only its shape can be compared.
    """
    blocks = [
        (names, block[start : start + _MOST])
        for names, block in _blocks(units).items()
        for start in range(0, len(block), _MOST)
    ]
    rows = sum(len(block[0].previews["images"]) for _, block in blocks)
    columns = max(_leading(block) + len(block) for _, block in blocks)
    figure = Figure(figsize=(columns * _CELL, rows * _CELL + 0.5 * len(blocks)), layout="constrained", dpi=110)
    parts = figure.subfigures(len(blocks), 1, squeeze=False)[:, 0]
    for part, ((dataset, model), block) in zip(parts, blocks, strict=True):
        part.suptitle(f"{dataset} · {model}".replace("$", r"\$"), fontsize=9)
        _draw_block(part, block, columns)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def _blocks(units: Sequence[Unit]) -> dict[tuple[str, str], list[Unit]]:
    """One unit per subject, by dataset and model; a subject's first unit holds its previews."""
    subjects: dict[tuple[str, ...], Unit] = {}
    for unit in units:
        if unit.previews:
            subjects.setdefault(names_of(unit.about), unit)
    blocks: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for (dataset, model, *_), unit in subjects.items():
        blocks[dataset, model].append(unit)
    return blocks


def _draw_block(part: Figure, block: Sequence[Unit], columns: int) -> None:
    first = block[0]
    images = first.previews["images"].numpy()
    masks = first.previews["masks"].numpy() if "masks" in first.previews else None
    axes = part.subplots(len(images), columns, squeeze=False)
    for row, image in enumerate(images):
        for axis in axes[row]:
            axis.axis("off")
        _image(axes[row, 0], image)
        if masks is not None:
            axes[row, 1].imshow(masks[row], cmap="gray", vmin=0, vmax=1)
        for column, unit in enumerate(block, start=_leading(block)):
            _heatmap(axes[row, column], unit.previews["heatmaps"].numpy()[row])
    titles = [*["image", "mask"][: _leading(block)], *(unit.about["explainer"] for unit in block)]
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title.replace("_", "\n", 1).replace("$", r"\$"), fontsize=7)


def _leading(block: Sequence[Unit]) -> int:
    """How many columns come before the heatmaps: the image, and the mask where there is one."""
    return 2 if "masks" in block[0].previews else 1


def _image(axis: object, image: NDArray[np.float32]) -> None:
    if len(image) == 3:
        axis.imshow(image.transpose(1, 2, 0))  # type: ignore[attr-defined]
    else:
        axis.imshow(image.mean(axis=0), cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]


def _heatmap(axis: object, values: NDArray[np.float32]) -> None:
    largest = _scale(values)
    signed = bool((values < 0).any())
    axis.imshow(  # type: ignore[attr-defined]
        values, cmap=_SIGNED if signed else _POSITIVE, vmin=-largest if signed else 0, vmax=largest
    )


def galleries(units: Sequence[Unit]) -> list[Gallery]:
    """Return image, mask and every explainer's heatmap for the samples that units keep previews of, for a page.

    Heatmaps are shown on one diverging scale, white at 0, that is safe for colour-blind readers; pictures are at most
    `_LARGEST` pixels wide and high.
    """
    found: dict[Subject, dict[tuple[str, str], Unit]] = defaultdict(dict)
    for unit in units:
        if unit.previews:
            # A subject's first unit holds its previews.
            found[subject_named(unit.about)].setdefault((unit.about["explainer"], unit.about["explainer_params"]), unit)
    return [_gallery(list(block.values())) for block in found.values()]


def case_galleries(units: Sequence[Unit], cases: Sequence[Cases]) -> list[Gallery]:
    """Return image, mask and every explainer's heatmap for the best and worst samples, as far as units hold them.

    Args:
        units: units without metrics that hold heatmaps, the ones to prefer first.
        cases: the samples to show.
    """
    wanted: dict[tuple[Subject, str], dict[str, None]] = defaultdict(dict)
    for one in cases:
        wanted[one.subject, one.target] |= dict.fromkeys((one.best.id, one.worst.id))
    held: dict[tuple[Subject, str], list[Unit]] = defaultdict(list)
    for unit in units:
        held[subject_named(unit.about), unit.about["target"]].append(unit)
    return [Gallery(key[0], list(_samples(held[key], names)), key[1]) for key, names in wanted.items()]


def _samples(units: Sequence[Unit], names: Iterable[str]) -> Iterator[GallerySample]:
    held = {name for unit in units for name in unit.ids}
    return (_sample(units, name) for name in names if name in held)


def scale_colours() -> list[tuple[float, str]]:
    """Positions from 0 to 1 and colours of the scale of heatmaps."""
    places = np.linspace(0, 1, 9)
    return [(float(place), to_hex(colormaps[_SIGNED](place))) for place in places]


def _gallery(block: Sequence[Unit]) -> Gallery:
    """The samples that the first unit shows, under all explainers that show them."""
    first = block[0]
    names = first.ids[: len(first.previews["images"])]
    return Gallery(subject_named(first.about), [_sample(block, name) for name in names])


def _sample(units: Sequence[Unit], name: str) -> GallerySample:
    """One sample under all explainers whose units show it; of two units of an explainer the first one counts."""
    showing: dict[tuple[str, str], tuple[Unit, int]] = {}
    for unit in units:
        if name in unit.ids[: len(unit.previews["heatmaps"])]:
            key = (unit.about["explainer"], unit.about["explainer_params"])
            showing.setdefault(key, (unit, unit.ids.index(name)))
    first, row = next(iter(showing.values()))
    masks = first.previews.get("masks")
    image = _picture(_pixels(first.previews["images"][row].numpy()), f"image {name}")
    mask = None if masks is None else _picture(_grey(masks[row].numpy()), f"mask of {name}: white is the object")
    return GallerySample(name, image, mask, {key: _map_picture(*place) for key, place in showing.items()})


def _map_picture(unit: Unit, row: int) -> Picture:
    values = unit.previews["heatmaps"].numpy()[row].astype(np.float64)
    largest = _scale(values)
    level = (255 * np.clip(0.5 + 0.5 * values / largest, 0, 1)).round().astype(np.uint8)
    picture = Image.fromarray(level)
    if max(picture.size) > _LARGEST:  # averaged before colours are given
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    picture.putpalette((colormaps[_SIGNED](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    top, left = np.unravel_index(int(values.argmax()), values.shape)
    alt = (
        f"{unit.about['explainer']} on {unit.ids[row]}: from {values.min():.2g} to {values.max():.2g}, largest "
        f"at row {top + 1} of {values.shape[0]}, column {left + 1} of {values.shape[1]}"
    )
    return Picture(_png(picture), alt, f"± {largest:.2g}" if np.abs(values).max() > 0 else "all 0")


def _scale(values: NDArray[np.floating[Any]]) -> float:
    """What the darkest colour stands for."""
    return float(np.percentile(np.abs(values), PERCENTILE)) or float(np.abs(values).max()) or 1.0


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image of floats from 0 to 1, or of 8 bits, as Pillow wants it."""
    largest = 1 if image.dtype == np.uint8 else 255
    image = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
    return (largest * image).round().astype(np.uint8)


def _grey(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mask, 255, 0).astype(np.uint8)


def _picture(pixels: NDArray[np.uint8], alt: str) -> Picture:
    picture = Image.fromarray(pixels)
    if max(picture.size) > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    return Picture(_png(picture), alt)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
