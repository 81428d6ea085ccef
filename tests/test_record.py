"""From per-sample scores to the rows of a leaderboard."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from interpeval.leaderboards import series as series_module
from interpeval.leaderboards.record import COLUMNS, records
from interpeval.leaderboards.statistics import estimate
from leaderboard_cases import ABOUT, not_applicable, record, series

CONTRACT = (
    "schema, dataset, dataset_revision, model, model_digest, explainer, explainer_params, metric, metric_version, "
    "variant, value, ci_low, ci_high, mc_se, higher_is_better, chance, n, n_invalid, n_degenerate, n_no_truth, seed, "
    "seconds, passes, interpeval, torch, captum, device, kind, source"
)


def test_columns_are_those_of_the_contract_in_its_order():
    assert ", ".join(COLUMNS) == CONTRACT
    assert tuple(record(0.5).model_dump(by_alias=True)) == COLUMNS
    assert record(0.5).model_dump(by_alias=True)["schema"] == 1


def test_status_codes_are_those_of_the_metrics():
    from interpeval.metrics.base import Status

    assert {status.name: int(status) for status in Status} == {
        status.name: int(status) for status in series_module.Status
    }


def test_a_series_becomes_a_row_with_all_that_is_known_of_it():
    scores = series(
        [1.0, 0.0, 0.5, np.nan, np.nan, np.nan],
        status=np.array([0, 1, 0, 2, 3, 3], np.uint8),
        variance=np.array([0.01, 0.0, 0.08, np.nan, np.nan, np.nan]),
        chance=0.1,
    )
    [row] = records([scores], seed=0)
    assert {name: getattr(row, name) for name in ABOUT} == {**ABOUT, "chance": 0.1}
    assert (row.n, row.n_invalid, row.n_degenerate, row.n_no_truth) == (3, 2, 1, 1)
    assert row.value == pytest.approx(0.5, rel=1e-15)
    assert row.mc_se == pytest.approx(0.3 / 3, rel=1e-14)
    half = 4.302652729749462 * 0.5 / np.sqrt(3)  # t quantile for two degrees of freedom, s = 1/2
    assert (row.ci_low, row.ci_high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert (row.kind, row.source) == ("measured", "")


def test_skipped_samples_are_counted_as_degenerate_but_not_averaged():
    values, status = [1.0, 0.0, np.nan, np.nan, np.nan], [0, 1, 4, 4, 2]
    [row] = records([series(values, status=np.array(status, np.uint8))], seed=0)
    assert (row.value, row.n, row.n_degenerate, row.n_no_truth, row.n_invalid) == (0.5, 2, 3, 1, 0)


def test_class_means_are_rows_of_their_own():
    scores = series(
        [0, 1, 1, 1, np.nan],
        status=np.array([0, 0, 0, 0, 3], np.uint8),
        variance=np.array([0, 2, 2, 4, np.nan]),
        classes=np.array([8, 8, 8, 2, 5]),
        aggregations=("items", "classes"),
    )
    plain, by_class = records([scores], seed=0)
    assert (plain.variant, by_class.variant) == ("", "class_mean")
    assert plain.value == pytest.approx(3 / 4)
    assert by_class.value == pytest.approx((2 / 3 + 1) / 2)
    assert by_class.mc_se == pytest.approx(np.sqrt(4 / 9 + 4) / 2)
    assert (plain.n, by_class.n) == (4, 4)
    assert (plain.source, by_class.source) == ("", "classes seen: 2")


def test_class_mean_is_named_after_its_variant():
    scores = series([0, 1], variant="masked", aggregations=("classes",))
    assert [row.variant for row in records([scores], seed=0)] == ["masked/class_mean"]


def test_curves_give_no_row():
    curve = series([[1, 0], [1, 1]], steps=(0.0, 1.0), variant="accuracy")
    area = series([0.5, 1], variant="accuracy_area")
    assert [row.variant for row in records([curve, area], seed=0)] == ["accuracy_area"]


def test_what_does_not_apply_is_a_row_without_a_value():
    [row] = records([not_applicable("the dataset has no masks")], seed=0)
    assert (row.kind, row.source) == ("not_applicable", "the dataset has no masks")
    assert (row.value, row.ci_low, row.ci_high, row.mc_se) == (None, None, None, None)
    assert (row.n, row.n_invalid, row.n_degenerate, row.n_no_truth) == (0, 0, 0, 0)


def test_nothing_but_faults_is_a_measured_row_without_a_value():
    scores = series([np.nan, np.nan], status=np.array([3, 3], np.uint8), variance=np.full(2, np.nan))
    [row] = records([scores], seed=0)
    assert (row.kind, row.n, row.n_invalid) == ("measured", 0, 2)
    assert (row.value, row.ci_low, row.ci_high, row.mc_se) == (None, None, None, None)


def many_series():
    random = np.random.default_rng(0)
    return [
        series(
            random.normal(size=40),
            explainer=explainer,
            metric=metric,
            variant=variant,
            classes=np.arange(40) % 3,
            aggregations=("items", "classes"),
        )
        for explainer in ("gradient", "", "edges")
        for metric, variant in (("b", "y"), ("b", "x"), ("a", ""))
    ]


def test_rows_are_sorted_and_do_not_depend_on_the_order_of_the_series():
    scores = many_series()
    rows = records(scores, seed=0)
    keys = [(row.explainer, row.metric, row.variant) for row in rows]
    assert keys == sorted(keys)
    assert len(keys) == 18
    assert records(scores[::-1], seed=0) == rows


def test_rows_hold_the_estimates_of_their_own_series():
    rows = {(row.explainer, row.metric, row.variant): row for row in records(many_series(), seed=7)}
    for scores in many_series():
        row = rows[scores.explainer, scores.metric, scores.variant]
        expected = estimate(scores.ids, scores.values[:, None], seed=7)
        assert (row.value, row.ci_low, row.ci_high) == pytest.approx([part[0] for part in expected[:3]], rel=1e-12)


def test_what_is_known_of_range_and_clusters_is_heeded():
    images = tuple(f"image/{i // 2}" for i in range(40))
    values = np.random.default_rng(0).normal(size=40)
    hits, clustered = series(np.ones(40), explainer="a", range=(0.0, 1.0)), series(values, clusters=images)
    [of_hits, of_clusters] = records([hits, clustered], seed=0)
    assert (of_hits.ci_low, of_hits.ci_high) == (pytest.approx(0.025 ** (1 / 40)), 1.0)
    expected = estimate(clustered.ids, values[:, None], seed=0, clusters=images)
    assert (of_clusters.ci_low, of_clusters.ci_high) == pytest.approx((expected.low[0], expected.high[0]), rel=1e-12)
    [plain] = records([series(values)], seed=0)
    assert plain.ci_low != pytest.approx(of_clusters.ci_low, rel=1e-3)


def test_series_over_other_samples_are_not_mixed_up():
    first, second = series([0.0, 1.0]), series([5.0, 6.0, 7.0], explainer="edges")
    assert [row.value for row in records([first, second], seed=0)] == [6.0, 0.5]


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        ([1, 2], {"ids": ("a", "a")}, "`Series.ids` of gradient under pointing_game must be all different"),
        ([1, 2], {"ids": ("a",)}, r"`Series.values` .* must be of shape \(1,\), but was \(2,\)"),
        ([1, 2], {"steps": (0.0, 1.0)}, r"`Series.values` .* must be of shape \(2, 2\), but was \(2,\)"),
        ([1, 2], {"classes": np.zeros(3, np.int64)}, "`Series.classes` .* of shape"),
        ([1, 2], {"status": np.array([0, 5], np.uint8)}, "`Series.status` .* must be codes 0 to 4"),
        ([1, 2], {"clusters": ("a",)}, "`Series.clusters` .* must be 2 names or none, but were 1"),
        ([1, np.nan], {}, "`Series.values` .* must be finite where a sample counts and NaN elsewhere"),
        ([1, np.inf], {}, "`Series.values` .* must be finite"),
        ([1, 2], {"status": np.array([0, 3], np.uint8)}, "`Series.values` .* NaN elsewhere"),
        ([1, 2], {"variance": np.array([0.1, np.nan])}, "`Series.variance` .* finite and at least 0"),
        ([1, 2], {"variance": np.array([0.1, -1])}, "`Series.variance` .* finite and at least 0"),
        ([1, 2], {"aggregations": ("sum",)}, r"`Series.aggregations` .* but has \['sum'\]"),
    ],
)
def test_series_that_contradict_themselves_are_refused(values, changes, message):
    with pytest.raises(ValueError, match=message):
        series(values, **changes)


@pytest.mark.parametrize(
    "changes", [{"value": float("nan")}, {"value": float("inf")}, {"kind": "guessed"}, {"n": -1}, {"schema": 2}]
)
def test_records_refuse_what_no_leaderboard_may_hold(changes):
    with pytest.raises(ValidationError):
        record(**{"value": 0.5, **changes})


def test_records_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        record(0.5).value = 0.6


def test_a_leaderboard_is_made_without_torch():
    folder = Path(series_module.__file__).parent
    modules = [f"interpeval.leaderboards.{path.stem}" for path in sorted(folder.glob("[!_]*.py"))]
    assert "interpeval.leaderboards.curves" in modules
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
