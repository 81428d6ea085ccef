r"""A board as LaTeX tables, to be `\input` into a paper that loads `booktabs` and `graphicx`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tabulate import tabulate

from .board import Board
from .columns import Column
from .names import printable
from .sheets import Cell, Sheet, citation_value, sheets_of

_PER_TABLE = 4  # columns that fit on a page
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\symbol{34}}",
    "[": "{[}",  # behind `\\\\`, it would begin an option
    "]": "{]}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # two or three would become a dash
    "?": "{?}",  # with a grave accent behind it, it would become another sign, as `!` would
    "!": "{!}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "τ": r"$\tau$",
}


def latex(board: Board, *, title: str) -> str:
    r"""Write a board as LaTeX; the same board gives the same text.

    One group of tables for each dataset and model, as wide as the page at most. Cells, letters of tie groups and bold
    as in `interpeval.leaderboards.markdown.markdown`. Characters that fonts of LaTeX may lack stand as `U+1F600`.

    Args:
        board: the board.
        title: stands in a comment at the top.

    Returns:
        The text, with a final newline.
    """
    head = f"% {re.sub(r'[^ -~]', '?', title)}: needs \\usepackage{{booktabs}}, {{graphicx}}, {{textcomp}}"
    return "\n\n".join([head, *(part for sheet in sheets_of(board) for part in _sheet(sheet))]) + "\n"


def as_latex(words: str) -> str:
    r"""Return text as LaTeX shows it.

    Example:
        >>> print(as_latex("50% of a_b: \\input{x}"), as_latex("é\U0001f600"))
        50\% of a\_b: \textbackslash{}input\{x\} é{[}U+1F600{]}
    """
    return "".join(_ESCAPES.get(letter) or _letter(letter) for letter in printable(words))


def _letter(letter: str) -> str:
    """Letters of the Latin script are known to every engine since 2018."""
    return letter if letter.isascii() or ("\xc0" <= letter <= "\u017f") else f"{{[}}U+{ord(letter):04X}{{]}}"


def _sheet(sheet: Sheet) -> Iterator[str]:
    columns = [column for column in sheet.columns if column.applies]
    for start in range(0, len(columns), _PER_TABLE):
        part = columns[start : start + _PER_TABLE]
        yield _float(_table(sheet, part), _caption(sheet, first=start == 0))
    if sheet.beside:
        yield _float(_beside(sheet), f"Reported by publications: {as_latex(sheet.title)}.")


def _float(table: str, caption: str) -> str:
    lines = (r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", r"\resizebox{\linewidth}{!}{%", table + "}")
    return "\n".join([*lines, r"\end{table}"])


def _caption(sheet: Sheet, *, first: bool) -> str:
    title = f"{as_latex(sheet.title)}, {sheet.samples} samples"
    if not first:
        return f"{title} (continued)."
    scores = [
        f"{as_latex(column.name)} {_number(cell)}"
        for column in sheet.alone
        if column.applies
        for cell in sheet.cells(column).values()
    ]
    text = f"{title}{': ' if scores else ''}{', '.join(scores)}. In brackets the 95\\,\\% interval over samples."
    if sheet.how_compared:
        ways = as_latex("; ".join(sheet.how_compared))
        text += (
            f" Explainers that share a letter are not separable ({ways}, Holm over the column, 5\\,\\%); bold is better"
            " than all others by more than chance. Controls, below the line, do not compete."
        )
    return text


def _table(sheet: Sheet, columns: list[Column]) -> str:
    cells = [sheet.cells(column) for column in columns]
    rows = [
        [as_latex(label), *(_number(found[label]) if label in found else "" for found in cells)]
        for label in sheet.names
    ]
    arrows = [r"$\uparrow$" if column.higher_is_better else r"$\downarrow$" for column in columns]
    headers = [
        "explainer",
        *(f"{as_latex(column.name)} {arrow}" for column, arrow in zip(columns, arrows, strict=True)),
    ]
    align = ["left", *("right" for _ in columns)]
    table = tabulate(rows, headers=headers, tablefmt="latex_raw", disable_numparse=True, colalign=align)
    real = sum(not control for control in sheet.names.values())
    return _ruled(table, below=real if 0 < real < len(rows) else None)


def _beside(sheet: Sheet) -> str:
    rows = [
        [as_latex(label), as_latex(column.name), _number(cell), as_latex(citation_value(row)), as_latex(row.source)]
        for label, column, cell, row in sheet.beside
    ]
    headers = ["explainer", "metric", "measured here", "reported", "by"]
    return _ruled(tabulate(rows, headers=headers, tablefmt="latex_raw", disable_numparse=True), below=None)


def _ruled(table: str, *, below: int | None) -> str:
    """Put the rules of `booktabs` into a table, and one more below so many rows."""
    lines = table.splitlines()
    places = [number for number, line in enumerate(lines) if line == r"\hline"]
    for place, rule in zip(places, (r"\toprule", r"\midrule", r"\bottomrule"), strict=True):
        lines[place] = rule
    if below is not None:
        lines.insert(places[1] + 1 + below, r"\midrule")
    return "\n".join(lines)


def _number(cell: Cell) -> str:
    value = as_latex(cell.value) if cell.record.value is None else _math(cell.value)
    if cell.is_best:
        value = rf"\textbf{{{value}}}"
    interval = rf"{{\scriptsize {_math(cell.interval)}}}" if cell.interval else ""
    group = rf"\textsuperscript{{{cell.group}}}" if cell.group else ""
    return f"{value}{group} {interval}".rstrip()


def _math(number: str) -> str:
    """Numbers with a minus sign in place of a hyphen."""
    return number.replace("-", r"\textminus{}")
