"""What metrics see of a subject: predictions and explanations of one batch, computed once and shared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..baselines.base import Explainer, heatmap
from ..baselines.ensure import explainer_facts
from ..datasets.base import Batch, Dataset, Normalization
from ..datasets.philox import derived_keys, random_words
from ..metrics.base import Cost, Inputs, TargetRule
from .distractors import Distractors
from .guard import ModelGuard
from .micro_batch import MicroBatch, pad_rows
from .passes import PassCounter, Passes


@dataclass(frozen=True)
class Spent:
    """Passes of the model, and seconds on the clock."""

    passes: Passes
    seconds: float

    def __add__(self, other: Spent) -> Spent:
        """Return both together."""
        return Spent(self.passes + other.passes, self.seconds + other.seconds)

    def __sub__(self, other: Spent) -> Spent:
        """Return what was added since `other`."""
        return Spent(self.passes - other.passes, self.seconds - other.seconds)


@dataclass(frozen=True)
class Fault:
    """Something an explainer did wrong, and the samples that it concerns."""

    kind: str
    message: str
    ids: tuple[str, ...]


class ModelEvidence:
    """The engine's `Evidence`: one batch seen through a model and, where there is one, an explainer.

    Whatever an explainer does, the model stays as it was and the other samples keep their values: an exception is
    traced to the samples that cause it, a non-finite or mis-shaped attribution makes its sample invalid, an
    explainer that draws from global random generators is run sample by sample under a seed of each sample, and
    everything of that kind is listed in `faults`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        explainer: Explainer | None,
        dataset: Dataset,
        batch: Batch,
        seed: int = 0,
        micro_batch: MicroBatch | int = 64,
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Store what is seen; nothing is computed before it is asked for.

        Args:
            model: the classifier, in evaluation mode, on the device of `batch`.
            explainer: the explainer, or `None` where only the model is scored.
            dataset: where `batch` comes from; distractors are drawn from it.
            batch: the samples.
            seed: seed of the run.
            micro_batch: rows per call of the model.
            known: attributions by target rule that were computed before.
        """
        self.model = model
        self.explainer = explainer
        self.dataset = dataset
        self.batch = batch
        self.seed = seed
        self._counter = PassCounter(model)
        self._micro_batch = MicroBatch(micro_batch) if isinstance(micro_batch, int) else micro_batch
        self._faults: dict[tuple[str, str], dict[str, None]] = {}
        self._attributions: dict[str, Tensor] = {
            rule: tensor.to(batch.images.device) for rule, tensor in (known or {}).items()
        }
        self._spent = Spent(Passes(0, 0), 0.0)
        self._explained = 0

    def __enter__(self) -> Self:
        """Start counting the passes of the model."""
        self._counter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting; the model is left without hooks."""
        self._counter.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ what metrics reach

    @property
    def normalization(self) -> Normalization:
        """How pixel values became model inputs."""
        return self.dataset.normalization

    @cached_property
    def logits(self) -> Tensor:
        """`(B, K)` logits of the samples."""
        images = self.batch.images
        return torch.cat([logits for _, logits in self.predict(len(self.batch), images.__getitem__)])

    @cached_property
    def fixed_size(self) -> bool:
        """Whether the model refuses inputs of twice the side."""
        image = self.batch.images[:1]
        try:
            with torch.no_grad():
                self.model(image.repeat(1, 1, 2, 2))
        except Exception:  # noqa: BLE001  # networks refuse a size with whatever error their layers raise
            return True
        return False

    def targets(self, rule: TargetRule) -> Tensor:
        """`(B,)` int64: the class predicted for each sample, or its label."""
        if rule == "predicted":
            return self.logits.argmax(dim=1)
        if rule == "label":
            return self.batch.labels
        raise ValueError(f'`target` must be "predicted" or "label", was {rule!r}')

    def attributions(self, rule: TargetRule) -> Tensor:
        """`(B, C, h, w)` attributions as the explainer gave them; all NaN for an invalid sample."""
        if rule not in self._attributions:
            self._attributions[rule] = self._explain_batch(rule)
        return self._attributions[rule]

    def heatmaps(self, rule: TargetRule) -> Tensor:
        """`(B, H, W)` heatmaps of the samples; all NaN for an invalid sample."""
        return self._heatmap(self.attributions(rule), self.batch.images)

    def predict(self, count: int, build: Callable[[Tensor], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the model on `count` inputs that `build(rows)` makes; yields `(rows, (n, K) logits)`."""
        return self._micro_batch.run(count, lambda rows: self._predict(build(rows)), self.batch.images.device)

    def explain(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """Explain `count` inputs that `build(rows)` makes; yields `(rows, (n, H', W') heatmaps)`.

        Rows are sample-major: row `r` was made of sample `r * B // count`. Where every sample's own explanation
        failed, the explainer is not asked again.
        """
        hopeless = not bool(self._any_attributions().isfinite().any())

        def call(rows: Tensor) -> Tensor:
            inputs = build(rows)
            if hopeless:
                return _nan_maps(inputs.images)
            targets = inputs.targets
            if targets is None:
                targets = self._predict(inputs.images).argmax(dim=1)
            owners = [self.batch.ids[row * len(self.batch) // count] for row in rows.tolist()]
            return self._heatmap(self._attribute(inputs._replace(targets=targets), owners), inputs.images)

        return self._micro_batch.run(count, call, self.batch.images.device)

    def distractors(self, count: int) -> Tensor:
        """`(B, count, C, H, W)` images of classes other than each sample's label."""
        return Distractors(self.dataset, seed=self.seed).images(self.batch, count)

    def cost(self) -> Cost:
        """What explaining the classes predicted for these samples took, per sample."""
        self.attributions("predicted")
        rows = max(self._explained, 1)
        return Cost(self._spent.passes.forward / rows, self._spent.passes.backward / rows, self._spent.seconds / rows)

    # ------------------------------------------------------------------ what the engine reads

    @property
    def faults(self) -> list[Fault]:
        """What went wrong so far, in the order of its first occurrence."""
        return [Fault(kind, message, tuple(ids)) for (kind, message), ids in self._faults.items()]

    def add_fault(self, fault: Fault) -> None:
        """Note something that went wrong outside the explainer."""
        self._fault(fault.kind, fault.message, list(fault.ids))

    def computed_attributions(self) -> dict[str, Tensor]:
        """Return the attributions of the samples by target rule, as far as any metric asked for them."""
        return dict(self._attributions)

    def prepare(self) -> None:
        """Look at the explainer before anything is scored, so that no metric is charged for it."""
        if self.explainer is not None:
            _ = self._stochastic

    def spent(self) -> Spent:
        """All that the model did since the evidence was opened."""
        return Spent(self._counter.passes, _now(self.batch.images.device))

    def spent_explaining(self) -> Spent:
        """What went into the explanations of the samples themselves, which all metrics share."""
        return self._spent

    # ------------------------------------------------------------------ inside

    @cached_property
    def _guard(self) -> ModelGuard:
        return ModelGuard(self.model)

    @cached_property
    def _facts(self) -> Any:
        if self.explainer is None:
            raise ValueError("this metric needs an explainer, and the subject has none")
        return explainer_facts(self.explainer, self.model)

    def _fault(self, kind: str, message: str, ids: list[str]) -> None:
        self._faults.setdefault((kind, message), {}).update(dict.fromkeys(ids))

    def _predict(self, images: Tensor) -> Tensor:
        padded = pad_rows(images)
        with torch.no_grad(), self._counter.discounting(len(images), len(padded)):
            logits = self.model(padded)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(padded):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"`model` must return logits ({len(padded)}, K), returned {found}")
        return logits[: len(images)].float()

    def _heatmap(self, attributions: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        facts = self._facts
        return heatmap(attributions, (height, width), facts.reduction, rectified=facts.rectified)

    def _any_attributions(self) -> Tensor:
        return next(iter(self._attributions.values())) if self._attributions else self.attributions("predicted")

    def _explain_batch(self, rule: TargetRule) -> Tensor:
        """Explain the samples' classes under `rule`, without explaining the same class of a sample twice."""
        targets = self.targets(rule)
        result: Tensor | None = None
        todo = torch.arange(len(self.batch), device=targets.device)
        for other, known in self._attributions.items():
            result = known.clone()
            todo = todo[self.targets(other) != targets]
        self.prepare()
        before = self.spent()
        parts = [
            part
            for _, part in self._micro_batch.run(
                len(todo), lambda rows: self._explain_rows(todo[rows], targets), targets.device
            )
        ]
        self._spent = self._spent + (self.spent() - before)
        self._explained += len(todo)
        if result is None:
            return _stack(parts)
        if parts:
            joined = _stack([result, *parts])
            result, explained = joined[: len(result)], joined[len(result) :]
            result[todo] = explained
        return result

    def _explain_rows(self, rows: Tensor, targets: Tensor) -> Tensor:
        batch = self.batch
        masks = None if batch.masks is None else batch.masks[rows]
        inputs = Inputs(batch.images[rows], targets[rows], batch.keys[rows], masks)
        return self._attribute(inputs, [batch.ids[row] for row in rows.tolist()])

    @cached_property
    def _stochastic(self) -> bool:
        """Whether the explainer gives another answer when asked again, seen on the first sample."""
        answers: list[Tensor] = []
        for seed in (0, 1):
            try:
                with _seeded(seed, self.batch.images.device):
                    answers.append(self._call(self._first_input(), pad=False))
            except Exception:  # noqa: BLE001  # what fails here fails again where it is recorded
                return False
        first, second = answers
        if first.shape != second.shape or not torch.isfinite(first).all():
            return False
        difference = float((first - second).abs().max())
        if difference <= 1e-4 * float(first.abs().max()):
            return False
        self._fault(
            "non-deterministic",
            "gave another answer when asked again; it now runs sample by sample under a seed of each sample "
            '(declare `needs = frozenset({"keys"})` and draw by the keys to run in batches)',
            [],
        )
        return True

    def _first_input(self) -> Inputs:
        batch = self.batch
        masks = None if batch.masks is None else batch.masks[:1]
        return Inputs(batch.images[:1], self.targets("predicted")[:1], batch.keys[:1], masks)

    def _attribute(self, inputs: Inputs, ids: list[str]) -> Tensor:
        """Attributions `(n, c, h, w)` of all rows; NaN in the rows that failed."""
        if self._stochastic:
            return _stack([self._attribute_alone(inputs, ids, row) for row in range(len(ids))])
        return self._attribute_together(inputs, ids)

    def _attribute_alone(self, inputs: Inputs, ids: list[str], row: int) -> Tensor:
        one = _rows(inputs, slice(row, row + 1))
        word = int(random_words(self.seed, "explainer", one.keys, 0, 1)[0, 0])
        with _seeded(word, one.images.device):
            return self._attribute_together(one, ids[row : row + 1], pad=False)

    def _attribute_together(self, inputs: Inputs, ids: list[str], *, pad: bool = True) -> Tensor:
        try:
            attributions = self._call(inputs, pad=pad)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # anything may come out of a stranger's explainer
            if len(ids) > 1:
                half = len(ids) // 2
                parts = [
                    self._attribute_together(_rows(inputs, part), ids[part]) for part in (slice(half), slice(half, None))
                ]
                return _stack(parts)
            self._fault("exception", f"{type(error).__name__}: {str(error).strip() or 'no message'}", ids)
            return _nan_maps(inputs.images)[:, None]
        bad = ~attributions.flatten(1).isfinite().all(dim=1)
        if bad.any():
            self._fault("non-finite", "attribution holds NaN or infinite values", [ids[i] for i in bad.nonzero()[:, 0]])
            attributions = attributions.masked_fill(bad.view(-1, 1, 1, 1), torch.nan)
        return attributions

    def _call(self, inputs: Inputs, *, pad: bool) -> Tensor:
        """Call the explainer on copies, give the model back as it was, and check what came."""
        guard, facts = self._guard, self._facts
        count = len(inputs.images)
        padded = _map(inputs, pad_rows) if pad else inputs
        # An explainer is told keys alone, so the seed of the run goes into them.
        keys = derived_keys(padded.keys, f"explainer/{self.seed}", 0)
        given: dict[str, Tensor | None] = {"keys": keys, "masks": padded.masks}
        extras = {name: given[name] for name in sorted(facts.needs) if name in given}
        attribute: Callable[..., Any] = self.explainer.attribute  # type: ignore[union-attr]
        assert padded.targets is not None  # noqa: S101  # filled in by every caller
        try:
            with torch.enable_grad(), self._counter.discounting(count, len(padded.images)):
                attributions = attribute(self.model, padded.images.clone(), padded.targets.clone(), **extras)
        finally:
            changes = guard.restore()
            if changes:
                listed = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
                self._fault("model changed", f"left changed, and the engine restored: {listed}", [])
        return _checked(attributions, padded.images)[:count]


def _checked(attributions: object, images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    if not isinstance(attributions, Tensor):
        raise TypeError(f"`attribute` must return a tensor, returned {type(attributions).__name__}")
    shape = tuple(attributions.shape)
    if len(shape) != 4 or shape[0] != count or shape[1] not in {1, channels} or 0 in shape:
        wanted = " or ".join(dict.fromkeys((f"({count}, 1, h, w)", f"({count}, {channels}, h, w)")))
        raise ValueError(f"`attribute` must return {wanted}, returned {shape}")
    if shape[2] > height or shape[3] > width:
        raise ValueError(f"`attribute` must not return maps larger than the input ({height}, {width}), returned {shape}")
    if attributions.is_complex():
        raise TypeError(f"`attribute` must return real numbers, returned {attributions.dtype}")
    return attributions.detach().to(device=images.device, dtype=torch.float32)


def _rows(inputs: Inputs, part: slice) -> Inputs:
    return _map(inputs, lambda member: member[part])


def _map(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    return Inputs(*(None if member is None else change(member) for member in inputs))  # type: ignore[arg-type]


def _stack(parts: list[Tensor]) -> Tensor:
    """Join attributions of consecutive rows; rows that failed take the shape of those that did not."""
    sound = next((part for part in parts if part.isfinite().any()), parts[0])
    return torch.cat(
        [part if part.shape[1:] == sound.shape[1:] else _nan_rows(len(part), sound) for part in parts]
    )


def _nan_maps(images: Tensor) -> Tensor:
    return images.new_full((len(images), *images.shape[-2:]), torch.nan)


def _now(device: torch.device) -> float:
    """Seconds on the clock, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _nan_rows(count: int, like: Tensor) -> Tensor:
    return like.new_full((count, *like.shape[1:]), torch.nan)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global random generator, and put all of them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
