"""Parameter randomisation: rank correlation, shuffled layers, and the metric."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from interpeval.baselines.edges import Edges
from interpeval.metrics import parameter_randomization
from interpeval.metrics.base import Scores, Status
from interpeval.metrics.parameter_randomization import ParameterRandomization, rank_correlation, shuffle_layer
from invariance import assert_a_nan_stays_in_its_row, assert_blind_to_the_batch, draws_decide, pictures
from small_subject import FromImage, Grad, see


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score(metric: ParameterRandomization, explainer: object, **options: object) -> dict[str, Scores]:
    return metric.score(see(explainer, **options))  # type: ignore[arg-type]


# --- rank_correlation ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), levels=st.integers(2, 30))
@settings(deadline=None, max_examples=30)
def test_rank_correlation_is_that_of_scipy_with_and_without_ties(seed: int, levels: int) -> None:
    a, b = (noise(2, 3, 5, 6, seed=seed) * levels / 4).round()
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected, atol=1e-12)


def test_rank_correlation_by_hand() -> None:
    """Without ties, 1 - 6 Σ d² / (n (n² - 1)): here d² sum to 2, 20 and 0."""
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).repeat(3, 1, 1)
    b = torch.tensor([[[0.0, 9.0, 5.0, 99.0]], [[4.0, 3.0, 2.0, 1.0]], [[-9.0, 0.0, 1e-9, 1e9]]])
    assert rank_correlation(a, b).tolist() == pytest.approx([0.8, -1.0, 1.0], abs=1e-15)


def test_maps_of_one_order_correlate_exactly() -> None:
    maps = noise(8, 31, 37).double()  # whose third powers differ where they do
    assert rank_correlation(maps, 3 * maps**3 - 1).tolist() == [1.0] * 8
    assert rank_correlation(maps, -maps).tolist() == [-1.0] * 8


def test_constant_maps_and_nan() -> None:
    maps = noise(5, 4, 4)
    other = noise(5, 4, 4, seed=1)
    maps[:2] = 7.0
    other[1:3] = -2.0
    maps[3, 0, 0] = torch.nan
    other[4, 0, 0] = torch.inf
    np.testing.assert_equal(rank_correlation(maps, other).numpy(), [0, 1, 0, np.nan, np.nan])


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="`a` and `b` must have one shape"):
        rank_correlation(torch.ones(1, 2, 2), torch.ones(1, 2, 3))


# --- shuffle_layer ------------------------------------------------------------------------------------------------


def test_shuffling_keeps_the_values_and_moves_them() -> None:
    layer = nn.Conv2d(3, 8, 3)
    before = copy.deepcopy(layer)
    shuffle_layer(layer, "conv")
    for old, new in zip(before.parameters(), layer.parameters(), strict=True):
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
        assert float((old == new).double().mean()) < 0.4
    assert layer.weight.requires_grad


def test_shuffling_belongs_to_the_seed_and_the_name_and_not_to_the_global_generator() -> None:
    layers = [nn.Linear(40, 1) for _ in range(4)]
    for layer, (name, seed) in zip(layers, (("a", 0), ("a", 0), ("b", 0), ("a", 1)), strict=True):
        layer.load_state_dict({"weight": torch.arange(40.0)[None], "bias": torch.zeros(1)})
        state = torch.get_rng_state()
        shuffle_layer(layer, name, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
    first, again, other_name, other_seed = (layer.weight for layer in layers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other_name)
    assert not torch.equal(first, other_seed)


def test_only_parameters_of_the_layer_itself_are_shuffled() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    model[1].running_mean = torch.arange(4.0)
    before = copy.deepcopy(model.state_dict())
    shuffle_layer(model, "")
    shuffle_layer(model[1], "1")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_order_is_equally_likely() -> None:
    counts = torch.zeros(9)
    layer = nn.Linear(3, 1, bias=False)
    for seed in range(600):
        layer.weight.data = torch.arange(3.0)[None]
        shuffle_layer(layer, "x", seed=seed)
        a, b, _ = layer.weight[0].tolist()
        counts[int(3 * a + b)] += 1
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3
    assert int((counts > 0).sum()) == 6


def test_a_large_weight_is_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_randomization, "_PIECE", 16)
    layer = nn.Linear(50, 1, bias=False)
    layer.weight.data = torch.arange(50.0)[None]
    shuffle_layer(layer, "x")
    assert layer.weight[0].sort().values.tolist() == list(range(50))
    moved = layer.weight[0].argsort()
    assert not torch.equal(moved[:16].argsort(), moved[16:32].argsort())  # the pieces draw different numbers


# --- the metric ---------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Four layers with parameters, held in the order in which they are called, with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1))
        self.head = nn.Linear(4, 3)
        for number, weight in enumerate(self.parameters()):
            weight.data = noise(*weight.shape, seed=number)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.body(inputs)
        logits: Tensor = self.head(hidden.relu().mean(dim=(2, 3)))
        return logits


LAYERS = ("head", "body.3", "body.1", "body.0")  # from the output back


def expected(model: nn.Module, names: tuple[str, ...], *, absolute: bool = False, seed: int = 0) -> list[float]:
    """The correlations with these layers shuffled, from the definition."""
    batch, other = pictures(), copy.deepcopy(model)
    for name in names:
        shuffle_layer(other.get_submodule(name), name, seed=seed)
    targets = model(batch.images).argmax(dim=1)
    before, after = (Grad().attribute(m, batch.images.clone(), targets).sum(dim=1) for m in (model, other))
    if absolute:
        before, after = before.abs(), after.abs()
    return [float(stats.spearmanr(x.flatten(), y.flatten()).statistic) for x, y in zip(before, after, strict=True)]


@pytest.mark.parametrize("absolute", [False, True])
def test_the_curves_are_their_definition(absolute: bool) -> None:
    model = Deep()
    scores = score(ParameterRandomization(absolute=absolute), Grad(), batch=pictures(), model=model, seed=3)
    assert scores["cascading"].steps == scores["independent"].steps == (0.25, 0.5, 0.75, 1.0)
    for mode, states in (
        ("cascading", [LAYERS[: place + 1] for place in range(4)]),
        ("independent", [LAYERS[place : place + 1] for place in range(4)]),
    ):
        curve = np.array([expected(model, names, absolute=absolute, seed=3) for names in states]).T
        np.testing.assert_allclose(scores[mode].values, curve, atol=1e-3)
        np.testing.assert_allclose(scores[f"{mode}_mean"].values, curve.mean(axis=1), atol=1e-3)
    assert not np.allclose(scores["cascading"].values[:, 1:], scores["independent"].values[:, 1:], atol=0.05)


@pytest.mark.parametrize(("n_layers", "places"), [(1, [4]), (2, [2, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])])
def test_evenly_spaced_layers_are_points_of_the_whole_curves(n_layers: int, places: list[int]) -> None:
    options = {"batch": pictures(), "model": Deep()}
    whole = score(ParameterRandomization(), Grad(), **options)
    part = score(ParameterRandomization(n_layers=n_layers), Grad(), **options)
    for mode in ("cascading", "independent"):
        assert part[mode].steps == tuple(place / 4 for place in places)
        torch.testing.assert_close(part[mode].values, whole[mode].values[:, [place - 1 for place in places]])


def test_an_explainer_that_does_not_look_at_the_model_scores_exactly_1() -> None:
    for explainer in (Edges(), FromImage(lambda inputs: inputs)):
        scores = score(ParameterRandomization(), explainer, batch=pictures(), model=Deep())
        assert all(bool((each.values == 1).all()) for each in scores.values())
        assert all(each.status.tolist() == [Status.OK] * 5 for each in scores.values())
    looks = score(ParameterRandomization(), Grad(), batch=pictures(), model=Deep())
    assert float(looks["cascading_mean"].values.max()) < 0.9


def test_a_constant_map_scores_worst_and_is_degenerate() -> None:
    for value in (0.0, 0.3):
        constant = FromImage(lambda inputs, value=value: torch.full_like(inputs[:, :1], value))
        scores = score(ParameterRandomization(), constant)
        assert all(bool((each.values == 1).all()) for each in scores.values())
        assert all(each.status.tolist() == [Status.DEGENERATE] * 5 for each in scores.values())


class ConstantFor(Grad):
    """Gradient times input of one model; a constant map for every other."""

    def __init__(self, model: nn.Module) -> None:
        self.weight = model.head.weight.detach().clone()  # type: ignore[union-attr, operator]

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = super().attribute(model, inputs, targets)
        return maps if torch.equal(model.head.weight, self.weight) else torch.zeros_like(maps)  # type: ignore[union-attr, arg-type]


def test_a_map_that_becomes_constant_scores_0() -> None:
    model = Deep()
    scores = score(ParameterRandomization(), ConstantFor(model), batch=pictures(), model=model)
    assert scores["cascading"].values.tolist() == [[0.0] * 4] * 5
    assert scores["cascading"].status.tolist() == [Status.OK] * 5


class Noted(Grad):
    """Records the classes that are explained."""

    def __init__(self) -> None:
        self.targets: list[list[int]] = []

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.targets.append(targets[:5].tolist())
        return super().attribute(model, inputs, targets)


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_the_class_explained_stays_that_of_the_model_as_it_was(target: str) -> None:
    explainer, batch, model = Noted(), pictures(), Deep()
    evidence = see(explainer, batch=batch, model=model)
    ParameterRandomization(target=target).score(evidence)  # type: ignore[arg-type]
    classes = evidence.targets(target).tolist()  # type: ignore[arg-type]
    assert explainer.targets == [classes] * 9  # once before, and for four layers in each mode
    assert evidence.targets("predicted").tolist() != evidence.targets("label").tolist()


def test_the_model_under_test_stays_as_it_was() -> None:
    model = Deep()
    before, hooks = copy.deepcopy(model.state_dict()), len(model._forward_hooks)
    with see(Grad(), model=model) as evidence:
        ParameterRandomization().score(evidence)
        passes = evidence.spent().passes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(model._forward_hooks) == hooks
    # One prediction and one explanation of each sample, and eight explanations by other models.
    assert (passes.forward, passes.backward) == (5 + 5 + 8 * 5, 5 + 8 * 5)


def test_the_weights_are_those_of_the_seed_and_not_of_the_sample() -> None:
    assert draws_decide(ParameterRandomization(), "cascading") == (False, True)


def test_values_do_not_depend_on_the_batch() -> None:
    assert_blind_to_the_batch(ParameterRandomization(), atol=1e-3)  # ranks of near ties


def test_a_nan_stays_in_its_row() -> None:
    assert_a_nan_stays_in_its_row(ParameterRandomization())


def test_a_model_without_parameters_is_refused() -> None:
    class Bare(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.mean(dim=(2, 3))

    with pytest.raises(ValueError, match="`model` must have parameters to randomise; Bare has none"):
        score(ParameterRandomization(), FromImage(lambda inputs: inputs), model=Bare())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_layers": 0}, "`n_layers` must be at least 1"), ({"target": "none"}, "`target` must be")],
)
def test_a_wrong_configuration_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterRandomization(**options)  # type: ignore[arg-type]
