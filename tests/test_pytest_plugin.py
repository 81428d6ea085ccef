"""The fixture `interpeval` in other people's tests, in a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import interpeval.bench.evaluation  # noqa: F401  # here, or each of the sessions below would import torchvision anew
from interpeval.leaderboards.baseline import Baseline, read_baseline, write_baseline

pytest_plugins = ["pytester"]

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
METRICS = ["mask_k_pixels", "deletion"]


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
    assert {one.test for one in found.findings} <= {"exact", ""}
    assert found.findings


def test_reseeded(interpeval):
    assert "paired" in guard(interpeval, Mine(), seed=1).tests


def test_buggy(interpeval):
    guard(interpeval, Buggy())


def test_not_a_pair(interpeval):
    interpeval.assert_no_regression(NETWORK, DIGITS, METRICS, BASELINE)
"""


def registered() -> bool:
    """Whether this installation knows the plugin; one made before the plugin was there does not."""
    return any(entry.value == PLUGIN for entry in importlib.metadata.entry_points(group="pytest11"))


@pytest.fixture
def project(pytester):
    """A project with tests that guard an explainer, and how to run them."""
    pytester.makepyfile(subject=SUBJECT, test_mine=TESTS)
    pytester.makeini("[pytest]\npythonpath = .\n")

    def run(*arguments: str) -> tuple[int, str]:
        """Run its tests; returns exit code and output."""
        loaded = [] if registered() else ["-p", PLUGIN]
        done = pytester.runpytest_inprocess("-p", "no:cacheprovider", *loaded, *arguments)
        return int(done.ret), done.stdout.str()

    return run


def test_the_installation_will_know_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"interpeval": PLUGIN}


def test_starting_pytest_imports_no_torch():
    code = f"import sys, {PLUGIN}; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_baseline_is_made_kept_and_guarded(project, pytester):
    """One story, as every step needs the one before."""
    code, output = project("test_mine.py::test_unchanged")
    assert code == 1
    assert "does not exist: make it with `pytest --interpeval-update`" in output

    code, output = project("test_mine.py::test_unchanged", "--interpeval-update")
    assert "interpeval: baseline rewritten" in output
    assert "new (tests: none" in output
    path = pytester.path / "baselines" / "mine.csv"
    board = path.read_bytes()

    code, output = project()
    assert code == 1
    assert "2 failed, 2 passed" in output
    assert "FAILED test_mine.py::test_buggy" in output
    assert "worse" in output
    assert "accept it with `pytest --interpeval-update`" in output
    assert "`subject` must be a pair (model, explainer), was Sequential" in output
    assert path.read_bytes() == board

    code, output = project("test_mine.py::test_buggy", "--interpeval-update")
    assert (code, "worse" in output) == (0, True)
    code, output = project("test_mine.py::test_buggy")
    assert (code, "1 passed" in output) == (0, True)

    # Rows of other subjects are left alone.
    before = read_baseline(path)
    row, record = next(iter(before.records.items()))
    other = Baseline({row._replace(explainer="other"): record.model_copy(update={"explainer": "other"})})
    write_baseline(before.joined(other), path)
    code, _ = project("test_mine.py::test_unchanged", "--interpeval-update")
    assert code == 0
    assert read_baseline(path).records.keys() == before.records.keys() | other.records.keys()
