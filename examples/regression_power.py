"""Does `interpeval check` see a bug, and keep silent without one? `python examples/regression_power.py` measures both.

Explainers of a small network on `digit_scenes` are scored under one seed as the baseline. Then the same is scored
under other seeds (any failure is a false alarm), with a bug planted into one explainer (a failure is a catch), and with
`--retrained` for networks trained from other seeds. Everything is checked with and without the per-sample scores.
`docs/regression_checks.md` explains the tables; they are printed as they stand there.
"""

import argparse
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam

from interpeval.baselines.cam_layer import cam_layer
from interpeval.baselines.gradcam import GradCam
from interpeval.baselines.gradient import Gradient
from interpeval.baselines.smoothgrad import SmoothGrad
from interpeval.baselines.through_captum import attribute_through
from interpeval.bench import evaluate
from interpeval.bench.resolve import resolve_dataset, resolve_model
from interpeval.leaderboards.baseline import Baseline
from interpeval.leaderboards.check import check
from interpeval.leaderboards.record import records

METRICS = [
    "content_heatmap", "deletion", "insertion", "negative_quadrants_heatmap", "pointing_game",
    "relevance_rank", "self_consistency?n_draws=4", "stochastic_pointing_game", "top_k",
]  # fmt: skip
KINDS = (Gradient, GradCam, SmoothGrad)


def made(kind):
    return kind(n_samples=5) if issubclass(kind, SmoothGrad) else kind()


def wrong_class(kind):
    @dataclass(frozen=True)
    class WrongClass(kind):
        def attribute(self, model, inputs, targets, **further):
            return super().attribute(model, inputs, (targets + 1) % model(inputs[:1]).shape[1], **further)

    return made(WrongClass)


def shifted(kind):
    @dataclass(frozen=True)
    class Shifted(kind):
        def attribute(self, model, inputs, targets, **further):
            maps = super().attribute(model, inputs, targets, **further)
            maps = F.interpolate(maps, inputs.shape[2:], mode="bilinear", align_corners=False)
            return F.pad(maps[..., 4:, 4:], (0, 4, 0, 4))

    return made(Shifted)


@dataclass(frozen=True)
class WithoutRelu(GradCam):
    rectified = False  # else the engine would rectify what it forgets

    def attribute(self, model, inputs, targets):
        return attribute_through(LayerGradCam(model, cam_layer(model, inputs, self.layer)), inputs, targets)


BUGS = {
    **{f"gradient of the wrong class, in {kind.name}": wrong_class(kind) for kind in KINDS},
    **{f"map shifted by 4 pixels, in {kind.name}": shifted(kind) for kind in KINDS},
    "forgotten ReLU, in gradcam": WithoutRelu(),
}


def first(series, size):
    """The series as a run with `--limit size` would have found them: no value depends on the other samples."""
    return [
        replace(
            one,
            ids=one.ids[:size],
            values=one.values[:size],
            status=one.status[:size],
            variance=None if one.variance is None else one.variance[:size],
            classes=one.classes[:size],
        )
        for one in series
    ]


def baseline(series, size):
    part = first(series, size)
    return Baseline.of(records(part, seed=0), part)


def measured(network, explainers, seed, size):
    return evaluate(
        network, explainers, "digit_scenes", METRICS, seed=seed, limit=size, device="cpu", controls=False
    ).series


def verdicts(before, after, alpha):
    """Checks with per-sample scores, by intervals alone, and with per-sample scores where no number may move."""
    return (
        check(before, after, alpha=alpha),
        check(Baseline(before.records), Baseline(after.records), alpha=alpha),
        check(before, after, alpha=alpha, any_change=True),
    )


def show(title, header, lines):
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)  # noqa: T201
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |", flush=True)  # noqa: T201


def network_of(seed):
    dataset = resolve_dataset("digit_scenes")
    return resolve_model("cifar_cnn", dataset, seed=seed, device=torch.device("cpu"), progress=False).module


def false_alarms(runs, sizes, alpha):
    for size in sizes:
        before = baseline(runs[0], size)
        found = [verdicts(before, baseline(run, size), alpha) for run in runs[1:]]
        for place, test in enumerate(("paired", "interval", "paired, any change")):
            checks = [pair[place] for pair in found]
            tested = sum(one.p is not None for one in checks[0].findings)
            smallest = min((f.p_holm for one in checks for f in one.findings if f.p_holm is not None), default=1)
            yield size, test, tested, f"{sum(bool(one.failures) for one in checks)} of {len(checks)}", f"{smallest:.2g}"


def caught(network, runs, sizes, alpha, n_seeds):
    for name, explainer in BUGS.items():
        bugged = {seed: measured(network, explainer, seed, max(sizes)) for seed in range(n_seeds + 1)}
        for size in sizes:
            before = baseline(runs[0], size)
            found = []
            for seed, rows in bugged.items():
                others = [one for one in runs[seed] if one.explainer != rows[0].explainer]
                checks = verdicts(before, baseline([*others, *rows], size), alpha)
                found.append([len(one.failures) for one in checks])
            exact, *reseeded = found
            yield (
                name, size, caught_text([exact], 0), caught_text([exact], 2),
                *(caught_text(reseeded, place) for place in (0, 2, 1)),
            )  # fmt: skip


def caught_text(counts, place):
    rows = [one[place] for one in counts]
    spread = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)}–{max(rows)}"
    return f"{sum(map(bool, rows))} of {len(rows)} ({spread} rows)"


def retrained(runs, seeds, sizes, alpha):
    """The paired test is what it would be if it did not look at the digest of the weights."""
    others = [measured(network_of(seed), [made(kind) for kind in KINDS], 0, max(sizes)) for seed in seeds]
    hidden = [[replace(one, model_digest=runs[0][0].model_digest, seed=1) for one in run] for run in others]
    for size in sizes:
        for test, sides in (("paired", hidden), ("interval", others)):
            found = [check(baseline(runs[0], size), baseline(side, size), alpha=alpha) for side in sides]
            counts = [[len(one.failures)] for one in found]
            yield size, test, len(found[0].findings), caught_text(counts, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bug-seeds", type=int, default=3)
    parser.add_argument(
        "--retrained", type=int, default=0, help="so many networks from other seeds, trained on the spot"
    )
    parser.add_argument("--alpha", type=float, default=0.01)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    network, unchanged = network_of(0), [made(kind) for kind in KINDS]
    runs = [measured(network, unchanged, seed, max(chosen.samples)) for seed in range(chosen.seeds + 1)]
    show(
        "False alarms: the unchanged subject under other seeds",
        ("samples", "test", "rows tested", "checks that failed", "smallest p after Holm"),
        false_alarms(runs, chosen.samples, chosen.alpha),
    )
    show(
        "Planted bugs: checks that failed, and because of how many rows",
        (
            "bug",
            "samples",
            "same seed: exact",
            "any change",
            "other seeds: paired",
            "any change",
            "other seeds: interval",
        ),
        caught(network, runs, chosen.samples, chosen.alpha, chosen.bug_seeds),
    )
    if chosen.retrained:
        show(
            "Retrained networks, the code unchanged",
            ("samples", "test", "rows", "checks that failed"),
            retrained(runs, range(1, chosen.retrained + 1), chosen.samples, chosen.alpha),
        )


if __name__ == "__main__":
    main()
