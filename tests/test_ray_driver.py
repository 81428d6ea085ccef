"""What the driver does with tasks of Ray, and the tasks with their units; `test_ray_cluster.py` has a real cluster."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from interpeval.bench import plan as plan_module
from interpeval.bench import ray_task
from interpeval.bench import results as results_module
from interpeval.bench.engine import Options
from interpeval.bench.ray_cluster import Cluster, connected
from interpeval.bench.results import Results
from interpeval.bench.run import Outcome, load_results, run
from interpeval.bench.store import Store
from interpeval.bench.suite import Experiment, Suite
from ray_in_process import Ray

TOYS = Path(__file__).parent / "toys.py"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several units in a small run, and no pictures; a process of Ray that keeps no plan of another test."""
    monkeypatch.setattr(plan_module, "SHARD", 10)
    monkeypatch.setattr(Results, "plot", lambda *_: [])
    monkeypatch.setattr(results_module, "write_report", lambda *_: None)
    monkeypatch.setattr(ray_task, "_plans", {})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=Ray.get_held))


def suite(*explainers: str, metrics: tuple[str, ...] = ("pointing_game", "accuracy"), dataset: str = "") -> Suite:
    one = Experiment(
        dataset=dataset or f"{TOYS}:Squares", model=f"{TOYS}:network", explainers=explainers, metrics=metrics, limit=20
    )
    return Suite(name="toys", experiments=(one, replace_model(one)))


def replace_model(one: Experiment) -> Experiment:
    """The same with a dataset of its own, so that there are two plans."""
    return one.model_copy(update={"dataset": f"{TOYS}:Squares?size=15", "metrics": ("accuracy",)})


def started(what: Suite, folder: Path, ray: Ray | None = None, **changes: object) -> Outcome:
    cluster = None if ray is None else Cluster(ray)
    return run(what, folder, Options(torch.device("cpu"), cases=False, **changes), cluster=cluster)


def board(folder: Path) -> str:
    frame = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, dtype=str)
    return frame.drop(columns="seconds").to_csv(index=False)


def test_the_bytes_are_those_of_a_run_without_a_cluster(tmp_path: Path) -> None:
    what = suite("gradient", metrics=("pointing_game", "self_consistency", "accuracy"))
    ray = Ray()
    started(what, tmp_path / "alone")
    assert started(what, tmp_path / "tasks", ray).flawless
    assert board(tmp_path / "tasks") == board(tmp_path / "alone")
    one, other = (load_results(tmp_path / name).scores for name in ("alone", "tasks"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert ray.asked == [{"num_cpus": torch.get_num_threads(), "num_gpus": 0, "max_retries": 0}]
    assert ray.at_a_time == 4, "two for each of two processors, however many units there are"


def test_finished_work_is_not_handed_out_again(tmp_path: Path) -> None:
    started(suite("gradient"), tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "units").iterdir()}
    ray = Ray()
    assert started(suite("gradient"), tmp_path, ray).flawless
    assert ray.at_a_time == 0
    assert started(suite("gradient"), tmp_path, Ray(), existing="redo").reused == 0
    assert all(path.read_bytes() != before[path] for path in before if path.suffix == ".json")


def test_attributions_that_were_kept_go_to_the_task(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(
        "class Counting:\n"
        "    def attribute(self, model, inputs, targets):\n"
        f"        with open({str(tmp_path / 'calls')!r}, 'a') as file:\n            file.write('x')\n"
        "        return inputs\n"
    )
    mine = f"{tmp_path}/counting.py:Counting"
    started(suite(mine, metrics=("pointing_game",)), tmp_path / "out", Ray(), keep_attributions=True)
    calls = len((tmp_path / "calls").read_text())
    started(suite(mine, metrics=("content_heatmap",)), tmp_path / "out", Ray())
    assert len((tmp_path / "calls").read_text()) - calls == 2, "only the two looks at whether it repeats itself"
    metrics = {row.metric for row in load_results(tmp_path / "out").records if row.explainer == "Counting"}
    assert metrics == {"pointing_game", "content_heatmap"}


def test_a_unit_is_tried_three_times_in_all(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TOYS.parent)!r})\n"
        "from dataclasses import dataclass\n"
        "from toys import Squares\n"
        "@dataclass(frozen=True)\n"
        "class Failing(Squares):\n"
        "    def take(self, indices):\n"
        "        if 10 in indices:\n"
        f"            with open({str(tmp_path / 'calls')!r}, 'a') as file:\n                file.write('x')\n"
        "            raise OSError('a bad sector')\n"
        "        return super().take(indices)\n"
    )
    what = suite("gradient", dataset=f"{tmp_path}/failing.py:Failing")
    outcome = started(what.model_copy(update={"experiments": what.experiments[:1]}), tmp_path / "out", Ray())
    rows = outcome.results.manifest["rows"]
    assert len((tmp_path / "calls").read_text()) == 3 * len(rows)
    assert len(outcome.failures) == len(rows)
    assert {failure.message.partition(" (on ")[0] for failure in outcome.failures} == {"OSError: a bad sector"}
    assert all("take" in failure.trace for failure in outcome.failures)
    assert len(list((tmp_path / "out" / "units").glob("*.json"))) == len(rows)


def test_a_task_that_died_is_tried_again_and_then_recorded(tmp_path: Path) -> None:
    started(suite("gradient"), tmp_path / "alone")
    assert started(suite("gradient"), tmp_path / "some", Ray(deaths=frozenset({0, 3, 4, 9}))).flawless
    assert board(tmp_path / "some") == board(tmp_path / "alone")
    failures = started(suite("gradient"), tmp_path / "all", Ray(deaths=frozenset(range(10**4)))).failures
    assert {failure.message for failure in failures} == {"RayError: the worker died"}
    assert len(failures) == 7 * 2 + 2, "of six explainers and the model, and of the model on the other dataset"
    assert not [*Store(tmp_path / "all").folder.glob("*.json")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row": 99}, "rows here"),
        ({"determined_by": {"torch": "1.0"}}, "`torch` is "),
        ({"metrics": {"0123": "top_k"}}, "the code or version of metric `top_k`"),
        ({"key": "0123"}, "the names of the samples"),
    ],
)
def test_a_unit_that_is_another_one_elsewhere_fails_and_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    def do(orders: object, asked: ray_task.Asked) -> object:
        if "determined_by" in change:
            change["determined_by"] = {**asked.determined_by, "torch": "1.0"}
        return ray_task.do(orders, replace(asked, **change))

    monkeypatch.setattr("interpeval.bench.ray_cluster.do", do)
    failures = started(suite("gradient"), tmp_path, Ray()).failures
    assert failures
    assert all(said in failure.message for failure in failures)


def test_each_process_makes_each_plan_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Counter()
    original = ray_task._made

    def counted(order: ray_task.Order) -> object:
        made[order.experiment.dataset] += 1
        return original(order)

    monkeypatch.setattr(ray_task, "_made", counted)
    started(suite("gradient"), tmp_path, Ray())
    assert set(made.values()) == {1}
    assert len(made) == 2


def test_variables_in_names_go_to_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_DRIVER", str(TOYS.parent))
    one = suite(f"{TOYS}:Plain").experiments[0].model_copy(update={"dataset": "${OF_THE_DRIVER}/toys.py:Squares"})
    assert ray_task.variables_of(one) == {"OF_THE_DRIVER": str(TOYS.parent)}
    original = ray_task.do

    def elsewhere(orders: object, asked: ray_task.Asked) -> object:
        monkeypatch.delenv("OF_THE_DRIVER", raising=False)
        return original(orders, asked)

    monkeypatch.setattr("interpeval.bench.ray_cluster.do", elsewhere)
    assert started(Suite(name="toys", experiments=(one,)), tmp_path, Ray()).flawless


def test_a_cluster_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no node of the Ray cluster has room for a task with 1 CPUs and 0 GPUs"):
        started(suite("gradient"), tmp_path, Ray(cpus=(0, 0)))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"`--ray` needs Ray, which is not installed: pip install .interpeval.ray."
    with pytest.raises(ImportError, match=message), connected("auto"):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", "nowhere.invalid:6379"])
def test_an_address_where_nobody_listens_is_refused_without_ray_trying_for_long(monkeypatch, address: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("Ray was asked")))
    with pytest.raises(ValueError, match="`--ray`: no Ray cluster can be reached at"), connected(address):
        pass
