"""`interpeval run --ray`: a cluster of two nodes gives the same bytes, and what dies in it loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interpeval.bench.run import load_results

TOYS = Path(__file__).parent / "toys.py"
KILLS = int(os.environ.get("INTERPEVAL_TEST_KILLS", "1"))  # how often something is killed, at random moments
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    pytest.skip("Ray is not installed: pip install interpeval[ray]", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, with a processor each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else runs on the machine is no concern here
        patch.setenv("RAY_health_check_period_ms", "500")  # so that a dead node is noticed in seconds
        patch.setenv("RAY_health_check_failure_threshold", "4")
        patch.setenv("RAY_worker_niceness", "0")  # else tasks wait for all else that a busy machine does
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        made.add_node(**NODE)
        yield made
        made.shutdown()


def command(out: Path, *more: str, explainer: str = "Plain", size: int = 200) -> list[str]:
    return [
        sys.executable, "-m", "interpeval.bench.cli", "run", "--dataset", f"{TOYS}:Squares?size={size}",
        "--model", f"{TOYS}:network", "--explainer", f"{TOYS}:{explainer}", "--metric", "pointing_game",
        "--metric", "self_consistency", "--metric", "accuracy", "--device", "cpu", "--batch-size", "4",
        "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a cluster."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run(command(out, explainer="Slow"), check=True, capture_output=True)
    return out


def board(folder: Path) -> str:
    frame = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, dtype=str)
    return frame.drop(columns="seconds").to_csv(index=False)


def check_same(folder: Path, alone: Path) -> None:
    assert board(folder) == board(alone)
    pd.testing.assert_frame_equal(load_results(folder).scores, load_results(alone).scores, check_exact=True)


def tasks() -> list[int]:
    """Return the processes of the cluster, which descend from this one, that have a unit in hand."""
    parents, working = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "status").read_text()
            parents[int(place.name)] = int(status.partition("PPid:")[2].split()[0])
            if (place / "cmdline").read_bytes().startswith(b"ray::do"):
                working.append(int(place.name))
        except OSError:  # it has ended
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in working if ours(pid)]


def started(out: Path, cluster: Any, units: int) -> subprocess.Popen[str]:
    """Start a run on the cluster, and return when some units are finished."""
    running = subprocess.Popen(
        command(out, "--ray", cluster.address, explainer="Slow"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(list(out.glob("units/*.json"))) < units and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    assert running.poll() is None, running.communicate()
    return running


def kill_a_task(running: subprocess.Popen[str], draw: random.Random) -> bool:
    """Kill a process that has a unit in hand; return whether there was one before the run was over."""
    while running.poll() is None:
        for victim in draw.sample(victims := tasks(), len(victims)):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                return True
        time.sleep(0.02)
    return False


def kill_a_node(running: subprocess.Popen[str], cluster: Any) -> bool:
    """Kill a node with all its processes; return whether the run was still going on."""
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    return running.poll() is None


def test_two_nodes_give_the_same_scores_and_bytes(cluster: Any, alone: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--ray", cluster.address, explainer="Slow"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_same(tmp_path, alone)


def test_a_killed_process_and_a_killed_node_lose_nothing(cluster: Any, alone: Path, tmp_path: Path) -> None:
    draw, left = random.Random(0), KILLS
    for number in range(5 * KILLS):  # a run may be over before both are killed
        out = tmp_path / str(number)
        with started(out, cluster, units=draw.randint(1, 8)) as running:
            time.sleep(draw.random() / 2)
            killed = kill_a_task(running, draw)
            time.sleep(draw.random())
            try:
                killed &= kill_a_node(running, cluster)
                output, errors = running.communicate(timeout=300)
            finally:
                cluster.add_node(**NODE)
        assert running.returncode == 0, output + errors
        check_same(out, alone)
        left -= killed
        if not left:
            break
    assert not left, "the runs were over before all were killed"


def test_a_unit_that_fails_is_tried_three_times_and_harms_no_other(cluster: Any, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "failing.py").write_text(
        "from interpeval.datasets.base import Batch\n"
        f"import sys\nsys.path.insert(0, {str(TOYS.parent)!r})\n"
        "from dataclasses import dataclass\n"
        "from toys import Squares\n"
        "@dataclass(frozen=True)\n"
        "class Failing(Squares):\n"
        "    def take(self, indices):\n"
        "        if 64 in indices and len(indices) > 1:\n"
        f"            open({str(calls)!r}, 'a').write('x')\n"
        "            raise OSError('a bad sector')\n"
        "        return super().take(indices)\n"
    )
    out = tmp_path / "out"
    arguments = command(out, "--ray", cluster.address, size=80)
    arguments[arguments.index("--dataset") + 1] = f"{tmp_path}/failing.py:Failing?size=80"
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "a unit failed: OSError: a bad sector (on " in done.stdout
    rows = load_results(out).manifest["rows"]
    assert len(calls.read_text()) == 3 * len(rows), "three times for each row"
    found = [len(list(out.glob(f"units/{key}-*.json"))) for row in rows for key in row["units"]]
    assert found == [1, 0] * len(rows), "the units of the other samples are there"


def test_code_that_is_another_one_elsewhere_fails_the_unit_and_is_named(cluster: Any, tmp_path: Path) -> None:
    """A file that is another one in each process is as one that is another one on each node."""
    (tmp_path / "mine.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "if 'default_worker' in sys.argv[0]:\n"
        "    Path(__file__).write_text(Path(__file__).read_text() + '\\n# of this node\\n')\n"
        "class Mine:\n"
        "    def attribute(self, model, inputs, targets):\n        return inputs\n"
    )
    arguments = command(tmp_path / "out", "--ray", cluster.address, size=10)
    arguments[arguments.index("--explainer") + 1] = f"{tmp_path}/mine.py:Mine"
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "this unit would not be the one that was asked for: `explainer_code` is" in done.stdout


def test_an_address_where_nothing_is_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "out", "--ray", "127.0.0.1:1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "`--ray`: no Ray cluster can be reached at `127.0.0.1:1`" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_task_larger_than_every_node_is_refused(cluster: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "out", "--ray", cluster.address), capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no node of the Ray cluster has room for a task with 2 CPUs and 0 GPUs" in done.stderr


def test_ray_stays_out_of_this_process() -> None:
    assert not ray.is_initialized()
