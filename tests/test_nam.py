"""The model NAM: one curve for each pixel and class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interpeval.baselines.base import SelfExplaining
from interpeval.baselines.nam import Nam, varying_elements
from interpeval.baselines.own import Own
from interpeval.bench import evaluate
from interpeval.bench.conformance import parametrize_with_checks
from interpeval.bench.training import train
from interpeval.bench.weights import load, save
from interpeval.datasets.digits import Digits
from interpeval.datasets.part import Part
from reference import flint
from reference import nam as slow

SMALL = (2, 4, 3)
RECIPE = {"output_penalty": 0.7}


def small_nam(seed: int = 0, **options: Any) -> Nam:
    torch.manual_seed(seed)
    model = Nam(SMALL, 3, width=5, **options).eval()
    model.curves.bias.data = torch.tensor([0.5, -1.0, 2.0])
    model.curves.varies[[0, 7]] = False
    with torch.no_grad():
        model.curves.output.mul_(10)
    return model


def random_images(count: int) -> Tensor:
    return torch.rand(count, *SMALL, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("units", ["linrelu", "exu"])
def test_curves_and_loss_are_the_published_ones_restated(units: Any) -> None:
    model, images, labels = small_nam(units=units).double(), random_images(3).double(), torch.tensor([2, 0, 1])
    curves = [part.detach().numpy() for part in (model.curves.weight, model.curves.centre, model.curves.output)]
    varies, bias = model.curves.varies.tolist(), model.curves.bias.tolist()
    expected = [slow.contributions(row, *curves, varies, units=units) for row in images.flatten(1).tolist()]
    logits = [[bias[c] + sum(part[c] for part in row) for c in range(3)] for row in expected]
    found = model.contributions(images)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    loss, answer = model.training_loss(images, labels, RECIPE)
    torch.testing.assert_close(answer, torch.tensor(logits, dtype=torch.float64))
    squares = [value**2 for row in expected for part in row for value in part]
    penalty = 0.7 * sum(squares) / len(squares)
    assert loss.item() == pytest.approx(flint.cross_entropy(logits, labels.tolist()) + penalty)
    assert penalty > 1e-3


def test_attributions_add_up_to_the_logit_and_differ_from_contributions_by_an_even_share_of_the_bias() -> None:
    model, images, targets = small_nam(), random_images(4), torch.tensor([2, 0, 1, 2])
    rows, kept = torch.arange(4), model.curves.varies
    assert isinstance(model, SelfExplaining)
    with torch.no_grad():
        logits, own = model(images), model.attribute(images, targets).flatten(1)
        parts = model.contributions(images)[rows, :, targets]
    torch.testing.assert_close(own.sum(dim=1), logits[rows, targets])
    torch.testing.assert_close(parts.sum(dim=1), logits[rows, targets] - model.curves.bias[targets])
    share = (own - parts)[:, kept]
    torch.testing.assert_close(share, (model.curves.bias[targets] / 22)[:, None].expand(4, 22))
    assert not own[:, ~kept].any()


def test_what_a_pixel_adds_depends_on_nothing_but_its_own_value() -> None:
    model, images, targets = small_nam(), random_images(2), torch.tensor([1, 2])
    other = images.clone()
    other[:, 1, 2, 1] = 0.9 - other[:, 1, 2, 1]
    changed = model.attribute(images, targets) != model.attribute(other, targets)
    assert changed[:, 1, 2, 1].all()
    assert changed.sum() == 2


def test_pixels_that_never_vary_in_training_are_left_out_and_stay_so_in_a_state_dict() -> None:
    train = Digits(split="train")
    pixels = train.take(range(len(train))).images.flatten(1)
    expected = torch.tensor([len(set(column)) > 1 for column in pixels.T.tolist()])
    assert 0 < int((~expected).sum()) < 784
    torch.manual_seed(0)
    model = Nam((1, 28, 28), 10, width=2)
    assert model.curves.varies.all()
    model.begin_epoch(2, {}, train)
    assert model.curves.varies.all()
    model.begin_epoch(1, {}, train)
    assert torch.equal(model.curves.varies, expected)
    images = torch.rand(2, 1, 28, 28)
    assert (model.contributions(images).abs().amax(dim=(0, 2)) > 0).eq(expected)[~expected].all()
    again = Nam((1, 28, 28), 10, width=2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.curves.varies, expected)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_whether_a_pixel_varies_does_not_depend_on_the_batches_in_which_it_is_read() -> None:
    train = Digits(split="train")
    assert torch.equal(varying_elements(train, batch_size=100), varying_elements(train, batch_size=5000))


def test_exp_units_start_where_the_paper_says_and_answer_between_0_and_1() -> None:
    torch.manual_seed(0)
    curves = Nam((1, 28, 28), 10, units="exu").curves
    assert curves.weight.mean().item() == pytest.approx(4, abs=0.02)
    assert curves.weight.std().item() == pytest.approx(0.88 * 0.5, rel=0.02)  # 0.88: what is left within 2 deviations
    assert 3 <= curves.weight.min() < 3.01
    assert curves.centre.mean().item() == pytest.approx(0, abs=0.02)
    with torch.no_grad():
        curves.output.fill_(1.0)
        values = curves.eval()(torch.full((1, 784), 9.0))
    assert values.max().item() == pytest.approx(32)  # every unit is at its upper bound


def test_training_drops_units_and_whole_elements() -> None:
    model, images = Nam(SMALL, 3, width=5, dropout=0.5).train(), random_images(200)
    torch.manual_seed(0)
    silent = (model.contributions(images) == 0).all(dim=2).float().mean().item()
    quiet = (model.eval().contributions(images) == 0).all(dim=2).float().mean().item()
    assert silent > quiet + 0.3
    assert torch.equal(model(images), model(images))


def test_every_parameter_of_a_pixel_that_varies_is_trained_and_no_other() -> None:
    model = small_nam()
    model.training_loss(4 * random_images(50) - 2, torch.arange(50) % 3, RECIPE)[0].backward()
    kept = model.curves.varies
    for parameter in (model.curves.weight, model.curves.centre, model.curves.output):
        reached = parameter.grad.abs().flatten(1).amax(dim=1) > 0
        assert torch.equal(reached, kept)
    assert (model.curves.bias.grad != 0).all()


def test_a_handful_of_samples_is_learnt() -> None:
    images, labels = random_images(6), torch.tensor([0, 1, 2, 2, 1, 0])
    for units in ("linrelu", "exu"):
        torch.manual_seed(0)
        model = Nam(SMALL, 3, units=units, width=16, dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(200):
            loss, _ = model.training_loss(images, labels, {"output_penalty": 1e-3})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert torch.equal(model(images).argmax(1), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "tanh"}, "`units` must be one of"),
        ({"width": 0}, "`width` must be at least 1"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, was 1.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Nam(SMALL, 3, **options)


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`inputs` must be \(B, 2, 4, 3\), was \(2, 1, 4, 6\)"):
        small_nam()(torch.zeros(2, 1, 4, 6))


def test_it_is_trained_without_the_pixels_that_do_not_vary_and_read_back_from_its_file(tmp_path: Path) -> None:
    few = Part.spread(Digits(split="train"), 40)
    model = train(
        Nam((1, 28, 28), 10, width=2), few, seed=0, recipe={**Nam.recipe("digits"), "epochs": 1}, progress=False
    )
    assert torch.equal(model.curves.varies, varying_elements(few))
    save(model, tmp_path / "nam.safetensors", {})
    again = Nam((1, 28, 28), 10, width=2).eval()
    load(again, tmp_path / "nam.safetensors")
    images = few.take([0, 1]).images
    assert torch.equal(again(images), model(images))


def test_the_engine_finds_that_its_explanation_is_complete() -> None:
    torch.manual_seed(0)
    model = Nam((1, 28, 28), 10)
    model.curves.bias.data.uniform_(-3, 3)
    results = evaluate(model.eval(), Own(), "digits", metrics=["completeness"], limit=8, device="cpu").summary()
    own = results[results["explainer"] == "own"]
    assert own["value"].tolist() == pytest.approx([0], abs=1e-5)
    assert own["n"].tolist() == [8]


@parametrize_with_checks([Own()], small_nam(), random_images(4))
def test_its_explanation_conforms(check: Any) -> None:
    check()
