"""What goes wrong in processes: explainers and a network that do it, and a run in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from interpeval.bench.engine import Options
from interpeval.bench.local_workers import Crew
from interpeval.bench.run import load_results, run
from interpeval.bench.suite import Experiment, Suite
from toys import Plain

HERE = Path(__file__).parent


def suite(*explainers: str, size: int = 100, model: str = "toys.py:network", metric: str = "pointing_game") -> Suite:
    """Six subjects or more, in units of 64 samples."""
    experiment = Experiment(
        dataset=f"{HERE}/toys.py:Squares?size={size}",
        model=f"{HERE}/{model}",
        explainers=tuple(f"{HERE}/{name}" for name in explainers),
        metrics=(metric,),
    )
    return Suite(name="toys", experiments=(experiment,))


def options(batch_size: int = 16) -> Options:
    return Options(torch.device("cpu"), batch_size=batch_size)


def bytes_of(folder: Path) -> tuple[str, str, list[str]]:
    """What must agree: the leaderboard but for its seconds, the per-sample scores, and the names in the store."""
    board = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, dtype=str).drop(columns="seconds")
    results = load_results(folder)
    assert results.manifest["finished"] is not None
    names = sorted(path.name for path in (folder / "units").iterdir() if not path.name.endswith(".tmp"))
    return board.to_csv(index=False), results.scores.to_csv(index=False), names


def in_a_process(chosen: Suite, folder: Path, crew: Crew | None) -> ForkServerProcess:
    """Start a run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interpeval.bench.rebuild"])
    process = context.Process(target=_run, args=(chosen, folder, crew))
    process.start()
    return process


def _run(chosen: Suite, folder: Path, crew: Crew | None) -> None:
    torch.set_num_threads(1)
    run(chosen, folder, options(), crew=crew)


class Hangs(Plain):
    """Never comes back from the second unit of its subject."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) not in (8, 16):  # the second unit has 36 samples, which are not a multiple of 16
            time.sleep(3600)
        return super().attribute(model, inputs, targets)


class Insatiable(Plain):
    """Asks for more memory than any machine has."""

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        torch.empty(10**15)
        return super().attribute(model, inputs, targets)


class _Wide(nn.Module):
    """Takes 32 MiB of memory for every image, of which 512 MiB are left from the first call on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.sizes: list[int] = []
        self.limited = False

    def forward(self, images: Tensor) -> Tensor:
        if not self.limited and multiprocessing.parent_process() is not None:  # never that of the tests themselves
            self.limited = True
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.getrlimit(resource.RLIMIT_AS)[1]))
        taken = torch.empty(len(images), 2**25, dtype=torch.uint8)
        del taken
        return self.inner(images)


def wide() -> nn.Module:
    from toys import network

    return _Wide(network())


class Interrupts(Plain):
    """Sends its process a signal at each of so many calls from the second one on, all while the first unit is done."""

    name = "interrupts"

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.calls = 0

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if 2 <= self.calls < 2 + self.times:
            signal.raise_signal(signal.SIGTERM)
        return super().attribute(model, inputs, targets)
