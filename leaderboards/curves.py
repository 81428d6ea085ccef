"""Curves over steps (such as the share of pixels masked) as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from .files import write_whole
from .names import CONTROLS, by_numbers, labels, primary_variants, printable
from .record import Record
from .series import Identity, NotApplicable, Series
from .statistics import Estimate, estimate

_Dash = tuple[int, tuple[float, ...]]  # offset and lengths

# Okabe and Ito's colours, which differ under every common colour blindness; yellow is too faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[_Dash, ...] = ((0, ()), (0, (7, 2)), (0, (5, 1, 1, 1)))  # the next one when the colours are used up
_CONTROL_STYLES: dict[str, tuple[str, _Dash]] = {
    "random": ("#8C8C8C", (0, (1, 1))),
    "uniform": ("#B3B3B3", (0, (3, 3))),
    "center": ("#8C8C8C", (0, (6, 2))),
    "edges": ("#8C8C8C", (0, (6, 2, 1, 2))),
    "truth": ("#4D4D4D", (0, (3, 1))),
}
_STEPS = {
    "conciseness": "threshold parameter τ",
    "deletion": "share of pixels removed",
    "insertion": "share of pixels inserted",
    "mask_k_pixels": "share of pixels masked",
    "parameter_randomization": "share of layers randomised",
}
_VALUES = {
    "accuracy": "accuracy",
    "lor": "log-odds of the label",
    "delta_lor": "change of the log-odds",
    "probability": "probability of the class",
    "cascading": "rank correlation, all layers to here",
    "independent": "rank correlation, this layer alone",
}
_PANEL = (3.3, 2.8)  # inches
_LEGEND = 1.9


class Style(NamedTuple):
    """How one explainer is drawn, in every panel alike."""

    label: str
    colour: str
    dash: _Dash
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """As keywords of a matplotlib line."""
        return {"color": self.colour, "linestyle": self.dash, "linewidth": self.width}


def curves_figure(series: Sequence[Series | NotApplicable], path: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Draw curves into a PNG file; the same series give the same bytes.

    Args:
        series: what was measured; what is no curve is passed over.
        path: the file; replaced as a whole.
        seed: seed of the resampling behind the bands.

    Raises:
        ValueError: if no series is a curve.
        OSError: if the folder cannot be written to.
    """
    with matplotlib.style.context("default"):  # whatever the user's own settings are
        figure = draw_curves(series, seed=seed)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=160, metadata={"Software": None})
    write_whole(path, picture.getvalue())


def draw_curves(series: Sequence[Series | NotApplicable], *, seed: int = 0) -> Figure:
    """Draw the mean of every curve with its 95 % interval over samples at each step.

    One row of panels per (dataset, model), one column per (metric, variant), one line per explainer; controls are
    grey and dashed.

    Args:
        series: what was measured; what is no curve is passed over.
        seed: seed of the resampling behind the bands.

    Returns:
        A figure of its own, not known to pyplot.

    Raises:
        ValueError: if no series is a curve.
    """
    curves = [item for item in series if isinstance(item, Series) and item.is_curve]
    curves.sort(key=lambda item: (item.explainer, item.explainer_params))  # which is drawn above which
    if not curves:
        raise ValueError("`series` must hold at least one curve (a series with steps), but none has steps")
    styles = styles_of(curves)
    rows = sorted({_subject(item) for item in curves})
    columns = _columns(curves)
    size = (_PANEL[0] * len(columns) + _LEGEND, max(_PANEL[1] * len(rows), 0.22 * len(styles) + 0.8))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, subject in enumerate(rows):
        for column, (metric, variant) in enumerate(columns):
            mine = [item for item in curves if _subject(item) == subject]
            chosen = [item for item in mine if (item.metric, item.variant) == (metric, variant)]
            _panel(panels[row, column], chosen, styles, seed=seed)
    add_legend(figure, list(styles.values()), title="mean and 95 % interval")
    return figure


def _subject(item: Series) -> tuple[str, ...]:
    return item.dataset, item.dataset_revision, item.model, item.model_digest


def _columns(curves: list[Series]) -> list[tuple[str, str]]:
    """Every (metric, variant), the primary variants of a metric first."""
    columns: list[tuple[str, str]] = []
    for metric in sorted({item.metric for item in curves}):
        variants = sorted({item.variant for item in curves if item.metric == metric}, key=by_numbers)
        columns += [(metric, name) for name in dict.fromkeys([*primary_variants(variants), *variants])]
    return columns


def styles_of(rows: Iterable[Identity | Record]) -> dict[tuple[str, str], Style]:
    """How every (explainer, explainer_params) of some rows is drawn: colours for explainers, greys for controls."""
    styles: dict[tuple[str, str], Style] = {}
    for (name, params), words in labels(rows).items():
        label = words or "the model alone"
        if name in CONTROLS:
            colour, dash = _CONTROL_STYLES[name]
            styles[name, params] = Style(label, colour, dash, 1.2)
        else:
            round_, place = divmod(len(styles), len(_COLOURS))
            styles[name, params] = Style(label, _COLOURS[place], _DASHES[round_ % len(_DASHES)], 1.6)
    return styles


def _panel(panel: Axes, chosen: list[Series], styles: dict[tuple[str, str], Style], *, seed: int) -> None:
    """Draw the curves of one subject and variant; real explainers above controls."""
    for item, mean in _means(chosen, seed=seed):
        style = styles[item.explainer, item.explainer_params]
        order, shade = (2.0, 0.07) if item.explainer in CONTROLS else (3.0, 0.13)
        panel.fill_between(item.steps, mean.low, mean.high, color=style.colour, alpha=shade, linewidth=0, zorder=1)
        panel.plot(item.steps, mean.value, label=style.label, zorder=order, **style.line)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.grid(color="#E6E6E6", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    panel.tick_params(labelsize=8)
    panel.set_visible(bool(chosen))
    if chosen:
        _describe(panel, chosen[0])


def _means(chosen: list[Series], *, seed: int) -> Iterator[tuple[Series, Estimate]]:
    """Mean and interval at each step; curves over the same samples are resampled together."""
    for ids in dict.fromkeys(item.ids for item in chosen):
        together = [item for item in chosen if item.ids == ids]
        lengths = [len(item.steps) for item in together]
        means = estimate(
            ids,
            np.hstack([item.values for item in together]),
            seed=seed,
            clusters=together[0].clusters or None,
            bounds=np.repeat([item.range for item in together], lengths, axis=0),
        )
        ends = np.cumsum(lengths)
        for item, end in zip(together, ends, strict=True):
            part = slice(end - len(item.steps), end)
            yield item, Estimate(means.value[part], means.low[part], means.high[part], means.n[part])


def _describe(panel: Axes, item: Series) -> None:
    value = _VALUES.get(item.variant, printable(item.variant or item.metric).replace("_", " "))
    panel.set_title(f"{printable(item.dataset)}, {printable(item.model)}", fontsize=9, parse_math=False)
    panel.set_xlabel(_STEPS.get(item.metric, f"step of {printable(item.metric)}"), fontsize=9, parse_math=False)
    panel.set_ylabel(f"{value} {'↑' if item.higher_is_better else '↓'}", fontsize=9, parse_math=False)


def add_legend(
    figure: Figure, styles: Sequence[Style], *, title: str, markers: Mapping[str, str] | None = None
) -> None:
    """Name the styles to the right of all panels: lines, or the markers of the labels if they are given."""
    if markers is None:
        lines = [Line2D([], [], **style.line) for style in styles]
    else:
        lines = [Line2D([], [], marker=markers[style.label], color=style.colour, linestyle="") for style in styles]
    # A legend passes over labels that begin with an underscore, so names are set afterwards.
    legend = figure.legend(
        lines,
        ["name"] * len(lines),
        loc="outside right center",
        frameon=False,
        fontsize=8.5,
        title=title,
        title_fontsize=8.5,
        alignment="left",
        handlelength=2.6,
    )
    for text, style in zip(legend.get_texts(), styles, strict=True):
        text.set_parse_math(False)
        text.set_text(style.label)
