"""Parameter randomisation: does an explanation change when the model forgets what it has learned?"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.philox import sample_keys, uniform
from .base import Evidence, Inputs, Metric, Scores, Status, TargetRule, invalid_maps, nan_where, status_of
from .localisation import check_choice

_PIECE = 2**20  # numbers drawn at once for a large weight


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of maps: Pearson's correlation of the ranks, equal values sharing theirs.

    Args:
        a: `(B, H, W)` maps, floating point.
        b: `(B, H, W)` maps.

    Returns:
        `(B,)` float64 in [-1, 1], exactly 1 for maps of one order. Where it is undefined: 1 if both maps are
        constant, which is no change, and 0 if one of them is. NaN where a map holds NaN or an infinite value.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> a = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> rank_correlation(a, torch.tensor([[[10.0, 100.0, 0.0, 1000.0]]]))
        tensor([0.4000], dtype=torch.float64)
    """
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must have one shape, were {tuple(a.shape)} and {tuple(b.shape)}")
    first, second = _centred_ranks(a.flatten(1)), _centred_ranks(b.flatten(1))
    # Ranks are halves of whole numbers, so all sums are exact, and the root of a square is.
    spread = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    constant_both = (first == 0).all(dim=1) & (second == 0).all(dim=1)
    correlation = (first * second).sum(dim=1) / torch.where(spread == 0, 1, spread)
    return nan_where(torch.where(constant_both, 1.0, correlation), invalid_maps(a) | invalid_maps(b))


def shuffle_layer(layer: nn.Module, name: str, *, seed: int = 0) -> None:
    """Put the values of each of a layer's own parameters into a random order, in place.

    The permutation is keyed by (seed, name of the parameter). Parameters of modules inside the layer, and buffers,
    stay.

    Args:
        layer: whose parameters to shuffle.
        name: of the layer in its model, as in `named_modules`.
        seed: seed of the permutation.

    Example:
        >>> layer = nn.Linear(40, 1)
        >>> before = layer.weight.detach().clone()
        >>> shuffle_layer(layer, "head")
        >>> bool((layer.weight == before).all()), bool((layer.weight.sort().values == before.sort().values).all())
        (False, True)
    """
    with torch.no_grad():
        for own, parameter in layer.named_parameters(recurse=False):
            order = _permutation(parameter.numel(), f"{name}.{own}", seed=seed, device=parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


@dataclass(frozen=True)
class ParameterRandomization(Metric):
    """Parameter randomisation: rank correlation of heatmaps before and after the weights are shuffled; lower is better.

    An explanation of what a model has learned must change when that is destroyed. The layers, modules with parameters
    of their own in the order in which the model holds them, are randomised from the output back:

    * `"cascading"`: the first, the first two, … all of them; over the share of layers that are randomised;
    * `"independent"`: each alone, the others as they were; over its place, 1 / L for the last layer, 1 for the first.

    Both are curves of Spearman's correlation between the heatmaps (`rank_correlation`), in [-1, 1];
    `"cascading_mean"` and `"independent_mean"` are their means. The class explained is that of the model as it was.

    An explainer that does not look at the model scores 1, the worst value. A map that is constant before says nothing
    that could change: it scores 1 and is degenerate. One that becomes constant scores 0.

    Departs from Adebayo et al., who draw new weights as at the start of training, by putting the weights of each
    parameter into a random order: their distribution, and with it the size of activations, stays. Running statistics
    of batch norm stay too. A parameter whose values are all equal does not change.

    Attributes:
        n_layers: how many layers to take, evenly spaced and the farthest from the output among them; cascading always
            randomises those between as well. `None` takes all. Every layer costs two explanations of each sample.
        absolute: compare the magnitudes of heatmaps.
        target: class explained, `"predicted"` or `"label"`.

    Example:
        >>> ParameterRandomization(n_layers=5).facts("cascading_mean").higher_is_better
        False
    """

    name: ClassVar[str] = "parameter_randomization"
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    chance: ClassVar[float | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"explainer", "parameters"})
    reference: ClassVar[str] = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"

    n_layers: int | None = None
    absolute: bool = False
    target: TargetRule = "predicted"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if self.n_layers is not None and self.n_layers < 1:
            raise ValueError(f"`n_layers` must be at least 1, or none for all, was {self.n_layers}")
        check_choice("target", self.target, ("predicted", "label"))

    def score(self, evidence: Evidence) -> dict[str, Scores]:
        """Score every sample of the batch: two curves and their means."""
        before = self._compared(evidence.heatmaps(self.target))
        scores: dict[str, Scores] = {}
        for mode, shuffled in (("cascading", _cascading), ("independent", _independent)):
            model = deepcopy(evidence.model)  # the model under test stays as it is
            layers = _layers(model)
            chosen = _evenly(len(layers), self.n_layers)
            curve = self._curve(evidence, before, model, shuffled(layers, chosen, seed=evidence.seed))
            steps = tuple(place / len(layers) for place in chosen)
            scores |= _scores(mode, curve, before, steps=steps)
        return scores

    def _curve(self, evidence: Evidence, before: Tensor, model: nn.Module, states: Iterator[None]) -> Tensor:
        """`(B, S)` correlations, one column for each state that `states` brings `model` into."""
        columns: list[Tensor] = []
        for _ in states:
            with evidence.through(model) as other:
                columns.append(rank_correlation(before, self._compared(self._explain(evidence, other))))
        return torch.stack(columns, dim=1)

    def _explain(self, evidence: Evidence, other: Evidence) -> Tensor:
        """`(B, H, W)` heatmaps of another model, for the classes that were explained before."""
        batch, targets = evidence.batch, evidence.targets(self.target)

        def build(rows: Tensor) -> Inputs:
            masks = None if batch.masks is None else batch.masks[rows]
            return Inputs(batch.images[rows], targets[rows], batch.keys[rows], masks)

        return torch.cat([maps for _, maps in other.explain(len(batch), build)])

    def _compared(self, maps: Tensor) -> Tensor:
        return maps.abs() if self.absolute else maps


def _scores(mode: str, curve: Tensor, before: Tensor, *, steps: tuple[float, ...]) -> dict[str, Scores]:
    """A curve of one mode and its mean; a map that is constant before scores 1 throughout."""
    constant = (before == before[:, :1, :1]).flatten(1).all(dim=1)
    invalid = invalid_maps(before) | curve.isnan().any(dim=1)
    status = status_of(len(before), before.device, degenerate=constant, invalid=invalid)
    values = nan_where(torch.where(constant[:, None], 1.0, curve), status >= Status.NO_TRUTH)
    return {mode: Scores(values, status, steps=steps), f"{mode}_mean": Scores(values.mean(dim=1), status)}


def _centred_ranks(values: Tensor) -> Tensor:
    """`(B, N)` float64 average ranks of `(B, N)` values, less their mean."""
    ordered, place = values.sort(dim=1)
    size = values.shape[1]
    position = torch.arange(size, device=values.device)
    differs = ordered[:, 1:] != ordered[:, :-1]
    below = F.pad(torch.where(differs, position[1:], 0), (1, 0)).cummax(dim=1).values
    not_above = F.pad(torch.where(differs, position[1:], size), (0, 1), value=size).flip(1).cummin(dim=1).values.flip(1)
    return torch.empty_like(ordered, dtype=torch.float64).scatter_(1, place, (below + not_above - size).double() / 2)


def _permutation(size: int, name: str, *, seed: int, device: torch.device) -> Tensor:
    """`(size,)` int64: a random order, drawn piece by piece because the largest weights hold 10**8 numbers."""
    key = sample_keys([name], device)
    pieces = [
        uniform(seed, "parameter_randomization", key, piece, min(_PIECE, size - start))[0]
        for piece, start in enumerate(range(0, size, _PIECE))
    ]
    return torch.cat(pieces).argsort(stable=True)


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of everything with parameters of its own, from the output back."""
    layers = [(name, m) for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    if not layers:
        raise ValueError(f"`model` must have parameters to randomise; {type(model).__name__} has none")
    return layers[::-1]


def _evenly(count: int, wanted: int | None) -> list[int]:
    """Places, from 1 to `count`, of `wanted` evenly spaced layers; of all where there are no more."""
    number = count if wanted is None else min(wanted, count)
    return [-(-step * count // number) for step in range(1, number + 1)]


def _cascading(layers: list[tuple[str, nn.Module]], chosen: list[int], *, seed: int) -> Iterator[None]:
    """Shuffle layer after layer, stopping at each chosen place."""
    for place, (name, layer) in enumerate(layers, start=1):
        shuffle_layer(layer, name, seed=seed)
        if place in chosen:
            yield


def _independent(layers: list[tuple[str, nn.Module]], chosen: list[int], *, seed: int) -> Iterator[None]:
    """Shuffle one chosen layer at a time, and put it back."""
    for place in chosen:
        name, layer = layers[place - 1]
        kept = [parameter.detach().clone() for parameter in layer.parameters(recurse=False)]
        shuffle_layer(layer, name, seed=seed)
        yield
        with torch.no_grad():
            for parameter, values in zip(layer.parameters(recurse=False), kept, strict=True):
                parameter.copy_(values)
