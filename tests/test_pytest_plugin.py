"""The fixture `interpeval` in other people's tests, in a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from interpeval.leaderboards.baseline import Baseline, read_baseline, write_baseline

ROOT = Path(__file__).parents[1]
PLUGIN = "interpeval.bench.pytest_plugin"

SUBJECT = """
import torch
from torch import nn
from interpeval.datasets.digits import Digits

torch.set_num_threads(1)
torch.manual_seed(0)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
DIGITS = Digits()
METRICS = ["deletion", "self_consistency?n_draws=2"]


class Mine:
    name = "mine"
    sign = 1

    def attribute(self, model, inputs, targets):
        weights = model[1].weight[targets].view_as(inputs).detach()
        return self.sign * weights * inputs


class Buggy(Mine):
    sign = -1
"""
TESTS = """
from subject import DIGITS, METRICS, NETWORK, Buggy, Mine

BASELINE = "baselines/mine.csv"


def guard(interpeval, explainer, **options):
    return interpeval.assert_no_regression((NETWORK, explainer), DIGITS, METRICS, BASELINE, limit=12, **options)


def test_unchanged(interpeval):
    found = guard(interpeval, Mine())
    assert {one.test for one in found.findings} == {"exact"}


def test_reseeded(interpeval):
    assert "paired" in guard(interpeval, Mine(), seed=1).tests


def test_nothing_may_move(interpeval):
    guard(interpeval, Mine(), any_change=True)


def test_buggy(interpeval):
    guard(interpeval, Buggy())


def test_no_baseline(interpeval):
    interpeval.assert_no_regression((NETWORK, Mine()), DIGITS, METRICS, "baselines/none.csv")


def test_not_a_pair(interpeval):
    interpeval.assert_no_regression(NETWORK, DIGITS, METRICS, BASELINE)
"""


def registered() -> bool:
    """Whether this installation knows the plugin; one made before the plugin was there does not."""
    return any(entry.value == PLUGIN for entry in importlib.metadata.entry_points(group="pytest11"))


def run(folder, *arguments):
    """Run the tests of a folder in a pytest of their own; returns exit code and output."""
    loaded = [] if registered() else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *loaded, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_installation_will_know_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"interpeval": PLUGIN}


def test_starting_pytest_imports_no_torch():
    code = f"import sys, {PLUGIN}; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_baseline_is_made_guarded_and_rewritten(tmp_path):
    """One story, as every step needs the one before."""
    (tmp_path / "subject.py").write_text(SUBJECT, encoding="utf-8")
    (tmp_path / "test_mine.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", encoding="utf-8")
    path = tmp_path / "baselines" / "mine.csv"

    code, output = run(tmp_path, "test_mine.py::test_unchanged", "--interpeval-update")
    assert code == 1  # that test wants something to be compared with, which there is not yet
    assert "interpeval: baseline rewritten" in output
    assert "new (tests: none" in output
    before = read_baseline(path)

    # A row of somebody else's subject, which is nobody's business here.
    row, record = next(iter(before.records.items()))
    other = Baseline({row._replace(explainer="other"): record.model_copy(update={"explainer": "other"})})
    write_baseline(before.joined(other), path)
    board = path.read_bytes()

    code, output = run(tmp_path)
    assert code == 1
    assert "3 failed, 3 passed" in output
    assert "FAILED test_mine.py::test_buggy" in output
    assert "worse" in output
    assert "accept it with `pytest --interpeval-update`" in output
    assert "`baselines/none.csv` does not exist: make it with `pytest --interpeval-update`" in output
    assert "`subject` must be a pair (model, explainer), was Sequential" in output
    assert path.read_bytes() == board

    code, output = run(tmp_path, "test_mine.py::test_buggy", "--interpeval-update")
    assert (code, "worse" in output) == (0, True)
    after = read_baseline(path)
    assert after.records.keys() == before.records.keys() | other.records.keys()
    moved = {row.metric for row in before.records if after.records[row].value != before.records[row].value}
    code, output = run(tmp_path, "test_mine.py::test_nothing_may_move")
    assert (code, "different" in output) == (1, True)  # it is better than the bug
    assert moved == {"deletion"}  # the cosines of self-consistency are the same for maps of the other sign
