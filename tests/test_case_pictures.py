"""Heatmaps of the best and worst samples: those that were scored, computed once, and never a reason to lose a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from interpeval.baselines.base import heatmap
from interpeval.bench.boards import write_board
from interpeval.bench.engine import Options
from interpeval.bench.run import Outcome, load_results, run
from interpeval.bench.store import Unit
from interpeval.bench.suite import Experiment, Suite
from interpeval.leaderboards.cases import cases_of

TOYS = Path(__file__).parent / "toys.py"
CONTROLS = ("center", "edges", "random", "truth", "uniform")
METRICS = ("content_heatmap", "average_drop")  # of the labelled class, and of the predicted one

# Says in a file which samples it was asked about, and does what another file tells it to.
WATCHED = '''
from pathlib import Path
import torch
HERE = Path(__file__).parent

class Watched:
    """The gradient; draws noise, so that a seed that differs shows."""

    def attribute(self, model, inputs, targets):
        with (HERE / "asked").open("a") as file:
            file.write(f"{len(inputs)}\\n")
        told = (HERE / "told").read_text() if (HERE / "told").exists() else ""
        if told == "interrupt":
            raise KeyboardInterrupt
        if told == "memory":
            raise torch.OutOfMemoryError("told to")
        inputs.requires_grad_()
        [gradient] = torch.autograd.grad(model(inputs).gather(1, targets[:, None]).sum(), inputs)
        return gradient + torch.rand_like(gradient)
'''


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """A file with an explainer that is watched."""
    path = tmp_path / "watched" / "mine.py"
    path.parent.mkdir()
    path.write_text(WATCHED)
    return path


def tell(watched: Path, what: str) -> None:
    watched.with_name("told").write_text(what)


def asked(watched: Path) -> int:
    """How often the explainer was asked since the last time; once more for every sample, as it draws numbers."""
    path = watched.with_name("asked")
    count = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


def start(folder: Path, *explainers: str, limit: int = 8, **options: object) -> Outcome:
    experiment = Experiment(
        dataset=f"{TOYS}:Squares", model=f"{TOYS}:network", explainers=explainers, metrics=METRICS, limit=limit
    )
    suite = Suite(name="toys", experiments=(experiment,))
    return run(suite, folder, Options(**{"device": torch.device("cpu"), **options}))


def maps(pictures: list[Unit]) -> dict[tuple[str, str, str], torch.Tensor]:
    """Heatmaps by explainer, target and sample."""
    return {
        (unit.about["explainer"], unit.about["target"], name): unit.previews["heatmaps"][row]
        for unit in pictures
        for row, name in enumerate(unit.ids)
    }


def wanted(outcome: Outcome) -> set[tuple[str, str]]:
    """Targets and samples that are best or worst under a metric."""
    return {(one.target, case.id) for one in cases_of(outcome.results.board) for case in (one.best, one.worst)}


def expected(outcome: Outcome, *explainers: str) -> set[tuple[str, str, str]]:
    return {(explainer, *one) for explainer in (*explainers, *CONTROLS) for one in wanted(outcome)}


def numbers(folder: Path) -> list[str]:
    """The leaderboard without the times, which are measured anew."""
    frame = load_results(folder).summary().drop(columns="seconds")
    return frame.to_csv().splitlines()


def test_they_are_to_the_bit_those_that_were_scored(tmp_path: Path, watched: Path) -> None:
    found = start(tmp_path / "run", f"{watched}:Watched", "gradcam")
    kept = start(tmp_path / "kept", f"{watched}:Watched", "gradcam", keep_attributions=True)
    scored = {
        (unit.about["explainer"], rule, name): attributions[row]
        for unit in kept.results.units
        for rule, attributions in unit.attributions.items()
        for row, name in enumerate(unit.ids)
    }
    shown = maps(found.results.pictures)
    assert shown.keys() == expected(found, "Watched", "gradcam")
    assert {target for _, target, _ in shown} == {"label", "predicted"}
    for key, picture in shown.items():
        reduction = "sum" if key[0] != "gradcam" else "none"
        size = (picture.shape[0], picture.shape[1])
        assert torch.equal(picture, heatmap(scored[key][None], size, reduction, rectified=key[0] == "gradcam")[0]), key


def test_what_is_kept_is_not_explained_again(tmp_path: Path, watched: Path) -> None:
    first = start(tmp_path / "run", f"{watched}:Watched")
    assert asked(watched) > 0
    again = start(tmp_path / "run", f"{watched}:Watched")
    assert asked(watched) == 0
    assert maps(again.results.pictures).keys() == maps(first.results.pictures).keys()


def test_attributions_that_a_run_kept_are_shown_as_they_are(tmp_path: Path, watched: Path) -> None:
    start(tmp_path / "run", f"{watched}:Watched", cases=False, keep_attributions=True)
    assert asked(watched) > 0
    outcome = start(tmp_path / "run", f"{watched}:Watched")
    assert asked(watched) == 0
    assert maps(outcome.results.pictures).keys() == expected(outcome, "Watched")


def test_the_page_of_a_run_and_a_board_of_its_folder_show_the_same_pictures(tmp_path: Path) -> None:
    outcome = start(tmp_path / "run", "gradient")
    assert maps(load_results(tmp_path / "run").pictures).keys() == maps(outcome.results.pictures).keys()
    write_board([tmp_path / "run"], tmp_path / "board")
    texts = [path.read_text() for path in (tmp_path / "run" / "report.html", tmp_path / "board" / "index.html")]
    sections = [text[text.index('<section id="extremes"') : text.index('<section id="metrics"')] for text in texts]
    assert sections[0] == sections[1]
    assert sections[0].count("<img ") == len(cases_of(outcome.results.board)) * 2 * (2 + 1 + len(CONTROLS))
    start(tmp_path / "run", "gradient")
    assert (tmp_path / "run" / "report.html").read_text() == texts[0]


def test_they_can_be_left_out_and_change_no_number(tmp_path: Path) -> None:
    start(tmp_path / "with", "gradient")
    without = start(tmp_path / "without", "gradient", cases=False)
    assert without.results.pictures == []
    assert not [path for path in (tmp_path / "without" / "units").glob("*.json") if not _metrics(path)]
    assert '<details class="case"' not in (tmp_path / "without" / "report.html").read_text()
    assert "Best and worst samples" in (tmp_path / "without" / "report.html").read_text()
    assert numbers(tmp_path / "with") == numbers(tmp_path / "without")


def _metrics(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())["metrics"]


def test_an_interruption_loses_nothing_and_is_made_good_by_the_next_run(
    tmp_path: Path, watched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = start(tmp_path / "whole", "gradient", f"{watched}:Watched")
    start(tmp_path / "run", "gradient", f"{watched}:Watched", cases=False)
    tell(watched, "interrupt")
    outcome = start(tmp_path / "run", "gradient", f"{watched}:Watched")
    assert "Interrupted: the other heatmaps of best and worst samples are left out" in capfd.readouterr().err
    assert outcome.failures == []
    assert {explainer for explainer, *_ in maps(outcome.results.pictures)} == {"gradient"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    tell(watched, "")
    stored = _written(tmp_path / "run")
    completed = start(tmp_path / "run", "gradient", f"{watched}:Watched")
    assert maps(completed.results.pictures).keys() == maps(whole.results.pictures).keys()
    assert stored.items() <= _written(tmp_path / "run").items()  # gradient's were not written again


def _written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}


def test_a_failure_costs_the_pictures_of_one_explainer_only(
    tmp_path: Path, watched: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "run", f"{watched}:Watched", "gradient", cases=False)
    tell(watched, "memory")
    outcome = start(tmp_path / "run", f"{watched}:Watched", "gradient")
    assert "No heatmaps of best and worst samples by Watched: OutOfMemoryError: told to" in capfd.readouterr().err
    assert outcome.failures == []
    assert maps(outcome.results.pictures).keys() == expected(outcome, "gradient")
    assert 'alt="gradient on square' in (tmp_path / "run" / "report.html").read_text()


def test_a_damaged_one_counts_as_missing(tmp_path: Path, watched: Path) -> None:
    whole = start(tmp_path / "run", f"{watched}:Watched")
    asked(watched)
    damaged = sorted(path for path in (tmp_path / "run" / "units").glob("*.json") if not _metrics(path))
    for path in damaged:
        payload = bytearray(path.with_suffix(".safetensors").read_bytes())
        payload[-1] ^= 1
        path.with_suffix(".safetensors").write_bytes(payload)
    with pytest.warns(UserWarning, match="damaged and counts as missing"):
        again = start(tmp_path / "run", f"{watched}:Watched")
    assert asked(watched) > 0
    for key, picture in maps(again.results.pictures).items():
        assert torch.equal(picture, maps(whole.results.pictures)[key])


def test_a_later_run_explains_only_what_is_new(tmp_path: Path, watched: Path) -> None:
    start(tmp_path / "run", f"{watched}:Watched", limit=4)
    first = maps(load_results(tmp_path / "run").pictures)
    asked(watched)
    start(tmp_path / "run", "gradient", limit=4)
    outcome = load_results(tmp_path / "run")
    assert asked(watched) == 0
    assert first.keys() <= maps(outcome.pictures).keys()
    assert {explainer for explainer, *_ in maps(outcome.pictures)} == {"Watched", "gradient", *CONTROLS}
