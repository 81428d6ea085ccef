"""Numbers of publications beside names of ours."""

import ast
import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from interpeval.bench.catalog import entries
from interpeval.bench.plan import configuration_text
from interpeval.leaderboards.published import (
    COLUMNS,
    PRINTED,
    PUBLISHED_CSV,
    main,
    named_as_ours,
    read_published,
    reported_beside,
    write_published,
)
from interpeval.metrics.pointing_game import PointingGame
from interpeval.metrics.relevance_rank import RelevanceRank
from leaderboard_cases import record

# Models of the design, some of which are not built yet.
MODELS = {
    "site", "site_backbone", "lenet", "flint", "senn", "protopnet", "protovae", "nam", "resnet18_gap", "resnet18_gmp",
    "decision_tree", "random_forest", "logistic_regression", "xgboost",
}  # fmt: skip


def printed(**changes):
    facts = {
        "source": "SITE (NeurIPS 2021)", "table": "Table 1", "dataset": "CIFAR-10", "model": "SITE", "explainer": None,
        "metric": "accuracy", "value": 84.0, "std": None, "unit": "%", "note": "",
    }  # fmt: skip
    return {**facts, **changes}


def test_all_numbers_are_there_and_read_as_they_were_written(tmp_path):
    rows = read_published()
    assert len(rows) == 420
    again = tmp_path / "published.csv"
    numbers = [{name: getattr(row, name) for name in PRINTED} for row in rows]
    assert write_published(numbers, again) == 420
    assert again.read_bytes() == PUBLISHED_CSV.read_bytes()


@pytest.mark.parametrize(
    ("table", "model", "explainer", "metric", "ours", "value"),
    [
        ("Table 1", "SITE (ResNet-18 backbone)", "Grad-CAM", "self-consistency v_X(I)",
         ("cifar10", "site", "gradcam", "self_consistency", "masked"), 0.8817),
        ("Table 1", "FLINT-f (LeNet)", "", "accuracy", ("mnist", "flint", "", "accuracy", ""), 0.991),
        ("Table 1", "FLINT-g (LeNet)", "", "accuracy", ("mnist", "flint", "", "accuracy", "interpreter"), 0.984),
        ("Table 2", "FLINT (LeNet)", "", "fidelity of g to f (test)", ("mnist", "flint", "", "fidelity", ""), 0.988),
        ("Table 2", "ResNet18 GMP", "Grad-CAM", "PG",
         ("coco", "resnet18_gmp", "gradcam", "pointing_game", "class_mean"), 0.631),
        ("Table 4", "ResNet18 Baseline", "FullGrad", "NQH",
         ("coco", "resnet18_gap", "fullgrad", "negative_quadrants_heatmap", ""), 0.7383),
    ],
)  # fmt: skip
def test_known_numbers_have_names_and_scale_of_ours(table, model, explainer, metric, ours, value):
    key = (table, model, explainer, metric)
    [row] = [row for row in read_published() if (row.table, row.model, row.explainer, row.metric) == key]
    assert row.is_comparable
    assert row.our_names == ours
    assert row.our_value == pytest.approx(value, abs=1e-12)


def test_every_name_of_ours_is_one():
    rows = read_published()
    for kind in ("dataset", "explainer", "metric"):
        used = {getattr(row, f"our_{kind}") for row in rows} - {""}
        assert used
        assert used <= set(entries(f"{kind}s"))
    assert {row.our_model for row in rows} - {""} == MODELS


def test_variants_of_relax_are_those_of_its_settings():
    variants = {row.our_metric: row.our_variant for row in read_published() if row.table == "RELAX Table 1"}
    assert variants["pointing_game"] == configuration_text(PointingGame(target="none", truth="all", tolerance=1))
    assert variants["relevance_rank"] == configuration_text(RelevanceRank(target="none", truth="all"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "ResNet18 GMP + GC"},  # another training
        {"dataset": "both"},
        {"metric": "setting: epochs"},
        {"metric": "L_if (train)", "unit": "loss"},
        {"value": None},
        {"explainer": "an explainer that we lack"},
        {"unit": "k"},
    ],
)
def test_what_corresponds_to_nothing_is_not_compared(changes):
    assert named_as_ours(printed()).is_comparable
    assert not named_as_ours(printed(**changes)).is_comparable


def test_a_reported_row_takes_nothing_from_the_measured_one_but_its_metric():
    measured = record(
        0.5, dataset="cifar10", model="site", explainer="", explainer_params="", metric="accuracy", seed=7
    )
    others = [measured.model_copy(update={"model": "lenet"}), record(0.5, kind="not_applicable")]
    row, other = reported_beside([measured, *others])
    assert other.source.startswith("Kampffmeyer talk (RELAX, ProtoVAE), ProtoVAE predictive performance: SITE;")
    assert (row.kind, row.value, row.metric, row.variant) == ("reported", 0.84, "accuracy", "")
    assert row.source == "SITE (NeurIPS 2021), Table 2: SITE-CNN"
    assert (row.model_digest, row.dataset_revision, row.torch, row.device) == ("", "", "", "")
    assert (row.n, row.seconds, row.ci_low) == (0, None, None)


def test_the_command_makes_the_table_and_guards_against_formulas(tmp_path):
    source, table = tmp_path / "published.json", tmp_path / "published.csv"
    source.write_text(json.dumps([printed(note='=cmd("x")', std=0.5)]))
    done = CliRunner().invoke(main, [str(source), str(table)], catch_exceptions=False)
    assert done.output.startswith("1 numbers written")
    with table.open(newline="") as file:
        header, row = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert row[COLUMNS.index("note")] == '\'=cmd("x")'
    [read] = read_published(table)
    assert read.note == '=cmd("x")'
    assert read.citation.endswith('standard deviation 0.5 %; =cmd("x")')


def test_other_keys_and_other_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have the keys source, table"):
        named_as_ours({"source": "x"})
    table = tmp_path / "published.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"the columns must be source, table,.* were a, b"):
        read_published(table)


def test_no_printed_name_is_mapped_twice():
    """A dictionary literal takes the last of two equal keys without a word."""
    source = Path(main.callback.__code__.co_filename).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            assert len(keys) == len(set(keys))
