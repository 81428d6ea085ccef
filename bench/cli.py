"""The command line. Nothing heavy is imported before a command needs it: `--help` and `list` answer at once."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .check_commands import check_command, compare_command
from .exits import FAULTY, INTERRUPTED, UNUSABLE, guarded, refuse, shown
from .repeat_command import repeat_command
from .work_commands import status_command, worker_command

if TYPE_CHECKING:
    from .conformance import CheckResult
    from .disagreement import Report
    from .local_workers import Crew
    from .ray_cluster import Cluster
    from .run import Outcome
    from .suite import Suite
    from .training_job import Trained


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="interpeval")
def main() -> None:
    """Measure how good the explanations of image models are."""
    os.umask(os.umask(0o077) | 0o002)  # whatever the umask says, nothing is written that everybody can change


main.add_command(compare_command)
main.add_command(check_command)
main.add_command(worker_command)
main.add_command(status_command)
main.add_command(repeat_command)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(["explainers", "models", "datasets", "metrics", "suites"]))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(kind: str | None, as_json: bool) -> None:
    """List what can be named in other commands."""
    from .catalog import KINDS

    kinds = [kind] if kind else [*KINDS, "suites"]
    found = {one: _listed(one) for one in kinds}
    if as_json:
        click.echo(json.dumps(found[kind] if kind else found, indent=2))
        return
    for one, items in found.items():
        if not kind:
            click.secho(one, bold=True)
        width = max((len(item["name"]) for item in items), default=0)
        for item in items:
            click.echo(_aligned(item["name"], item["summary"], width))


@main.command("run")
@click.argument("suite", required=False)
@click.option("--dataset", metavar="D", help="Dataset, such as `digit_scenes`.")
@click.option("--model", metavar="M[@weights]", help="Model, such as `cifar_cnn`, with weights of your own after `@`.")
@click.option("--explainer", "explainers", metavar="E", multiple=True, help="Explainer; repeat for several.")
@click.option(
    "--metric", "metrics", metavar="K", multiple=True, help="Metric; repeat for several. Default: all that apply."
)
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N samples only.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every draw. [default: 0]")
@click.option("--batch-size", default="auto", show_default=True, help="Rows per call of the model; changes no value.")
@click.option("--device", default="auto", show_default=True, help="`auto`, `cpu`, `cuda`, `cuda:1`, …")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results. [default: results/<suite>]")
@click.option(
    "--existing", type=click.Choice(["skip", "redo", "fail"]), default="skip", show_default=True,
    help="What to do with finished work: use it, do it again, or stop.",
)  # fmt: skip
@click.option("--download", is_flag=True, help="Let datasets fetch what is not there yet.")
@click.option(
    "--on-bad-sample",
    type=click.Choice(["error", "skip"]),
    help="A damaged file fails its unit, or is left out and counted.",
)
@click.option("--keep-attributions", is_flag=True, help="Keep all attributions, so that metrics can be added later.")
@click.option("--no-cases", is_flag=True, help="Leave out the heatmaps of each metric's best and worst samples.")
@click.option("--trust", is_flag=True, help="Unpickle weights files whole, which runs whatever code they hold.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Let N processes do the work, one per GPU or group of cores."
)
@click.option(
    "--unit-timeout", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True),
    help="Kill the process of a unit (64 samples of one explainer) that takes longer; it is tried three times.",
)  # fmt: skip
@click.option("--ray", metavar="ADDRESS|auto", help="Have the work done by a Ray cluster (extra `ray`).")
def run_command(suite: str | None, batch_size: str, device: str, out: Path | None, **options: Any) -> None:
    """Score explanations. Without arguments: the suite `quickstart`.

    SUITE is a name from `interpeval list suites` or a TOML file. Options replace what the suite says; with --dataset,
    --model, --explainer or --metric and no SUITE a run is made of them alone. The control explainers are always added.
    Exit codes: 0 done, 2 unusable input (nothing written) or a folder that cannot be written (finished work is kept),
    3 done, but some explainer failed on some samples, 130 interrupted after the unit in hand.
    """
    from .suite import SuiteError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    try:
        chosen = _suite(suite, options)
        folder = out or Path("results") / chosen.name
        outcome = _run(chosen, folder, batch_size, device, options)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. Finished work is kept: run the same command again to go on.", err=True)
        sys.exit(INTERRUPTED)
    except SuiteError as error:
        refuse(str(error))
    _report(outcome, folder)
    sys.exit(0 if outcome.flawless else FAULTY)


@main.command("train")
@click.argument("model")
@click.option("--dataset", metavar="D", required=True, help="Dataset whose training part is trained on.")
@click.option(
    "--out", metavar="FILE.safetensors", required=True, type=click.Path(path_type=Path), help="File to write."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--learning-rate", type=float, help="Instead of the recipe's.")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Any other value of the recipe; repeat.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--limit", type=click.IntRange(min=1), help="Train on N samples only, spread over the training part.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one, with the same result.")
@click.option("--device", default="auto", show_default=True, help="`auto`, `cpu`, `cuda`, `cuda:1`, …")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
    help="`bf16`: forward and backward passes in bfloat16 where that is safe.",
)  # fmt: skip
@click.option("--download", is_flag=True, help="Let the dataset fetch what is not there yet.")
@click.option("--trust", is_flag=True, help="Unpickle the weights to start from whole, which runs their code.")
def train_command(model: str, dataset: str, out: Path, **options: Any) -> None:
    """Train MODEL on a dataset and write its weights.

    MODEL is a name from `interpeval list models`, with options of its constructor as in `site?width=32`, and with
    `@FILE` to start from the weights of a file. Every epoch leaves a checkpoint in `FILE.safetensors.checkpoint`.
    Exit codes: 0 done, 2 unusable input (nothing written), 3 the loss was not finite, 130 interrupted.
    """
    try:
        trained = guarded(lambda: _train(model, dataset, out, options))
    except FloatingPointError as error:
        click.echo(f"interpeval: {shown(str(error))}", err=True)
        sys.exit(FAULTY)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. {_how_to_resume(out)}", err=True)
        sys.exit(INTERRUPTED)
    accuracy = "not counted" if trained.accuracy is None else f"{trained.accuracy:.4f}"
    click.echo(f"accuracy {accuracy} ({shown(trained.held_out)})\nweights {trained.digest} in {trained.path}")


def _train(model: str, dataset: str, out: Path, options: dict[str, Any]) -> Trained:
    from .torch_check import check_torchvision
    from .training_job import TrainingJob, TrainingOptions

    check_torchvision()
    passed_on = ("seed", "limit", "device", "precision", "resume", "trust")
    chosen = TrainingOptions(
        changes=_changes(options),
        dataset_options={"download": True} if options["download"] else {},
        **{key: options[key] for key in passed_on},
    )
    return TrainingJob(model, dataset, out, chosen).run()


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be changed in a recipe."""
    from .catalog import literal

    changes = {key: options[key] for key in ("epochs", "batch_size", "learning_rate") if options[key] is not None}
    for text in options["changes"]:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"`--set` must be KEY=VALUE, was `{text}`")
        if key in changes:
            raise ValueError(f"`{key}` of the recipe is given twice")
        changes[key] = literal(value)
    return changes


def _how_to_resume(out: Path) -> str:
    if out.with_name(f"{out.name}.checkpoint").exists():
        return "The last complete epoch is kept: run the same command with --resume to go on."
    return "No epoch was complete: nothing is kept."


@main.command("scores")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("scores.csv"), show_default=True, help="File to write."
)
def scores_command(folder: Path, out: Path) -> None:
    """Write the per-sample scores of a run as CSV."""
    from ..leaderboards.csv_table import inert

    results = guarded(lambda: _load(folder))
    frame = results.scores
    guarded(lambda: inert(frame).to_csv(out, index=False, float_format="%.9g", lineterminator="\n"))
    click.echo(f"{len(frame)} rows written to {out}")


@main.command("board")
@click.argument("sources", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--name", default="leaderboard", show_default=True, help="Name of the tables, without ending.")
@click.option("--allow-mixed", is_flag=True, help="Take runs that differ in revision, version, seed or samples.")
def board_command(sources: tuple[Path, ...], out: Path, name: str, allow_mixed: bool) -> None:
    """Merge runs into one board: index.html, and a table as CSV, Markdown and LaTeX.

    DIR is the folder of a run, or a `leaderboard.csv`. Runs whose dataset revision, metric version or seed differ must
    not stand in one table: they are refused, or kept apart with --allow-mixed.
    Exit codes: 0 done, 2 unusable input (nothing written).
    """
    from .boards import write_board

    board = guarded(lambda: write_board(sources, out, name=name, allow_mixed=allow_mixed))
    for note in board.notes:
        click.echo(shown(note))
    click.echo(f"{len(board.records)} rows. In {out}: index.html, {name}.csv, {name}.md, {name}.tex")


@main.command("disagree")
@click.argument("model")
@click.option("--dataset", metavar="D", required=True, help="Dataset, such as `quickdraw`, with one label per sample.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the table and picture; replaced if there."
)
@click.option(
    "--space", type=click.Choice(["pca", "attributes"]), default="pca", show_default=True,
    help="Where depths are computed: in the images' principal components, or in the attributes' activations.",
)  # fmt: skip
@click.option(
    "--budget", type=click.Choice(["fast", "default", "thorough"]), default="default", show_default=True,
    help="How long depths are searched for.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N samples only.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--device", default="auto", show_default=True, help="`auto`, `cpu`, `cuda`, `cuda:1`, …")
@click.option("--download", is_flag=True, help="Let the dataset fetch what is not there yet.")
@click.option("--trust", is_flag=True, help="Unpickle the weights file whole, which runs whatever code it holds.")
def disagree_command(model: str, dataset: str, out: Path, **options: Any) -> None:
    """List the samples about which MODEL and its interpreter disagree.

    MODEL has an interpreter, as `flint` has, with weights of your own after `@`. For each such sample the table says
    how deep it lies in its class, beside samples on which both agree: is the interpreter wrong about unusual ones?
    Exit codes: 0 done, 2 unusable input (nothing written).
    """
    report, files = guarded(lambda: _disagreement(model, dataset, out, options))
    share = "no class has depths to compare" if math.isnan(report.p_value) else f"p = {report.p_value:.3g}"
    left_out = f", {report.n_invalid} left out (not finite)" if report.n_invalid else ""
    click.echo(f"{len(report.frame)} of {report.n} samples disagree{left_out}; do they lie less deep: {share}")
    click.echo("\n".join(str(file) for file in files))


def _disagreement(model: str, dataset: str, out: Path, options: dict[str, Any]) -> tuple[Report, list[Path]]:
    from .disagreement import disagreement_report
    from .evaluation import choose_device
    from .resolve import check_interpreter, resolve_dataset, resolve_model
    from .torch_check import check_torchvision

    check_torchvision()
    device = choose_device(options["device"])
    data = resolve_dataset(dataset, **({"download": True} if options["download"] else {}))
    check_interpreter(model)
    network = resolve_model(
        model, data, seed=options["seed"], device=device, progress=True, trust=options["trust"]
    ).module
    passed_on = {key: options[key] for key in ("limit", "space", "seed", "budget", "device")}
    report = disagreement_report(network, data, **passed_on)
    return report, report.save(out)


@main.command("conform")
@click.argument("explainer")
@click.option("--model", metavar="M[@weights]", help="Model to explain, with --dataset. Default: a small network.")
@click.option("--dataset", metavar="D", help="Dataset whose first samples are explained, with --model.")
@click.option("--device", default="cpu", show_default=True, help="`auto`, `cpu`, `cuda`, `cuda:1`, …")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conform_command(explainer: str, model: str | None, dataset: str | None, device: str, as_json: bool) -> None:
    """Check that an explainer behaves: shapes, batches, targets, repeatability, the model given back, and more.

    EXPLAINER is a name from `interpeval list explainers`, or the place of your own: `path/to/file.py:Name`. A failure
    that the explainer states in `expected_failures` counts as none.
    Exit codes: 0 no check failed, 2 unusable input or a model that the explainer refuses, 3 some checks failed.
    """
    results = guarded(lambda: _conformance(explainer, model, dataset, device))
    if as_json:
        click.echo(json.dumps([result._asdict() for result in results], indent=2))
    else:
        _report_checks(results)
    outcomes = {result.outcome for result in results}
    sys.exit(FAULTY if "failed" in outcomes else UNUSABLE if outcomes == {"skipped"} else 0)


def _conformance(explainer: str, model: str | None, dataset: str | None, device: str) -> list[CheckResult]:
    """Check an explainer on the default network, or on a model and the first samples of a dataset."""
    from .conformance import check_explainer
    from .evaluation import choose_device

    place = choose_device(device)
    if model is None and dataset is None:
        return check_explainer(explainer, device=place)
    if model is None or dataset is None:
        raise ValueError("`--model` and `--dataset` must be given together: a model is checked on images made for it")
    from .resolve import resolve_dataset, resolve_model

    data = resolve_dataset(dataset)
    batch = data.take(range(min(4, len(data))))
    network = resolve_model(model, data, seed=0, device=place, progress=True).module
    masks = None if batch.masks is None else batch.masks.to(place)
    return check_explainer(explainer, network, batch.images.to(place), masks=masks)


def _report_checks(results: list[CheckResult]) -> None:
    """Print a table of the checks, and how many ended how."""
    from collections import Counter

    from tabulate import tabulate

    rows = [(result.name, result.outcome, shown(result.message)) for result in results]
    click.echo(
        tabulate(rows, headers=("check", "outcome", "message"), tablefmt="simple", maxcolwidths=(None, None, 80))
    )
    counts = Counter(result.outcome for result in results)
    click.echo("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def _suite(name: str | None, options: dict[str, Any]) -> Suite:
    """Put together what to run from a suite and the options that replace parts of it."""
    from .suite import Experiment, Suite, load_suite

    given = {key: options[key] for key in ("dataset", "model", "limit") if options[key] is not None}
    given |= {key: options[key] for key in ("explainers", "metrics") if options[key]}
    seed = options["seed"]
    made = name is None and bool(given.keys() - {"limit"})
    base = load_suite(name or "quickstart")
    if made:
        first = _first_of(base, given)
        suite = Suite(
            name=_folder_name(given), seed=base.seed, experiments=(first.model_copy(update={"limit": None} | given),)
        )
    else:
        suite = base.model_copy(
            update={"experiments": tuple(Experiment.model_copy(one, update=given) for one in base.experiments)}
        )
    return suite if seed is None else suite.model_copy(update={"seed": seed})


def _first_of(base: Suite, given: dict[str, Any]) -> Any:
    """Return the experiment of the quickstart that fits the dataset or model asked for best."""

    def fit(one: Any) -> int:
        return sum(getattr(one, key) == given[key] for key in ("dataset", "model") if key in given)

    return max(base.experiments, key=fit)


def _folder_name(given: dict[str, Any]) -> str:
    text = str(given.get("dataset", "digit_scenes")).partition("?")[0]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    return plain[-64:].lstrip("._-") or "run"


def _run(suite: Suite, folder: Path, batch_size: str, device: str, options: dict[str, Any]) -> Outcome:
    from .local_workers import WorkerError
    from .run import ExistingError

    def start() -> Outcome:
        from .engine import Options
        from .evaluation import choose_device
        from .run import run
        from .torch_check import check_torchvision

        check_torchvision()
        chosen = Options(
            device=choose_device(device),
            batch_size=_batch_size(batch_size),
            existing=options["existing"],
            keep_attributions=options["keep_attributions"],
            cases=not options["no_cases"],
        )
        wanted = {"download": options["download"] or None, "on_bad_sample": options["on_bad_sample"]}
        further = {name: value for name, value in wanted.items() if value is not None}
        command = " ".join(["interpeval", *sys.argv[1:]])
        with _cluster(options["ray"]) as cluster:
            return run(
                suite, folder, chosen, command=command, dataset_options=further, trust=options["trust"],
                crew=_crew(options), cluster=cluster,
            )  # fmt: skip

    return guarded(start, ExistingError, WorkerError)


def _crew(options: dict[str, Any]) -> Crew | None:
    """Return the processes that are to do the work; a unit that may be killed has one of its own."""
    from .local_workers import Crew

    if options["workers"] is None and options["unit_timeout"] is None:
        return None
    return Crew(options["workers"] or 1, options["unit_timeout"], trust=options["trust"])


def _cluster(address: str | None) -> AbstractContextManager[Cluster | None]:
    if address is None:
        return nullcontext()
    from .ray_cluster import connected

    return connected(address)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"`--batch-size` must be `auto` or a whole number from 1, was `{text}`")
    return int(text)


def _report(outcome: Outcome, folder: Path) -> None:
    """Print the table, what went wrong, and where everything is."""
    click.echo(outcome.results.table())
    for dataset, counts in outcome.left_out.items():
        listed = "; ".join(f"{count} × {shown(reason)}" for reason, count in sorted(counts.items()))
        click.echo(f"\nleft out of {shown(dataset)}: {listed}")
    for name, reason in outcome.damaged.items():
        click.echo(f"\na damaged file was done again: {shown(name)}: {shown(reason)}")
    faults = outcome.results.faults
    if faults or outcome.failures:
        click.secho("\nWhat went wrong (the other rows are not affected):", bold=True)
    for fault in faults:
        samples = f" on {len(fault['ids'])} samples" if fault["ids"] else ""
        subject = fault["explainer"] or fault["model"]
        click.echo(shown(f"  {fault['dataset']} · {subject}: {fault['kind']}{samples}: {fault['message']}"))
    for failure in outcome.failures:
        subject = failure.about["explainer"] or failure.about["model"]
        click.echo(shown(f"  {failure.about['dataset']} · {subject}: a unit failed: {failure.message}"))
    reused = f", {outcome.reused} of its samples taken from earlier work" if outcome.reused else ""
    made = "report.html, leaderboard.csv, run.json, gallery.png, *_curves.png, units/"
    click.echo(f"\n{outcome.seconds:.0f} s{reused}. In {folder}: {made}")


def _load(folder: Path) -> Any:
    from .run import load_results

    return load_results(folder)


def _listed(kind: str) -> list[dict[str, Any]]:
    from .catalog import entries
    from .suite import load_suite, suites

    if kind == "suites":
        return [{"name": name, "summary": load_suite(name).description} for name in suites()]
    hidden = {"name", "classes"}
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            **{key: _jsonable(value) for key, value in sorted(entry.facts.items()) if key not in hidden},
            "defined": f"interpeval.{entry.module}:{entry.attribute}",
        }
        for entry in entries(kind).values()  # type: ignore[arg-type]
    ]


def _jsonable(value: Any) -> Any:
    """Return what JSON can say: sets as sorted lists, an open end of a range as null."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_jsonable(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _aligned(name: str, summary: str, width: int) -> str:
    lines = textwrap.wrap(summary, 100 - width) or [""]
    return "\n".join(
        f"  {label:{width}}  {line}" for label, line in zip([name, *[""] * len(lines)], lines, strict=False)
    )


if __name__ == "__main__":
    main()
