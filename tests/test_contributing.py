"""The four examples of CONTRIBUTING.md do what it says: put in their places, they are found, trained and scored."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "baselines", "metrics", "leaderboards", "bench")

# What a contributor would try with the four files; runs in a process of its own, on the copied library.
SCRIPT = """
import doctest, importlib, json, sys
import torch
from interpeval.bench import catalog
from interpeval.bench.conformance import check_explainer
from interpeval.bench.evaluation import evaluate

torch.set_num_threads(1)
modules = [importlib.import_module(name) for name in sys.argv[1:]]
found = evaluate("linear", ["squared_gradient", "own"], "bars", ["gini_index", "accuracy"], device="cpu")
table = found.summary()
print(json.dumps({
    "listed": sorted(entry.module for kind in catalog.KINDS for entry in catalog.entries(kind).values()),
    "files": [module.__file__ for module in modules],
    "checks": [result.outcome for result in check_explainer("squared_gradient")],
    "doctests": [tuple(doctest.testmod(module)) for module in modules],
    "values": [[row["explainer"], row["metric"], row["value"]] for row in table.to_dict("records")],
}))
"""


def examples() -> dict[str, str]:
    """Path and source of every example, in the order of the text."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`(\w+/\w+\.py)`:\n\n```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with a copy of the library into which the examples are put."""
    folder = tmp_path_factory.mktemp("contributing")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "interpeval" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, source in examples().items():
        target = folder / "interpeval" / path
        assert not target.exists(), f"the example {path} has the name of a file of the library"
        target.write_text(source, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcome(library):
    """What the script printed."""
    modules = ["interpeval." + path.removesuffix(".py").replace("/", ".") for path in examples()]
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *modules],
        cwd=library,
        env={**os.environ, "PYTHONPATH": str(library), "INTERPEVAL_CACHE": str(library / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def value(outcome, explainer, metric):
    """The one value of this explainer and metric."""
    (found,) = [number for e, m, number in outcome["values"] if (e, m) == (explainer, metric)]
    return found


def test_there_is_one_example_of_each_kind():
    assert [path.split("/")[0] for path in examples()] == ["baselines", "baselines", "metrics", "datasets"]


def test_examples_are_found_by_their_place(outcome, library):
    for path, file in zip(examples(), outcome["files"], strict=True):
        assert Path(file) == library / "interpeval" / path
        assert path.removesuffix(".py").replace("/", ".") in outcome["listed"]


def test_examples_in_docstrings_hold(outcome):
    failures, attempts = zip(*outcome["doctests"], strict=True)
    assert failures == (0, 0, 0, 0)
    assert sum(attempts) == 2


def test_the_explainer_conforms(outcome):
    assert set(outcome["checks"]) == {"passed"}


def test_scores_are_those_known_by_hand(outcome):
    # The truth marks 16 of 256 pixels equally: 1 - 16/256. A constant map has no concentration.
    assert value(outcome, "truth", "gini_index") == pytest.approx(1 - 16 / 256, abs=1e-12)
    assert value(outcome, "uniform", "gini_index") == 0.0
    # The gradient of a linear model is its weights: the same map whatever the image. Its own explanation is 0 off the
    # bar, so it is at least as concentrated as the bar.
    assert value(outcome, "own", "gini_index") >= 1 - 16 / 256


def test_the_model_learned_the_dataset(outcome):
    """Chance is one half; the classes can be told apart by a linear model."""
    assert {number for _, metric, number in outcome["values"] if metric == "accuracy"} == {1.0}


def test_examples_obey_the_house_style(library):
    """Ruff finds nothing in the examples, and does find a planted fault."""
    paths = [library / "interpeval" / path for path in examples()]
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    clean = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    assert clean.returncode == 0, clean.stdout
    planted = library / "planted.py"
    planted.write_text("def undocumented(x):\n    return x\n", encoding="utf-8")
    assert subprocess.run([*command, planted], capture_output=True, check=False).returncode == 1
