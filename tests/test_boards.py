"""`interpeval board`: runs and tables merged into files."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from interpeval.bench.boards import write_board
from interpeval.bench.cli import main
from interpeval.bench.engine import Options
from interpeval.bench.run import run
from interpeval.bench.run_notes import left_out_of, run_facts, suite_toml
from interpeval.bench.suite import Experiment, Suite
from interpeval.leaderboards.csv_table import read_csv, write_csv
from leaderboard_cases import record

TOYS = Path(__file__).parent / "toys.py"
BOARDS = sorted(path for path in Path(write_board.__code__.co_filename).parents[1].glob("leaderboards/*.csv"))
COMMITTED = [path for path in BOARDS if path.stem != "published"]


def suite(*explainers: str, limit: int = 12, seed: int = 0) -> Suite:
    experiment = Experiment(
        dataset=f"{TOYS}:Squares",
        model=f"{TOYS}:network",
        explainers=explainers,
        metrics=("pointing_game", "content_heatmap", "accuracy"),
        limit=limit,
    )
    return Suite(name="toys", seed=seed, experiments=(experiment,))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["board", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three runs: two that fit, and one of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    options = Options(device=torch.device("cpu"))
    run(suite("gradient"), folder / "a", options, command="interpeval run a")
    run(suite("gradcam"), folder / "b", options, command="interpeval run b")
    run(suite("gradcam", seed=1), folder / "c", options)
    return folder


def test_there_are_committed_boards() -> None:
    assert {path.stem for path in COMMITTED} >= {"coco_sample"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_boards_are_what_they_render_to(path: Path, tmp_path: Path) -> None:
    """To renew: `interpeval board leaderboards/NAME.csv --name NAME --out leaderboards`, without its index.html."""
    write_board([path], tmp_path, name=path.stem)
    for ending in (".csv", ".md"):
        committed = path.with_suffix(ending)
        assert (tmp_path / committed.name).read_bytes() == committed.read_bytes(), committed.name


def test_two_runs_become_one_board_with_the_rows_of_both(runs: Path, tmp_path: Path) -> None:
    done = call(runs / "a", runs / "b", "--out", tmp_path / "out", "--name", "both")
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "both.csv",
        "both.md",
        "both.tex",
        "index.html",
    ]
    rows = read_csv(tmp_path / "out" / "both.csv")
    parts = [read_csv(runs / name / "leaderboard.csv") for name in "ab"]
    assert {row.explainer for row in rows} == {
        "",
        "gradient",
        "gradcam",
        "random",
        "uniform",
        "center",
        "edges",
        "truth",
    }
    for row in rows:
        assert any(row in part for part in parts)
    assert len(rows) == len(parts[0]) + sum(row.explainer == "gradcam" for row in parts[1])
    text = (tmp_path / "out" / "index.html").read_text()
    for words in ("interpeval run a", "interpeval run b", "interpeval board ", "compared sample by sample"):
        assert words in text


def test_the_same_runs_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_board([runs / "a", runs / "b"], tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        # The command that is shown names the folder.
        told = path.read_bytes().replace(str(tmp_path / "first").encode(), str(tmp_path / "second").encode())
        assert told == (tmp_path / "second" / path.name).read_bytes()


def test_runs_of_two_seeds_are_refused_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    refused = call(runs / "a", runs / "c", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert f"seed: `0` in {runs / 'a'}, `1` in {runs / 'c'}" in refused.output
    assert not (tmp_path / "out").exists()
    assert call(runs / "a", runs / "c", "--out", tmp_path / "out", "--allow-mixed").exit_code == 0
    titles = [line for line in (tmp_path / "out" / "leaderboard.md").read_text().splitlines() if line.startswith("## ")]
    assert [title.rsplit(", ", 1)[1] for title in titles] == ["seed 0`", "seed 1`"]


def test_a_folder_with_a_table_alone_is_a_board(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "leaderboard.csv").write_bytes((runs / "a" / "leaderboard.csv").read_bytes())
    write_board([tmp_path / "table"], tmp_path / "out")
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == (runs / "a" / "leaderboard.csv").read_bytes()
    assert "compared by their values and intervals" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--out", "out"], "`nowhere` must be the folder of a run, or a table"),
        (["empty", "--out", "out"], "`empty` must be the folder of a run, or a table"),
        (["damaged.csv", "--out", "out"], "damaged.csv:1: the columns must be those of `leaderboard.csv`"),
        (["good.csv", "--out", "good.csv"], "`--out` must be a folder, `good.csv` is a file"),
        (["good.csv", "--out", "out", "--name", "../x"], "`--name` must be letters"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("damaged.csv").write_text("a,b\n")
    write_csv([record(0.5)], "good.csv")
    done = call(*arguments)
    assert done.exit_code == 2
    assert expected in done.output
    assert len(done.output.splitlines()) == 1
    assert not Path("out").exists()


def test_a_table_becomes_a_board_without_torch(tmp_path: Path) -> None:
    write_csv([record(0.5)], tmp_path / "table.csv")
    code = (
        "import sys\nfrom interpeval.bench.cli import main\n"
        f"sys.argv = ['interpeval', 'board', {str(tmp_path / 'table.csv')!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_the_page_of_a_run_is_the_same_after_nothing_was_left_to_do(runs: Path) -> None:
    page = runs / "a" / "report.html"
    first = page.read_bytes()
    run(suite("gradient"), runs / "a", Options(device=torch.device("cpu")), command="interpeval run a")
    assert page.read_bytes() == first
    text = first.decode()
    shown = text[text.index('<section id="gallery"') : text.index('<section id="extremes"')]
    assert shown.count('alt="gradient on ') == 6
    assert shown.count('alt="mask of ') == 6
    assert "truth" in text


def test_a_faulty_explainer_is_named_in_the_page(tmp_path: Path) -> None:
    run(suite(f"{TOYS}:Raises"), tmp_path, Options(device=torch.device("cpu")))
    assert "exception" in (tmp_path / "report.html").read_text().split('id="left-out"')[1]


@pytest.mark.parametrize("name", ["quickstart", 'a "quoted" \\ name\n\x7f'])
def test_the_suite_that_is_shown_can_be_run(name: str) -> None:
    wanted = suite("gradient", "integrated_gradients?n_steps=20").model_dump() | {"description": name}
    read = tomllib.loads(suite_toml(wanted))
    assert read["description"] == name
    assert Suite.model_validate(read | {"description": ""}) == suite("gradient", "integrated_gradients?n_steps=20")


def test_what_the_manifest_says_stands_in_the_notes() -> None:
    manifest = {
        "source": {"commit": "0123", "dirty": True}, "threads": 2, "left_out": {"coco": {"no outline": 3}},
        "started": "2026-01-01T00:00:00", "versions": {"torch": "2", "numpy": "3"},
    }  # fmt: skip
    assert run_facts(manifest) == [("commit", "0123 with changes"), ("threads", "2"), ("numpy", "3")]
    assert left_out_of(manifest) == ["coco: 3 × no outline"]
    assert run_facts({}) == left_out_of({}) == []
