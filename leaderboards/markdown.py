"""A board as Markdown, as it is shown beside code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tabulate import tabulate

from .board import Board
from .columns import Column, Remark
from .names import printable
from .sheets import Cell, Sheet, citation_value, sheets_of

_HARMLESS = re.compile(r"[A-Za-z0-9 ,.;()'’–−…%/→=?+-]*")


def markdown(board: Board, *, title: str) -> str:
    """Write a board as Markdown of GitHub's kind; the same board gives the same text.

    A cell is the mean with its 95 % interval and the letters of its tie groups. It is bold where it is better than all
    other explainers by more than chance; controls do not compete. Names stand in code spans, so that nothing in them
    is taken for markup.

    Args:
        board: the board.
        title: its headline.

    Returns:
        The text, with a final newline.
    """
    parts = [f"# {as_text(title)}", *(part for sheet in sheets_of(board) for part in _sheet(sheet))]
    parts += _orderings(board)
    parts += ["\n".join(f"- {as_text(note)}" for note in board.notes)] if board.notes else []
    return "\n\n".join(parts) + "\n"


def as_code(name: str) -> str:
    r"""Return a name as a code span that a table cell can hold.

    Example:
        >>> print(as_code("a`b|c"), as_code("<b>\n"))
        ``a`b\|c`` `<b>\n`
    """
    text = printable(name).replace("|", r"\|") or " "
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def as_text(words: str) -> str:
    """Return prose as it is, or as a code span if any of it could be markup, a link or a mention.

    Example:
        >>> as_text("4 samples (of 8)"), as_text("see <b>this</b>")
        ('4 samples (of 8)', '`see <b>this</b>`')
    """
    plain = _HARMLESS.fullmatch(words) and "www." not in words.lower() and not words.startswith(("=", "+", "-"))
    return words if plain and words.strip() else as_code(words)


def _sheet(sheet: Sheet) -> Iterator[str]:
    yield f"## {as_code(sheet.title)}"
    alone = [(column, cell) for column in sheet.alone for cell in sheet.cells(column).values() if column.applies]
    scores = [f"{as_code(column.name)} {_number(cell)}" for column, cell in alone]
    yield f"{sheet.samples} samples" + (": " + ", ".join(scores) if scores else "") + "."
    columns = [column for column in sheet.columns if column.applies]
    if columns:
        yield _table(sheet, columns)
        yield _legend(sheet)
    if sheet.beside:
        yield "### Reported by publications"
        yield _beside(sheet)
    notes = list(_notes(sheet))
    if notes:
        yield "\n".join(f"- {note}" for note in notes)


def _table(sheet: Sheet, columns: list[Column]) -> str:
    cells = [sheet.cells(column) for column in columns]
    rows = [
        [
            as_code(label) + (" (control)" if control else ""),
            *(_number(found[label]) if label in found else "" for found in cells),
        ]
        for label, control in sheet.names.items()
    ]
    headers = [
        "explainer",
        *(f"{as_code(column.name)} {'↑' if column.higher_is_better else '↓'}" for column in columns),
    ]
    return tabulate(
        rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=["left", *("right" for _ in columns)]
    )


def _number(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.is_best else cell.value
    return " ".join(filter(None, (value, cell.interval, f"<sup>{cell.group}</sup>" if cell.group else "")))


def _legend(sheet: Sheet) -> str:
    text = "↑ higher is better, ↓ lower is better; in brackets the 95 % interval over samples."
    if sheet.how_compared:
        text += (
            f" Explainers that share a letter are not separable: {'; '.join(sheet.how_compared)}, Holm over the column,"
            " 5 %. Bold is better than all others by more than chance. Controls do not compete."
        )
    return text


def _beside(sheet: Sheet) -> str:
    rows = [
        [
            as_code(label) if label else "",
            as_code(column.name),
            _number(cell),
            citation_value(row),
            as_text(row.source),
        ]
        for label, column, cell, row in sheet.beside
    ]
    headers = ["explainer", "metric", "measured here", "reported", "by"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def _notes(sheet: Sheet) -> Iterator[str]:
    faults, reasons = sheet.remarks
    yield from (f"Samples that are not as they should be: {_remark(fault)}" for fault in faults)
    yield from (f"Not applicable: {_remark(reason)}" for reason in reasons)
    yield from (f"A control is better: {as_text(note)}" for note in sheet.control_notes)


def _orderings(board: Board) -> Iterator[str]:
    """Whether rows stand as publications print them, and which do not."""
    if not board.orderings:
        return
    yield "## Orders that publications print"
    rows = [
        [
            f"{as_text(one.printed.source)}, {as_text(one.printed.table)}",
            as_text(one.printed.dataset),
            as_code(one.metric),
            as_code(one.dataset),
            one.verdict,
        ]
        for one in board.orderings
    ]
    headers = ["printed by", "on", "metric", "here on", "here"]
    yield tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    exceptions = [
        f"- {as_text(one.printed.table)}, {as_code(one.metric)}: {'; '.join(map(as_text, one.exceptions))}"
        + (f". Likely cause: {as_text(one.printed.cause)}" if one.printed.cause else "")
        for one in board.orderings
        if one.exceptions
    ]
    if exceptions:
        yield "\n".join(exceptions)


def _remark(remark: Remark) -> str:
    return f"{as_text(remark.text)} ({as_code(remark.who)}; {as_code(remark.where)})"
