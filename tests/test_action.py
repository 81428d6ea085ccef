"""The GitHub Action: its scripts do what they should, and nothing in an input is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from interpeval.leaderboards.baseline import Baseline, write_baseline
from interpeval.leaderboards.record import records
from leaderboard_cases import series

TEXT = (Path(__file__).parents[1] / "action.yml").read_text(encoding="utf-8")
VALUES = np.array([0.5, 0.25, 1.0, 0.75, 0.5, 0.125, 0.375])


def scripts() -> dict[str, str]:
    """The script of each step by its name."""
    steps = re.split(r"^    - name: ", TEXT, flags=re.MULTILINE)[1:]
    blocks = {step.split("\n", 1)[0]: step.split("      run: |\n", 1)[1] for step in steps}
    return {name: re.sub(r"^ {8}|^ {4}#.*\n", "", block, flags=re.MULTILINE) for name, block in blocks.items()}


def written(path, change, seed=0):
    rows = [series(VALUES + change, seed=seed)]
    write_baseline(Baseline.of(records(rows, seed=0), rows), path)
    return path


def run(folder, script, **variables):
    """Run the script of a step as GitHub does."""
    environment = {**os.environ, "PYTHON": sys.executable, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    (folder / "step.sh").write_text(script, encoding="utf-8")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"]
    return subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, check=False
    )


def test_no_script_holds_an_input_as_text():
    assert list(scripts()) == ["install", "score", "check"]
    assert not any("${{" in script for script in scripts().values())
    inputs = re.search(r"^inputs:\n(.*?)^outputs:", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert inputs is not None
    declared = set(re.findall(r"^  ([\w-]+):$", inputs[1], flags=re.MULTILINE))
    assert set(re.findall(r"inputs\.([\w-]+)", TEXT)) == declared


@pytest.mark.parametrize(
    ("change", "any_change", "said"),
    [(0.0, "true", ""), (0.125, "false", ""), (0.125, "true", "different"), (-0.125, "false", "worse")],
)
def test_the_check_writes_everything_and_ends_as_the_command_does(tmp_path, change, any_change, said):
    out = tmp_path / "my results"
    out.mkdir()
    board, now = written(tmp_path / "board.csv", 0.0), written(tmp_path / "now.csv", change, seed=1)
    # A CSV stands for the folder of a run, which would have to be made first.
    script = scripts()["check"].replace('-- "$OUT"', f'-- "{now}"')
    done = run(tmp_path, script, OUT=str(out), AGAINST=str(board), ALPHA="0.02", ATOL="0", ANY_CHANGE=any_change)
    assert done.returncode == bool(said), done.stderr
    verdict = "failed" if said else "passed"
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith(f"### interpeval check: {verdict}")
    assert (out / "check.xml").read_text(encoding="utf-8").startswith("<testsuites")
    assert re.findall(r"::error title=interpeval check%3A (\w+)", done.stdout) == ([said] if said else [])


def test_any_change_is_true_or_false_and_nothing_else(tmp_path):
    done = run(tmp_path, scripts()["check"], OUT="out", AGAINST="b.csv", ALPHA="0.02", ATOL="0", ANY_CHANGE="True")
    assert (done.returncode, "any-change must be true or false" in done.stdout) == (2, True)


def test_a_run_that_fails_fails_the_step(tmp_path):
    done = run(tmp_path, scripts()["score"], SUITE="$(touch planted).toml", OUT="out")
    assert done.returncode == 1
    assert "suite file `$(touch planted).toml` does not exist" in done.stderr
    assert not (tmp_path / "planted").exists()
