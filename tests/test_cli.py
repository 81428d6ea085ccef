"""The command line: exit codes, one clear line for bad input, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner, Result

from coco_files import annotation, written
from interpeval.bench.cli import main
from interpeval.bench.disagreement import disagreement_report
from interpreted import Interpreted
from small_subject import Pictures
from toys import network

HERE = Path(__file__).parent
TOYS = HERE / "toys.py"
TOY = ["--dataset", f"{TOYS}:Squares", "--model", f"{TOYS}:network", "--metric", "pointing_game", "--limit", "8"]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "metrics", "--json"],
        ["run", "--help"],
        ["train", "--help"],
        ["check", "--help"],
        ["compare", "--help"],
        ["disagree", "--help"],
        ["--version"],
    ],
)
def test_answers_without_importing_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom interpeval.bench.cli import main\n"
        f"sys.argv = ['interpeval', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == "False"
    assert done.stdout


def test_lists_every_metric_with_what_a_reader_must_know() -> None:
    listed = {item["name"]: item for item in json.loads(call("list", "metrics", "--json").output)}
    assert listed["negative_quadrants_heatmap"]["chance"] == 0.75
    assert listed["negative_quadrants_heatmap"]["higher_is_better"] is False
    assert listed["content_heatmap"]["range"] == [0.0, 1.0]
    assert listed["cost"]["range"] == [0.0, None]
    assert listed["pointing_game"]["needs"] == ["explainer", "masks"]
    assert all({"version", "reference", "summary"} <= item.keys() for item in listed.values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dataset", "digit_scene"], "unknown dataset `digit_scene`: did you mean `digit_scenes`"),
        (["--explainer", "gradcamm"], "unknown explainer `gradcamm`: did you mean `gradcam`"),
        (["--metric", "pointing"], "unknown metric `pointing`: did you mean `pointing_game`"),
        (["--model", "cifarcnn"], "unknown model `cifarcnn`: did you mean `cifar_cnn`"),
        (["quickstrat"], "unknown suite `quickstrat`: did you mean `quickstart`"),
        (["--explainer", "integrated_gradients?steps=3"], "n_steps"),
        (["--dataset", "digits?splt=test"], "dataset `digits` has no argument `splt`: did you mean `split`"),
        (["--metric", "self_consistency?draws=1"], "metric `self_consistency` has no argument `draws`"),
        (["--explainer", "nowhere/file.py:Mine"], "file `nowhere/file.py` does not exist"),
        (["--explainer", "captum.attr.Salience"], "Saliency"),
        (["--explainer", "no_such_package:Mine"], "cannot import `no_such_package`"),
        (["--model", "torchvision:resnet18"], "torchvision:resnet18@FILE"),
        (["--model", "cifar_cnn@missing.safetensors"], "weights file `missing.safetensors`"),
        (["--batch-size", "many"], "`--batch-size` must be `auto` or a whole number"),
        (["--device", "quantum"], '`device` must be "auto"'),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = call("run", *arguments)
    assert found.exit_code == 2
    (line,) = found.output.strip().splitlines()
    assert line.startswith("interpeval: ")
    assert expected in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--existing", "maybe"], ["--seed", "-1"], ["--no-such-flag"]])
def test_bad_options_exit_with_two(arguments: list[str]) -> None:
    assert call("run", *arguments).exit_code == 2


def test_a_name_with_a_line_break_does_not_look_like_another_message() -> None:
    found = call("run", "--explainer", "a\ninterpeval: all is well")
    assert found.exit_code == 2
    first, *others = found.output.splitlines()
    assert first.startswith("interpeval: `a")
    assert others
    assert all(line.startswith("  ") for line in others)


def test_a_broken_suite_file_names_every_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('name = "x"\n[[experiments]]\ndataset = "digits"\nmodle = "site"\nlimit = 0\n')
    found = call("run", "mine.toml")
    assert found.exit_code == 2
    assert "`experiments[0].modle`: unknown key, did you mean `model`?" in found.output
    assert "`experiments[0].limit`" in found.output
    assert "`experiments[0].explainers`" in found.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


def test_a_model_that_does_not_fit_the_dataset_is_refused(tmp_path: Path) -> None:
    found = call(
        "run",
        "--dataset",
        "digits",
        "--model",
        f"{TOYS}:network",
        "--explainer",
        "gradient",
        "--out",
        str(tmp_path / "out"),
    )
    assert found.exit_code == 2
    assert "`model` cannot take an image (1, 1, 28, 28) of dataset `digits`" in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "explainer",
    [
        f"{TOYS}:Plain",
        f"{TOYS}:plain_function",
        "captum.attr.Saliency",
        "captum.attr:InputXGradient",
        "gradient?reduction=sum",
    ],
)
def test_an_explainer_may_be_a_file_a_function_or_a_captum_class(tmp_path: Path, explainer: str) -> None:
    found = call("run", *TOY, "--explainer", explainer, "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert "pointing" in found.output
    assert (tmp_path / "leaderboard.csv").exists()


def test_faults_are_told_and_exit_with_three(tmp_path: Path) -> None:
    found = call(
        "run", *TOY, "--explainer", f"{TOYS}:RaisesForClassB", "--explainer", "gradient", "--out", str(tmp_path)
    )
    assert found.exit_code == 3
    assert "squares · RaisesForClassB: exception on 2 samples: RuntimeError: cannot explain b" in found.output
    assert "gradient" in (tmp_path / "leaderboard.csv").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["faults"][0]["ids"] == ["square-001", "square-005"]


def test_what_a_dataset_leaves_out_is_counted_and_told(tmp_path: Path) -> None:
    sizes, categories = {1: (16, 16), 2: (16, 16)}, [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path = written(tmp_path, [annotation(1, 1, 1), annotation(2, 2, 2)], sizes=sizes, categories=categories)
    (tmp_path / "002.png").write_bytes(b"no image")
    dataset = f"coco?images={tmp_path}&annotations={path}&size=16"
    arguments = ["run", "--dataset", dataset, "--model", f"{TOYS}:pair", "--explainer", "gradient", "--metric", "cost"]
    stopped = call(*arguments, "--out", str(tmp_path / "error"))
    assert stopped.exit_code == 3
    assert "a unit failed: " in stopped.output
    assert "002.png" in stopped.output
    assert "on_bad_sample=skip" in stopped.output
    found = call(*arguments, "--on-bad-sample", "skip", "--out", str(tmp_path / "out"))
    assert found.exit_code == 0, found.output
    assert "left out of coco: 1 × " in found.output
    assert sum(json.loads((tmp_path / "out" / "run.json").read_text())["left_out"]["coco"].values()) == 1


def test_weights_that_hold_code_are_read_only_if_trusted(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "a.pt")
    arguments = [*TOY[:2], "--model", f"{TOYS}:network@{tmp_path / 'a.pt'}", *TOY[4:], "--explainer", "gradient"]
    refused = call("run", *arguments, "--out", str(tmp_path / "out"))
    assert refused.exit_code == 2
    assert "holds more than tensors" in refused.output
    assert not (tmp_path / "out").exists()
    found = call("run", *arguments, "--out", str(tmp_path / "out"), "--trust")
    assert found.exit_code == 0, found.output


def test_downloads_happen_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: pytest.fail("it was not asked for"))
    arguments = ["run", "--dataset", f"mnist?root={tmp_path}", "--model", "cifar_cnn", "--explainer", "gradient"]
    found = call(*arguments)
    assert found.exit_code == 2
    assert str(tmp_path) in found.output
    assert "--download" in found.output
    asked = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: asked.append(Path(self.root)))
    assert call(*arguments, "--download").exit_code == 2  # nothing came
    assert asked == [tmp_path]


def test_scores_and_status_of_a_run(tmp_path: Path) -> None:
    call("run", *TOY, "--explainer", "gradient", "--out", str(tmp_path / "out"))
    found = call("scores", str(tmp_path / "out"), "--out", str(tmp_path / "scores.csv"))
    assert found.exit_code == 0
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "dataset,sample_id,model,explainer,explainer_params,metric,variant,step,value,status,mc_se"
    assert len(lines) == 1 + 6 * 8  # gradient and five controls, eight samples
    assert "6 of 6 units finished" in call("status", str(tmp_path / "out")).output
    assert call("status", str(tmp_path / "nowhere")).exit_code == 2


def test_disagreements_are_counted_and_written_as_by_the_report(tmp_path: Path) -> None:
    model, data = f"{HERE / 'interpreted.py'}:Interpreted", f"{HERE / 'small_subject.py'}:Pictures?count=200"
    asked = [
        "disagree",
        model,
        "--dataset",
        data,
        "--out",
        str(tmp_path / "found"),
        "--limit",
        "150",
        "--device",
        "cpu",
    ]
    found = call(*asked, "--space", "attributes", "--budget", "fast", "--seed", "3")
    assert found.exit_code == 0
    expected = disagreement_report(
        Interpreted(), Pictures(count=200), limit=150, space="attributes", budget="fast", seed=3, device="cpu"
    )
    assert len(expected.frame) > 0
    files = expected.save(tmp_path / "by_hand")
    first, *written_files = found.output.strip().splitlines()
    assert first.startswith(f"{len(expected.frame)} of 150 samples disagree; do they lie less deep: p = ")
    assert [Path(line).read_bytes() for line in written_files] == [file.read_bytes() for file in files]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("lenet", "model `lenet` must have an interpreter, as `flint` has: it has none"),
        ("flnt", "unknown model `flnt`: did you mean `flint`"),
        (f"{TOYS}:network", "`model` must have an interpreter"),
    ],
)
def test_models_without_an_interpreter_are_refused_and_nothing_is_written(
    tmp_path: Path, model: str, expected: str
) -> None:
    found = call("disagree", model, "--dataset", f"{TOYS}:Squares", "--out", str(tmp_path / "found"))
    assert found.exit_code == 2
    assert found.output.startswith("interpeval: ")
    assert expected in found.output
    assert list(tmp_path.iterdir()) == []


def test_the_example_in_the_readme_is_short_and_runs(tmp_path: Path) -> None:
    example = HERE.parent / "examples" / "my_explainer.py"
    lines = [
        line for line in example.read_text().splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))
    ]
    assert len(lines) < 10
    found = call("run", *TOY, "--explainer", f"{example}:MyExplainer", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
