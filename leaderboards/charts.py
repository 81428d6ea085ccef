"""Pictures of a board as SVG: curves, ranks, and quality against cost. The same board gives the same bytes."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .board import Board
from .columns import PRICES, Column
from .curves import add_legend, draw_curves, styles_of
from .names import printable
from .series import Series
from .sheets import Sheet, sheets_of

_ACROSS = 4  # panels side by side
_PANEL = (2.5, 2.2)  # inches
_LEGEND = 1.9
_SVG = "{http://www.w3.org/2000/svg}"
_NUMBERS = frozenset({"d", "x", "y", "points"})  # attributes that are lengths
_MARKERS = "osD^vP*XdphH8<>"


class Chart(NamedTuple):
    """A picture with what a reader who does not see it must know.

    Attributes:
        title: a headline.
        svg: the picture.
        alt: what it shows, in words.
    """

    title: str
    svg: bytes
    alt: str

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")


def curve_charts(board: Board) -> list[Chart]:
    """Draw the curves of every metric that has any, with their intervals as bands."""
    curves = [item for item in board.series if isinstance(item, Series) and item.is_curve]
    charts: list[Chart] = []
    groups = sorted({(item.metric, item.metric_version, item.seed) for item in curves})
    for metric, version, seed in groups:  # what must not be mixed is not drawn into one panel
        mine = [item for item in curves if (item.metric, item.metric_version, item.seed) == (metric, version, seed)]
        alone = sum(metric == other for other, *_ in groups) == 1
        title = metric if alone else f"{metric} v{version}, seed {seed}"
        subjects = " and ".join(sorted({f"{item.dataset}, {item.model}" for item in mine}))
        alt = (
            f"Curves of {metric} on {subjects}: one line for each explainer with its 95 % interval as a band. The "
            "areas below them stand in the table."
        )
        charts.append(_chart(title, lambda mine=mine, seed=seed: draw_curves(mine, seed=seed), alt))
    return charts


def rank_charts(board: Board) -> list[Chart]:
    """Draw the rank of every explainer under every metric, with its interval, for every dataset and model."""
    charts: list[Chart] = []
    for sheet in sheets_of(board):
        columns = [column for column in sheet.columns if _ranks(sheet, column)]
        if columns:
            alt = (
                f"Ranks of the explainers on {sheet.title}, one panel for each metric: a dot at the rank, a line from "
                "the best to the worst rank that is not excluded by a significant difference. "
                + _rank_words(sheet, columns)
            )
            charts.append(_chart(sheet.title, lambda sheet=sheet, columns=columns: _draw_ranks(sheet, columns), alt))
    return charts


def cost_charts(board: Board) -> list[Chart]:
    """Draw the mean under every metric against passes of the model, for every dataset and model that has costs."""
    charts: list[Chart] = []
    for sheet in sheets_of(board):
        costs = _costs(sheet)
        columns = [column for column in sheet.columns if column.applies and column.metric not in PRICES]
        if costs and columns:
            prices = ", ".join(f"{label} {cost:g}" for label, cost in costs.items() if not sheet.names[label])
            alt = (
                f"Quality against cost on {sheet.title}, one panel for each metric. Passes of the model for one "
                f"explanation: {prices}."
            )
            charts.append(_chart(sheet.title, lambda s=sheet, c=columns, p=costs: _draw_costs(s, c, p), alt))
    return charts


def svg_of(draw: Callable[[], Figure]) -> bytes:
    """Draw a figure and return it as SVG, whatever the user's settings are.

    Example:
        >>> svg_of(lambda: Figure(figsize=(1, 1)))[:5]
        b'<svg '
    """
    with _plain_style():
        figure = draw()
        FigureCanvasAgg(figure)
        text = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=metadata, transparent=True)
    return _compact(text.getvalue()).encode()


def _compact(text: str) -> str:
    """Say the same in fewer letters: one decimal, a class for each style, no groups that say nothing."""
    root = ElementTree.fromstring(text)  # noqa: S314  # matplotlib's
    styles: dict[str, str] = {}
    for node in root.iter():
        node.text, node.tail = ((part or "").strip() or None for part in (node.text, node.tail))
        for name in _NUMBERS & node.attrib.keys():
            node.set(name, _shortened(node.get(name, "")))
        if "style" in node.attrib:
            node.set("class", styles.setdefault(node.attrib.pop("style"), f"s{len(styles)}"))
        if node.get("transform", "").startswith(("rotate(-0 ", "rotate(0 ")):
            del node.attrib["transform"]
        if node.tag == f"{_SVG}g":
            node.attrib.pop("id", None)
    _ungroup(root)
    rules = root.find(f".//{_SVG}style")
    if rules is not None:
        rules.text = (rules.text or "") + "".join(f".{name}{{{style}}}" for style, name in styles.items())
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _ungroup(node: ElementTree.Element) -> None:
    """Put what groups without attributes hold in their place."""
    for child in node:
        _ungroup(child)
    node[:] = [part for child in node for part in (child if child.tag == f"{_SVG}g" and not child.attrib else [child])]


def _shortened(numbers: str) -> str:
    short = re.sub(r"\d+\.\d{2,}", lambda number: format(float(number[0]), ".1f"), numbers)
    return " ".join(short.split())


@contextmanager
def _plain_style() -> Generator[None]:
    # Letters as text take a fraction of the space of outlines.
    ours: dict[Any, Any] = {
        "svg.hashsalt": "interpeval",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
    }
    with matplotlib.style.context("default"), mpl.rc_context(ours):
        yield


def _chart(title: str, draw: Callable[[], Figure], alt: str) -> Chart:
    return Chart(printable(title), svg_of(draw), printable(alt))


def _ranks(sheet: Sheet, column: Column) -> dict[str, tuple[int, int, int]]:
    """Rank and its interval by label, where at least two explainers have one."""
    found = {
        label: (cell.place.rank, cell.place.low, cell.place.high)
        for label, cell in sheet.cells(column).items()
        if cell.place is not None
    }
    return found if len(found) > 1 else {}


def _rank_words(sheet: Sheet, columns: list[Column]) -> str:
    first = [
        f"{column.name}: {', '.join(label for label, (rank, *_) in _ranks(sheet, column).items() if rank == 1)}"
        for column in columns
    ]
    return "First: " + "; ".join(first) + "."


def _grid(count: int, *, legend: float, height: float = _PANEL[1]) -> tuple[Figure, list[Axes]]:
    across = min(_ACROSS, count)
    down = math.ceil(count / across)
    figure = Figure(
        figsize=(_PANEL[0] * across + legend, height * down), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    )
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels:
        panel.tick_params(which="both", labelsize=7, bottom=False, left=False)
        panel.grid(color="#E6E6E6", linewidth=0.6)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, panels[:count]


def _titled(panel: Axes, column: Column) -> None:
    arrow = "↑" if column.higher_is_better else "↓"
    name = column.name if len(column.name) < 32 else "\n".join(map(printable, column.words))
    panel.set_title(f"{name} {arrow}", fontsize=8, parse_math=False)


def _draw_ranks(sheet: Sheet, columns: list[Column]) -> Figure:
    ranks = [_ranks(sheet, column) for column in columns]
    mean = {
        label: float(np.mean([found[label][0] for found in ranks if label in found]))
        for label in sheet.names
        if any(label in found for found in ranks)
    }
    order = sorted(mean, key=lambda label: (-mean[label], label))
    colours = {style.label: style.colour for style in styles_of(row for row in sheet.rows if row.explainer).values()}
    look: dict[str, Any] = {"markersize": 4.5, "linewidth": 2, "solid_capstyle": "butt"}
    figure, panels = _grid(len(columns), legend=1.2, height=0.75 + 0.19 * len(order))
    for number, (panel, column, found) in enumerate(zip(panels, columns, ranks, strict=True)):
        for place, label in enumerate(order):
            if label in found:
                rank, low, high = found[label]
                panel.plot([low, rank, high], [place] * 3, marker="o", markevery=[1], **look, color=colours[label])
        panel.set_yticks(range(len(order)), order if number % min(_ACROSS, len(columns)) == 0 else [""] * len(order))
        for text in panel.get_yticklabels():
            text.set_parse_math(False)
        panel.set_xlim(0.5, len(order) + 0.5)
        panel.set_ylim(-0.6, len(order) - 0.4)
        panel.set_xticks(range(1, len(order) + 1, max(1, len(order) // 8)))
        _titled(panel, column)
    return figure


def _costs(sheet: Sheet) -> dict[str, float]:
    """Passes of the model for one explanation, forward and backward, by label."""
    found: dict[str, float] = {}
    for column in sheet.columns:
        if column.metric == "cost" and column.variant in {"forward", "backward"}:
            for label, record in column.cells.items():
                if record.value is not None:
                    found[label] = found.get(label, 0.0) + record.value
    return found


def _draw_costs(sheet: Sheet, columns: list[Column], costs: dict[str, float]) -> Figure:
    styles = styles_of(row for row in sheet.rows if row.explainer)
    marks = dict(zip(sheet.names, (_MARKERS * (1 + len(sheet.names) // len(_MARKERS))), strict=False))
    figure, panels = _grid(len(columns), legend=_LEGEND)
    for panel, column in zip(panels, columns, strict=True):
        for style in styles.values():
            record = column.cells.get(style.label)
            if record is not None and record.value is not None and style.label in costs:
                low = record.value if record.ci_low is None else record.ci_low
                high = record.value if record.ci_high is None else record.ci_high
                cost = costs[style.label]
                look: dict[str, Any] = {"marker": marks[style.label], "markersize": 4.5, "color": style.colour}
                panel.plot([cost] * 3, [low, record.value, high], markevery=[1], linewidth=1, **look)
        panel.set_xscale("symlog", linthresh=1, linscale=0.5)
        panel.xaxis.set_major_formatter(lambda passes, _: f"{passes:g}")
        panel.set_xlim(left=-0.3)
        panel.set_xlabel("passes for one explanation", fontsize=7)
        _titled(panel, column)
    add_legend(figure, list(styles.values()), title="mean and 95 % interval", markers=marks)
    return figure
