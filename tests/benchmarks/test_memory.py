"""How much memory a run takes at most, beside what the model and the samples take.

`make bench` prints the peak for more samples, more draws and a larger micro-batch: only the last may raise it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import sys
import numpy as np, torch
from torch import nn
from interpeval.bench import evaluate
sys.path.insert(0, "tests/benchmarks")
from test_overhead import Pictures

samples, draws, size = (int(word) for word in sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(0)
convolutions = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
pixels = np.random.default_rng(0).integers(0, 256, (512, 3, 64, 64), dtype=np.uint8)
metrics = [f"self_consistency?n_draws={draws}", f"mask_k_pixels?n_draws={draws}"]
evaluate(model, "gradient", Pictures(pixels), metrics, limit=samples, controls=False, device="cpu", batch_size=size)
# Of this process's own memory; `ru_maxrss` would be that of the one that started it, if that was larger.
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def peak(samples: int, draws: int, size: int) -> float:
    """Largest resident memory of a run in a process of its own, in MiB."""
    command = [sys.executable, "-c", RUN, str(samples), str(draws), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("samples", "draws", "size"), [(64, 1, 8), (64, 16, 8), (512, 1, 8), (64, 1, 64), (64, 16, 64)]
)
def test_peak_memory(benchmark, samples: int, draws: int, size: int) -> None:
    mebibytes = benchmark.pedantic(peak, args=(samples, draws, size), rounds=1, iterations=1)
    benchmark.extra_info["peak"] = mebibytes
    print(f"\n{samples} samples, {draws} draws, micro-batch of {size}: peak {mebibytes:.0f} MiB")
