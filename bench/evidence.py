"""What metrics see of a subject: predictions and explanations of one batch, computed once and shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Self, cast

import torch
from torch import Tensor, nn

from ..baselines.base import Explainer, Interpretable, Interpretation, heatmap
from ..baselines.ensure import explainer_facts
from ..datasets.base import Batch, Dataset, Normalization
from ..datasets.distractors import Distractors
from ..metrics.base import Cost, Inputs, Members, TargetRule
from .asking import Asking, Fault, Faults, nan_maps
from .class_members import class_members
from .micro_batch import MicroBatch, is_out_of_memory
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


class SummedOutput(nn.Module):
    """A model whose only output is the sum of another's: what is explained where no single output is meant."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model with `(B, K)` outputs."""
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, 1)`."""
        outputs: Tensor = self.model(inputs)
        return outputs.sum(dim=1, keepdim=True)


class ModelEvidence:
    """The engine's `Evidence`: one batch seen through a model and, where there is one, an explainer.

    Whatever an explainer does, the model stays as it was, the other samples keep their values, and what went wrong
    is listed in `faults` (`interpeval.bench.asking`).
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
        known: Mapping[TargetRule, Tensor] | None = None,
        shared: dict[tuple[object, ...], Members] | None = None,
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
            shared: what batches of the same model and dataset need not compute again.
        """
        self.model = model
        self.explainer = explainer
        self.dataset = dataset
        # How a tensor lies in memory decides which kernels run, and other kernels round differently.
        ordered = batch.images.is_contiguous()
        self.batch = batch if ordered else replace(batch, images=batch.images.contiguous())
        self.seed = seed
        self._counter = PassCounter(model)
        self._micro_batch = MicroBatch(micro_batch) if isinstance(micro_batch, int) else micro_batch
        self._faults = Faults()
        self._attributions: dict[TargetRule, Tensor] = {
            rule: tensor.to(batch.images.device) for rule, tensor in (known or {}).items()
        }
        self._shared = {} if shared is None else shared
        self._elsewhere = Passes(0, 0)
        self._origin: ModelEvidence | None = None
        self._asked: dict[bool, Asking] = {}
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

    @property
    def logits(self) -> Tensor:
        """`(B, K)` logits of the samples."""
        return self._logits

    @cached_property
    def _logits(self) -> Tensor:
        images = self.batch.images
        return torch.cat([logits for _, logits in self.predict(len(self.batch), images.__getitem__)])

    @property
    def fixed_size(self) -> bool:
        """Whether the model refuses inputs of twice the side."""
        return self._fixed_size

    @cached_property
    def _fixed_size(self) -> bool:
        image = self.batch.images[:1]
        try:
            with torch.no_grad():
                self.model(image.repeat(1, 1, 2, 2))
        except Exception as error:  # networks refuse a size with whatever error their layers raise
            if is_out_of_memory(error):
                raise
            return True
        return False

    @property
    def interpretation(self) -> Interpretation:
        """What the model's interpreter says about the samples."""
        return self._interpretation

    @cached_property
    def _interpretation(self) -> Interpretation:
        return self._interpret(self.batch.images)

    def members(self, label: int, count: int) -> Members:
        """What predictor and interpreter say about `count` samples of a class, or about as many as there are."""
        key = (self.dataset.name, self.dataset.revision, label, count, self.seed)
        if key not in self._shared:
            images = class_members(self.dataset, label, count, seed=self.seed).to(self.batch.images.device)
            logits = torch.cat([part for _, part in self.predict(len(images), images.__getitem__)])
            self._shared[key] = Members(logits, self._interpret(images))
        return self._shared[key]

    def targets(self, rule: TargetRule) -> Tensor:
        """`(B,)` int64: the class predicted for each sample, or its label; 0 where the whole output is explained."""
        if rule == "predicted":
            return self.logits.argmax(dim=1)
        if rule == "label":
            if self.batch.labels.ndim != 1:
                raise ValueError('`target` must not be "label" for samples of several labels; use "predicted"')
            return self._labels
        if rule == "none":
            return torch.zeros(len(self.batch), dtype=torch.int64, device=self.batch.images.device)
        raise ValueError(f'`target` must be "predicted", "label" or "none", was {rule!r}')

    @cached_property
    def _labels(self) -> Tensor:
        """The labels, or among the classes of a network that count as a label the one it finds most likely."""
        known: Tensor | None = getattr(self.dataset, "network_classes", None)
        if known is None:
            return self.batch.labels
        logits = self.logits[:, : known.shape[1]]  # of classes beyond those that are mapped, none counts
        return logits.masked_fill(~known.to(logits.device)[self.batch.labels], -torch.inf).argmax(dim=1)

    def expected_sums(self, rule: TargetRule) -> Tensor:
        """`(B,)` float64: the target's logit, above that of the reference input where the explainer says so."""
        if rule == "none":
            raise ValueError('`target` must be "predicted" or "label": what a whole output adds up to is not known')
        targets, stated = self.targets(rule), self._asking(rule).facts.sums_to
        logits = self.logits.double().gather(1, targets[:, None])[:, 0]
        if stated == "logit":
            return logits
        if stated != "difference":
            raise ValueError(f'`sums_to` must be "logit" or "difference", was {stated!r}')
        reference = torch.full_like(self.batch.images[:1], getattr(self.explainer, "reference_input", 0.0))
        return logits - self._predict(reference).double()[0, targets]

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
        for rows, (attributions, inputs) in self._ask(count, build):
            yield rows, self._heatmap(attributions, inputs)

    def attribute(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, Tensor]]:
        """Do as `explain` does; yields `(rows, (n, C, h, w) attributions)`."""
        for rows, (attributions, _) in self._ask(count, build):
            yield rows, attributions

    def differentiate(self, objective: Callable[[Tensor, Tensor], Tensor], *, at: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)` gradients, by the samples' images, of what `objective(logits, rows)` makes of their logits.

        With `at`, `(B, C, H, W)`, these images stand in the place of the samples'.
        """
        points = self.batch.images if at is None else at.detach()

        def call(rows: Tensor) -> Tensor:
            images = self._micro_batch.pad(points[rows]).requires_grad_()
            with torch.enable_grad(), self._counter.discounting(len(rows), len(images)):
                logits = self.model(images.clone())[: len(rows)]  # a clone, because a model may work in place
                (gradient,) = torch.autograd.grad(objective(logits.float(), rows).sum(), images)
            return gradient[: len(rows)]

        device = self.batch.images.device
        return torch.cat([part for _, part in self._micro_batch.run(len(self.batch), call, device)])

    @contextmanager
    def through(self, model: nn.Module) -> Generator[ModelEvidence]:
        """See the same samples through another model and the same explainer; its passes count as this one's."""
        with ModelEvidence(
            model=model, explainer=self.explainer, dataset=self.dataset, batch=self.batch, seed=self.seed,
            micro_batch=self._micro_batch,
        ) as other:  # fmt: skip
            other._origin = self
            try:
                yield other
            finally:
                self._elsewhere = self._elsewhere + other.spent().passes
                for fault in other.faults:
                    self.add_fault(fault)

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
        return list(self._faults)

    def add_fault(self, fault: Fault) -> None:
        """Note something that went wrong outside the explainer."""
        self._faults.add(fault.kind, fault.message, fault.ids)

    def computed_attributions(self) -> dict[TargetRule, Tensor]:
        """Return the attributions of the samples by target rule, as far as any metric asked for them."""
        return dict(self._attributions)

    def check_repeats(self) -> None:
        """Ask the explainer twice about the first sample, and note it as a fault when the answers differ."""
        if self.explainer is None:
            return
        batch = self.batch
        masks = None if batch.masks is None else batch.masks[:1]
        first = Inputs(batch.images[:1], self.targets("predicted")[:1], batch.keys[:1], masks)
        self._asking("predicted").check_repeats(first)

    def spent(self) -> Spent:
        """All that the model did since the evidence was opened."""
        return Spent(self._counter.passes + self._elsewhere, _now(self.batch.images.device))

    def spent_explaining(self) -> Spent:
        """What went into the explanations of the samples themselves, which all metrics share."""
        return self._spent

    # ------------------------------------------------------------------ inside

    def _asking(self, rule: TargetRule) -> Asking:
        """The explainer and what it is asked about: the model, or under `"none"` the sum of its outputs."""
        if self.explainer is None:
            raise ValueError("this metric needs an explainer, and the subject has none")
        summed = rule == "none" and not explainer_facts(self.explainer).target_free
        if summed not in self._asked:
            self._asked[summed] = Asking(
                SummedOutput(self.model) if summed else self.model, self.explainer, seed=self.seed,
                micro_batch=self._micro_batch, counter=self._counter, faults=self._faults,
            )  # fmt: skip
        return self._asked[summed]

    def _ask(self, count: int, build: Callable[[Tensor], Inputs]) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Yield `(rows, (attributions, images))`."""
        hopeless = not bool(self._any_attributions().isfinite().any())

        def call(rows: Tensor) -> tuple[Tensor, Tensor]:
            inputs = build(rows)
            if hopeless:
                return nan_maps(inputs.images)[:, None], inputs.images
            targets = inputs.targets
            if targets is None:
                targets = self._predict(inputs.images).argmax(dim=1)
            owners = [self.batch.ids[row * len(self.batch) // count] for row in rows.tolist()]
            asking = self._asking("predicted")
            return asking.attribute(inputs._replace(targets=targets), owners), inputs.images

        return self._micro_batch.run(count, call, self.batch.images.device)

    def _interpret(self, images: Tensor) -> Interpretation:
        model = self.model
        if not isinstance(model, Interpretable):
            raise TypeError(f"`model` must have an interpreter, `interpret(inputs)`; {type(model).__name__} has none")

        def call(rows: Tensor) -> Interpretation:
            padded = self._micro_batch.pad(images[rows])
            with torch.no_grad(), self._counter.discounting(len(rows), len(padded)):
                return cast(Interpretable, model).interpret(padded)

        parts = [(len(rows), part) for rows, part in self._micro_batch.run(len(images), call, images.device)]
        if not parts:
            raise ValueError("`images` must be at least one to be interpreted, was none")
        logits, activations = (torch.cat([part[member][:size] for size, part in parts]) for member in range(2))
        return Interpretation(logits, activations, parts[0][1].weights)

    def _predict(self, images: Tensor) -> Tensor:
        padded = self._micro_batch.pad(images)
        with torch.no_grad(), self._counter.discounting(len(images), len(padded)):
            logits = self.model(padded)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(padded):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"`model` must return logits ({len(padded)}, K), returned {found}")
        return logits[: len(images)].float()

    def _heatmap(self, attributions: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        facts = self._asking("predicted").facts
        return heatmap(attributions, (height, width), facts.reduction, rectified=facts.rectified)

    def _any_attributions(self) -> Tensor:
        """Attributions of the samples, by which an explainer that always fails is known; the model's first seen."""
        if self._origin is not None:
            return self._origin._any_attributions()
        return next(iter(self._attributions.values())) if self._attributions else self.attributions("predicted")

    def _explain_batch(self, rule: TargetRule) -> Tensor:
        """Explain the samples' classes under `rule`, without explaining the same class of a sample twice."""
        targets = self.targets(rule)
        result: Tensor | None = None
        todo = torch.arange(len(self.batch), device=targets.device)
        for other, known in self._attributions.items():
            if "none" not in (rule, other):
                result = known.clone()
                todo = todo[self.targets(other) != targets]
        before = self.spent()
        parts = [
            part
            for _, part in self._micro_batch.run(
                len(todo), lambda rows: self._explain_rows(todo[rows], rule), targets.device
            )
        ]
        self._spent = self._spent + (self.spent() - before)
        self._explained += len(todo)
        if result is None:
            return self._asking(rule).join(parts, self.batch.ids)
        if parts:
            owners = [*self.batch.ids, *(self.batch.ids[row] for row in todo.tolist())]
            joined = self._asking(rule).join([result, *parts], owners)
            result, explained = joined[: len(result)], joined[len(result) :]
            result[todo] = explained
        return result

    def _explain_rows(self, rows: Tensor, rule: TargetRule) -> Tensor:
        batch, masks = self.batch, self.batch.masks
        if rule == "none" and batch.all_masks is not None:
            masks = batch.all_masks
        inputs = Inputs(
            batch.images[rows], self.targets(rule)[rows], batch.keys[rows], None if masks is None else masks[rows]
        )
        return self._asking(rule).attribute(inputs, [batch.ids[row] for row in rows.tolist()])


def _now(device: torch.device) -> float:
    """Seconds on the clock, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
