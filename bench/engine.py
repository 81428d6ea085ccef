"""The engine: scores or explains samples of one row, and finishes units."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..metrics.base import Members, Metric, Scores, Status, TargetRule, invalid_maps
from .asking import Fault
from .evidence import ModelEvidence
from .micro_batch import MicroBatch, auto_size, is_out_of_memory
from .plan import Row, configuration_text
from .store import MetricResult, Store, Unit

Existing = Literal["skip", "redo", "fail"]
PREVIEWS = 6  # samples of a row whose heatmaps are kept for the gallery


@dataclass(frozen=True)
class Failure:
    """A shard that could not be scored at all."""

    about: Mapping[str, Any]
    message: str
    trace: str


@dataclass(eq=False)
class Options:
    """How a plan is run; nothing here changes a value.

    Attributes:
        device: where the model is.
        batch_size: rows per call of the model; `None` chooses by the memory there is.
        existing: what to do with finished work: use it, do it again, or refuse.
        keep_attributions: keep all attributions in the store.
        cases: explain the samples that explainers do best and worst on once more, to show them.
        on_start: called before each unit with its row.
    """

    device: torch.device
    batch_size: int | None = None
    existing: Existing = "skip"
    keep_attributions: bool = False
    cases: bool = True
    on_start: Callable[[Row], None] | None = None
    _micro_batches: WeakKeyDictionary[nn.Module, MicroBatch] = field(
        default_factory=WeakKeyDictionary[nn.Module, MicroBatch], init=False, repr=False
    )

    _shared: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Members]] = field(
        default_factory=WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Members]], init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Check what was asked for before anything is started."""
        if self.batch_size is not None:
            MicroBatch(self.batch_size)

    def shared(self, model: nn.Module) -> dict[tuple[object, ...], Members]:
        """Return what batches of a model need not compute again; it lasts as long as the run."""
        return self._shared.setdefault(model, {})

    def micro_batch(self, model: nn.Module, image: Tensor) -> MicroBatch:
        """Return the rows per call of a model, found once; what a lack of memory has taught is remembered."""
        if model not in self._micro_batches:
            self._micro_batches[model] = MicroBatch(self.batch_size or auto_size(model, image))
        return self._micro_batches[model]


def score(
    row: Row, shard: range, metrics: Mapping[str, Metric], options: Options, known: Mapping[TargetRule, Tensor]
) -> Unit:
    """Score the samples of a shard with some metrics.

    Args:
        row: the subject.
        shard: positions of the samples in the row's dataset.
        metrics: the metrics to compute, by key.
        options: how to run.
        known: attributions by target rule that an earlier run kept, so that nothing is explained again.
    """
    with _evidence(row, shard, options, known) as evidence:
        if row.explainer is not None:
            _ = evidence.logits  # all metrics of the row share them, so none is charged for them
        if shard.start == 0:  # once a row is enough: it warns, and changes no value
            evidence.check_repeats()
        results = {key: _measure(metric, evidence) for key, metric in metrics.items()}
        previews = {} if row.explainer is None else _previews(shard, evidence)
    return Unit(
        key=row.key(shard),
        about={**row.about, **versions(), "device": device_name(options.device)},
        ids=evidence.batch.ids,
        classes=_classes(evidence.batch.labels).cpu(),
        metrics=results,
        faults=tuple(vars(fault) for fault in evidence.faults),
        previews=previews,
        attributions={**evidence.computed_attributions()} if options.keep_attributions else {},
    )


def explain(
    row: Row,
    indices: Sequence[int],
    target: TargetRule,
    options: Options,
    *,
    known: Mapping[TargetRule, Tensor],
    about: Mapping[str, Any],
) -> Unit:
    """Explain some samples of a row as `score` does, and score nothing: what is shown of them is all there is.

    Args:
        row: the subject.
        indices: positions of the samples in the row's dataset.
        target: which class is explained.
        options: how to run.
        known: attributions of these samples by target rule, so that nothing is explained again.
        about: what else is to be known of the unit.
    """
    with _evidence(row, indices, options, known) as evidence:
        previews = _pictures(evidence, target, len(indices))
    # Of what is shown with 8 bits no more is kept: the samples may be many and large.
    previews["images"] = (255 * previews["images"]).round().to(torch.uint8)
    return Unit(
        key=row.key(()),
        about={**row.about, **versions(), "device": device_name(options.device), **about},
        ids=evidence.batch.ids,
        classes=_classes(evidence.batch.labels).cpu(),
        metrics={},
        previews={name: tensor.cpu() for name, tensor in previews.items()},
    )


def finish_unit(row: Row, shard: range, store: Store | None, options: Options) -> list[Unit] | Failure:
    """Return the units of a shard, computing the metrics that no finished one holds.

    Raises:
        OSError: the store cannot be written.
    """
    done = [] if store is None or options.existing == "redo" else store.find(row.key(shard))
    found = {key for unit in done for key in unit.metrics}
    missing = {key: metric for key, metric in row.metrics.items() if key not in found}
    if not missing:
        return done
    known = cast("Mapping[TargetRule, Tensor]", next((unit.attributions for unit in done if unit.attributions), {}))
    try:
        unit = score(row, shard, missing, options, known)
    except Exception as error:  # noqa: BLE001  # one unit's failure is not the end of the run
        return Failure(row.about, f"{type(error).__name__}: {error}", traceback.format_exc())
    if store is not None:
        store.write(unit)
    return [*done, unit]


@cache
def versions() -> Mapping[str, str]:
    """Return the versions that a number may depend on."""
    return {
        "interpeval": version("interpeval"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "captum": version("captum"),
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """Return what a device is called in tables."""
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


@contextmanager
def _evidence(
    row: Row, indices: Sequence[int], options: Options, known: Mapping[TargetRule, Tensor]
) -> Generator[ModelEvidence]:
    """Show samples of a row to its model."""
    batch = row.dataset.take(indices).to(options.device)
    model = row.model.module.eval()
    with _exact_arithmetic(options.device), ModelEvidence(
        model=model, explainer=row.explainer, dataset=row.dataset, batch=batch, seed=row.seed,
        micro_batch=options.micro_batch(model, batch.images[0]), known=known, shared=options.shared(model),
    ) as evidence:  # fmt: skip
        yield evidence


def _measure(metric: Metric, evidence: ModelEvidence) -> MetricResult:
    before, shared_before = evidence.spent(), evidence.spent_explaining()
    try:
        scores = metric.score(evidence)
    except Exception as error:  # the other metrics of the unit go on
        if is_out_of_memory(error):
            raise
        message = f"metric `{metric.name}` failed: {type(error).__name__}: {error}"
        evidence.add_fault(Fault("metric failed", message, ()))
        scores = {"": _all_invalid(len(evidence.batch))}
    shared = evidence.spent_explaining()
    own = (evidence.spent() - before) - (shared - shared_before)
    alone = own + shared if "explainer" in metric.needs else own
    return MetricResult(
        name=metric.name,
        version=metric.version,
        configuration=configuration_text(metric),
        aggregations=metric.aggregations,
        facts={variant: metric.facts(variant) for variant in scores},
        scores=scores,
        seconds=alone.seconds,
        passes=alone.passes.forward + alone.passes.backward,
        target=str(getattr(metric, "target", "")),
    )


def _classes(labels: Tensor) -> Tensor:
    """`(n,)` int64 label of each sample; all 0 where samples have several, so that class means are plain means."""
    return labels if labels.ndim == 1 else labels.new_zeros(len(labels), dtype=torch.int64)


def _all_invalid(size: int) -> Scores:
    return Scores(
        torch.full((size,), torch.nan, dtype=torch.float64), torch.full((size,), int(Status.INVALID), dtype=torch.uint8)
    )


def _previews(shard: range, evidence: ModelEvidence) -> dict[str, Tensor]:
    """Keep what the gallery shows of the first samples of a row."""
    count = min(PREVIEWS - shard.start, len(shard))
    if count <= 0:
        return {}
    rules = evidence.computed_attributions()
    usual: TargetRule = "label" if evidence.batch.labels.ndim == 1 else "predicted"
    shown = usual if usual in rules or not rules else next(iter(rules))  # nothing is explained for a picture alone
    return _pictures(evidence, shown, count)


def _pictures(evidence: ModelEvidence, target: TargetRule, count: int) -> dict[str, Tensor]:
    """Images, masks and heatmaps of the first samples, as far as there are any."""
    batch = evidence.batch
    heatmaps = evidence.heatmaps(target)[:count]
    previews = {
        "images": evidence.normalization.to_pixels(batch.images[:count]).clamp(0, 1),
        "heatmaps": torch.where(invalid_maps(heatmaps).view(-1, 1, 1), torch.zeros_like(heatmaps), heatmaps),
    }
    if batch.masks is not None:
        previews["masks"] = batch.masks[:count]
    return previews


@contextmanager
def _exact_arithmetic(device: torch.device) -> Generator[None]:
    """Keep the GPU from trading precision or repeatability for speed, so that devices agree."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
