"""What a run is checked against: records with the per-sample scores behind them, in a CSV with a second one beside it.

`board.csv` is a table as `leaderboard.csv`. `board.scores.csv.gz` beside it holds the per-sample scores of its rows,
with the columns `SCORE_COLUMNS`; a `board.scores.csv` with further columns, as `interpeval scores` writes it, will do.
Without such a file rows are still compared, by value and interval.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.limited_reading import MEBIBYTE, read_bytes, unpacked
from .csv_table import plain_cell, quoted_cell, read_csv, write_csv
from .files import write_whole
from .names import OF_THE_MACHINE, printable
from .record import CLASS_MEAN, Record, published_variant
from .series import Identity, NotApplicable, Series

SCORE_COLUMNS = ("dataset", "model", "explainer", "explainer_params", "metric", "variant", "sample_id", "value")
_MOST = 2048 * MEBIBYTE


class Row(NamedTuple):
    """What two records have in common that speak of the same thing.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        explainer: name of the explainer; empty for a metric of the model alone.
        explainer_params: its configuration as canonical JSON text.
        metric: name of the metric.
        variant: which of the metric's numbers.
    """

    dataset: str
    model: str
    explainer: str
    explainer_params: str
    metric: str
    variant: str

    @classmethod
    def of(cls, item: Record | Identity) -> Row:
        """Return what a record or a series speaks of."""
        return cls(item.dataset, item.model, item.explainer, item.explainer_params, item.metric, item.variant)

    @property
    def of_the_machine(self) -> bool:
        """Whether its numbers say more about the machine than about the explainer."""
        return self.variant.rpartition("/")[2] in OF_THE_MACHINE

    @property
    def text(self) -> str:
        """For people: `digit_scenes, cifar_cnn, gradcam: pointing_game class_mean`; without control characters."""
        params = "" if self.explainer_params in {"", "{}"} else f" {self.explainer_params}"
        subject = ", ".join(filter(None, (self.dataset, self.model, self.explainer + params)))
        return printable(f"{subject}: {self.metric} {self.variant}".rstrip())


@dataclass(frozen=True, eq=False)
class Samples:
    """The per-sample scores behind a record.

    Attributes:
        ids: N names of samples, all different.
        values: `(N,)` float64 to 9 significant digits, as they are written; NaN where a sample does not count.
        classes: `(N,)` int64, class of each sample; `None` where it is not known.
        clusters: N names, equal for samples that depend on each other; empty if none do, or where it is not known.
    """

    ids: tuple[str, ...]
    values: NDArray[np.float64]
    classes: NDArray[np.int64] | None = None
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Baseline:
    """Records, and the per-sample scores behind those for which they are at hand.

    Attributes:
        records: by what they speak of; what was reported by publications is left out.
        samples: per-sample scores behind records that are means.
        unrepeatable: dataset, model and explainer of rows whose values do not repeat under one seed.
    """

    records: Mapping[Row, Record]
    samples: Mapping[Row, Samples] = field(default_factory=dict[Row, Samples])
    unrepeatable: frozenset[tuple[str, str, str]] = frozenset()

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        series: Iterable[Series | NotApplicable] = (),
        *,
        unrepeatable: Iterable[tuple[str, str, str]] = (),
    ) -> Baseline:
        """Put records and the series that they were made of together.

        Raises:
            ValueError: if two records speak of the same thing, as those of several revisions of a dataset.
        """
        samples: dict[Row, Samples] = {}
        for item in series:
            if isinstance(item, Series) and not item.steps:
                values = as_written(item.values)
                for aggregation in item.aggregations:
                    variant = published_variant(item, by_class=aggregation == "classes")
                    row = Row.of(item)._replace(variant=variant)
                    samples[row] = Samples(item.ids, values, item.classes, item.clusters)
        return cls(_by_row(records), samples, frozenset(unrepeatable))

    def only(self, wanted: Callable[[Row], bool]) -> Baseline:
        """Return the part that speaks of some rows."""
        return Baseline(
            {row: record for row, record in self.records.items() if wanted(row)},
            {row: samples for row, samples in self.samples.items() if wanted(row)},
            self.unrepeatable,
        )

    def joined(self, other: Baseline) -> Baseline:
        """Return these rows and those of another one, which take the place of the same rows here."""
        return Baseline(
            {**self.records, **other.records},
            {row: samples for row, samples in self.samples.items() if row not in other.records} | dict(other.samples),
            self.unrepeatable | other.unrepeatable,
        )


def as_written(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the 9 significant digits of files, so that what was read and what was computed can be equal."""
    return np.array([float(format(value, ".9g")) for value in values.tolist()], dtype=np.float64)


def scores_path(path: str | os.PathLike[str]) -> Path:
    """Return where the per-sample scores of a board are written: `board.scores.csv.gz` beside `board.csv`."""
    path = Path(path)
    return path.with_name(f"{path.stem}.scores.csv.gz")


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Read a board, and the per-sample scores beside it if there are some.

    Args:
        path: the CSV file of the board.

    Raises:
        ValueError: if a file is not what it must be, two rows speak of the same thing, or the scores are not those
            that the board was made of.
        OSError: if a file cannot be read.
    """
    records = _by_row(read_csv(path))
    scores = next((place for place in (scores_path(path), scores_path(path).with_suffix("")) if place.exists()), None)
    if scores is None:
        return Baseline(records)
    read = _read_scores(scores)
    for row in records.keys() & read.keys():
        _check_mean(records[row], read[row], row, scores)
    means = {row: _without_class_mean(row) for row in records}
    return Baseline(records, {row: read[base] for row, base in means.items() if base in read})


def write_baseline(baseline: Baseline, path: str | os.PathLike[str]) -> None:
    """Write a board and, beside it, the per-sample scores of its rows; the same rows give the same bytes.

    Raises:
        OSError: if the folder cannot be written to.
    """
    rows = sorted(baseline.records)
    lines = [",".join(SCORE_COLUMNS), *(line for row in rows for line in _score_lines(baseline, row))]
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as file:
        file.write("".join(line + "\n" for line in lines).encode())
    write_csv([baseline.records[row] for row in rows], path)
    write_whole(scores_path(path), packed.getvalue())


def _by_row(records: Iterable[Record]) -> dict[Row, Record]:
    found: dict[Row, Record] = {}
    for record in records:
        row = Row.of(record)
        if row in found:
            before = found[row]
            differ = [name for name in type(record).model_fields if getattr(record, name) != getattr(before, name)]
            raise ValueError(f"two rows speak of `{row.text}`, leave one of them: they differ in {', '.join(differ)}")
        if record.kind != "reported":
            found[row] = record
    return found


def _without_class_mean(row: Row) -> Row:
    """Return the row of the plain mean of the same scores."""
    return row._replace(variant="/".join(part for part in row.variant.split("/") if part != CLASS_MEAN))


def _score_lines(baseline: Baseline, row: Row) -> Iterator[str]:
    samples = baseline.samples.get(row)
    if samples is None or row != _without_class_mean(row):  # which has the same scores as that row
        return
    head = ",".join(map(quoted_cell, row))
    for name, value in sorted(zip(samples.ids, samples.values.tolist(), strict=True)):
        yield f"{head},{quoted_cell(name)},{quoted_cell(None if np.isnan(value) else value)}"


def _read_scores(path: Path) -> dict[Row, Samples]:
    found: dict[Row, dict[str, float]] = {}
    try:
        content = read_bytes(path, most=_MOST)
        text = (unpacked(io.BytesIO(content), most=_MOST) if path.suffix == ".gz" else content).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or ()
        if len(set(columns)) < len(columns):
            raise ValueError("a column stands twice")
        missing = [name for name in SCORE_COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"the column `{missing[0]}` is missing")
        for line in reader:
            _take(line, found)
    except (ValueError, csv.Error, EOFError, OverflowError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: must hold per-sample scores, but {error}") from error
    return {
        row: Samples(tuple(values), np.array(list(values.values()), dtype=np.float64)) for row, values in found.items()
    }


def _take(line: Mapping[str, str | None], found: dict[Row, dict[str, float]]) -> None:
    """Put one line of scores into its place."""
    if line.get("step"):
        return  # of a curve
    cells = [line[name] for name in SCORE_COLUMNS]
    if None in cells:
        raise ValueError("a line is cut short")
    *names, sample, value = (plain_cell(cell or "") for cell in cells)
    scores = found.setdefault(Row(*names), {})
    if sample in scores:
        raise ValueError(f"`{printable(sample)}` stands twice under `{Row(*names).text}`")
    scores[sample] = _score(value) if value else math.nan


def _score(text: str) -> float:
    score = float(text)
    if not math.isfinite(score):
        raise ValueError(f"a score must be finite, or empty where there is none, one is {text!r}")
    return score


def _check_mean(record: Record, samples: Samples, row: Row, path: Path) -> None:
    """Raise if a mean is not that of these scores: they are left over from another version of the board."""
    valid = samples.values[~np.isnan(samples.values)]
    mean = valid.mean() if len(valid) else None
    same = mean is None if record.value is None else mean is not None and np.isclose(mean, record.value, 1e-6, 1e-9)
    if not same or len(valid) != record.n:
        raise ValueError(
            f"{path}: the scores of `{row.text}` are not those of the board (mean {mean}, there {record.value}); "
            "delete this file to compare by intervals, or write both anew"
        )
