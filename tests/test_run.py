"""The main job: what a run leaves behind, and that nothing changes its numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from interpeval.bench import plan as plan_module
from interpeval.bench.engine import Options
from interpeval.bench.run import ExistingError, Manifest, load_results, run
from interpeval.bench.store import Store
from interpeval.bench.suite import Experiment, Suite
from interpeval.leaderboards.record import COLUMNS

TOYS = Path(__file__).parent / "toys.py"
MEASURED = [column for column in COLUMNS if column != "seconds"]  # a second run takes other time, nothing else


def suite(
    explainers: list[str], *, metrics: list[str] | None = None, limit: int | None = None, dataset: str = ""
) -> Suite:
    experiment = Experiment(
        dataset=f"{TOYS}:Squares{dataset}",
        model=f"{TOYS}:network",
        explainers=tuple(explainers),
        metrics=None if metrics is None else tuple(metrics),
        limit=limit,
    )
    return Suite(name="toys", experiments=(experiment,))


def options(**changes: object) -> Options:
    """Without pictures of cases, which cost time and have tests of their own."""
    return Options(**{"device": torch.device("cpu"), "cases": False, **changes})


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of ten samples, so that a small run has several."""
    monkeypatch.setattr(plan_module, "SHARD", 10)


def board(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, dtype=str)
    return frame.loc[~((frame.metric == "cost") & (frame.variant == "seconds")), MEASURED].reset_index(drop=True)


def scores(folder: Path) -> pd.DataFrame:
    frame = load_results(folder).scores
    return frame[~((frame.metric == "cost") & (frame.variant == "seconds"))].reset_index(drop=True)


@pytest.mark.usefixtures("small_shards")
def test_a_run_leaves_what_the_contract_says(tmp_path: Path) -> None:
    outcome = run(suite(["gradient", "gradcam"]), tmp_path, options())
    assert outcome.flawless
    curves = [f"{metric}_curves.png" for metric in ("deletion", "insertion", "mask_k", "parameter_randomization")]
    made = [*curves, "gallery.png", "leaderboard.csv", "report.html", "run.json", "units"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(made)
    with (tmp_path / "leaderboard.csv").open() as file:
        assert file.readline().strip() == (
            "schema,dataset,dataset_revision,model,model_digest,explainer,explainer_params,metric,metric_version,"
            "variant,value,ci_low,ci_high,mc_se,higher_is_better,chance,n,n_invalid,n_degenerate,n_no_truth,seed,"
            "seconds,passes,interpeval,torch,captum,device,kind,source"
        )
    rows = board(tmp_path)
    assert set(rows.explainer) == {"", "gradient", "gradcam", "random", "uniform", "center", "edges", "truth"}
    assert set(rows.metric) >= {
        "self_consistency", "mask_k_pixels", "pointing_game", "stochastic_pointing_game", "content_heatmap",
        "negative_quadrants_heatmap", "accuracy", "cost",
    }  # fmt: skip
    assert set(rows.n[rows.kind == "measured"]) == {"40"}
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["finished"] is not None
    assert manifest["versions"]["torch"] == torch.__version__
    assert {path.suffix for path in (tmp_path / "units").iterdir()} == {".json", ".safetensors"}


@pytest.mark.usefixtures("small_shards")
def test_the_truth_is_the_ceiling_and_random_is_at_chance(tmp_path: Path) -> None:
    run(
        suite(["gradient"], metrics=["content_heatmap", "pointing_game", "negative_quadrants_heatmap"]),
        tmp_path,
        options(),
    )
    rows = board(tmp_path)
    value = {(row.explainer, row.metric, row.variant): float(row.value) for row in rows.itertuples()}
    assert value["truth", "content_heatmap", ""] == 1
    assert value["truth", "pointing_game", ""] == 1
    assert value["truth", "negative_quadrants_heatmap", ""] == 0
    assert value["uniform", "content_heatmap", ""] == pytest.approx(25 / 256, abs=1e-6)
    assert value["uniform", "negative_quadrants_heatmap", ""] == pytest.approx(0.75, abs=1e-6)
    # 40 maps of 256 independent uniform pixels: a standard error of about 0.0028 on the share of 25 pixels.
    assert value["random", "content_heatmap", ""] == pytest.approx(25 / 256, abs=4 * 0.0028)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_no_value(tmp_path: Path, batch_size: int) -> None:
    for name, size in (("one", batch_size), ("other", 64)):
        run(suite(["gradient", "gradcam"], dataset="?size=21"), tmp_path / name, options(batch_size=size))
    pd.testing.assert_frame_equal(scores(tmp_path / "one"), scores(tmp_path / "other"), rtol=0, atol=1e-5)
    controls = ["random", "uniform", "center", "truth"]  # no network in these maps: bit for bit
    one, other = (
        frame[frame.explainer.isin(controls) & (frame.metric == "self_consistency")]
        for frame in map(scores, (tmp_path / "one", tmp_path / "other"))
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.usefixtures("small_shards")
def test_the_order_of_the_samples_changes_no_value(tmp_path: Path) -> None:
    run(suite(["gradient"]), tmp_path / "forward", options())
    run(suite(["gradient"], dataset="?reversed_order=True"), tmp_path / "backward", options())
    index = ["explainer", "metric", "variant", "step", "sample_id"]
    one, other = (
        scores(tmp_path / name).drop(columns="explainer_params").sort_values(index).reset_index(drop=True)
        for name in ("forward", "backward")
    )
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_shards")
def test_a_limit_is_a_prefix(tmp_path: Path) -> None:
    run(suite(["gradient"]), tmp_path / "all", options())
    run(suite(["gradient"], limit=13), tmp_path / "some", options())
    some, everything = scores(tmp_path / "some"), scores(tmp_path / "all")
    assert some.sample_id.nunique() == 13
    prefix = everything[everything.sample_id.isin(some.sample_id.unique())]
    index = ["explainer", "metric", "variant", "step", "sample_id"]
    one, other = (frame.sort_values(index).reset_index(drop=True) for frame in (some, prefix))
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_shards")
def test_another_seed_gives_other_draws(tmp_path: Path) -> None:
    """The control of the tests above: the values they compare could differ."""
    run(suite(["gradient"], metrics=["self_consistency"]), tmp_path / "0", options())
    run(suite(["gradient"], metrics=["self_consistency"]).model_copy(update={"seed": 1}), tmp_path / "1", options())
    one, other = (
        frame[frame.explainer == "gradient"].value.to_numpy() for frame in map(scores, (tmp_path / "0", tmp_path / "1"))
    )
    assert abs(one - other).max() > 1e-3


@pytest.mark.usefixtures("small_shards")
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suite(["gradient"]), tmp_path / "whole", options())

    def stop_after(count: int):
        done: list[int] = []

        def write(self: Store, unit: object, original=Store.write) -> None:
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(1)
            original(self, unit)

        return write

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", stop_after(6))
        with pytest.raises(KeyboardInterrupt):
            run(suite(["gradient"]), tmp_path / "stopped", options())
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "units").iterdir()}
    assert len(first) == 12
    outcome = run(suite(["gradient"]), tmp_path / "stopped", options())
    assert outcome.reused == 60
    assert first == {path: path.stat().st_mtime_ns for path in first}, "finished units must not be written again"
    pd.testing.assert_frame_equal(board(tmp_path / "stopped"), board(tmp_path / "whole"), check_exact=True)
    pd.testing.assert_frame_equal(scores(tmp_path / "stopped"), scores(tmp_path / "whole"), check_exact=True)


def test_kill_minus_nine_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [
        sys.executable, "-m", "interpeval.bench.cli", "run", "--dataset", f"{TOYS}:Squares?size=200",
        "--model", f"{TOYS}:network", "--explainer", f"{TOYS}:Slow", "--metric", "pointing_game", "--out", str(folder),
        "--batch-size", "4", "--device", "cpu",
    ]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("units/*.json"))) < 3 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    finished = sorted(path.name for path in folder.glob("units/*.json"))
    assert len(finished) >= 3
    store, manifest = Store(folder), Manifest.read(folder)
    keys = [key for row in manifest.content["rows"] for key in row["units"]]
    whole = [unit for key in keys for unit in store.find(key)]  # a torn unit would warn, and warnings are errors
    assert len(whole) == len(finished)
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "taken from earlier work" in resumed.stdout
    assert finished == sorted(path.name for path in folder.glob("units/*.json") if path.name in finished)
    frame = scores(folder)
    assert frame[frame.explainer == "Slow"].sample_id.nunique() == 200


@pytest.mark.usefixtures("small_shards")
def test_a_metric_added_later_leaves_the_others_alone(tmp_path: Path) -> None:
    run(suite(["gradient"], metrics=["pointing_game"], limit=20), tmp_path, options())
    before = {path: path.read_bytes() for path in (tmp_path / "units").iterdir()}
    run(suite(["gradient"], metrics=["content_heatmap"], limit=20), tmp_path, options())
    assert before == {path: path.read_bytes() for path in before}
    rows = board(tmp_path)
    assert set(rows[rows.explainer == "gradient"].metric) == {"pointing_game", "content_heatmap"}
    assert not rows.duplicated(["dataset", "model", "explainer", "metric", "variant"]).any()


@pytest.mark.usefixtures("small_shards")
def test_kept_attributions_are_used_instead_of_explaining_again(tmp_path: Path) -> None:
    file = tmp_path / "counting.py"
    file.write_text(
        "from pathlib import Path\n"
        "class Counting:\n"
        "    def attribute(self, model, inputs, targets):\n"
        f"        with Path({str(tmp_path / 'calls')!r}).open('a') as file:\n            file.write('x')\n"
        "        return inputs * targets.view(-1, 1, 1, 1)\n"
    )
    first, later = (
        suite([f"{file}:Counting"], metrics=["pointing_game"]),
        suite([f"{file}:Counting"], metrics=["content_heatmap"]),
    )
    run(first, tmp_path / "kept", options(keep_attributions=True))
    calls = len((tmp_path / "calls").read_text())
    run(later, tmp_path / "kept", options())
    again = len((tmp_path / "calls").read_text()) - calls
    assert again == 2, "only the two looks at whether it repeats itself"
    run(later, tmp_path / "fresh", options())
    kept, fresh = (
        frame[(frame.explainer == "Counting") & (frame.metric == "content_heatmap")]
        for frame in map(scores, (tmp_path / "kept", tmp_path / "fresh"))
    )
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), fresh.reset_index(drop=True), check_exact=True)


@pytest.mark.usefixtures("small_shards")
def test_an_edited_explainer_replaces_its_row(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    source = "class Mine:\n    def attribute(self, model, inputs, targets):\n        return {}\n"
    value = []
    for body in ("inputs * 0 + 1", "-inputs"):
        file.write_text(source.format(body))
        run(suite([f"{file}:Mine"], metrics=["content_heatmap"], limit=20), tmp_path / "out", options())
        rows = board(tmp_path / "out")
        value.append(rows[rows.explainer == "Mine"].value.tolist())
    assert [len(found) for found in value] == [1, 1]
    assert value[0] != value[1]


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_unit_is_computed_again(tmp_path: Path) -> None:
    run(suite(["gradient"], metrics=["pointing_game"]), tmp_path, options())
    expected = board(tmp_path)
    key = Manifest.read(tmp_path).content["rows"][0]["units"][3]
    [victim] = (tmp_path / "units").glob(f"{key}-*.safetensors")
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="damaged and counts as missing"):
        run(suite(["gradient"], metrics=["pointing_game"]), tmp_path, options())
    pd.testing.assert_frame_equal(board(tmp_path), expected, check_exact=True)


@pytest.mark.usefixtures("small_shards")
def test_existing_work_is_refused_or_done_again_when_asked(tmp_path: Path) -> None:
    small = suite(["gradient"], metrics=["pointing_game"], limit=20)
    run(small, tmp_path, options())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()}
    with pytest.raises(ExistingError, match="finished work"):
        run(small, tmp_path, options(existing="fail"))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert run(small, tmp_path, options(existing="redo")).reused == 0
    assert all(path.stat().st_mtime_ns > stamp for path, stamp in before.items())


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("name", "kind", "samples"),
    [
        ("Raises", "exception", 20),
        ("RaisesForClassB", "exception", None),
        ("NotFinite", "non-finite", None),
        ("WrongShape", "exception", 20),
        ("LeavesTrainingMode", "model changed", 0),
        ("LeavesHook", "model changed", 0),
        ("ChangesWeights", "model changed", 0),
        ("Draws", "non-deterministic", 0),
    ],
)
def test_a_faulty_explainer_harms_no_other_row(tmp_path: Path, name: str, kind: str, samples: int | None) -> None:
    metrics = ["pointing_game", "self_consistency"]
    sound = f"{TOYS}:Plain"
    run(suite([sound], metrics=metrics, limit=20), tmp_path / "alone", options())
    outcome = run(suite([f"{TOYS}:{name}", sound], metrics=metrics, limit=20), tmp_path / "beside", options())
    assert not outcome.flawless
    faults = outcome.results.faults
    assert {(fault["explainer"], fault["kind"]) for fault in faults} == {(name, kind)}
    named = {sample for fault in faults for sample in fault["ids"]}
    alone, beside = board(tmp_path / "alone"), board(tmp_path / "beside")
    others = beside[beside.explainer != name].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, alone, check_exact=True)
    row = beside[(beside.explainer == name) & (beside.metric == "pointing_game") & (beside.variant == "")].iloc[0]
    assert int(row.n) + int(row.n_invalid) == 20
    if samples is not None:
        assert int(row.n_invalid) == samples == len(named)
    else:
        assert 0 < int(row.n_invalid) < 20
    if name in {"LeavesTrainingMode", "ChangesWeights"}:  # they explain first and do their damage afterwards
        columns = ["metric", "variant", "value", "ci_low", "ci_high", "n"]
        faulty, healthy = (
            beside.loc[beside.explainer == one, columns].reset_index(drop=True) for one in (name, "Plain")
        )
        pd.testing.assert_frame_equal(faulty, healthy, check_exact=True)
