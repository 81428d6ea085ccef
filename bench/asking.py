"""Asking an explainer, whatever it may do: the model and the other samples come to no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..baselines.base import Explainer
from ..baselines.ensure import ExplainerFacts, explainer_facts
from ..datasets.philox import derived_keys, random_words
from ..metrics.base import Inputs
from .generators import GeneratorState, seeded
from .guard import ModelGuard, listed
from .micro_batch import MicroBatch, is_out_of_memory
from .passes import PassCounter


@dataclass(frozen=True)
class Fault:
    """Something an explainer did wrong, and the samples that it concerns."""

    kind: str
    message: str
    ids: tuple[str, ...]


class Faults:
    """What went wrong, each thing once, with all its samples."""

    def __init__(self) -> None:
        """Start with none."""
        self._found: dict[tuple[str, str], dict[str, None]] = {}

    def add(self, kind: str, message: str, ids: Sequence[str] = ()) -> None:
        """Note something."""
        self._found.setdefault((kind, message), {}).update(dict.fromkeys(ids))

    def __iter__(self) -> Any:
        """Go through them in the order of their first occurrence."""
        return (Fault(kind, message, tuple(ids)) for (kind, message), ids in self._found.items())


class Asking:
    """An explainer and the model it is asked about.

    The model is put back as it was after every call. An exception is traced to the samples that cause it; they, and
    those with a non-finite or mis-shaped attribution, get NaN. An explainer that draws from global random generators
    is asked sample by sample, under a seed of each sample. All of that is noted in `faults`.
    """

    def __init__(
        self, model: nn.Module, explainer: Explainer, *, seed: int, micro_batch: MicroBatch, counter: PassCounter,
        faults: Faults,
    ) -> None:  # fmt: skip
        """Store everything; nothing is asked yet."""
        self.model = model
        self.explainer = explainer
        self.seed = seed
        self.faults = faults
        self._micro_batch = micro_batch
        self._counter = counter
        self._draws = False

    @cached_property
    def facts(self) -> ExplainerFacts:
        """How channels are reduced, and what else the explainer says of itself."""
        return explainer_facts(self.explainer, self.model)

    def attribute(self, inputs: Inputs, ids: Sequence[str]) -> Tensor:
        """Return attributions `(n, c, h, w)` of all rows; NaN in the rows that failed."""
        if not self._draws:
            state = GeneratorState(inputs.images.device)
            try:
                together = self._attribute(inputs, ids)
            finally:
                self._draws = state.restore()
            if not self._draws:
                return together
            self.faults.add(
                "non-deterministic",
                "draws from global random generators; it is asked sample by sample, under a seed of each sample "
                '(to be asked in batches: `needs = frozenset({"keys"})`, and draw by the keys)',
            )
        return self.join([self._attribute_alone(inputs, ids, row) for row in range(len(ids))], ids)

    def check_repeats(self, first: Inputs) -> None:
        """Ask twice about one sample under one seed, and note when the answers differ."""
        try:
            one, two = (self._seeded_call(first) for _ in range(2))
        except Exception:  # noqa: BLE001  # what fails here fails again where it is recorded
            return
        same = one.shape == two.shape and torch.allclose(one, two, rtol=1e-4, atol=0, equal_nan=True)
        if not same and float((one - two).abs().max()) > 1e-4 * float(one.abs().max()):
            self.faults.add(
                "non-deterministic",
                "gave another answer when asked again under the same seed: its values do not repeat",
            )

    def join(self, parts: Sequence[Tensor], ids: Sequence[str]) -> Tensor:
        """Join attributions of consecutive rows; those of another shape than the first sound one are invalid."""
        sound = next((part for part in parts if part.isfinite().any()), parts[0])
        joined: list[Tensor] = []
        start = 0
        for part in parts:
            owners = ids[start : start + len(part)]
            start += len(part)
            if part.shape[1:] == sound.shape[1:]:
                joined.append(part)
                continue
            odd = part.flatten(1).isfinite().any(dim=1)
            if odd.any():
                shapes = f"{tuple(part.shape[1:])} instead of {tuple(sound.shape[1:])}"
                named = [owner for owner, is_odd in zip(owners, odd.tolist(), strict=True) if is_odd]
                self.faults.add("shape", f"attributions of one sample are {shapes}, as they were before", named)
            joined.append(sound.new_full((len(part), *sound.shape[1:]), torch.nan))
        return torch.cat(joined)

    def _attribute(self, inputs: Inputs, ids: Sequence[str], *, pad: bool = True) -> Tensor:
        try:
            attributions = self._call(inputs, pad=pad)
        except Exception as error:  # anything may come out of a stranger's explainer
            if is_out_of_memory(error):
                raise
            if len(ids) > 1:
                half = len(ids) // 2
                parts = [self._attribute(_rows(inputs, p), ids[p]) for p in (slice(half), slice(half, None))]
                return self.join(parts, ids)
            self.faults.add("exception", f"{type(error).__name__}: {str(error).strip() or 'no message'}", ids)
            return nan_maps(inputs.images)[:, None]
        bad = ~attributions.flatten(1).isfinite().all(dim=1)
        if bad.any():
            named = [name for name, is_bad in zip(ids, bad.tolist(), strict=True) if is_bad]
            self.faults.add("non-finite", "attribution holds NaN or infinite values", named)
            attributions = attributions.masked_fill(bad.view(-1, 1, 1, 1), torch.nan)
        return attributions

    def _attribute_alone(self, inputs: Inputs, ids: Sequence[str], row: int) -> Tensor:
        one = _rows(inputs, slice(row, row + 1))
        word = int(random_words(self.seed, "explainer", one.keys, 0, 1)[0, 0])
        with seeded(word, one.images.device):
            return self._attribute(one, ids[row : row + 1], pad=False)

    def _seeded_call(self, inputs: Inputs) -> Tensor:
        with seeded(0, inputs.images.device):
            return self._call(inputs, pad=False)

    def _call(self, inputs: Inputs, *, pad: bool) -> Tensor:
        """Call the explainer on copies, give the model back as it was, and check what came."""
        count = len(inputs.images)
        given = _map(inputs, self._micro_batch.pad) if pad else inputs
        if given.targets is None:
            raise ValueError("`Inputs.targets` must be known before the explainer is asked")
        attribute: Callable[..., Any] = self.explainer.attribute
        guard = self._guard
        try:
            with torch.enable_grad(), self._counter.discounting(count, len(given.images)):
                attributions = attribute(self.model, given.images.clone(), given.targets.clone(), **self._extras(given))
        finally:
            changes = guard.restore()
            if changes:
                self.faults.add("model changed", f"left changed, and the engine restored: {listed(changes)}")
        return _checked(attributions, given.images)[:count]

    def _extras(self, inputs: Inputs) -> dict[str, Tensor | None]:
        extras: dict[str, Tensor | None] = {}
        if "keys" in self.facts.needs:  # an explainer is told keys alone, so the seed of the run goes into them
            extras["keys"] = derived_keys(inputs.keys, f"explainer/{self.seed}", 0)
        if "masks" in self.facts.needs:
            extras["masks"] = inputs.masks
        return extras

    @cached_property
    def _guard(self) -> ModelGuard:
        return ModelGuard(self.model)


def nan_maps(images: Tensor) -> Tensor:
    """Return `(n, H, W)` NaN, the heatmaps of inputs that could not be explained."""
    return images.new_full((len(images), *images.shape[-2:]), torch.nan)


def _checked(attributions: object, images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    if not isinstance(attributions, Tensor):
        raise TypeError(f"`attribute` must return a tensor, returned {type(attributions).__name__}")
    shape = tuple(attributions.shape)
    if len(shape) != 4 or shape[0] != count or shape[1] not in {1, channels} or 0 in shape:
        wanted = " or ".join(dict.fromkeys((f"({count}, 1, h, w)", f"({count}, {channels}, h, w)")))
        raise ValueError(f"`attribute` must return {wanted}, returned {shape}")
    if shape[2] > height or shape[3] > width:
        raise ValueError(
            f"`attribute` must not return maps larger than the input ({height}, {width}), returned {shape}"
        )
    if attributions.is_complex():
        raise TypeError(f"`attribute` must return real numbers, returned {attributions.dtype}")
    return attributions.detach().to(device=images.device, dtype=torch.float32)


def _rows(inputs: Inputs, part: slice) -> Inputs:
    return _map(inputs, lambda member: member[part])


def _map(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    return Inputs(
        images=change(inputs.images),
        targets=None if inputs.targets is None else change(inputs.targets),
        keys=change(inputs.keys),
        masks=None if inputs.masks is None else change(inputs.masks),
    )
