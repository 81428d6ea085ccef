"""Distributions of depths as a picture: samples on which interpreter and predictor disagree, beside others."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .files import write_whole
from .names import printable

PANELS = 24
"""Classes drawn, at most: those with the most disagreeing samples."""

LINES = 40
"""Disagreeing samples of a class that have a line each; more of them would hide each other and are counted instead."""

_COLUMNS = 3
_PANEL = (3.1, 2.1)  # inches
_GREY, _RIGHT, _WRONG = "#BDBDBD", "#0072B2", "#D55E00"
_WORDS = {_RIGHT: "disagreeing, model right", _WRONG: "disagreeing, model wrong"}


class DepthGroup(NamedTuple):
    """The depths of one class.

    Attributes:
        name: of the class.
        space: in which space the depths are.
        reference: `(R,)` depths of the reference group.
        depths: `(M,)` depths of the disagreeing samples.
        right: `(M,)` bool, whether the model is right about them.
        p_value: of the test that they lie less deep.
    """

    name: str
    space: str
    reference: NDArray[np.float64]
    depths: NDArray[np.float64]
    right: NDArray[np.bool_]
    p_value: float


def depths_figure(groups: Sequence[DepthGroup], path: str | os.PathLike[str]) -> None:
    """Draw depths into a PNG file; the same groups give the same bytes.

    Args:
        groups: one for each class.
        path: the file; replaced as a whole.

    Raises:
        ValueError: if there are no groups.
        OSError: if the folder cannot be written to.
    """
    with matplotlib.style.context("default"):  # whatever the user's own settings are
        picture = io.BytesIO()
        draw_depths(groups).savefig(picture, format="png", dpi=160, metadata={"Software": None})
    write_whole(path, picture.getvalue())


def draw_depths(groups: Sequence[DepthGroup]) -> Figure:
    """Draw one panel for each class: a histogram of the reference group, and a line at each disagreeing sample.

    More than `LINES` samples are drawn as outlined histograms instead, all as shares of the samples in them. Every
    panel has an axis of its own, because depths in two classes are in two spaces and not to be compared.

    Args:
        groups: one for each class; at most `PANELS` are drawn, in the order given.

    Returns:
        A figure of its own, not known to pyplot.

    Raises:
        ValueError: if there are no groups.
    """
    if not groups:
        raise ValueError("`groups` must hold at least one class, but is empty")
    most = sorted(range(len(groups)), key=lambda place: (-len(groups[place].depths), place))[:PANELS]
    chosen = [groups[place] for place in sorted(most)]
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(
        figsize=(max(_PANEL[0] * columns, 5.0), _PANEL[1] * rows + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, group in zip(panels, chosen, strict=False):
        _panel(panel, group)
    for panel in panels[len(chosen) :]:
        panel.set_visible(False)
    handles = [Patch(color=_GREY), *(Line2D([], [], color=colour, linewidth=1.6) for colour in _WORDS)]
    words = ["agreeing (reference group)", *_WORDS.values()]
    figure.legend(handles, words, loc="outside upper center", ncols=3, frameon=False, fontsize=7.5)
    return figure


def _panel(panel: Axes, group: DepthGroup) -> None:
    everything = np.concatenate([group.reference, group.depths])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.04 * (high - low or 0.1)
    bins = min(20, max(8, round(2 * len(group.reference) ** 0.5)))
    edges = np.linspace(low - margin, high + margin, bins + 1)
    if len(group.depths) > LINES:
        _shares(panel, group, edges)
    else:
        _counts(panel, group, edges)
    panel.set_xlim(float(edges[0]), float(edges[-1]))
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(labelsize=7)
    panel.set_title(f"{printable(group.name)}, p = {group.p_value:.2g}", fontsize=8.5, parse_math=False)
    panel.set_xlabel(f"depth in {printable(group.space)}", fontsize=7, parse_math=False)


def _counts(panel: Axes, group: DepthGroup, edges: NDArray[np.float64]) -> None:
    panel.hist(group.reference, bins=list(edges), color=_GREY, zorder=1)
    for depth, right in zip(group.depths, group.right, strict=True):
        panel.axvline(float(depth), color=_RIGHT if right else _WRONG, linewidth=1.6, alpha=0.8, zorder=2)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    panel.set_ylabel("samples", fontsize=7)


def _shares(panel: Axes, group: DepthGroup, edges: NDArray[np.float64]) -> None:
    """Of groups of different sizes only shares can be compared."""
    bins = list(edges)
    panel.hist(group.reference, bins, weights=_equal(group.reference), color=_GREY, zorder=1)
    for colour, depths in ((_RIGHT, group.depths[group.right]), (_WRONG, group.depths[~group.right])):
        if len(depths):
            panel.hist(depths, bins, weights=_equal(depths), histtype="step", color=colour, linewidth=1.6, zorder=2)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=4))
    panel.set_ylabel("share of its samples", fontsize=7)


def _equal(depths: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.full(len(depths), 1 / len(depths))
