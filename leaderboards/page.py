"""A board as a page: one file that opens from disk, asks no network for anything, and works without its script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .board import Board
from .charts import Chart, cost_charts, curve_charts, rank_charts
from .page_cases import extreme_lines
from .page_gallery import Galleries, Gallery
from .page_notes import MetricNote, left_out_lines, metric_lines, provenance_lines
from .page_tables import Tables

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Notes:
    """What a page says beside the board.

    Attributes:
        title: its headline.
        commands: what was typed to make it.
        suite: what was run, as TOML; empty where that is not one suite.
        facts: names and values for the table of provenance.
        left_out: samples of datasets that were left out, and why.
        faults: what explainers did wrong.
        metrics: what is known of each metric.
        galleries: heatmaps to show.
        cases: heatmaps of the samples that explainers do best and worst on.
        percentile: of the magnitudes in a map, the one that its scale is.
        colours: positions from 0 to 1 and colours of the scale.
    """

    title: str
    commands: Sequence[str] = ()
    suite: str = ""
    facts: Sequence[tuple[str, str]] = ()
    left_out: Sequence[str] = ()
    faults: Sequence[str] = ()
    metrics: Mapping[str, MetricNote] = field(default_factory=dict)
    galleries: Sequence[Gallery] = ()
    cases: Sequence[Gallery] = ()
    percentile: float = 100.0
    colours: Sequence[tuple[float, str]] = ()


def page(board: Board, notes: Notes) -> str:
    """Return a board as one HTML file; the same board and notes give the same text.

    Everything is in the file: pictures as `data:` addresses, style and script inline, and a content security policy
    that allows nothing else, by their digests. All text is escaped. Without its script the page lacks sorting,
    filtering, provenance of single numbers and scores in the gallery, and nothing else.

    Args:
        board: the board.
        notes: what else is to be said.
    """
    style, script = (_TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables, galleries = Tables(board), Galleries(board, notes.galleries)
    parts: dict[str, Any] = {
        "beside": tables.beside,
        "orders": board.orderings,
        "charts": _charts(board),
        "galleries": galleries.shown,
        "extremes": extreme_lines(board, notes.cases),
    }
    return environment.get_template("page.html.jinja").render(
        notes=notes,
        bits=_bits,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        data=_inert_json({**tables.data, "galleries": galleries.data}),
        sections=_sections(**parts),
        sheets=tables.sheets,
        **parts,
        percentile=f"{notes.percentile:g}",
        scale=[(f"{100 * place:g}%", colour) for place, colour in notes.colours],
        metrics=metric_lines(board, notes.metrics),
        left_out=left_out_lines(board, notes.left_out, notes.faults),
        provenance=provenance_lines(board, notes.facts),
    )


def _bits(name: str) -> list[str]:
    """Parts of a name between which a line may break: after each underscore."""
    return re.findall("[^_]*_|[^_]+", name)


def _policy(style: str, script: str) -> str:
    """Allow pictures within the file, this style and this script."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _inert_json(data: Any) -> Markup:
    """JSON in which nothing can end the element that it stands in, or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _sections(
    *,
    beside: Sequence[Any],
    orders: Sequence[Any],
    charts: Sequence[Mapping[str, Any]],
    galleries: Sequence[Any],
    extremes: Sequence[Any],
) -> list[tuple[str, str]]:
    """Anchors and names of the sections that there are."""
    found = [("tables", "Tables")]
    found += [("reported", "Reported")] if beside else []
    found += [("orders", "Orders")] if orders else []
    found += [(part["anchor"], part["name"]) for part in charts]
    found += [("gallery", "Heatmaps")] if galleries else []
    found += [("extremes", "Best and worst samples")] if extremes else []
    return [
        *found,
        ("metrics", "Metrics"),
        ("left-out", "Left out"),
        ("provenance", "Provenance"),
        ("reproduce", "How to reproduce this"),
    ]


def _charts(board: Board) -> list[dict[str, Any]]:
    """The sections of pictures that there are."""
    parts: list[tuple[str, str, str, Sequence[Chart]]] = [
        (
            "curves",
            "Curves",
            "Means over samples at every step; bands are 95 % intervals. Controls are grey and dashed.",
            curve_charts(board),
        ),
        (
            "ranks",
            "Ranks",
            "A dot is the rank under a metric, 1 is best; its line spans the ranks that are possible.",
            rank_charts(board),
        ),
        (
            "cost",
            "Quality against cost",
            "Means with 95 % intervals against forward and backward passes of the model for one explanation.",
            cost_charts(board),
        ),
    ]
    return [
        {"anchor": anchor, "name": name, "words": words, "charts": charts}
        for anchor, name, words, charts in parts
        if charts
    ]
