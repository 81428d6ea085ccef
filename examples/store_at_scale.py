"""Fill a store with many small units, and measure what looking things up in it costs.

    python examples/store_at_scale.py --units 100000

A hundredth of the units is written, the others are further names of the same files: folders are as large as they
would be, disks are not filled, and what is read has been read before. Every rate is that of one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from interpeval.bench.lease import Leases
from interpeval.bench.progress import progress
from interpeval.bench.store import MetricResult, Store, Unit, digest_of
from interpeval.metrics.base import Facts, Scores

SAMPLES, METRICS = 64, 10
ABOUT = {
    "dataset": "simulated", "dataset_revision": "1", "model": "m", "model_digest": "0", "explainer_params": "{}",
    "seed": 0, "interpeval": "0", "torch": "0", "captum": "0", "device": "cpu",
}  # fmt: skip


def unit(number: int) -> Unit:
    status = torch.zeros(SAMPLES, dtype=torch.uint8)
    return Unit(
        key=digest_of({"unit": number}),
        about={**ABOUT, "explainer": f"e{number % 30}"},
        ids=tuple(f"sample-{number}-{index:03d}" for index in range(SAMPLES)),
        classes=torch.zeros(SAMPLES, dtype=torch.int64),
        metrics={
            f"{metric:016x}": MetricResult(
                name=f"metric{metric}",
                version=1,
                configuration="",
                aggregations=("items",),
                facts={"": Facts(True, (0.0, 1.0), None)},
                scores={"": Scores(torch.full((SAMPLES,), metric / METRICS, dtype=torch.float64), status)},
                seconds=1.0,
                passes=1,
            )
            for metric in range(METRICS)
        },
    )


def report(name: str, count: int, call: Callable[[], object]) -> None:
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    print(f"{name:58} {took:9.2f} s {count / took:12.0f} units/s", flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to make the store [default: the folder of temporary files]")
    arguments = parser.parse_args()
    count = arguments.units
    keys = [digest_of({"unit": number}) for number in range(count)]
    metrics = unit(0).metrics.keys()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = Store(Path(folder))
        written = max(1, count // 100)
        report("write", written, lambda: [store.write(unit(number)) for number in range(written)])
        names = dict(Store(Path(folder)).listing.all())
        for number in range(written, count):
            key = keys[number % written]
            for name in names[key]:
                os.link(store.folder / name, store.folder / name.replace(key, keys[number]))
        fresh = Store(Path(folder))
        report("list the folder once", count, fresh.listing.all)
        report(
            "is it finished? by name, every unit (a worker joins)",
            count,
            lambda: [fresh.holds(k, metrics) for k in keys],
        )
        report(
            "is it finished? asked of the file system, every unit",
            count,
            lambda: [fresh.holds(key, metrics, look=True) for key in keys],
        )

        def read() -> None:
            if any(len(fresh.find(key)) != 1 for key in keys[:written]):
                raise RuntimeError("a unit is not what was written")

        report("read and check by digest (a run is begun, or published)", written, read)
        some = keys[:: max(1, count // 5000)]
        leases = Leases(fresh.folder)

        def claim() -> None:
            for key in some:
                with leases.claimed(f"{key[::-1]}"):
                    pass

        report("claim and give back", len(some), claim)
        rows = [{"about": unit(row).about, "units": keys[row::30]} for row in range(30)]
        (Path(folder) / "run.json").touch()
        content = {"rows": rows, "finished": None}
        report("status", count, lambda: progress(Path(folder), content))
        sizes = [path.stat() for path in fresh.folder.iterdir()]
        total, taken = sum(size.st_size for size in sizes), sum(512 * size.st_blocks for size in sizes)
        print(  # noqa: T201
            f"{len(sizes)} files, {total / count / 1024:.1f} KiB a unit, "
            f"on this file system {taken / count / 1024:.1f} KiB"
        )


if __name__ == "__main__":
    main()
