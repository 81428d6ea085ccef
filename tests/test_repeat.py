"""`interpeval repeat`: equal to the bit on one machine, and whatever is planted in between is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import toys
from interpeval.bench import plan as plan_module
from interpeval.bench import results as results_module
from interpeval.bench.cli import main
from interpeval.bench.engine import Options
from interpeval.bench.repeat import REPORT, repeat
from interpeval.bench.results import Results
from interpeval.bench.run import run
from interpeval.bench.suite import Experiment, Suite
from interpeval.leaderboards.csv_table import read_csv

TOYS = Path(__file__).parent / "toys.py"
_OF_UNITS = {".json", ".safetensors"}  # a killed process leaves leases and unfinished files too
MINE = "class Mine:\n    def attribute(self, model, inputs, targets):\n        return {}\n"
METRICS = ("pointing_game", "self_consistency", "cost")


@pytest.fixture
def pictures() -> None:
    """Asked for by tests that want them drawn."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Several units in a small run; pictures and page, which take the most time of it, only where asked for."""
    monkeypatch.setattr(plan_module, "SHARD", 10)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Results, "plot", lambda *_: [])
        monkeypatch.setattr(results_module, "write_report", lambda *_: None)


def made(folder: Path, *, explainer: str = "gradient", metrics=METRICS, model: str = f"{TOYS}:network", **options):
    """Run something small."""
    dataset = options.pop("dataset", f"{TOYS}:Squares")
    one = Experiment(dataset=dataset, model=model, explainers=(explainer,), metrics=metrics, limit=20)
    run(Suite(name="toys", experiments=(one,)), folder, Options(torch.device("cpu")), **options)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an explainer in a file of its own, to be copied and changed."""
    home = tmp_path_factory.mktemp("whole")
    (home / "mine.py").write_text(MINE.format("-inputs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "SHARD", 10)
        return made(home / "run", explainer=f"{home}/mine.py:Mine")


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["repeat", *map(str, arguments)], catch_exceptions=False)


def edited(folder: Path, **changes: object) -> Path:
    """Change entries of a `run.json`; `suite__seed` is one within another."""
    content = json.loads((folder / "run.json").read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = content
        for one in outer:
            place = place[one]
        place[last] = value
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("pictures")
def test_a_repetition_is_equal_to_the_bit_and_leaves_the_run_alone(done: Path) -> None:
    before = files(done)
    found = call(done)
    assert found.exit_code == 0, found.output
    assert ": equal to the bit." in found.output
    assert "made with other" not in found.output
    assert files(done) == before
    out = done.with_name("run-repeat")
    names = {path.name for path in out.iterdir()}
    assert {path.name for path in done.iterdir()} | {REPORT} == names
    report = json.loads((out / REPORT).read_text())
    assert (report["equal"], report["finished"], report["made_with"]) == (True, True, [])
    assert report["scores"] > 500


def test_an_edited_explainer_is_named(done: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.format("-inputs.abs()"))
    found = call(done, "--replace", whole.parent, tmp_path)
    assert found.exit_code == 1
    assert "code of explainer Mine" in found.output
    report = json.loads((tmp_path / "run-repeat" / REPORT).read_text())
    assert {one["metric"] for one in report["metrics"]} == {"pointing_game", "self_consistency"}
    assert {one["row"]["explainer"] for one in report["metrics"]} == {"Mine"}
    assert [one["fact"] for one in report["made_with"]] == ["code of explainer Mine"]


def test_another_seed_in_run_json_is_named(done: Path) -> None:
    found = call(edited(done, suite__seed=1))
    assert found.exit_code == 1
    assert found.stdout.startswith("seed was 0, is 1 in ")
    assert "self_consistency" in found.output


def test_another_version_of_torch_is_named_and_alone_no_difference(done: Path) -> None:
    content = json.loads((done / "run.json").read_text())
    found = call(
        edited(done, versions__torch="1.2.3", machine__vectors="none", source={"commit": "abc", "dirty": True})
    )
    assert found.exit_code == 0
    for fact, before in (("torch", "1.2.3"), ("vectors", "none")):
        assert any(line.split()[:2] == [fact, before] for line in found.output.splitlines()), found.output
    if content["source"]:
        assert "commit " in found.output


def test_json_has_all_of_it(done: Path) -> None:
    found = call(edited(done, versions__captum="0.0"), "--json")
    content = json.loads(found.stdout)
    assert content["equal"]
    assert [(one["fact"], one["before"]) for one in content["made_with"]] == [("captum", "0.0")]


def test_a_tolerance_lets_small_differences_pass(done: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.format("-inputs - inputs[:, :1] * 1e-5"))
    replaced = ("--replace", whole.parent, tmp_path)
    assert call(done, *replaced, "--out", tmp_path / "strict").exit_code == 1
    loose = call(done, *replaced, "--out", tmp_path / "loose", "--tolerance", 0.01)
    assert loose.exit_code == 0
    assert "equal within 0.01" in loose.output


def test_other_weights_are_said_first(tmp_path: Path) -> None:
    state = toys.network().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    made(tmp_path / "run", model=f"{TOYS}:network@{tmp_path}/weights.safetensors")
    state["0.weight"] = state["0.weight"] * 1.5
    save_file(state, tmp_path / "weights.safetensors")
    found = call(tmp_path / "run")
    assert found.exit_code == 1
    assert found.stdout.startswith("model_digest was ")
    assert (
        "model toys.py:network has other weights, as one trained on another machine has" in found.stdout.split("\n")[0]
    )


def test_two_runs_into_one_folder_are_both_repeated(tmp_path: Path) -> None:
    made(tmp_path / "run", metrics=("pointing_game",))
    made(tmp_path / "run", metrics=("content_heatmap",))
    made(tmp_path / "run", explainer=f"{TOYS}:Plain", metrics=("pointing_game",))
    found = repeat(tmp_path / "run", tmp_path / "again")
    assert found.values.equal
    rows = {(row.explainer, row.metric) for row in read_csv(tmp_path / "again" / "leaderboard.csv")}
    assert rows >= {("gradient", "pointing_game"), ("gradient", "content_heatmap"), ("Plain", "pointing_game")}
    assert rows == {(row.explainer, row.metric) for row in read_csv(tmp_path / "run" / "leaderboard.csv")}


def test_a_damaged_unit_of_the_run_is_missing_and_not_touched(done: Path) -> None:
    described = {path: json.loads(path.read_text()) for path in (done / "units").glob("*.json")}
    victim = min(path for path, unit in described.items() if unit["metrics"]).with_suffix(".safetensors")  # no pictures
    victim.write_bytes(victim.read_bytes()[:-3])
    before = files(done)
    with pytest.warns(UserWarning, match="damaged and counts as missing"):
        found = call(done)
    assert found.exit_code == 1
    assert files(done) == before
    report = json.loads((done.with_name("run-repeat") / REPORT).read_text())
    assert sum(one["samples"] for one in report["metrics"]) == 0
    assert {one["missing"] for one in report["metrics"]} <= {10, 20, 30, 40, 50, 60}
    assert report["metrics"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"finished": None}, "is not finished: finish it first"),
        ({"suite": None}, "run.json"),
        ({"suite__experiments": []}, "`experiments`"),
        ({"suite__seed": "0"}, "`seed`"),
        ({"threads": "one"}, "`threads`"),
        ({"threads": 0}, "`threads`"),
        ({"options": {"batch_size": "many"}}, "`batch_size`"),
        ({"options": []}, "`options`"),
        ({"earlier": [3]}, "`earlier` must be a list of runs"),
        ({"rows": [{"about": {}}]}, "cannot be read: `rows.0.about.dataset`"),
        ({"rows": 5}, "cannot be read: `rows`"),
        ({"schema": 99}, "schema is 99"),
    ],
)
def test_a_damaged_run_json_is_refused_in_one_line_and_nothing_is_written(done: Path, damage, said) -> None:
    found = call(edited(done, **damage))
    assert found.exit_code == 2, found.output
    assert said in found.output
    assert found.output.startswith("interpeval: ")
    assert len(found.output.splitlines()) == 1
    assert not done.with_name("run-repeat").exists()


@pytest.mark.parametrize("name", ["../../elsewhere", ["a"], 3])
def test_pictures_in_run_json_are_named_by_a_key(done: Path, name: object) -> None:
    rows = json.loads((done / "run.json").read_text())["rows"]
    found = call(edited(done, rows=[{**rows[0], "pictures": name}, *rows[1:]]))
    assert found.exit_code == 2, found.output
    assert "cannot be read: `rows.0.pictures`" in found.output


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "sui', b"[1, 2]", b"\xff\xfe", b"{}"])
def test_a_torn_run_json_is_refused(done: Path, content: bytes) -> None:
    (done / "run.json").write_bytes(content)
    found = call(done)
    assert found.exit_code == 2
    assert "cannot be read" in found.output
    assert not done.with_name("run-repeat").exists()


def test_a_name_that_is_not_here_is_one_line_that_says_what_to_give(done: Path, whole: Path, tmp_path: Path) -> None:
    found = call(done, "--replace", whole.parent, tmp_path / "elsewhere")
    assert found.exit_code == 2
    assert f"file `{tmp_path}/elsewhere/mine.py` does not exist" in found.output
    assert "--replace OLD NEW" in found.output
    assert not done.with_name("run-repeat").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.py").write_text(MINE.format("-inputs"))
    again = call(done, "--replace", whole.parent, tmp_path / "elsewhere")
    assert again.exit_code == 0, again.output


def test_folders_in_use_are_refused(done: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for out, said in ((used, "is in use"), (done, "another folder"), (tmp_path / "file", "is a file")):
        before = files(tmp_path)
        found = call(done, "--out", out)
        assert found.exit_code == 2
        assert said in found.output
        assert files(tmp_path) == before


def test_a_finished_repetition_is_not_overwritten(done: Path) -> None:
    assert call(done).exit_code == 0
    before = files(done.parent)
    assert call(done).exit_code == 2
    assert files(done.parent) == before


def test_a_run_without_a_place_of_its_own_is_none(tmp_path: Path) -> None:
    assert "holds no run" in call(tmp_path).output


def test_pickles_have_to_be_trusted_anew(tmp_path: Path) -> None:
    torch.save(toys.network(), tmp_path / "weights.pth")
    model = f"{TOYS}:network@{tmp_path}/weights.pth"
    made(tmp_path / "run", model=model, trust=True)
    found = call(tmp_path / "run")
    assert found.exit_code == 2
    assert "`--trust`" in found.output
    assert not (tmp_path / "run-repeat").exists()
    assert call(tmp_path / "run", "--trust").exit_code == 0


def test_downloads_have_to_be_asked_for_anew_and_other_options_are_kept(tmp_path: Path) -> None:
    (tmp_path / "fetching.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(TOYS.parent)!r})\n"
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from toys import Squares\n"
        "@dataclass(frozen=True)\n"
        "class Fetching(Squares):\n"
        "    download: bool = False\n"
        "    on_bad_sample: str = 'error'\n"
        "    def load(self):\n"
        f"        with Path({str(tmp_path / 'asked')!r}).open('a') as file:\n"
        "            file.write(f'{self.download} {self.on_bad_sample}\\n')\n"
        "        return super().load()\n"
    )
    asked = {"download": True, "on_bad_sample": "skip"}
    made(tmp_path / "run", dataset=f"{tmp_path}/fetching.py:Fetching", dataset_options=asked)
    assert call(tmp_path / "run").exit_code == 0
    assert call(tmp_path / "run", "--out", tmp_path / "fetched", "--download").exit_code == 0
    assert (tmp_path / "asked").read_text().splitlines() == ["True skip", "False skip", "True skip"]


def test_as_many_threads_as_in_the_run_are_used_and_given_back(done: Path) -> None:
    before = torch.get_num_threads()
    found = repeat(edited(done, threads=before + 1), done.with_name("again"))
    assert torch.get_num_threads() == before
    assert json.loads((done.with_name("again") / "run.json").read_text())["threads"] == before + 1
    assert found.made_with == []


def test_what_an_earlier_version_did_not_say_is_taken_as_its_default(done: Path) -> None:
    content = json.loads((done / "run.json").read_text())
    for name in ("options", "earlier", "libraries", "machine"):
        del content[name]
    for row in content["rows"]:
        del row["determined_by"]
    (done / "run.json").write_text(json.dumps(content))
    assert call(done).exit_code == 0


def test_a_killed_repetition_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARD", 64)  # as in the process that is killed
    slow = Experiment(
        dataset=f"{TOYS}:Squares?size=140", model=f"{TOYS}:network", explainers=(f"{TOYS}:Slow",),
        metrics=("pointing_game",),
    )  # fmt: skip
    run(Suite(name="toys", experiments=(slow,)), tmp_path / "run", Options(torch.device("cpu"), batch_size=4))
    out = tmp_path / "run-repeat"
    command = [sys.executable, "-m", "interpeval.bench.cli", "repeat", str(tmp_path / "run")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("units/*.json"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "the repetition was over before it could be killed"
    kept = files(out / "units")
    assert not json.loads((out / REPORT).read_text())["finished"]
    other = made(tmp_path / "other")
    assert "is in use" in call(other, "--out", out).output, "an interrupted repetition is of one run only"
    found = call(tmp_path / "run")
    assert found.exit_code == 0, found.output
    now = files(out / "units")
    assert {path: now[path] for path in kept if path.suffix in _OF_UNITS} == {
        path: state for path, state in kept.items() if path.suffix in _OF_UNITS
    }
