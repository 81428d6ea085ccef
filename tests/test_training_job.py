"""`interpeval train`: the file it writes, what it refuses, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from interpeval.baselines.decision_tree import DecisionTree
from interpeval.bench import training, weights
from interpeval.bench.cli import main
from interpeval.bench.training_job import changed_recipe
from interpeval.datasets.part import Part
from toys import Squares
from trained_toys import Dropped, Hooked, Means

HERE = Path(__file__).parent
MODELS = HERE / "trained_toys.py"
SQUARES = f"{HERE / 'toys.py'}:Squares"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = loaded_class("Dropped")
    monkeypatch.setattr(loaded, "steps", 0)
    monkeypatch.setattr(loaded, "stop_at", 0)


def loaded_class(name: str) -> Any:
    """The class as the command loads it: by its file, which is another module than the test's."""
    from interpeval.bench.catalog import load, parse

    return load("models", parse(f"{MODELS}:{name}"))


def call(model: str, *arguments: str, dataset: str = SQUARES, out: str = "a.safetensors") -> Result:
    place = f"{MODELS}:{model}" if model[0].isupper() else model
    command = ["train", place, "--dataset", dataset, "--out", out, *arguments]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def facts() -> dict[str, Any]:
    return weights.facts_of(Path("a.safetensors"))


def test_the_file_holds_the_weights_of_the_training_loop_and_says_how_they_came_about() -> None:
    found = call("Dropped?width=3", "--seed", "5", "--epochs", "2", "--set", "dropout=0.5", "--limit", "10")
    assert found.exit_code == 0, found.output
    part = Part.spread(Squares(split="train"), 10)
    recipe = {**Dropped.recipe("squares"), "epochs": 2, "dropout": 0.5}
    model = training.build(Dropped, part, 5, {"width": 3})
    training.train(model, part, seed=5, recipe=recipe, progress=False)
    accuracy = training.accuracy(model, Squares())
    recorded = facts()
    assert recorded.pop("source")
    assert recorded == {
        "model": "dropped", "options": {"width": 3}, "dataset": "squares", "revision": part.revision, "limit": 10,
        "recipe": recipe, "seed": 5, "start": None, "threads": 1, "precision": "fp32", "device": "cpu",
        "torch": torch.__version__, "accuracy": accuracy, "digest": weights.digest(model),
    }  # fmt: skip
    assert f"accuracy {accuracy:.4f} (the 40 samples of squares (test))" in found.output
    assert weights.digest(model) in found.output
    assert [path.name for path in Path().iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("model", ["Dropped", "Hooked"])
def test_an_interrupted_command_is_resumed_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    assert call(model, out="whole.safetensors").exit_code == 0
    loaded = loaded_class("Dropped")
    monkeypatch.setattr(loaded, "steps", 0)
    monkeypatch.setattr(loaded, "stop_at", 8)  # of three epochs of five steps
    stopped = call(model)
    assert stopped.exit_code == 130
    assert "run the same command with --resume to go on" in stopped.output
    assert not Path("a.safetensors").exists()
    again = call(model)
    assert again.exit_code == 2
    assert "a.safetensors.checkpoint` is left from a training that was interrupted: give `--resume`" in again.output
    other = call(model, "--resume", "--seed", "1", "--set", "dropout=0.4")
    assert other.exit_code == 2
    assert "`recipe.dropout` was 0.3, is 0.4 now; `seed` was 0, is 1 now" in other.output
    assert call(model, "--resume").exit_code == 0
    assert facts() == weights.facts_of(Path("whole.safetensors"))
    assert not Path("a.safetensors.checkpoint").exists()


def test_an_interruption_before_the_first_checkpoint_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_class("Dropped"), "stop_at", 2)
    stopped = call("Dropped")
    assert stopped.exit_code == 130
    assert "No epoch was complete: nothing is kept." in stopped.output


def test_a_finished_file_is_never_written_over_and_resuming_it_is_done() -> None:
    first = call("Dropped").stdout
    before = Path("a.safetensors").read_bytes()
    again = call("Dropped")
    assert again.exit_code == 2
    assert "`a.safetensors` is there already" in again.output
    other = call("Dropped", "--resume", "--epochs", "4")
    assert other.exit_code == 2
    assert "of another training: `recipe.epochs` was 3, is 4 now" in other.output
    done = call("Dropped", "--resume")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == first.splitlines()[-1]
    assert Path("a.safetensors").read_bytes() == before


def test_training_may_start_from_weights_whose_options_it_takes_over() -> None:
    call("Dropped?width=6", out="start.safetensors")
    start = weights.facts_of(Path("start.safetensors"))
    assert call("Dropped@start.safetensors", "--epochs", "1").exit_code == 0
    assert facts()["options"] == {"width": 6}
    assert facts()["start"] == start["digest"] != facts()["digest"]


def test_weights_to_start_from_that_hold_code_need_trust() -> None:
    torch.save(training.build(Dropped, Squares(), 0), "start.pt")
    refused = call("Dropped@start.pt")
    assert refused.exit_code == 2
    assert "`--trust`" in refused.output
    assert call("Dropped@start.pt", "--trust").exit_code == 0


@pytest.mark.parametrize("model_class", [Means, Hooked])
def test_what_the_data_decided_is_in_the_file(model_class: Any) -> None:
    found = call(model_class.__name__)
    assert found.exit_code == 0, found.output
    training_part = Squares(split="train")
    model = training.build(model_class, training_part, 0)
    training.train(model, training_part, seed=0, recipe=model_class.recipe("squares"), progress=False)
    read = weights.load(training.build(model_class, training_part, 1), Path("a.safetensors"))
    assert weights.digest(read) == weights.digest(model)
    assert facts()["accuracy"] == training.accuracy(read, Squares())


def test_a_loss_that_is_not_finite_exits_with_three_and_keeps_the_checkpoint() -> None:
    found = call("Dropped", "--set", "optimizer=sgd", "--set", "schedule=steps", "--set", "milestones=[3]", "--set",
                 "factor=1e38", "--learning-rate", "0.1")  # fmt: skip
    assert found.exit_code == 3, found.output
    assert "must be finite" in found.output
    assert Path("a.safetensors.checkpoint").exists()


@pytest.mark.parametrize(
    ("model", "arguments", "expected"),
    [
        ("Dropped", ["--set", "epoch=3"], "the recipe of `dropped` has no `epoch`: did you mean `epochs`?"),
        (
            "Dropped",
            ["--set", "dropout=much"],
            "`dropout` of the recipe of `dropped` must be a number such as 0.3, was 'm",
        ),
        ("Dropped", ["--set", "dropout"], "`--set` must be KEY=VALUE, was `dropout`"),
        ("Dropped", ["--set", "epochs=3", "--epochs", "4"], "`epochs` of the recipe is given twice"),
        ("Dropped", ["--set", "schedule=steps"], "`milestones` of the recipe must be a list"),
        ("Dropped", ["--learning-rate", "-1"], "`learning_rate` of the recipe must be a positive number, was -1.0"),
        ("Dropped?wdth=3", [], "has no argument `wdth`: did you mean `width`?"),
        ("kmex?of=lenet", [], "must be trained as what it is made of: train `lenet`"),
        ("Means", ["--epochs", "3"], "the recipe of `means` has no `epochs`"),
        ("cifar_cnm", [], "did you mean `cifar_cnn`"),
        ("torchvision:resnet18@a.pth", [], "weights file `a.pth`"),
        ("Dropped@b.safetensors", [], "weights file `b.safetensors`"),
        ("Dropped", ["--out", "a.pt"], "`--out` must end in .safetensors, was `a.pt`"),
        ("Dropped", ["--dataset", "digit"], "unknown dataset `digit`"),
        ("Dropped", ["--device", "quantum"], "`device` must be"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(model: str, arguments: list[str], expected: str) -> None:
    found = call(model, *arguments)
    assert found.exit_code == 2
    assert expected in found.output.replace("\n", " ")
    assert list(Path().iterdir()) == []


def test_a_number_that_a_recipe_leaves_open_can_be_set() -> None:
    open_one = DecisionTree.recipe("digits")
    assert open_one["max_depth"] is None
    assert changed_recipe(DecisionTree, open_one, {"max_depth": 5}) == {**open_one, "max_depth": 5}
    with pytest.raises(
        ValueError, match="`min_samples_leaf` of the recipe of `decision_tree` must be a number such as 1"
    ):
        changed_recipe(DecisionTree, open_one, {"min_samples_leaf": None})


def test_a_model_without_a_recipe_is_refused() -> None:
    found = call(f"{HERE / 'toys.py'}:network")
    assert found.exit_code == 2
    assert "must have a `recipe` to be trained" in found.output
