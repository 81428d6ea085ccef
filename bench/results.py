"""From finished units to per-sample tables, leaderboards and pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..leaderboards.baseline import Baseline
from ..leaderboards.board import Board, Source, merge
from ..leaderboards.csv_table import write_csv
from ..leaderboards.curves import curves_figure
from ..leaderboards.ranks import Difference, Rank, paired_differences, ranks, unbeaten
from ..leaderboards.record import COLUMNS, Record, records
from ..leaderboards.series import NotApplicable, Series
from ..leaderboards.terminal import control_notes, summary_table
from ..metrics.base import Status
from .gallery import gallery_figure
from .plan import Inapplicable
from .report import write_report
from .store import MetricResult, Store, Unit

SCORE_COLUMNS = (
    "dataset", "sample_id", "model", "explainer", "explainer_params", "metric", "variant", "step", "value", "status",
    "mc_se",
)  # fmt: skip
_RANK_TYPES = dict.fromkeys(("rank", "rank_low", "rank_high"), "Int64")  # whole numbers, some of them missing


class _Part(NamedTuple):
    """One metric of one unit."""

    unit: Unit
    result: MetricResult


class _Samples(NamedTuple):
    """What series of the same samples share, which for many samples is most of what they are."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class Results:
    """What a run found.

    Attributes:
        units: finished units.
        inapplicable: metrics that have no meaning for a subject, with the reason.
        seed: seed of the run.
        metric_keys: count only these metrics of the units; all if `None`.
        manifest: what `run.json` says; empty for results that no run left.
        pictures: units without metrics, which hold heatmaps of the best and worst samples; the latest first.
    """

    units: Sequence[Unit]
    inapplicable: Sequence[Inapplicable] = ()
    seed: int = 0
    metric_keys: frozenset[str] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    pictures: list[Unit] = field(default_factory=list)

    @cached_property
    def series(self) -> list[Series]:
        """Per-sample scores, joined over units, one series per number that can be published."""
        known: dict[tuple[Any, ...], _Samples] = {}
        return [
            _series(parts, variant, known)
            for parts in _parts(self.units, self.metric_keys).values()
            for variant in dict.fromkeys(name for part in parts for name in part.result.scores)
        ]

    @cached_property
    def records(self) -> list[Record]:
        """The rows of the leaderboard."""
        versions = dict(self.units[0].about) if self.units else {}
        left_out = [_not_applicable(item, versions) for item in self.inapplicable]
        return records([*self.series, *left_out], seed=self.seed)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per sample, metric, variant and step, with the columns `SCORE_COLUMNS`."""
        frames = [_frame(series) for series in self.series]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(SCORE_COLUMNS))

    @property
    def baseline(self) -> Baseline:
        """What another run can be checked against, or this run against another one."""
        repeats_not = [
            (fault["dataset"], fault["model"], fault["explainer"])
            for fault in self.faults
            if fault["kind"] == "non-deterministic"
        ]
        return Baseline.of(self.records, self.series, unrepeatable=repeats_not)

    @cached_property
    def board(self) -> Board:
        """The same as a board, whose comparisons the tables and the page share."""
        return merge([Source("this run", self.records, self.series)], allow_mixed=True)

    @property
    def faults(self) -> list[Mapping[str, Any]]:
        """What explainers did wrong, joined over units: dataset, model, explainer, kind, message, ids."""
        joined: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
        names = ("dataset", "model", "explainer")
        for unit in self.units:
            for fault in unit.faults:
                key = (*(unit.about[name] for name in names), fault["kind"], fault["message"])
                joined[key].update(dict.fromkeys(fault["ids"]))
        return [
            {**dict(zip((*names, "kind", "message"), key, strict=True)), "ids": list(ids)}
            for key, ids in joined.items()
        ]

    def summary(self) -> pd.DataFrame:
        """Return the leaderboard as a table with the columns of `leaderboard.csv`."""
        return pd.DataFrame([record.model_dump(by_alias=True) for record in self.records], columns=list(COLUMNS))

    def ranks(self) -> pd.DataFrame:
        """Return where every explainer stands, controls included, as a table with the columns of `Rank`."""
        return pd.DataFrame(ranks(self.board.comparisons), columns=list(Rank._fields)).astype(_RANK_TYPES)

    def differences(self) -> pd.DataFrame:
        """Return every two explainers compared on the same samples, as a table with the columns of `Difference`."""
        return pd.DataFrame(paired_differences(self.board.comparisons), columns=list(Difference._fields))

    def table(self) -> str:
        """Return the leaderboard as text, with what a reader must be warned of."""
        table = summary_table(self.records, unbeaten=unbeaten(self.board.comparisons))
        return "\n\n".join(filter(None, [table, "\n".join(control_notes(self.records))]))

    def save(self, folder: str | Path) -> Path:
        """Write the units, `leaderboard.csv`, the pictures and the page into a folder, and return it."""
        folder = Path(folder)
        store = Store(folder)
        for unit in self.units:
            store.write(unit)
        for unit in self.pictures:
            store.write_pictures(unit)
        self.publish(folder)
        return folder

    def publish(self, folder: Path) -> None:
        """Write what is made of the units: `leaderboard.csv`, `report.html`, the gallery and the curves."""
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.records, folder / "leaderboard.csv")
        self.plot(folder)
        write_report(self, folder / "report.html")

    def plot(self, folder: str | Path = ".") -> list[Path]:
        """Draw the heatmap gallery and the curves into a folder, and return the files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        drawn: list[Path] = []
        curves = [series for series in self.series if series.is_curve]
        for metric in sorted({series.metric for series in curves}):
            path = folder / f"{metric.removesuffix('_pixels')}_curves.png"
            curves_figure([series for series in curves if series.metric == metric], path, seed=self.seed)
            drawn.append(path)
        if any(unit.previews for unit in self.units):
            gallery_figure(self.units, folder / "gallery.png")
            drawn.append(folder / "gallery.png")
        return drawn


def _parts(units: Iterable[Unit], metric_keys: frozenset[str] | None) -> dict[tuple[str, ...], list[_Part]]:
    """Group the metrics of units by what a row of the leaderboard is about."""
    groups: dict[tuple[str, ...], list[_Part]] = defaultdict(list)
    for unit in units:
        for key, result in unit.metrics.items():
            if metric_keys is None or key in metric_keys:
                about = unit.about
                row = (about["dataset"], about["model"], about["model_digest"], about["explainer"])
                groups[(*row, about["explainer_params"], key)].append(_Part(unit, result))
    return groups


def _series(parts: Sequence[_Part], variant: str, known: dict[tuple[Any, ...], _Samples]) -> Series:
    about, result = parts[0].unit.about, next(p.result for p in parts if variant in p.result.scores)
    keep = _not_repeated(parts)
    values, status, variance = zip(*(_arrays(part, variant, result) for part in parts), strict=True)
    fact = result.facts[variant]
    samples = _samples(parts, keep, known)
    return Series(
        **{name: about[name] for name in _ABOUT},
        metric=result.name,
        metric_version=result.version,
        variant="/".join(filter(None, (result.configuration, variant))),
        higher_is_better=fact.higher_is_better,
        chance=fact.chance,
        seconds=sum(part.result.seconds for part in parts),
        passes=sum(part.result.passes for part in parts),
        ids=samples.ids,
        clusters=samples.clusters,
        values=np.concatenate(values)[keep],
        status=np.concatenate(status)[keep],
        variance=None if variance[0] is None else np.concatenate(variance)[keep],
        classes=samples.classes,
        steps=result.scores[variant].steps,
        aggregations=result.aggregations,
        range=fact.range,
        target=result.target,
    )


_ABOUT = (
    "dataset", "dataset_revision", "model", "model_digest", "explainer", "explainer_params", "seed", "interpeval",
    "torch", "captum", "device",
)  # fmt: skip


def _samples(parts: Sequence[_Part], keep: np.ndarray, known: dict[tuple[Any, ...], _Samples]) -> _Samples:
    """Return those samples of some units that are to be kept; the `known` ones if they are the same."""
    ids = tuple(compress(chain.from_iterable(part.unit.ids for part in parts), keep))
    classes = np.concatenate([part.unit.classes.numpy() for part in parts])[keep]
    key = ids, classes.tobytes()
    if key not in known:
        known[key] = _Samples(ids, _clusters(ids), classes)
    return known[key]


def _clusters(ids: Sequence[str]) -> tuple[str, ...]:
    """The images that samples are items of; none where every sample has an image of its own."""
    images = tuple(name.split("#", 1)[0] for name in ids)
    return images if len(set(images)) < len(images) else ()


def _not_repeated(parts: Sequence[_Part]) -> np.ndarray:
    """Mark all samples but those that an earlier unit already holds, as a larger `--limit` cuts other shards."""
    seen: set[str] = set()
    rows: list[np.ndarray] = []
    for part in parts:
        rows.append(np.array([name not in seen for name in part.unit.ids], dtype=bool))
        seen.update(part.unit.ids)
    return np.concatenate(rows)


def _arrays(part: _Part, variant: str, like: MetricResult) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return values, status and variance; a unit in which the metric failed as a whole has no variants of its own."""
    scores, template = part.result.scores.get(variant), like.scores[variant]
    size = len(part.unit.ids)
    if scores is None:
        shape = (size, len(template.steps)) if template.steps else (size,)
        missing = None if template.variance is None else np.full(size, np.nan)
        return np.full(shape, np.nan), np.full(size, int(Status.INVALID), dtype=np.uint8), missing
    variance = None if scores.variance is None else scores.variance.cpu().numpy()
    return scores.values.cpu().double().numpy(), scores.status.cpu().numpy(), variance


def _not_applicable(item: Inapplicable, versions: Mapping[str, Any]) -> NotApplicable:
    about = {**{name: versions.get(name, "") for name in _ABOUT}, **item.about}
    return NotApplicable(
        **{name: about[name] for name in _ABOUT},
        metric=item.metric,
        metric_version=item.version,
        variant="",
        higher_is_better=item.higher_is_better,
        chance=None,
        seconds=0.0,
        passes=0.0,
        reason=item.reason,
    )


def _frame(series: Series) -> pd.DataFrame:
    steps = np.array(series.steps or (np.nan,))
    count = len(steps)
    variance = np.full(len(series.ids), np.nan) if series.variance is None else series.variance
    constant = {name: getattr(series, name) for name in ("dataset", "model", "explainer", "explainer_params", "metric")}
    frame = pd.DataFrame(
        {
            "sample_id": np.repeat(np.array(series.ids, dtype=object), count),
            "step": np.tile(steps, len(series.ids)),
            "value": series.values.reshape(-1),
            "status": np.repeat([Status(code).name.lower() for code in series.status], count),
            "mc_se": np.repeat(np.sqrt(variance), count),
        }
    )
    return frame.assign(**constant, variant=series.variant)[list(SCORE_COLUMNS)]
