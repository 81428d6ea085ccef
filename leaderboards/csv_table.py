r"""`leaderboard.csv`: records as text that a spreadsheet, pandas or `read_csv` opens again.

UTF-8, comma separated, `"` around cells that need it, `\n` at line ends, a header line. Missing is empty, truth values
are `True` and `False`, floats have 9 significant digits. Text that a spreadsheet would run as a formula gets a leading
apostrophe, which `read_csv` takes off again. The same records give the same bytes.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from .files import write_whole
from .record import COLUMNS, Record

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_TEXT_COLUMNS = frozenset(field.alias or name for name, field in Record.model_fields.items() if field.annotation is str)


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
    rows = [COLUMNS, *(map(cell_text, record.model_dump(by_alias=True).values()) for record in records)]
    write_whole(path, "".join(",".join(row) + "\n" for row in rows).encode())


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


def cell_text(value: object) -> str:
    r"""Return a value as it stands in a cell.

    Example:
        >>> [cell_text(value) for value in (None, 1 / 3, "=A1", "a,b")]
        ['', '0.333333333', "'=A1", '"a,b"']
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value + 0.0, ".9g")  # adding 0 turns -0 into 0
    text = str(value)
    if isinstance(value, str) and _FORMULA.match(text):
        text = "'" + text
    # Not left to `csv.writer`: before Python 3.13 it does not quote a lone carriage return.
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]', text) else text


def text_of(cell: str) -> str:
    """Return the text that `cell_text` wrote, once the quotes of CSV are off.

    Example:
        >>> text_of("'=A1"), text_of("'tis")
        ('=A1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Cells of each row, with `file:line` of where it begins."""
    begin = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have added a byte order mark
            reader = csv.reader(file, strict=True)
            for cells in reader:
                yield f"{path}:{begin}", cells
                begin = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, but has the byte 0x{error.object[error.start]:02x}") from None
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
        raise ValueError(f"{where}: column `{column}`: {first['msg']}, was {cell!r}") from None


def _value(column: str, cell: str) -> str | None:
    """Undo `cell_text`; turning text into numbers is left to `Record`."""
    return text_of(cell) if column in _TEXT_COLUMNS else cell or None
