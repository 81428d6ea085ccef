r"""`leaderboard.csv`: records as text that a spreadsheet, pandas or `read_csv` opens again.

UTF-8, comma separated, `"` around cells that need it, `\n` at line ends, a header line. Missing is empty, truth values
are `True` and `False`, floats have 9 significant digits. Text that a spreadsheet would run as a formula gets a leading
apostrophe, which `read_csv` takes off again. The same records give the same bytes.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from ..datasets.limited_reading import MEBIBYTE, read_text
from .files import write_whole
from .record import COLUMNS, Record

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_MOST = 256 * MEBIBYTE  # a million rows
TEXT_COLUMNS = frozenset(field.alias or name for name, field in Record.model_fields.items() if field.annotation is str)
"""The columns that hold any text."""


def write_csv(records: Sequence[Record], path: str | os.PathLike[str]) -> None:
    """Write records as `leaderboard.csv`, in the given order.

    Args:
        records: the rows.
        path: the file; replaced as a whole, or not at all if something fails.

    Raises:
        OSError: if the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv([], Path(folder) / "leaderboard.csv")
        ...     read_csv(Path(folder) / "leaderboard.csv")
        []
    """
    write_whole(path, csv_text(records).encode())


def csv_text(records: Sequence[Record]) -> str:
    """Return what `write_csv` writes."""
    rows = [COLUMNS, *(map(quoted_cell, record.model_dump(by_alias=True).values()) for record in records)]
    return "".join(",".join(row) + "\n" for row in rows)


def read_csv(path: str | os.PathLike[str]) -> list[Record]:
    """Read the records of a `leaderboard.csv`.

    Returns:
        The rows as they were written, floats to 9 significant digits.

    Raises:
        ValueError: if the file is not such a table; the message names the line and the column.
        OSError: if the file cannot be read.
    """
    rows = _rows(Path(path))
    empty: list[str] = []
    where, header = next(rows, (f"{path}:1", empty))
    if tuple(header) != COLUMNS:
        odd = next((name for name in header if name not in COLUMNS), None)
        missing = next((name for name in COLUMNS if name not in header), None)
        raise ValueError(
            f"{where}: the columns must be those of `leaderboard.csv` in its order, but "
            + (f"`{missing}` is missing" if missing else f"`{odd}` is unknown" if odd else "they are in another order")
        )
    return [_record(cells, where) for where, cells in rows]


def quoted_cell(value: object) -> str:
    """Return a value as a cell of a CSV file.

    Example:
        >>> quoted_cell("=1+1"), quoted_cell("a,b"), quoted_cell(1 / 3), quoted_cell(None)
        ("'=1+1", '"a,b"', '0.333333333', '')
    """
    text = without_formula(value) if isinstance(value, str) else cell_text(value)
    # Not left to `csv.writer`: before Python 3.13 it does not quote a lone carriage return.
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]', text) else text


def without_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run."""
    return "'" + text if _FORMULA.match(text) else text


def inert(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table to be written as CSV whose texts no spreadsheet runs, as `quoted_cell` does for one of them.

    Example:
        >>> inert(pd.DataFrame({"sample_id": ["=1+1", "a"], "value": [-1.0, 2.0]})).to_csv(index=False).split()
        ['sample_id,value', "'=1+1,-1.0", 'a,2.0']
    """

    def safe(cell: object) -> object:
        return without_formula(cell) if isinstance(cell, str) else cell

    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    return frame.assign(**{name: frame[name].map(safe) for name in texts})


def cell_text(value: object) -> str:
    """Return a value as text: missing is empty, floats have 9 significant digits."""
    if isinstance(value, float):
        return format(value + 0.0, ".9g")  # adding 0 turns -0 into 0
    return "" if value is None else str(value)


def plain_cell(cell: str) -> str:
    """Take off the apostrophe that `quoted_cell` puts before text that is like a formula."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Cells of each row, with `file:line` of where it begins."""
    begin = 1
    try:
        text = read_text(path, most=_MOST)  # a spreadsheet may have added a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, but has the byte 0x{error.object[error.start]:02x}") from None
    except ValueError as error:
        raise ValueError(f"{path}: must be a table, but {error}") from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for cells in reader:
            yield f"{path}:{begin}", cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}:{begin}: must be comma separated values, but {error}") from None


def _record(cells: list[str], where: str) -> Record:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{where}: must have {len(COLUMNS)} cells, has {len(cells)}")
    try:
        return Record.model_validate({name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)})
    except ValidationError as error:
        first = error.errors()[0]
        column = str(first["loc"][0])
        cell = cells[COLUMNS.index(column)]
        raise ValueError(f"{where}: column `{column}`: {first['msg']}, was {cell[:200]!r}") from None


def _value(column: str, cell: str) -> str | None:
    """Undo `quoted_cell`; turning text into numbers is left to `Record`."""
    if column in TEXT_COLUMNS:
        return plain_cell(cell)
    return cell or None
