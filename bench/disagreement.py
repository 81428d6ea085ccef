"""The disagreement report: samples about which a model and its interpreter disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..baselines.base import Interpretable
from ..datasets.base import Dataset
from ..datasets.philox import sample_keys
from ..leaderboards.csv_table import inert
from ..leaderboards.depths import DepthGroup, depths_figure
from ..leaderboards.files import write_whole
from ..metrics.disagreement import DepthComparison, Space, combined_p_value, compare_depths, rank_of_class
from ..metrics.projection_depth import BudgetName
from .evaluation import choose_device
from .evidence import ModelEvidence
from .micro_batch import MicroBatch, auto_size
from .plan import SHARD
from .resolve import as_model

COLUMNS = (
    "sample_id", "label", "predicted", "interpreted", "predictor_right", "interpreter_right", "rank", "depth",
    "reference_median", "reference_below", "n_reference", "n_points", "statistic", "p_value", "space", "note",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Report:
    """Samples about which a model and its interpreter disagree, and how deep they lie in their true class.

    Attributes:
        frame: one row for each such sample, by class and in dataset order, with the columns

            * `sample_id`; `label`, `predicted` and `interpreted`: names of the true class, of argmax f and argmax g;
            * `predictor_right`, `interpreter_right`;
            * `rank` of f's class under g, 2 or more but for ties;
            * `depth` of the sample in its true class, missing where `note` says why;
            * of its class: `reference_median` of the depths of the reference group; `reference_below`, share of them
              below this depth, ties counting one half; `n_reference`, size of the group; `n_points`, number of the
              other agreeing samples, which depths are measured against; `statistic` (U) and `p_value` of the
              one-sided Mann–Whitney test that disagreeing samples lie less deep; `space` of the depths.
        comparisons: by name of the class.
        n: number of samples looked at.
        n_invalid: number of samples left out because a logit or an activation is not finite.
    """

    frame: pd.DataFrame
    comparisons: Mapping[str, DepthComparison]
    n: int
    n_invalid: int

    @property
    def p_value(self) -> float:
        """The p-values of all classes, combined by Fisher's method; NaN if no class has one."""
        return combined_p_value([comparison.p_value for comparison in self.comparisons.values()])

    def save(self, folder: str | Path) -> list[Path]:
        """Write `disagreement.csv` and, if there are depths, `disagreement.png`; returns the files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table, picture = folder / "disagreement.csv", folder / "disagreement.png"
        write_whole(table, inert(self.frame).to_csv(index=False, float_format="%.9g").encode())
        groups = list(self._groups())
        if not groups:
            return [table]
        depths_figure(groups, picture)
        return [table, picture]

    def _groups(self) -> Iterator[DepthGroup]:
        """What is drawn: the classes that have depths."""
        for name, found in self.comparisons.items():
            if not found.note:
                right = self.frame.loc[self.frame["label"] == name, "predictor_right"].to_numpy(dtype=bool)
                depths = found.depths.cpu().numpy()
                yield DepthGroup(name, found.space, found.reference.cpu().numpy(), depths, right, found.p_value)


def disagreement_report(
    model: nn.Module,
    dataset: Dataset,
    *,
    limit: int | None = None,
    space: Space = "pca",
    seed: int = 0,
    budget: BudgetName = "default",
    device: str = "auto",
    batch_size: int | None = None,
) -> Report:
    """Look at every sample with argmax f ≠ argmax g, and compare its depth in its class with that of others.

    Is the interpreter wrong about samples that are unlike their class? For every class with disagreeing samples, see
    `interpeval.metrics.disagreement.compare_depths`. Depths are comparable within a class only.

    Args:
        model: a classifier f with an interpreter g (`interpeval.baselines.base.Interpretable`).
        dataset: the samples, of one label each.
        limit: use the first samples only.
        space: where depths are computed: `"pca"`, the principal components of the images of the class, or
            `"attributes"`, the activations of the interpreter's attributes.
        seed: seeds the choice of the reference group and the search for depths.
        budget: of the search, see `interpeval.metrics.projection_depth`.
        device: `"auto"`, `"cpu"`, `"cuda"`, …
        batch_size: rows per call of the model; chosen by the memory there is if left out. Changes no value.

    Returns:
        The report; `report.save(folder)` writes a table and a picture.

    Raises:
        TypeError: `model` has no interpreter.
        ValueError: samples have several labels, or there are none.
    """
    if not isinstance(model, Interpretable):
        raise TypeError(f"`model` must have an interpreter, `interpret(inputs)`; {type(model).__name__} has none")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if dataset.labels.ndim != 1 or count < 1:
        raise ValueError(
            "`dataset` must have one label for each of one or more samples, "
            f"had labels {tuple(dataset.labels.shape)} and `limit` was {limit}"
        )
    modes = [(module, module.training) for module in model.modules()]
    try:
        seen = _look(as_model(model, dataset, device=choose_device(device)).module, dataset, count, seed, batch_size)
    finally:
        for module, mode in modes:
            module.training = mode
    return _report(dataset, seen, space, seed=seed, budget=budget)


class _Seen(NamedTuple):
    """What f and g say about N samples, on the CPU."""

    labels: Tensor
    predictor: Tensor
    interpreter: Tensor
    activations: Tensor

    @property
    def valid(self) -> Tensor:
        """`(N,)` bool: for which samples all of it is finite."""
        return torch.stack([part.isfinite().all(dim=1) for part in self[1:]]).all(dim=0)

    @property
    def agree(self) -> Tensor:
        """`(N,)` bool: whether f and g predict the same class."""
        return self.predictor.argmax(dim=1) == self.interpreter.argmax(dim=1)


def _look(model: nn.Module, dataset: Dataset, count: int, seed: int, batch_size: int | None) -> _Seen:
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    size = MicroBatch(batch_size or auto_size(model, dataset.take([0]).images[0].to(device)))
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, count, SHARD):
        batch = dataset.take(range(start, min(start + SHARD, count))).to(device)
        evidence = ModelEvidence(model=model, explainer=None, dataset=dataset, batch=batch, seed=seed, micro_batch=size)
        found = evidence.interpretation
        parts.append((batch.labels, evidence.logits, found.logits, found.activations))
    return _Seen(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def _report(dataset: Dataset, seen: _Seen, space: Space, *, seed: int, budget: BudgetName) -> Report:
    valid, agree = seen.valid, seen.agree
    keys = sample_keys(dataset.ids)
    comparisons: dict[str, DepthComparison] = {}
    frames: list[pd.DataFrame] = []
    for label in seen.labels[valid & ~agree].unique().tolist():
        members = valid & (seen.labels == label)
        apart, together = (torch.nonzero(members & chosen)[:, 0] for chosen in (~agree, agree))
        points = _points(dataset, seen, torch.cat([apart, together]), space)
        comparison = compare_depths(
            points[: len(apart)], points[len(apart) :], keys=keys[together], space=space, seed=seed, budget=budget
        )
        comparisons[dataset.classes[label]] = comparison
        frames.append(_rows(dataset, seen, apart, comparison))
    empty = pd.DataFrame(columns=list(COLUMNS))
    frame = pd.concat(frames, ignore_index=True) if frames else empty
    return Report(frame, comparisons, len(valid), int((~valid).sum()))


def _points(dataset: Dataset, seen: _Seen, rows: Tensor, space: Space) -> Tensor:
    """`(n, D)` what samples are in a space, before it is reduced."""
    if space == "attributes":
        return seen.activations[rows]
    return dataset.take(rows.tolist()).images.flatten(1)


def _rows(dataset: Dataset, seen: _Seen, rows: Tensor, found: DepthComparison) -> pd.DataFrame:
    """The rows of the report for the disagreeing samples of one class."""
    labels, predicted, interpreted = (
        part[rows] for part in (seen.labels, seen.predictor.argmax(dim=1), seen.interpreter.argmax(dim=1))
    )
    depths, reference = found.depths.cpu().numpy(), found.reference.cpu().numpy()
    below = (reference < depths[:, None]) + (reference == depths[:, None]) / 2
    return pd.DataFrame(
        {
            "sample_id": [dataset.ids[row] for row in rows.tolist()],
            "label": _names(dataset.classes, labels),
            "predicted": _names(dataset.classes, predicted),
            "interpreted": _names(dataset.classes, interpreted),
            "predictor_right": (predicted == labels).numpy(),
            "interpreter_right": (interpreted == labels).numpy(),
            "rank": rank_of_class(seen.interpreter[rows], predicted).numpy(),
            "depth": depths,
            "reference_median": np.nan if found.note else float(np.median(reference)),
            "reference_below": np.full(len(depths), np.nan) if found.note else below.mean(axis=1),
            "n_reference": len(reference),
            "n_points": found.n_points,
            "statistic": found.statistic,
            "p_value": found.p_value,
            "space": found.space,
            "note": found.note,
        }
    )[list(COLUMNS)]


def _names(classes: Sequence[str], numbers: Tensor) -> NDArray[np.object_]:
    return np.array(classes, dtype=object)[numbers.numpy()]
