"""Tables of comparisons: ranks, tie groups, and who is not beaten."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interpeval.leaderboards.names import CONTROLS
from interpeval.leaderboards.paired import FLIPS, differences
from interpeval.leaderboards.ranks import compare, paired_differences, ranks, standings, unbeaten
from interpeval.leaderboards.record import position, records
from leaderboard_cases import not_applicable, series
from reference import ranks as slow


def everybody(size):
    return ~np.eye(size, dtype=bool)


def board(**values):
    """One series per keyword, named after it; NaN is an invalid sample."""
    made = []
    for name, numbers in values.items():
        numbers = np.array(numbers, dtype=np.float64)
        made.append(series(numbers, explainer=name, status=np.where(np.isnan(numbers), 3, 0).astype(np.uint8)))
    return made


def table(found):
    return {row.explainer: (row.rank, row.rank_low, row.rank_high, row.group) for row in found}


# Standings


def test_a_chain_of_rows_of_which_neighbours_are_not_separable():
    # 1 and 3 are, 2 and 4 are, 1 and 4 are: the runs are 12, 23, 34.
    better = np.zeros((4, 4), dtype=bool)
    better[0, 2] = better[0, 3] = better[1, 3] = True
    found = standings(["w", "x", "y", "z"], np.array([4.0, 3.0, 2.0, 1.0]), better, everybody(4))
    assert found == [(1, 1, 2, "a"), (2, 1, 3, "ab"), (3, 2, 4, "bc"), (4, 3, 4, "c")]


def test_rows_with_the_same_published_value_share_a_rank_and_stand_by_name():
    better = np.zeros((4, 4), dtype=bool)
    better[1, 3] = True
    scores = np.array([0.5, 0.7, 0.5 + 1e-13, 0.1])
    found = standings(["b", "z", "a", "c"], scores, better, everybody(4))
    assert [row.rank for row in found] == [2, 1, 2, 4]
    assert [row.group for row in found] == ["ab", "a", "ab", "b"]
    # The control: a difference in the ninth digit is one.
    assert standings(["b", "z", "a", "c"], scores + np.eye(4)[0] * 1e-9, better, everybody(4))[2].rank == 3


def test_rows_without_a_score_or_without_company_have_no_rank():
    met = everybody(4)
    met[2] = met[:, 2] = False
    better = np.zeros((4, 4), dtype=bool)
    found = standings(list("abcd"), np.array([0.5, math.nan, 0.9, 0.7]), better, met)
    assert found == [(2, 1, 2, "a"), None, None, (1, 1, 2, "a")]
    assert standings(["a"], np.array([0.5]), better[:1, :1], met[:1, :1]) == [(1, 1, 1, "a")]
    assert standings([], np.array([]), better[:0, :0], met[:0, :0]) == []


def test_groups_go_on_after_the_alphabet():
    size = 106
    better = np.triu(everybody(size))
    groups = [row.group for row in standings([""] * size, -np.arange(size), better, everybody(size))]
    assert (groups[0], groups[25], groups[26], groups[51], groups[52], groups[105]) == ("a", "z", "A", "Z", "a.", "b..")


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 6).flatmap(lambda k: st.tuples(
    st.lists(st.sampled_from([0.1, 0.2, 0.30000000001, 0.3, math.nan]), min_size=k, max_size=k),
    st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=k, max_size=k),
    st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=k, max_size=k),
)))  # fmt: skip
def test_standings_are_those_of_the_definition(case):
    scores, wins, meets = case
    size = len(scores)
    wins = np.array(wins, dtype=bool).reshape(size, size)
    better = np.array([[wins[i, j] and scores[i] > scores[j] for j in range(size)] for i in range(size)], dtype=bool)
    better, met = better.reshape(size, size), np.array(meets, dtype=bool).reshape(size, size)
    met = met | met.T
    found = standings(list("fedcba"[:size]), np.array(scores), better, met)
    assert found == slow.standings(list("fedcba"[:size]), scores, better.tolist(), met.tolist())


# Tables


def test_ten_samples_separate_what_five_do_not():
    def rows(size):
        return ranks(compare(board(up=np.ones(size), down=np.zeros(size), low=np.zeros(size)), seed=0))

    # p is 2 / 2^10, times 3 for Holm, for the first row against both others.
    assert table(rows(10)) == {"up": (1, 1, 1, "a"), "down": (2, 2, 3, "b"), "low": (2, 2, 3, "b")}
    # p is 2 / 2^5 = 0.0625 before any correction.
    assert table(rows(5)) == {"up": (1, 1, 3, "a"), "down": (2, 1, 3, "a"), "low": (2, 1, 3, "a")}
    assert [row.explainer for row in rows(10)] == ["up", "down", "low"]


def test_holm_counts_all_pairs_of_the_table():
    # p is 2 / 2^7 = 0.0156: significant among one pair or three, but not among six.
    three, four = (dict.fromkeys(names, np.zeros(7)) | {"up": np.ones(7)} for names in ("ab", "abc"))
    assert table(ranks(compare(board(**three), seed=0)))["up"] == (1, 1, 1, "a")
    assert table(ranks(compare(board(**four), seed=0)))["up"] == (1, 1, 4, "a")


def test_where_lower_is_better_the_order_turns():
    rows = [
        series(np.full(10, value), explainer=name, higher_is_better=False)
        for name, value in (("high", 0.9), ("low", 0.1), ("high_too", 0.9))
    ]
    found = compare(rows, seed=0)
    assert table(ranks(found)) == {"low": (1, 1, 1, "a"), "high": (2, 2, 3, "b"), "high_too": (2, 2, 3, "b")}
    apart = {(row.a, row.b): (row.difference, row.won) for row in paired_differences(found)}
    assert apart == {
        ("high", "high_too"): (0, 0.5),
        ("high", "low"): (pytest.approx(0.8), 0),
        ("high_too", "low"): (pytest.approx(0.8), 0),
    }


def noisy(size=60, count=6, seed=0, **changes):
    random = np.random.default_rng(seed)
    common = random.normal(size=size)
    return [
        series(common + random.normal(size=size) + 0.25 * k, explainer=f"e{k}", classes=np.arange(size) % 3, **changes)
        for k in range(count)
    ]


def test_numbers_of_a_table_are_those_of_its_pairs_and_of_the_leaderboard():
    rows = noisy(aggregations=("items", "classes"), metric="site", variant="masked")
    found = compare(rows, seed=7)
    values = {(row.explainer, row.variant): row.value for row in records(rows, seed=7)}
    assert {(row.explainer, row.variant): row.value for row in ranks(found)} == pytest.approx(values, rel=1e-12)
    assert [one.variant for one in found] == ["masked", "masked/class_mean"]
    for one, classes in zip(found, (None, rows[0].classes), strict=True):
        both = np.stack([rows[1].values, rows[4].values], axis=1)
        alone = differences(rows[0].ids, both, np.array([[0, 1]]), seed=7, classes=classes, flips=max(FLIPS, 600))
        [row] = [row for row in paired_differences([one]) if (row.a, row.b) == ("e1", "e4")]
        assert [row.difference, row.ci_low, row.ci_high, row.p, row.effect, row.won] == pytest.approx(
            [part[0] for part in alone[:6]], rel=1e-9
        )
        assert row.p_holm >= row.p


def test_rank_intervals_hold_the_rank_and_groups_hold_no_separable_pair():
    for seed in range(5):
        [one] = compare(noisy(seed=seed), seed=0)
        rows = ranks([one])
        assert all(row.rank_low <= row.rank <= row.rank_high for row in rows)
        group = {row.explainer: row.group for row in rows}
        better = [(a, b) for i, a in enumerate(one.names) for j, b in enumerate(one.names) if one.better[i, j]]
        assert better
        assert not [pair for pair in better if set(group[pair[0]]) & set(group[pair[1]])]


def test_the_order_of_series_and_of_samples_changes_nothing():
    rows = noisy()
    order = np.random.default_rng(1).permutation(60)
    shuffled = [
        series(
            row.values[order], explainer=row.explainer, ids=tuple(row.ids[i] for i in order), classes=row.classes[order]
        )
        for row in reversed(rows)
    ]
    one, other = compare(rows, seed=0), compare(shuffled, seed=0)
    assert ranks(one) == ranks(other)
    assert paired_differences(one) == paired_differences(other)


def test_samples_that_one_row_lacks_are_left_out_of_its_pairs_and_counted():
    part = series([5.0, 6.0, 7.0], explainer="part", ids=("sample/2", "sample/0", "elsewhere"))
    rows = [*board(whole=[1, 2, 3, 4], faulty=[1, math.nan, 0, math.nan]), part]
    found = {(row.a, row.b): row for row in paired_differences(compare(rows, seed=0))}
    counts = {pair: (row.n, row.n_left_out) for pair, row in found.items()}
    assert counts == {("faulty", "part"): (2, 3), ("faulty", "whole"): (2, 2), ("part", "whole"): (2, 3)}
    assert found["part", "whole"].difference == ((5 - 3) + (6 - 1)) / 2
    assert found["faulty", "part"].difference == ((1 - 6) + (0 - 5)) / 2


def test_rows_that_nobody_can_be_compared_with_come_last():
    rows = [
        *board(some=[0.2, 0.4, 0.6], more=[0.3, 0.5, 0.7], none=[math.nan] * 3),
        series([1.0, 1.0], explainer="apart", ids=("x", "y")),
    ]
    found = ranks(compare(rows, seed=0))
    assert [(row.explainer, row.rank, row.group) for row in found] == [
        ("more", 1, "a"), ("some", 2, "a"), ("apart", None, ""), ("none", None, ""),
    ]  # fmt: skip
    assert found[2].value == 1.0
    assert math.isnan(found[3].value)


def test_items_of_one_image_are_flipped_together():
    items = np.repeat([1.0, 0, 1, 1, 1, 1], 4)
    images = tuple(np.repeat([f"image/{i}" for i in range(6)], 4).tolist())
    rows = [series(items, explainer="up"), series(0 * items, explainer="down")]
    clustered = [series(row.values, explainer=row.explainer, clusters=images) for row in rows]
    [[alone], [together]] = (paired_differences(compare(some, seed=0)) for some in (rows, clustered))
    assert together.p == 2 / 2**5
    assert alone.p < 0.001


def test_there_are_always_enough_flips_to_pass_holm():
    size, count = 16, 33  # 528 pairs: were p at least 1 / 10000, the correction would end above 0.05
    values = np.random.default_rng(0).normal(size=(size * 3, 1)) * 0.1 + 10 * np.arange(count)
    [one] = compare([series(values[:, k], explainer=f"e{k:02}") for k in range(count)], seed=0)
    assert (one.p_holm < 0.05).all()
    assert len(one.pairs) / (FLIPS + 1) > 0.05


def test_tables_are_kept_apart_and_what_has_no_rank_is_passed_over():
    rows = [
        series([1, 2], metric="b", explainer="x"),
        series([1, 2], metric="a", explainer="x"),
        series([1, 2], metric="a", explainer="x", model="other"),
        series([1, 2], metric="a", explainer="x", metric_version=2),
        series([1, 2], metric="accuracy", explainer=""),
        series([[1, 2], [3, 4]], metric="curve", explainer="x", steps=(0.0, 1.0)),
        series([[1, 2], [3, 4]], metric="ratio", explainer="x", steps=(0.0, 1.0), aggregations=("ratios",)),
        series([np.nan], metric="ratio", explainer="y", status=np.array([3], np.uint8), aggregations=("ratios",)),
        not_applicable("no masks", metric="c", explainer="x"),
    ]
    found = compare(rows, seed=0)
    assert [(row.model, row.metric) for row in ranks(found)] == [
        ("lenet", "a"), ("lenet", "a"), ("lenet", "b"), ("other", "a"),
    ]  # fmt: skip
    assert paired_differences(found) == []


def test_a_table_of_equals_rarely_shows_a_difference():
    random = np.random.default_rng(0)
    tables = [
        series(random.normal(size=10), explainer=f"e{k}", metric=f"m{number}")
        for number in range(400)
        for k in range(4)
    ]
    alarms = sum(one.better.any() for one in compare(tables, seed=0))
    assert stats.binomtest(int(alarms), 400, 0.05, alternative="greater").pvalue > 0.01
    # The control: without the correction there would be many more.
    assert sum((one.found.p < 0.05).any() for one in compare(tables, seed=0)) > 50


# Who is not beaten


def names_of(found):
    return sorted(row[4] for row in found)


def test_controls_neither_compete_nor_beat():
    assert {"truth", "random"} <= set(CONTROLS)
    rows = board(up=np.ones(12), same=np.ones(12), down=np.zeros(12), truth=np.full(12, 2.0), random=np.ones(12))
    found = unbeaten(compare(rows, seed=0))
    assert names_of(found) == ["same", "up"]
    assert found == {position(row) for row in records(rows, seed=0) if row.explainer in {"up", "same"}}


def test_means_of_class_means_are_found_among_the_records():
    rows = [
        series(np.full(12, value), explainer=name, aggregations=("classes",)) for name, value in (("a", 1), ("b", 2))
    ]
    assert unbeaten(compare(rows, seed=0)) == {position(row) for row in records(rows, seed=0) if row.explainer == "b"}


def test_a_single_explainer_is_not_praised():
    assert unbeaten(compare(board(up=np.ones(12), random=np.zeros(12)), seed=0)) == frozenset()
    assert unbeaten(compare(board(up=np.ones(12), none=np.full(12, np.nan)), seed=0)) == frozenset()
