"""What a page says in words: of its metrics, of what was left out, and of where its numbers come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .board import Board
from .names import by_numbers, printable
from .record import Record
from .sheets import sheets_of


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


def metric_lines(board: Board, known: Mapping[str, MetricNote]) -> list[dict[str, str]]:
    """What is said of each metric: name, direction, facts and words."""
    found: dict[str, list[Record]] = defaultdict(list)
    for row in board.records:
        found[row.metric].append(row)
    return [
        {
            "name": printable(name),
            "direction": _direction(rows),
            "facts": _facts_of(known.get(name, MetricNote()), rows[0]),
            "words": printable(known.get(name, MetricNote()).words),
        }
        for name, rows in sorted(found.items())
    ]


def left_out_lines(board: Board, left_out: Sequence[str], faults: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What was left out, does not apply or went wrong, under headings."""
    faulty: list[str] = []
    reasons: list[str] = []
    several = len(board.blocks) > 1
    for sheet in sheets_of(board):
        lead = f"{sheet.title}: " if several else ""
        faults_here, inapplicable = sheet.remarks
        faulty += [printable(f"{lead}{fault}") for fault in faults_here]
        reasons += [printable(f"{lead}{reason}") for reason in inapplicable]
    return [
        ("Samples left out of datasets", [printable(text) for text in left_out]),
        ("Samples that are not as they should be (*)", faulty),
        ("What explainers did wrong", [printable(text) for text in faults]),
        ("Not applicable", reasons),
        *([("How the sources were put together", [printable(note) for note in board.notes])] * bool(board.notes)),
    ]


def provenance_lines(board: Board, facts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Where the numbers come from: what the rows say, and further facts."""
    return [*_common_facts(board.records), *((name, printable(value)) for name, value in facts)]


def _direction(rows: Iterable[Record]) -> str:
    """Where better is; for every variant, if that depends on it."""
    variants = {row.variant: row.higher_is_better for row in rows if row.kind == "measured"}
    if len(set(variants.values())) > 1:
        ordered = sorted(variants, key=by_numbers)
        return printable(", ".join(f"{name} {'↑' if variants[name] else '↓'}" for name in ordered))
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
