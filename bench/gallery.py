"""The heatmap gallery: the same samples under every explainer, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .store import Unit

_CELL = 1.15  # inches
_SIGNED, _POSITIVE = "RdBu_r", "cividis"  # both are safe for colour-blind readers
_PERCENTILE = 99.5  # one bright pixel must not darken all others


def gallery_figure(units: Sequence[Unit], path: Path) -> None:
    """Draw image, mask and every explainer's heatmap for the samples that units keep previews of, as PNG.

    A map with negative values is shown in red (for) and blue (against) around white; one without from dark to
    bright. Every map has a scale of its own: only its shape can be compared.
    """
    blocks = _blocks(units)
    rows = sum(len(block[0].previews["images"]) for block in blocks.values())
    columns = max(_leading(block) + len(block) for block in blocks.values())
    figure = Figure(figsize=(columns * _CELL, rows * _CELL + 0.5 * len(blocks)), layout="constrained", dpi=110)
    parts = figure.subfigures(len(blocks), 1, squeeze=False)[:, 0]
    for part, ((dataset, model), block) in zip(parts, blocks.items(), strict=True):
        part.suptitle(f"{dataset} · {model}".replace("$", r"\$"), fontsize=9)
        _draw_block(part, block, columns)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def _blocks(units: Sequence[Unit]) -> dict[tuple[str, str], list[Unit]]:
    """One unit per subject, by dataset and model; a subject's first unit holds its previews."""
    subjects: dict[tuple[str, ...], Unit] = {}
    for unit in units:
        if unit.previews:
            names = ("dataset", "model", "explainer", "explainer_params")
            subjects.setdefault(tuple(unit.about[name] for name in names), unit)
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
    largest = float(np.percentile(np.abs(values), _PERCENTILE)) or float(np.abs(values).max()) or 1.0
    signed = bool((values < 0).any())
    axis.imshow(  # type: ignore[attr-defined]
        values, cmap=_SIGNED if signed else _POSITIVE, vmin=-largest if signed else 0, vmax=largest
    )
