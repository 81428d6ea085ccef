"""A board as a page: one file that opens from disk, asks no network for anything, and works without its script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .board import Board
from .charts import Chart, cost_charts, curve_charts, rank_charts
from .columns import PRICES, Column, faults_of
from .csv_table import TEXT_COLUMNS, cell_text
from .names import CONTROLS, labels, printable
from .places import Place, row_of
from .record import COLUMNS, Record
from .series import Series
from .sheets import Cell, Sheet, citation_value, sheets_of

_TEMPLATES = Path(__file__).with_name("templates")
_UNINFORMED = "random"  # the control that says what chance is where a metric does not


Subject = tuple[str, str, str, str, int]
"""Dataset, its revision, model, its digest and seed."""


class MetricNote(NamedTuple):
    """What a page says of a metric.

    Attributes:
        words: one plain sentence.
        range: smallest and largest possible value; `None` where it is open or not known.
        reference: where it was published.
    """

    words: str = ""
    range: tuple[float | None, float | None] = (None, None)
    reference: str = ""


class Picture(NamedTuple):
    """A picture in the gallery.

    Attributes:
        png: the file.
        alt: what it shows, in words.
        scale: what its darkest colour stands for; empty for images and masks.
    """

    png: bytes
    alt: str
    scale: str = ""

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


class GallerySample(NamedTuple):
    """One sample under every explainer.

    Attributes:
        id: name of the sample.
        image: the image.
        mask: its mask; `None` without one.
        heatmaps: by explainer and its parameters.
    """

    id: str
    image: Picture
    mask: Picture | None
    heatmaps: Mapping[tuple[str, str], Picture]


class Gallery(NamedTuple):
    """The samples of one dataset and model.

    Attributes:
        subject: dataset, dataset_revision, model, model_digest and seed.
        samples: the samples.
    """

    subject: Subject
    samples: Sequence[GallerySample]


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
    content = _Content(board, notes)
    return environment.get_template("page.html.jinja").render(
        notes=notes,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        data=_inert_json(content.data),
        sections=content.sections,
        sheets=content.sheets,
        beside=content.beside,
        charts=content.charts,
        galleries=content.galleries,
        percentile=f"{notes.percentile:g}",
        scale=[(f"{100 * place:g}%", colour) for place, colour in notes.colours],
        extremes=content.extremes,
        metrics=content.metrics,
        left_out=content.left_out,
        provenance=content.provenance,
    )


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


class _Content:
    """What the template fills in, as plain values."""

    def __init__(self, board: Board, notes: Notes) -> None:
        self.board = board
        self.notes = notes
        self.rows = {row_of(record): number for number, record in enumerate(board.records)}

    @property
    def sections(self) -> list[tuple[str, str]]:
        found = [("tables", "Tables")]
        found += [("reported", "Reported")] if self.beside else []
        found += [(part["anchor"], part["name"]) for part in self.charts]
        found += [("gallery", "Heatmaps")] if self.galleries else []
        found += [("extremes", "Best and worst samples")] if self.extremes else []
        return [
            *found,
            ("metrics", "Metrics"),
            ("left-out", "Left out"),
            ("provenance", "Provenance"),
            ("reproduce", "How to reproduce this"),
        ]

    @cached_property
    def sheets(self) -> list[dict[str, Any]]:
        return [self._sheet(sheet) for sheet in sheets_of(self.board)]

    def _sheet(self, sheet: Sheet) -> dict[str, Any]:
        columns = [column for column in sheet.columns if column.applies]
        return {
            "title": printable(sheet.title),
            "samples": sheet.samples,
            "scores": [
                (column.name, _arrow(column), self._number(cell, column, None))
                for column in sheet.alone
                if column.applies
                for cell in sheet.cells(column).values()
            ],
            "columns": [_heading(sheet, column) for column in columns],
            "lines": list(self._lines(sheet, columns)),
            "compared": sheet.how_compared,
            "notes": [printable(note) for note in sheet.control_notes],
        }

    def _lines(self, sheet: Sheet, columns: list[Column]) -> Iterator[dict[str, Any]]:
        cells = [
            (column, sheet.cells(column), None if column.metric in PRICES else _span(column)) for column in columns
        ]
        for label, control in sheet.names.items():
            line: list[dict[str, Any]] = []
            for column, found, span in cells:
                cell = found.get(label)
                line.append({"kind": "none"} if cell is None else self._number(cell, column, span))
                if sheet.has_reported(column):
                    line.append(_reported(sheet.reported(cell.record) if cell else ()))
            yield {"label": label, "bits": _bits(label), "control": control, "cells": line}

    def _number(self, cell: Cell, column: Column, span: _Span | None) -> dict[str, Any]:
        record = cell.record
        return {
            "kind": "measured",
            "row": self.rows[row_of(record)],
            "value": cell.value,
            "interval": cell.interval,
            "group": cell.group,
            "best": cell.is_best,
            "faulty": bool(faults_of(record)),
            "sort": cell_text(record.value) if record.value is not None else None,
            "bar": None if span is None else span.bar(record),
            "spoken": _spoken(cell, column),
        }

    @cached_property
    def beside(self) -> list[dict[str, str]]:
        return [
            {
                "title": printable(sheet.title),
                "label": label,
                "metric": column.name,
                "arrow": _arrow(column),
                "measured": cell.value,
                "interval": cell.interval,
                "reported": citation_value(row),
                "source": printable(row.source),
            }
            for sheet in sheets_of(self.board)
            for label, column, cell, row in sheet.beside
        ]

    @cached_property
    def charts(self) -> list[dict[str, Any]]:
        parts: list[tuple[str, str, str, Sequence[Chart]]] = [
            (
                "curves",
                "Curves",
                "Means over samples at every step; bands are 95 % intervals. Controls are grey and dashed.",
                curve_charts(self.board),
            ),
            (
                "ranks",
                "Ranks",
                "A dot is the rank under a metric, 1 is best; its line spans the ranks that are possible.",
                rank_charts(self.board),
            ),
            (
                "cost",
                "Quality against cost",
                "Means with 95 % intervals against forward and backward passes of the model for one explanation.",
                cost_charts(self.board),
            ),
        ]
        return [
            {"anchor": anchor, "name": name, "words": words, "charts": charts}
            for anchor, name, words, charts in parts
            if charts
        ]

    @cached_property
    def _shown_galleries(self) -> list[tuple[Gallery, dict[tuple[str, str], str], str]]:
        """Galleries with the labels of their explainers and their titles."""
        titles = {_subject(rows[0]): (title, rows) for title, rows in self.board.blocks.items()}
        found: list[tuple[Gallery, dict[tuple[str, str], str], str]] = []
        for gallery in self.notes.galleries:
            title, rows = titles.get(gallery.subject, ("", []))
            held = {key for sample in gallery.samples for key in sample.heatmaps}
            names = labels(row for row in rows if row.explainer)
            if held & names.keys():
                found.append((gallery, {key: label for key, label in names.items() if key in held}, printable(title)))
        return found

    @cached_property
    def galleries(self) -> list[dict[str, Any]]:
        return [
            {
                "title": title,
                "labels": list(names.values()),
                "metrics": [column["name"] for column in scored["metrics"]],
                "masks": any(sample.mask for sample in gallery.samples),
                "samples": [
                    {
                        "name": printable(sample.id),
                        "image": sample.image,
                        "mask": sample.mask,
                        "heatmaps": [sample.heatmaps.get(key) for key in names],
                    }
                    for sample in gallery.samples
                ],
            }
            for (gallery, names, title), scored in zip(self._shown_galleries, self._gallery_scores, strict=True)
        ]

    @cached_property
    def _gallery_scores(self) -> list[dict[str, Any]]:
        """For every gallery and metric, the scores of its samples by explainer."""
        return [
            {
                "metrics": [
                    {
                        "name": column.name,
                        "higher": column.higher_is_better,
                        "scores": [[_score(scores.get(key), sample.id) for key in names] for sample in gallery.samples],
                    }
                    for column, scores in self._scores(gallery.subject)
                ]
            }
            for gallery, names, _ in self._shown_galleries
        ]

    def _scores(self, subject: Subject) -> Iterator[tuple[Column, dict[tuple[str, str], Series]]]:
        """Per-sample scores of each column of one dataset and model, by explainer; prices are left out."""
        mine = [
            item
            for item in self.board.series
            if isinstance(item, Series) and item.explainer and not item.steps and _subject(item) == subject
        ]
        for sheet in sheets_of(self.board):
            if _subject(sheet.rows[0]) == subject:
                for column in sheet.columns:
                    found = {
                        (item.explainer, item.explainer_params): item
                        for item in mine
                        if (item.metric, item.variant) == (column.metric, column.variant)
                        and column.version in {0, item.metric_version}
                    }
                    if found and column.metric not in PRICES:
                        yield column, found

    @cached_property
    def extremes(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for title, rows in self.board.blocks.items():
            names = labels(row for row in rows if row.explainer)
            lines = [
                (column.name, names[key], *_extremes(item, higher=column.higher_is_better))
                for column, scores in self._scores(_subject(rows[0]))
                for key, item in sorted(scores.items())
                if item.explainer not in CONTROLS and item.valid.any()
            ]
            parts += [{"title": printable(title), "rows": lines}] if lines else []
        return parts

    @property
    def metrics(self) -> list[dict[str, str]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for row in self.board.records:
            found[row.metric].append(row)
        return [
            {
                "name": printable(name),
                "direction": _direction(rows),
                "facts": _facts_of(self.notes.metrics.get(name, MetricNote()), rows[0]),
                "words": printable(self.notes.metrics.get(name, MetricNote()).words),
            }
            for name, rows in sorted(found.items())
        ]

    @property
    def left_out(self) -> list[tuple[str, list[str]]]:
        faulty: list[str] = []
        reasons: list[str] = []
        several = len(self.board.blocks) > 1
        for sheet in sheets_of(self.board):
            lead = f"{sheet.title}: " if several else ""
            faults, inapplicable = sheet.remarks
            faulty += [printable(f"{lead}{fault}") for fault in faults]
            reasons += [printable(f"{lead}{reason}") for reason in inapplicable]
        return [
            ("Samples left out of datasets", [printable(text) for text in self.notes.left_out]),
            ("Samples that are not as they should be (*)", faulty),
            ("What explainers did wrong", [printable(text) for text in self.notes.faults]),
            ("Not applicable", reasons),
            *(
                [("How the sources were put together", [printable(n) for n in self.board.notes])]
                * bool(self.board.notes)
            ),
        ]

    @property
    def provenance(self) -> list[tuple[str, str]]:
        return [*_common_facts(self.board.records), *((name, printable(value)) for name, value in self.notes.facts)]

    @cached_property
    def data(self) -> dict[str, Any]:
        cells = [[cell_text(value) for value in row.model_dump(by_alias=True).values()] for row in self.board.records]
        return {
            "columns": COLUMNS,
            "text": [place for place, name in enumerate(COLUMNS) if name in TEXT_COLUMNS],
            # 0 stands for what the row before has too, which halves the table.
            "rows": [
                [0 if cell == before else cell for cell, before in zip(row, previous, strict=True)]
                for row, previous in zip(cells, [[None] * len(COLUMNS), *cells], strict=False)
            ],
            "places": {
                str(self.rows[row]): _place_facts(place) for row, place in self.board.places.items() if row in self.rows
            },
            "galleries": self._gallery_scores,
        }


class _Span(NamedTuple):
    """What the bars of a column reach from and to."""

    low: float
    high: float
    chance: float | None

    def bar(self, record: Record) -> dict[str, str | None] | None:
        """Where the interval, the mean and chance lie, from 0 to 100."""
        if record.value is None or self.high <= self.low:
            return None
        whole = record.ci_low is not None and record.ci_high is not None
        low = self._place(record.ci_low or 0.0)
        return {
            "low": f"{low:.1f}",
            "width": f"{self._place(record.ci_high or 0.0) - low:.1f}" if whole else None,
            "mean": f"{self._place(record.value):.1f}",
            "chance": None if self.chance is None else f"{self._place(self.chance):.1f}",
        }

    def _place(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def _span(column: Column) -> _Span:
    chance = _chance(column)[0]
    ends = [
        end
        for record in column.cells.values()
        for end in (record.value, record.ci_low, record.ci_high)
        if end is not None
    ]
    ends += [] if chance is None else [chance]
    return _Span(min(ends, default=0.0), max(ends, default=0.0), chance)


def _chance(column: Column) -> tuple[float | None, str]:
    """What an uninformative map scores, and how that is known."""
    for record in column.cells.values():
        if record.chance is not None:
            return record.chance, "what the metric's definition says of a map that knows nothing"
    for record in column.cells.values():
        if record.explainer == _UNINFORMED and record.value is not None and column.metric not in PRICES:
            return record.value, f"what the control {_UNINFORMED} scores here"
    return None, ""


def _heading(sheet: Sheet, column: Column) -> dict[str, Any]:
    chance, known = _chance(column)
    return {
        "name": column.name,
        "words": [_bits(printable(word)) for word in column.words],
        "higher": column.higher_is_better,
        "chance": "" if chance is None else format(chance, ".3g"),
        "chance_from": known,
        "reported": sheet.has_reported(column),
    }


def _bits(name: str) -> list[str]:
    """Parts of a name between which a line may break: after each underscore."""
    return re.findall("[^_]*_|[^_]+", name)


def _reported(rows: Iterable[Record]) -> dict[str, Any]:
    found = list(rows)
    values = [row.value for row in found if row.value is not None]
    return {
        "kind": "reported",
        "said": [(citation_value(row), printable(row.source)) for row in found],
        "sort": cell_text(values[0]) if values else None,
    }


def _arrow(column: Column) -> str:
    return "↑" if column.higher_is_better else "↓"


def _spoken(cell: Cell, column: Column) -> str:
    """What a screen reader says of a number."""
    if cell.record.value is None:
        return "not applicable" if cell.record.kind == "not_applicable" else "no sample could be scored"
    parts = [cell.value]
    if cell.interval:
        parts.append(f"{cell.record.ci_low:{column.precision}} to {cell.record.ci_high:{column.precision}}")
    if cell.place is not None:
        parts.append(f"rank {cell.place.rank} of {cell.place.of}, tie group {' '.join(cell.group)}")
    if cell.is_best:
        parts.append("better than all others")
    if faults := faults_of(cell.record):
        parts.append(faults)
    return ", ".join(parts)


def _place_facts(place: Place) -> list[tuple[str, str]]:
    return [
        ("rank", f"{place.rank} of {place.of} explainers; from {place.low} to {place.high} is possible"),
        ("tie groups", place.group),
        ("compared", "sample by sample" if place.paired else "by intervals"),
    ]


def _subject(item: Series | Record) -> Subject:
    return item.dataset, item.dataset_revision, item.model, item.model_digest, item.seed


def _score(item: Series | None, name: str) -> float | None:
    """Score of one sample; `None` if there is none."""
    if item is None or name not in item.ids:
        return None
    value = float(item.values[item.ids.index(name)])
    return float(format(value, ".6g")) if np.isfinite(value) else None


def _extremes(item: Series, *, higher: bool) -> tuple[str, str, str, str]:
    """Best and worst sample with their scores; the first by name among equals."""
    scored = [(float(value), name) for value, name in zip(item.values, item.ids, strict=True) if np.isfinite(value)]
    sign = -1 if higher else 1
    best = min(scored, key=lambda pair: (sign * pair[0], pair[1]))
    worst = min(scored, key=lambda pair: (-sign * pair[0], pair[1]))
    return printable(best[1]), f"{best[0]:.3g}", printable(worst[1]), f"{worst[0]:.3g}"


def _direction(rows: Iterable[Record]) -> str:
    """Where better is; for every variant, if that depends on it."""
    variants = {row.variant: row.higher_is_better for row in rows if row.kind == "measured"}
    if len(set(variants.values())) > 1:
        return printable(", ".join(f"{name} {'↑' if higher else '↓'}" for name, higher in sorted(variants.items())))
    return "higher is better" if all(variants.values()) else "lower is better"


def _facts_of(note: MetricNote, row: Record) -> str:
    low, high = note.range
    parts = [f"version {row.metric_version}"]
    if low is not None or high is not None:
        parts.append(f"from {'−∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'}")
    if row.chance is not None:
        parts.append(f"chance {row.chance:g}")
    if note.reference:
        parts.append(note.reference)
    return printable("; ".join(parts))


def _common_facts(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """What the rows say of how they were made."""
    measured = [row for row in records if row.kind == "measured"]
    for name, title in (
        ("interpeval", "interpeval"),
        ("torch", "PyTorch"),
        ("captum", "Captum"),
        ("device", "device"),
        ("seed", "seed"),
    ):
        values = sorted({str(getattr(row, name)) for row in measured})
        yield title, printable(", ".join(values))
    for name, digest, title in (
        ("dataset", "dataset_revision", "dataset"),
        ("model", "model_digest", "model"),
    ):
        for value, mark in sorted({(getattr(row, name), getattr(row, digest)) for row in measured}):
            yield f"{title} {printable(value)}", printable(f"{'revision' if title == 'dataset' else 'weights'} {mark}")
    kinds = {kind: sum(row.kind == kind for row in records) for kind in ("measured", "reported", "not_applicable")}
    yield "numbers", ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items() if count)
