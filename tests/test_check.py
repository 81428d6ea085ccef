"""Verdicts of a check: hand-worked tests and corrections, what forces which test, and how often it errs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from interpeval.leaderboards.baseline import Baseline
from interpeval.leaderboards.check import Check, Finding, check
from interpeval.leaderboards.record import records
from interpeval.metrics.base import Status
from leaderboard_cases import not_applicable, record, series


def side(*rows, unrepeatable=()):
    return Baseline.of(records(rows, seed=0), rows, unrepeatable=unrepeatable)


def without_samples(baseline):
    return Baseline(baseline.records)


def only(found: Check) -> Finding:
    (finding,) = found.findings
    return finding


def of(found: Check, explainer: str) -> Finding:
    (finding,) = [one for one in found.findings if one.row.explainer == explainer]
    return finding


BEFORE = np.array([0.5, 0.25, 1.0, 0.75, 0.5, 0.125])


@pytest.mark.parametrize(("now", "verdict"), [(0.5, "same"), (0.5 - 1e-8, "worse"), (0.5 + 1e-8, "better")])
@pytest.mark.parametrize("higher", [True, False])
def test_equal_circumstances_demand_equal_values(now, verdict, higher):
    turned = {"worse": "better", "better": "worse"}
    found = only(check(side(record_series(0.5, higher)), side(record_series(now, higher))))
    assert (found.verdict, found.test) == (verdict if higher else turned.get(verdict, verdict), "exact")
    assert found.p is None


def record_series(value, higher=True, **changes):
    return series([value, value], higher_is_better=higher, **changes)


def test_what_does_not_show_in_nine_digits_is_no_difference():
    assert only(check(side(record_series(1 / 3)), side(record_series(1 / 3 + 1e-12)))).verdict == "same"


@pytest.mark.parametrize(("atol", "verdict"), [(0.125, "same"), (0.124, "worse")])
def test_a_loss_within_atol_is_none(atol, verdict):
    found = check(side(series(BEFORE)), side(series(BEFORE - 0.125)), atol=atol)
    assert only(found).verdict == verdict


@pytest.mark.parametrize(("atol", "verdict"), [(0.0, "different"), (0.125, "same")])
def test_where_no_number_may_move_a_better_one_fails(atol, verdict):
    found = check(side(series(BEFORE)), side(series(BEFORE + 0.125)), any_change=True, atol=atol)
    assert only(found).verdict == verdict
    assert len(found.failures) == (verdict == "different")


def test_where_no_number_may_move_none_may_appear_or_count_more_samples():
    size = len(BEFORE)
    status = np.zeros(size, np.uint8)
    status[1] = Status.INVALID
    failing, mended = side(series(np.where(status, np.nan, BEFORE), status=status)), side(series(BEFORE))
    nothing = side(series(np.full(size, np.nan), status=np.full(size, Status.NO_TRUTH, np.uint8)))
    for before, after, verdict, strict in (
        (failing, failing, "same", "same"),
        (failing, mended, "same", "different"),
        (nothing, mended, "untested", "different"),
    ):
        assert only(check(before, after)).verdict == verdict
        assert only(check(before, after, any_change=True)).verdict == strict


def test_what_has_come_to_apply_is_new():
    before = Baseline.of(records([not_applicable("no masks")], seed=0), [])
    assert only(check(before, side(series(BEFORE)), any_change=True)).verdict == "new"


@pytest.mark.parametrize("change", [0.125, -0.125])
def test_where_no_number_may_move_each_direction_has_half_of_alpha(change):
    before, after = side(series(BEFORE)), side(series(BEFORE + change, seed=1))
    said = "different" if change > 0 else "worse"
    for alpha, verdict in ((2 / 64, said), (1.9 / 64, "same")):
        found = only(check(before, after, any_change=True, alpha=alpha))
        assert (found.verdict, found.p, found.p_holm) == (verdict, 1 / 64, 2 / 64)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"torch": "2.10.0"}, {"device": "cuda:H100"}])
def test_other_circumstances_are_tested_sample_by_sample(changes):
    found = only(check(side(series(BEFORE)), side(series(BEFORE - 0.125, **changes)), alpha=0.02))
    assert (found.test, found.p, found.verdict) == ("paired", 1 / 64, "worse")


def test_a_gpu_is_never_held_to_equal_values():
    gpu = {"device": "cuda:H100"}
    assert only(check(side(series(BEFORE, **gpu)), side(series(BEFORE - 0.125, **gpu)))).test == "paired"


def test_an_explainer_that_does_not_repeat_itself_is_not_held_to_equal_values():
    odd = side(series(BEFORE - 0.125), unrepeatable=[("digits", "lenet", "gradient")])
    assert only(check(side(series(BEFORE)), odd)).test == "paired"
    assert only(check(odd, side(series(BEFORE)))).test == "paired"


def test_other_weights_are_tested_by_intervals():
    found = only(check(side(series(BEFORE)), side(series(BEFORE - 0.125, model_digest="other"))))
    assert found.test == "interval"


def test_one_sided_p_values_are_those_known_by_hand():
    """Six losses of one size: 1 of 64 flips is as bad. Losses 3, 1 against a gain of 2: 3 of 8 are as bad as 2."""
    after = BEFORE - 0.125
    assert only(check(side(series(BEFORE)), side(series(after, seed=1)))).p == 1 / 64
    losses = np.array([0.375, 0.125, -0.25, 0, 0, 0])
    found = only(check(side(series(BEFORE)), side(series(BEFORE - losses, seed=1))))
    assert found.p == 3 / 8
    assert (found.verdict, found.n) == ("same", 6)


def test_gains_are_better_not_worse():
    found = check(side(series(BEFORE)), side(series(BEFORE + 0.125, seed=1)), alpha=0.02)
    assert (only(found).verdict, only(found).p) == ("better", 1 / 64)
    assert found.failures == []


def test_direction_turns_the_verdict_round():
    lower = {"higher_is_better": False}
    found = only(check(side(series(BEFORE, **lower)), side(series(BEFORE + 0.125, seed=1, **lower)), alpha=0.02))
    assert found.verdict == "worse"


def test_p_values_are_adjusted_for_the_rows_that_differ():
    """Three rows of p 1/64, 3/8 and no difference: by Holm 2/64 and 3/8. The third one is no test."""
    losses = {"gradient": np.full(6, 0.125), "gradcam": [0.375, 0.125, -0.25, 0, 0, 0], "uniform": np.zeros(6)}
    before = side(*(series(BEFORE, explainer=name) for name in losses))
    after = side(*(series(BEFORE - np.array(loss), explainer=name, seed=1) for name, loss in losses.items()))
    found = check(before, after, alpha=2 / 64)
    assert [of(found, name).p_holm for name in losses] == [2 / 64, 3 / 8, None]
    assert [of(found, name).verdict for name in losses] == ["worse", "same", "same"]
    assert of(check(before, after, alpha=2 / 64 - 1e-9), "gradient").verdict == "same"


def test_paired_and_interval_rows_are_one_family():
    before = [series(BEFORE), series(BEFORE, explainer="lime")]
    after = [series(BEFORE - 0.125, seed=1), series(BEFORE - 0.0625, explainer="lime", model_digest="other")]
    found = check(side(*before), side(*after))
    assert of(found, "lime").test == "interval"
    assert of(found, "gradient").p_holm == 2 / 64


def test_samples_that_depend_on_each_other_are_flipped_together():
    clusters = ("a", "a", "a", "b", "b", "b")
    found = check(side(series(BEFORE, clusters=clusters)), side(series(BEFORE - 0.125, clusters=clusters, seed=1)))
    assert only(found).p == 1 / 4


def test_a_class_mean_weighs_classes_alike():
    """Class 0 holds five losses of 1, class 1 one gain of 8: better, and so in the half of flips that keep the gain."""
    classes = np.array([0, 0, 0, 0, 0, 1])
    change = np.array([-1.0, -1, -1, -1, -1, 8])
    one, two = (
        series(values, classes=classes, aggregations=("classes",), seed=seed)
        for seed, values in enumerate((np.zeros(6), change))
    )
    found = only(check(side(one), side(two)))
    assert found.row.variant == "class_mean"
    assert (found.after, found.p) == (3.5, pytest.approx(1 / 2))


def test_samples_pair_by_name_not_by_place():
    names = tuple(f"sample/{k}" for k in (3, 1, 0, 5, 4, 2))
    order = [3, 1, 0, 5, 4, 2]
    found = check(side(series(BEFORE)), side(series(BEFORE[order], ids=names, seed=1)))
    assert (only(found).verdict, only(found).p) == ("same", None)


def test_many_rows_can_still_be_told_apart_from_chance():
    """40 samples that all lose, in one of 200 rows: with 9999 flips alone 200 · 1/20000 could not fall below 0.01."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=40)
    names = [f"e{k}" for k in range(200)]
    before = side(*(series(base, explainer=name) for name in names))
    moved = {name: base + generator.choice([-1.0, 1.0], 40) for name in names} | {"e7": base - 0.5}
    found = check(before, side(*(series(values, explainer=name, seed=1) for name, values in moved.items())))
    assert [one.row.explainer for one in found.failures] == ["e7"]


def test_the_interval_test_is_that_of_welch():
    """Below 30 samples the interval is that of t, so the test from intervals is the one from the samples."""
    generator = np.random.default_rng(1)
    one, two = generator.normal(0.5, 1, 12), generator.normal(0, 2, 20)
    before = without_samples(side(series(one)))
    after = without_samples(side(series(two, seed=1)))
    wanted = stats.ttest_ind(one, two, equal_var=False, alternative="greater").pvalue
    assert only(check(before, after)).p == pytest.approx(wanted, rel=1e-6)
    shifted = stats.ttest_ind(one - 0.25, two, equal_var=False, alternative="greater").pvalue
    assert only(check(before, after, atol=0.25)).p == pytest.approx(shifted, rel=1e-6)


def test_the_longer_half_of_an_interval_counts():
    """Value 0.8 in [0.7, 0.82]: the error is 0.1 / 1.96, as if it were [0.7, 0.9]."""
    lopsided = record(0.8, ci_low=0.7, ci_high=0.82, seed=1)
    even = record(0.8, ci_low=0.7, ci_high=0.9, seed=1)
    now = Baseline.of([record(0.6, ci_low=0.55, ci_high=0.65)])
    assert only(check(Baseline.of([lopsided]), now)).p == only(check(Baseline.of([even]), now)).p


def test_constants_that_differ_differ_for_certain():
    before, after = (Baseline.of([record(12.0 + k, ci_low=12.0 + k, ci_high=12.0 + k, seed=k)]) for k in (0, 1))
    assert only(check(after, before)).verdict == "worse"
    assert only(check(after, before, atol=1.0)).verdict == "same"
    assert only(check(before, before)).verdict == "same"


@pytest.mark.parametrize(
    ("now", "verdict", "said"),
    [
        (record(0.5, metric_version=2), "changed", "version of the metric was 1, is 2"),
        (record(0.5, dataset_revision="6b"), "changed", "revision of the dataset was 5a, is 6b"),
        (record(0.5, higher_is_better=False), "changed", "higher is better was True, is False"),
        (record(kind="not_applicable", source="no\x1bmasks", n=0), "changed", r"does not apply any more: no\x1bmasks"),
        (record(0.5, n=97, n_invalid=3), "worse", "fails on 3 of 100 samples, in the baseline on 0 of 100"),
        (record(0.9, n=90), "missing", "10 of the 100 samples of the baseline are missing"),
        (record(0.4, seed=1), "untested", "no interval"),
        (record(0.4, variant="seconds"), "missing", ""),
    ],
)
def test_what_is_no_matter_of_chance(now, verdict, said):
    found = check(Baseline.of([record(0.5)]), Baseline.of([now])).findings[0]
    assert found.verdict == verdict
    assert said in found.reason


def test_samples_that_are_missing_are_missed_though_the_mean_is_better():
    found = only(
        check(side(series(BEFORE)), side(series(BEFORE[2:] + 1, ids=tuple(f"sample/{k}" for k in range(2, 6)))))
    )
    assert (found.verdict, found.reason) == ("missing", "2 of the 6 samples of the baseline are missing")


def test_further_samples_are_passed_over():
    more = series(np.append(BEFORE - 0.125, 9.0), seed=1)
    found = only(check(side(series(BEFORE)), side(more)))
    assert (found.test, found.p, found.n) == ("paired", 1 / 64, 6)


def test_wall_times_are_not_compared():
    before, after = (side(series([k, k + 1.0], metric="cost", variant="seconds")) for k in (1.0, 50.0))
    assert only(check(before, after)).verdict == "untested"


def test_draws_that_all_samples_share_are_not_tested_over_samples():
    before, after = (side(series(BEFORE - k, metric="parameter_randomization", seed=k)) for k in (0, 1))
    found = only(check(before, after))
    assert found.verdict == "untested"
    assert "seed of the baseline, 0" in found.reason
    assert only(check(before, side(series(BEFORE - 1, metric="parameter_randomization")))).verdict == "worse"


def test_a_row_without_counterpart_is_missing_there_and_new_here():
    one, two = side(series(BEFORE)), side(series(BEFORE, explainer="lime"))
    found = check(one, two)
    assert [(finding.row.explainer, finding.verdict) for finding in found.findings] == [
        ("gradient", "missing"),
        ("lime", "new"),
    ]
    assert [finding.row.explainer for finding in found.failures] == ["gradient"]


def test_what_does_not_apply_or_was_reported_asks_for_nothing():
    before = Baseline.of(
        [*records([not_applicable("no masks", explainer="lime")], seed=0), record(0.5, kind="reported")]
    )
    assert check(before, side(series(BEFORE, explainer="lime", metric="top_k"))).failures == []


def test_two_rows_of_one_thing_are_refused():
    with pytest.raises(ValueError, match=r"two rows speak of `digits, lenet, gradient: pointing_game`.*model_digest"):
        Baseline.of([record(0.5), record(0.4, model_digest="8d")])


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("alpha", 1.0), ("atol", -1.0), ("atol", float("nan"))])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        check(side(series(BEFORE)), side(series(BEFORE)), **{name: value})


SIMULATIONS, FALSE_ALARMS, ROWS = 100, 0.1, 10
BOUND = int(stats.binom.ppf(0.999, SIMULATIONS, FALSE_ALARMS))  # fixed before looking: 20 of 100


def failures(draw, *, paired: bool) -> int:
    """How many of many checks fail, of sides that `draw(generator)` makes as (rows, samples) arrays."""
    count = 0
    for simulation in range(SIMULATIONS):
        generator = np.random.default_rng(simulation)
        one, two = (
            side(*(series(row, explainer=f"e{k}", seed=seed) for k, row in enumerate(values)))
            for seed, values in enumerate(draw(generator))
        )
        if not paired:
            one, two = without_samples(one), without_samples(two)
        count += bool(check(one, two, alpha=FALSE_ALARMS).failures)
    return count


def redrawn(generator):
    """Ten correlated rows on the same 12 images, scored with other draws, in tails that are far from normal."""
    images = 3 * generator.normal(size=12)
    return (images + generator.standard_t(2, size=(ROWS, 12)) for _ in range(2))


def test_the_paired_test_is_silent_on_other_draws():
    assert failures(redrawn, paired=True) <= BOUND


def test_the_interval_test_is_silent_on_other_draws():
    assert failures(redrawn, paired=False) <= BOUND


def test_the_interval_test_is_silent_on_other_images():
    def other_images(generator):
        return (generator.normal(size=(ROWS, 20)) for _ in range(2))

    assert failures(other_images, paired=False) <= BOUND


def test_draws_shared_by_all_samples_do_break_the_paired_test():
    """The negative control of the three above, and the reason why retrained networks are not tested in pairs."""

    def moved_together(generator):
        images = 3 * generator.normal(size=12)
        return (images + generator.normal() + 0.1 * generator.normal(size=(ROWS, 12)) for _ in range(2))

    assert failures(moved_together, paired=True) > BOUND
    assert failures(moved_together, paired=False) <= BOUND


def test_a_loss_on_every_sample_is_seen_in_pairs_where_intervals_are_blind():
    def planted(generator):
        one, _ = redrawn(generator)
        noise = 0.05 * generator.normal(size=one.shape)
        return one, replace_row(one + noise, one[3] - 0.2)

    assert failures(planted, paired=True) == SIMULATIONS
    assert failures(planted, paired=False) == 0


def replace_row(values, row):
    values[3] = row
    return values


def test_curves_and_ratios_have_no_samples_to_pair():
    curve = series(np.zeros((3, 2)), steps=(0.0, 1.0))
    ratios = series(np.ones((3, 2)), steps=(0.0, 1.0), aggregations=("ratios",), metric="f1")
    found = side(curve, ratios)
    assert [row.metric for row in found.records] == ["f1"]
    assert found.samples == {}
    later = side(replace(ratios, seed=1))
    assert only(check(found, later)).verdict == "same"
