"""The model FLINT: its networks, its loss, its interpreter and the explanation that it gives of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpeval.baselines import flint as flint_module
from interpeval.baselines.base import Interpretable, SelfExplaining
from interpeval.baselines.ensure import explainer_facts
from interpeval.baselines.flint import Flint, diversity_loss, output_fidelity_loss, weight_at
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.own import Own
from interpeval.baselines.relevance import relevance
from interpeval.bench import evaluate
from interpeval.bench.conformance import parametrize_with_checks
from interpeval.bench.resolve import resolve_explainer
from interpeval.bench.training import train
from interpeval.datasets.digits import Digits
from interpeval.datasets.part import Part
from reference import conciseness as slow_relevance
from reference import flint as slow

SMALL = (1, 8, 8)
DIGITS = Digits(split="train")
FULL: dict[str, Any] = {
    "reconstruction": [[1, 0.8]],
    "output_fidelity": [[3, 0.5]],
    "conciseness": [[3, 0.1]],
    "diversity": [[4, 0.2]],
    "released_diversity": [[5, 0.3]],
    "spread": 2.0,
}
ONLY_PREDICTION = {name: [[1, 0.0]] for name in FULL} | {"spread": 1.0}


def small_flint(form: str = "lenet", seed: int = 0, **options: Any) -> Flint:
    torch.manual_seed(seed)
    if form == "resnet":  # whose maps take a backward pass for each attribute
        options.setdefault("n_attributes", 4)
    return Flint(SMALL, 3, form=form, **options).eval()  # pyright: ignore[reportArgumentType]


def random_images(count: int, shape: tuple[int, int, int] = SMALL) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---------------------------------------------------------------------- networks


def test_the_network_for_mnist_has_the_published_numbers_of_parameters() -> None:
    model = Flint((1, 28, 28), 10)
    assert parameters_of(model.predictor) == 809_034
    assert parameters_of(model.attributes) == 32_921
    assert parameters_of(model.decoder) == 2_773
    assert parameters_of(model.interpreter) == 25 * 10 + 10


def test_the_network_for_quickdraw_has_the_published_layers() -> None:
    """Counted by hand: the convolutions of a ResNet-18 without biases and norms, and two linear layers."""
    model = Flint((1, 28, 28), 10, form="resnet")
    stages = 4 * 9 * 64 * 64
    for narrow, wide in ((64, 128), (128, 256), (256, 512)):
        stages += 9 * narrow * wide + 3 * 9 * wide * wide + narrow * wide
    assert parameters_of(model.predictor) == 9 * 64 + stages + (512 * 512 + 512) + (512 * 10 + 10)
    reading = (9 * 256 * 64 + 64) + (9 * 512 * 64 + 64) + (9 * 128 * 64 + 64) + (576 * 24 + 24)
    assert parameters_of(model.attributes) == reading
    restoring = (24 * 98 + 98) + (2 * 4 * 9 + 4) + (4 * 8 * 9 + 8) + (6272 * 784 + 784)
    assert parameters_of(model.decoder) == restoring
    shapes = [tuple(part.shape) for part in model.predictor.hidden(torch.zeros(2, 1, 28, 28))]
    assert shapes == [(2, 256, 7, 7), (2, 512, 4, 4), (2, 512, 4, 4)]


@pytest.mark.parametrize("form", ["lenet", "resnet"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 8)])
def test_any_size_that_is_a_multiple_of_4_is_restored_in_its_own_shape(form: Any, shape: tuple[int, int, int]) -> None:
    model, images = Flint(shape, 3, form=form, n_attributes=5).eval(), random_images(2, shape)
    found = model.interpret(images)
    assert [tuple(part.shape) for part in found] == [(2, 3), (2, 5), (5, 3)]
    assert model.decoder(found.activations).shape == images.shape


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 30, 28), {}, "`image_shape` must be"),
        ((1, 8, 8), {"form": "vgg"}, "`form` must be one of"),
        ((1, 8, 8), {"version": "preprint"}, "`version` must be one of"),
        ((1, 8, 8), {"n_attributes": 0}, "`n_attributes` must be at least 1, was 0"),
    ],
)
def test_impossible_options_are_refused(shape: tuple[int, int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flint(shape, 3, **options)


@pytest.mark.parametrize("shape", [(2, 1, 12, 8), (2, 3, 8, 8), (1, 8, 8)])
def test_inputs_of_another_size_are_refused_by_predictor_and_interpreter(shape: tuple[int, ...]) -> None:
    model = small_flint()
    for call in (model, model.interpret, model.attribute_maps):
        with pytest.raises(ValueError, match=r"`inputs` must be \(B, 1, 8, 8\), was"):
            call(torch.zeros(shape))


# ---------------------------------------------------------------------- the interpreter


@pytest.mark.parametrize("form", ["lenet", "resnet"])
def test_the_interpreter_is_linear_in_the_attributes(form: str) -> None:
    model = small_flint(form)
    assert isinstance(model, Interpretable)
    logits, activations, weights = model.interpret(random_images(4))
    torch.testing.assert_close(logits, activations @ weights + model.interpreter.bias)
    assert not torch.allclose(logits, model(random_images(4)), atol=1e-3)


def test_the_attributes_read_the_predictors_own_hidden_layers() -> None:
    """The interpreter has no other way to the image: without these layers, it says the same of every image."""
    for form, layers in (("lenet", ["features"]), ("resnet", ["stages", "last"])):
        model, images = small_flint(form), random_images(3)
        assert model.interpret(images).activations.std(dim=0).max() > 1e-5
        for layer in layers:
            for parameter in model.predictor.get_submodule(layer).parameters():
                parameter.data.zero_()
        assert model.interpret(images).activations.std(dim=0).max() < 1e-7


def test_the_engine_reads_fidelity_and_conciseness_from_it() -> None:
    torch.manual_seed(0)
    model = Flint((1, 28, 28), 10).eval()
    results = evaluate(
        model, Own(), "digits", metrics=["fidelity", "top_k_fidelity", "conciseness"], limit=16, device="cpu"
    )
    found = results.summary().set_index(["metric", "variant"])["value"]
    images = Digits().take(range(16)).images
    with torch.no_grad():
        predictor, (logits, activations, weights) = model(images), model.interpret(images)
    assert found["fidelity", ""] == (predictor.argmax(1) == logits.argmax(1)).double().mean().item()
    counts = [
        slow_relevance.conciseness(
            slow_relevance.relevance(row.numpy().astype(float), weights.numpy().astype(float), int(target)), 2.0
        )
        for row, target in zip(activations, logits.argmax(1), strict=True)
    ]
    curve = results.scores.query("metric == 'conciseness' and variant == 'curve' and step == 2.0")["value"]
    assert sorted(curve) == sorted(counts)


# ---------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("version", "epoch", "weights", "spread"),
    [
        ("paper", 1, (0.8, 0.0, 0.0, 0.0), 2.0),
        ("paper", 3, (0.8, 0.5, 0.1, 0.0), 2.0),
        ("paper", 4, (0.8, 0.5, 0.1, 0.2), 2.0),
        ("released", 4, (0.8, 0.5, 0.1, 0.0), 1.0),
        ("released", 5, (0.8, 0.5, 0.1, 0.3), 1.0),
        ("paper", None, (0.8, 0.5, 0.1, 0.2), 2.0),
        ("released", None, (0.8, 0.5, 0.1, 0.3), 1.0),
    ],
)
def test_the_loss_is_the_published_one_restated(
    version: Any, epoch: int | None, weights: tuple[float, ...], spread: float
) -> None:
    model, images, labels = small_flint(version=version).double(), random_images(5).double(), torch.arange(5) % 3
    if epoch is not None:
        model.begin_epoch(epoch, FULL, DIGITS)
    with torch.no_grad():
        loss, logits = model.training_loss(images, labels, FULL)
        found, predicted = model.interpret(images), model(images)
        restored = model.decoder(found.activations).numpy()
    terms = (
        slow.mean_square(restored, images.numpy()),
        slow.output_fidelity(predicted.tolist(), found.logits.tolist()),
        slow.mean_magnitude(found.activations.tolist()),
        slow.diversity(found.activations.tolist(), spread),
    )
    expected = slow.cross_entropy(predicted.tolist(), labels.tolist())
    expected += sum(weight * term for weight, term in zip(weights, terms, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(logits, predicted)


def test_a_perfect_follower_costs_the_predictors_entropy_and_nobody_costs_less() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).double()
    own = sum(slow.entropy(row) for row in logits.tolist()) / 6
    assert output_fidelity_loss(logits, logits + 3).item() == pytest.approx(own)
    assert output_fidelity_loss(logits, 2 * logits).item() > own + 0.01
    assert output_fidelity_loss(logits, logits.flip(1)).item() > own + 0.01


def test_diversity_has_its_extremes_where_samples_use_one_attribute_each_or_all_alike() -> None:
    """Of four attributes: one each, taking turns (best); all the same (0); always the same one (0, at μ = 1)."""
    turns = 1000 * torch.eye(4)
    assert diversity_loss(turns).item() == pytest.approx(-math.log(4))
    assert diversity_loss(-turns).item() == pytest.approx(-math.log(4))
    assert diversity_loss(torch.ones(4, 4)).item() == pytest.approx(0, abs=1e-6)
    assert diversity_loss(turns[:1].expand(4, 4)).item() == pytest.approx(0, abs=1e-6)
    assert diversity_loss(torch.ones(4, 4), spread=2.0).item() == pytest.approx(-math.log(4))


def test_the_interpreter_follows_the_predictor_and_not_the_other_way_round() -> None:
    """No gradient of the output fidelity reaches the predictor's head; it reaches the layers that g reads."""
    model = small_flint()
    logits, found = model(random_images(4)), model.interpret(random_images(4))
    output_fidelity_loss(logits, found.logits).backward()
    assert all(parameter.grad is None for parameter in model.predictor.classifier.parameters())
    for part in (model.predictor.features, model.attributes, model.interpreter):
        assert all((parameter.grad != 0).any() for parameter in part.parameters())


@pytest.mark.parametrize("form", ["lenet", "resnet"])
def test_each_term_reaches_what_it_is_to_train_and_nothing_else(form: str) -> None:
    parts = ("predictor", "attributes", "decoder", "interpreter")
    reached = {
        "prediction": {"predictor"},
        "reconstruction": {"predictor", "attributes", "decoder"},
        "output_fidelity": {"predictor", "attributes", "interpreter"},
        "conciseness": {"predictor", "attributes"},
        "diversity": {"predictor", "attributes"},
    }
    images, labels = random_images(4), torch.tensor([0, 1, 2, 0])
    for term, expected in reached.items():
        model = small_flint(form)
        plain, _ = model.training_loss(images, labels, ONLY_PREDICTION)
        loss = plain
        if term != "prediction":
            loss = model.training_loss(images, labels, ONLY_PREDICTION | {term: [[1, 1.0]]})[0] - plain
        loss.backward()
        found = {
            part
            for part in parts
            if any(p.grad is not None and p.grad.abs().max() > 0 for p in model.get_submodule(part).parameters())
        }
        if term != "prediction":  # the difference of two equal terms is exact but for rounding
            head = model.predictor.classifier.parameters()
            assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in head)
        assert found == expected, term


def test_dropout_acts_in_training_only() -> None:
    model, images = small_flint(), random_images(4)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5, 0.01]


def test_the_training_loop_tells_it_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []

    def remember(schedule: Any, epoch: int | None) -> float:
        told.append(epoch)
        return weight_at(schedule, epoch)

    monkeypatch.setattr(flint_module, "weight_at", remember)
    few = Part.spread(DIGITS, 20)
    recipe = {**Flint.recipe("digits"), "epochs": 4, "batch_size": 10, "threads": 1}
    model = train(Flint((1, 28, 28), 10), few, seed=0, recipe=recipe, progress=False)
    assert told == [epoch for epoch in (1, 2, 3, 4) for _ in range(2 * 4)]  # two steps, four terms
    assert not model.training


def test_recipes_hold_the_published_weights() -> None:
    mnist, quickdraw = Flint.recipe("mnist"), Flint.recipe("quickdraw")
    assert Flint.recipe("fashion_mnist") == mnist
    facts = ("epochs", "batch_size", "learning_rate", "optimizer", "schedule")
    assert [mnist[fact] for fact in facts] == [12, 16, 1e-4, "adam", "constant"]
    assert [quickdraw[fact] for fact in facts] == [12, 64, 1e-4, "adam", "constant"]
    terms = ("reconstruction", "output_fidelity", "conciseness", "diversity", "released_diversity")

    def course(recipe: Any, term: str) -> list[float]:
        return [weight_at(recipe[term], epoch) for epoch in range(1, 7)]

    assert [course(mnist, term) for term in terms] == [
        [0.8] * 6, [0, 0] + [0.5] * 4, [0, 0] + [0.1] * 4, [0] * 3 + [0.2] * 3, [0] * 4 + [0.2] * 2,
    ]  # fmt: skip
    assert [course(quickdraw, term) for term in terms] == [
        [5.0] * 6, [0, 0] + [0.1] * 4, [0, 0.02] + [0.3] * 4, [0] * 3 + [0.1] * 3, [0] * 3 + [0.1] * 3,
    ]  # fmt: skip
    assert (mnist["spread"], quickdraw["spread"]) == (1.0, 2.0)


def test_a_handful_of_samples_is_learnt_by_predictor_interpreter_and_decoder() -> None:
    bars = torch.zeros(3, *SMALL)
    bars[0, 0, 1, 1:7], bars[1, 0, 2:6, 2:6], bars[2, 0, 1:7, 3] = 1, 1, 1
    model, labels = small_flint(seed=1), torch.arange(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    recipe = FULL | {"conciseness": [[1, 0.01]]}
    model.train()
    for _ in range(250):
        loss, _ = model.training_loss(bars.repeat(4, 1, 1, 1), labels.repeat(4), recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model.interpret(bars)
        assert torch.equal(model(bars).argmax(1), labels)
        assert torch.equal(found.logits.argmax(1), labels)
        distances = (model.decoder(found.activations)[:, None] - bars[None]).square().mean((2, 3, 4))
    assert torch.equal(distances.argmin(1), labels)


# ---------------------------------------------------------------------- its own explanation


def test_the_explanation_is_the_sum_of_gradients_weighted_by_relevance() -> None:
    """Restated attribute by attribute, with numerical gradients."""
    model, images, targets = small_flint().double(), random_images(2).double(), torch.tensor([2, 0])
    with torch.no_grad():
        _, activations, weights = model.interpret(images)
        step, slopes = 1e-6, torch.zeros(2, 25, 64, dtype=torch.float64)
        for pixel in range(64):
            moved = torch.zeros(64, dtype=torch.float64)
            moved[pixel] = step
            up, down = (model.interpret(images + sign * moved.view(SMALL)).activations for sign in (1, -1))
            slopes[:, :, pixel] = (up - down) / (2 * step)
    expected = torch.zeros(2, 64, dtype=torch.float64)
    for sample in range(2):
        shares = slow_relevance.relevance(activations[sample].numpy(), weights.numpy(), int(targets[sample]))
        for attribute, share in enumerate(shares):
            expected[sample] += share * slopes[sample, attribute]
    found = model.attribute(images, targets)
    assert isinstance(model, SelfExplaining)
    torch.testing.assert_close(found, expected.view(2, *SMALL), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(model.attribute_maps(images).flatten(2), slopes, rtol=1e-4, atol=1e-8)


def test_the_explanation_of_the_residual_form_weighs_its_guided_maps() -> None:
    model, images, targets = small_flint("resnet", seed=3), random_images(2), torch.tensor([2, 0])
    maps, found = model.attribute_maps(images), model.interpret(images)
    shares = relevance(found.activations, found.weights, targets)
    expected = sum(shares[:, j, None, None, None] * maps[:, j] for j in range(4))
    torch.testing.assert_close(model.attribute(images, targets).double(), expected, rtol=1e-4, atol=1e-9)


class _Guided(torch.autograd.Function):
    """ReLU with the guided rule, as an operation of its own."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(inputs)
        return inputs.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return gradients[0].clamp(min=0) * (inputs > 0)


class _GuidedReLU(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return _Guided.apply(inputs)


@pytest.mark.parametrize(("where", "same"), [("stages", True), ("stages last", False), ("stem stages", False)])
def test_guided_backpropagation_holds_inside_the_first_three_stages_only(where: str, same: bool) -> None:
    """Beside a network whose ReLUs are replaced by hand; with the rule elsewhere too, maps are others."""
    model, images = small_flint("resnet", seed=3).double(), random_images(2).double()
    maps = model.attribute_maps(images)
    plain = small_flint("resnet", seed=3).double()
    for part in where.split():
        for module in list(plain.predictor.get_submodule(part).modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.ReLU):
                    setattr(module, name, _GuidedReLU())
    leaf = images.clone().requires_grad_()
    activations = plain.interpret(leaf).activations
    expected = torch.stack(
        [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in activations.unbind(1)], dim=1
    )
    assert expected.abs().max() > 0
    assert torch.allclose(maps, expected, rtol=1e-9, atol=1e-15) == same


def test_a_sample_without_any_active_attribute_has_an_empty_explanation() -> None:
    model = small_flint("resnet")
    model.attributes.combine.bias.data.fill_(-100)
    assert not model.attribute(random_images(2), torch.tensor([0, 1])).any()


@pytest.mark.parametrize("form", ["lenet", "resnet"])
def test_an_explanation_does_not_depend_on_the_rest_of_the_batch(form: str) -> None:
    model, images, targets = small_flint(form), random_images(4), torch.tensor([0, 1, 2, 0])
    alone = torch.cat([model.attribute(images[i : i + 1], targets[i : i + 1]) for i in range(4)])
    whole = model.attribute(images, targets)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
    with torch.no_grad():
        assert torch.equal(model.attribute(images, targets), whole)
    assert not torch.allclose(model.attribute(images, (targets + 1) % 3), whole, rtol=0.1)


@pytest.mark.parametrize("form", ["lenet", "resnet"])
def test_methods_with_rules_for_relu_explain_the_predictor(form: str) -> None:
    """The interpreter's leaky ReLUs are none of their business."""
    model, images, targets = small_flint(form), random_images(2), torch.tensor([0, 2])
    alone = model.predictor
    alone.cam_layer = "features"  # pyright: ignore[reportAttributeAccessIssue]  # where the whole model has it
    names = ["guided_backprop", "deconvnet", "deeplift", "excitation_backprop", "fullgrad"]
    for name in [*names, "lrp"] if form == "lenet" else names:  # LRP takes no residual sums
        explainer = resolve_explainer(name)
        assert explainer_facts(explainer).name == name
        refuses = getattr(explainer, "refuses", None)
        assert refuses is None or refuses(model) is None
        found = explainer.attribute(model, images, targets)
        torch.testing.assert_close(found, explainer.attribute(alone, images, targets))


@parametrize_with_checks([Own(), GradCam()], small_flint(), random_images(4))
def test_its_explanations_conform(check: Any) -> None:
    check()


@parametrize_with_checks([Own()], small_flint("resnet"), random_images(4))
def test_explanations_of_the_residual_form_conform(check: Any) -> None:
    check()


def test_a_state_dict_restores_it_without_the_epoch() -> None:
    first, second, images = small_flint(seed=0), small_flint(seed=1), random_images(3)
    first.begin_epoch(2, FULL, DIGITS)
    assert not torch.equal(first.interpret(images).logits, second.interpret(images).logits)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))
    assert all(torch.equal(a, b) for a, b in zip(first.interpret(images), second.interpret(images), strict=True))
