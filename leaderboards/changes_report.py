"""Two runs compared, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from tabulate import tabulate

from .changes import Change, Changes, Moved
from .check_report import markdown_text
from .names import printable
from .ranks import ALPHA

_HEADERS = ("row", "A", "B", "B − A", "95 % interval", "effect", "B better", "p (Holm)", "n")
_MOVED_HEADERS = ("sample", "distance", "farthest in", "A", "B")


def as_text(found: Changes, *, samples: int) -> str:
    """Lay out the rows in which a sample differs, the clearest difference first, and the samples that moved most.

    Args:
        found: the comparison.
        samples: how many samples to name.
    """
    return "\n\n".join(_parts(found, samples, "simple"))


def as_markdown(found: Changes, *, samples: int) -> str:
    """Return the same as Markdown."""
    return "\n\n".join(_parts(found, samples, "pipe"))


def as_json(found: Changes) -> str:
    """Return everything as JSON; what is not a number is null."""
    content = {
        "rows": [
            {
                **one.row._asdict(),
                **{name: _finite(value) for name, value in vars(one).items() if name not in {"row", "changed"}},
                "changed": [vars(sample) for sample in one.changed],
            }
            for one in found.rows
        ],
        "moved": [{**vars(one), "row": one.row._asdict()} for one in found.moved],
        "only_a": [row._asdict() for row in found.only_a],
        "only_b": [row._asdict() for row in found.only_b],
        "not_compared": [row._asdict() for row in found.not_compared],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _parts(found: Changes, samples: int, style: str) -> list[str]:
    differ = sorted((one for one in found.rows if not math.isnan(one.p_holm)), key=lambda one: (one.p_holm, one.row))
    same = len(found.rows) - len(differ)
    clear = sum(one.p_holm < ALPHA for one in differ)
    said = f"{len(found.rows)} rows compared: {clear} differ by more than chance (*, p < {ALPHA:g} after Holm)"
    parts = [f"{said}, {len(differ) - clear} differ by less, {same} do not differ at all."]
    if differ:
        parts.append(_table([_cells(one) for one in differ], _HEADERS, style))
        moved = [_moved_cells(one) for one in found.moved[:samples]]
        parts += ["Samples that changed most (1 is the average change):", _table(moved, _MOVED_HEADERS, style)]
    for rows, what in (
        (found.only_a, "rows are in A alone"),
        (found.only_b, "rows are in B alone"),
        (found.not_compared, "rows are no means of samples that both have, or wall times"),
    ):
        if rows:
            listed = "; ".join(row.text for row in rows[:3]) + ("; …" if len(rows) > 3 else "")
            text = f"{len(rows)} {what}: {listed}"
            parts.append(markdown_text(text) if style == "pipe" else text)
    return parts


def _table(rows: list[list[str]], headers: tuple[str, ...], style: str) -> str:
    cells = [[markdown_text(cell) for cell in row] for row in rows] if style == "pipe" else rows
    return tabulate(cells, headers=headers, tablefmt=style, disable_numparse=True)


def _cells(one: Change) -> list[str]:
    interval = "" if math.isnan(one.ci_low) else f"{one.ci_low:.4g} … {one.ci_high:.4g}"
    p = f"{one.p_holm:.2g}" + "*" * (one.p_holm < ALPHA)
    arrow = "↑" if one.higher_is_better else "↓"
    numbers = [f"{value:.4g}" for value in (one.a, one.b, one.difference)]
    effect = "" if math.isnan(one.effect) else f"{one.effect:.2f}"
    return [
        f"{one.row.text} {arrow}",
        *numbers,
        interval,
        effect,
        f"{one.won:.2f}",
        p,
        str(one.n),
    ]


def _moved_cells(one: Moved) -> list[str]:
    return [printable(one.sample_id), f"{one.distance:.2f}", one.row.text, f"{one.a:.4g}", f"{one.b:.4g}"]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
