"""The leaderboard on a terminal."""

import pytest

from interpeval.leaderboards.names import labels, primary_variants
from interpeval.leaderboards.record import position
from interpeval.leaderboards.terminal import WIDTH, control_notes, summary_table
from leaderboard_cases import record


def bounded(value, half, **changes):
    return record(value, ci_low=value - half, ci_high=value + half, **changes)


def small_board():
    nqh = {"metric": "negative_quadrants_heatmap", "higher_is_better": False}
    cost = {"metric": "cost", "higher_is_better": False}
    return [
        bounded(0.968, 0.012, metric="accuracy", explainer=""),
        bounded(0.701, 0.02, explainer="gradient"),
        bounded(0.64, 0.021, explainer="deconvnet", n=97, n_invalid=3, n_degenerate=12),
        bounded(0.812, 0.019, explainer="center"),
        bounded(1.0, 0.0, explainer="truth"),
        bounded(0.5, 0.1, explainer="deconvnet", variant="class_mean"),
        bounded(0.7, 0.01, explainer="gradient", **nqh),
        record(None, explainer="deconvnet", n=0, n_invalid=100, **nqh),
        bounded(0.75, 0.0, explainer="center", **nqh),
        record(None, explainer="truth", kind="not_applicable", source="no mask of a composite", n=0, **nqh),
        *(record(1.0, explainer=name, variant="forward", **cost) for name in ("gradient", "deconvnet")),
        record(0.0, explainer="center", variant="forward", **cost),
        *(record(0.03, explainer=name, variant="seconds", **cost) for name in ("gradient", "deconvnet")),
    ]


def test_a_small_board_looks_like_this():
    assert (
        summary_table(small_board())
        == """\
digits, lenet, 100 samples: accuracy 0.968 ±0.012

                negative_
               quadrants_     pointing_         cost
explainer       heatmap ↓        game ↑    forward ↓
-----------  ------------  ------------  -----------
deconvnet               –  0.640*±0.021            1
gradient     0.700 ±0.010  0.701 ±0.020            1
-----------  ------------  ------------  -----------
center              0.750  0.812 ±0.019            0
truth                 n/a         1.000

* deconvnet: 100 invalid (negative_quadrants_heatmap)
* deconvnet: 3 invalid, 12 degenerate (pointing_game)
n/a truth: no mask of a composite (negative_quadrants_heatmap)"""
    )


def test_rows_that_are_not_beaten_are_marked():
    rows = [
        bounded(0.701, 0.02, explainer="gradient"),
        bounded(0.64, 0.021, explainer="deconvnet", n_invalid=3),
        bounded(0.5, 0.1, explainer="own"),
        bounded(0.812, 0.019, explainer="center"),
        bounded(0.4, 0.1, explainer="gradient", variant="class_mean"),
        *(record(1.0, explainer=name, metric="cost", higher_is_better=False) for name in ("gradient", "own")),
    ]
    text = summary_table(rows, unbeaten={position(rows[0]), position(rows[1]), position(rows[4]), position(rows[5])})
    assert (
        text.split("\n", 2)[2]
        == """\
                 pointing_
explainer           game ↑    cost ↓
-----------  -------------  --------
deconvnet    0.640†*±0.021
gradient     0.701† ±0.020         1
own          0.500  ±0.100         1
-----------  -------------  --------
center       0.812  ±0.019

† no other real explainer is better by more than chance (paired sign-flip tests, Holm over the column, 5 %)
* deconvnet: 3 invalid (pointing_game)"""
    )
    assert "†" not in summary_table(rows)


def test_controls_that_beat_explainers_are_named():
    board = [*small_board(), bounded(0.641, 0.01, explainer="edges")]
    assert control_notes(board) == [
        "pointing_game: center (0.812) is better than deconvnet (0.640), gradient (0.701); edges (0.641) than some",
    ]


def test_a_control_that_beats_all_of_many_explainers_is_not_followed_by_a_list():
    values = {"gradient": 0.1, "gradcam": 0.2, "own": 0.3, "deconvnet": 0.4}
    rows = [record(value, explainer=name) for name, value in values.items()]
    assert control_notes([*rows, record(0.5, explainer="edges")]) == [
        "pointing_game: edges (0.500) is better than all 4 real explainers"
    ]
    assert control_notes([*rows, record(0.35, explainer="edges")]) == [
        "pointing_game: edges (0.350) is better than gradcam (0.200), gradient (0.100), own (0.300)"
    ]


def test_a_lower_number_is_better_where_the_metric_says_so():
    values = {"gradient": 0.7, "own": 0.8, "random": 0.75}
    up, down = ([record(v, explainer=e, higher_is_better=h) for e, v in values.items()] for h in (True, False))
    assert control_notes(up) == ["pointing_game: random (0.750) is better than gradient (0.700)"]
    assert control_notes(down) == ["pointing_game: random (0.750) is better than own (0.800)"]
    assert "game ↑" in summary_table(up)
    assert "game ↓" in summary_table(down)


@pytest.mark.parametrize(
    "rows",
    [
        {"gradient": 0.7, "truth": 1.0},  # the ceiling is no floor
        {"gradient": 0.7, "center": 0.7},
        {"gradient": 0.70001, "center": 0.70002},  # the same to a reader
        {"gradient": None, "center": 0.7},
        {"center": 0.7, "random": 0.5},
    ],
)
def test_controls_that_beat_nobody_are_not_named(rows):
    assert control_notes([record(value, explainer=name) for name, value in rows.items()]) == []


def test_price_is_no_quality():
    rows = [record(v, explainer=e, metric="cost", higher_is_better=False) for e, v in (("gradient", 2), ("center", 0))]
    assert control_notes(rows) == []


def test_several_subjects_have_a_block_each_and_notes_say_which():
    rows = [
        record(value, explainer=name, dataset=dataset)
        for dataset, values in (("voc", {"own": 0.6, "edges": 0.7}), ("coco", {"own": 0.6, "edges": 0.5}))
        for name, value in values.items()
    ]
    assert control_notes(rows) == ["voc, lenet: pointing_game: edges (0.700) is better than own (0.600)"]
    blocks = summary_table(rows).split("\n\n")
    assert [block for block in blocks if block.endswith("samples")] == [
        "coco, lenet, 100 samples",
        "voc, lenet, 100 samples",
    ]


def full_board(metrics):
    explainers = [
        "gradient", "input_x_gradient", "guided_backprop", "deconvnet", "integrated_gradients", "gradcam", "own",
        "random", "uniform", "center", "edges", "truth",
    ]  # fmt: skip
    return [
        bounded(-3.123, 0.123, explainer=explainer, metric=metric, variant=variant, n_invalid=1)
        for explainer in explainers
        for metric, variant in metrics
    ]


METRICS = [
    ("self_consistency", "masked"),
    ("mask_k_pixels", "accuracy_area"),
    ("mask_k_pixels", "lor_area"),
    ("pointing_game", ""),
    ("stochastic_pointing_game", ""),
    ("content_heatmap", ""),
    ("negative_quadrants_heatmap", ""),
    ("parameter_randomization", "cascading"),
]


def test_twelve_explainers_and_eight_metrics_fit_into_one_table():
    text = summary_table(full_board(METRICS))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("\nexplainer ") == 1
    assert text.count("-3.123*±0.123") == 12 * 8


def test_what_does_not_fit_goes_into_a_second_table():
    text = summary_table(full_board([*METRICS, *((f"{name}_again", variant) for name, variant in METRICS)]))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("\nexplainer ") == 2
    assert text.count("-3.123*±0.123") == 12 * 16


def test_explainers_come_first_by_name_and_controls_last_in_their_order():
    lines = [line.split()[0] for line in summary_table(full_board(METRICS[:1])).splitlines() if "-3.123" in line]
    assert lines == [
        "deconvnet", "gradcam", "gradient", "guided_backprop", "input_x_gradient", "integrated_gradients", "own",
        "random", "uniform", "center", "edges", "truth",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.25], ["0.500", "0.250"]),
        ([1.0, 20.0], ["1", "20"]),
        ([-12.345, 1.5], ["-12.35", "1.50"]),
        ([1234.5, 3.0], ["1234", "3"]),
        ([0.0123, 0.001], ["0.0123", "0.0010"]),
        ([1.5e-7, 0.0], ["1.50e-07", "0.00e+00"]),
        ([0.0, 0.0], ["0", "0"]),
    ],
)
def test_numbers_of_a_column_have_the_same_decimals(values, expected):
    rows = [record(value, explainer=name) for name, value in zip("ab", values, strict=True)]
    assert [line.split()[1] for line in summary_table(rows).splitlines()[-2:]] == expected


def test_what_does_not_apply_stands_in_every_column_of_its_metric():
    rows = [
        record(0.5, explainer="gradient", metric="mask", variant="lor_area"),
        record(0.5, explainer="gradient", metric="mask", variant="accuracy_area"),
        record(None, explainer="own", metric="mask", kind="not_applicable", source="no pixels"),
    ]
    text = summary_table(rows)
    assert text.splitlines()[-3].split() == ["own", "n/a", "n/a"]
    assert text.endswith("n/a own: no pixels (mask accuracy_area, mask lor_area)")


def test_what_does_not_apply_says_nothing_of_the_direction_of_a_variant():
    rows = [
        record(None, explainer="a", metric="drop", kind="not_applicable", source="no ReLU", higher_is_better=True),
        record(0.25, explainer="b", metric="drop", variant="increase", higher_is_better=False),
        record(0.5, explainer="center", metric="drop", variant="increase", higher_is_better=False),
    ]
    assert "increase ↓" in summary_table(rows)
    assert not control_notes(rows)
    assert control_notes([rows[0], rows[1], rows[2].model_copy(update={"value": 0.125})])


def test_a_metric_that_applies_to_nobody_is_a_line_and_no_column():
    rows = [
        record(0.5, explainer="gradient", metric="mask"),
        *(
            record(None, explainer=name, metric="pointing_game", kind="not_applicable", source="no masks here")
            for name in ("gradient", "center")
        ),
        record(0.5, explainer="center", metric="mask"),
    ]
    text = summary_table(rows)
    assert "pointing_\n" not in text
    assert text.endswith("\n\nn/a for all: no masks here (pointing_game)")


def test_control_characters_are_shown_not_sent():
    hostile = "a\x1b[2J\r\u202eb\nc"
    rows = [
        record(0.5, dataset=hostile, model=hostile, explainer=hostile, metric=hostile, variant=hostile, n_invalid=1),
        record(0.6, dataset=hostile, model=hostile, explainer="edges", metric=hostile, variant=hostile),
        record(None, dataset=hostile, model=hostile, explainer="own", kind="not_applicable", source=hostile),
    ]
    text = summary_table(rows) + "\n".join([*control_notes(rows), *control_notes([*rows, record(0.5)])])
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert "a\\x1b[2J\\r\\u202eb\\nc, a\\x1b[2J" in text


def test_no_records_give_no_text():
    assert summary_table([]) == ""
    assert control_notes([]) == []


def test_a_model_without_explainers_is_a_headline():
    assert summary_table([bounded(0.968, 0.012, metric="accuracy", explainer="")]) == (
        "digits, lenet, 100 samples: accuracy 0.968 ±0.012"
    )


def test_parameters_are_spelled_out_where_names_alone_do_not_tell_apart():
    rows = [
        record(0.5, explainer="gradcam", explainer_params='{"layer":"conv1"}'),
        record(0.5, explainer="gradcam", explainer_params='{"layer":"conv2","n":2}'),
        record(0.5, explainer="own", explainer_params='{"x":1}'),
    ]
    assert list(labels(rows).values()) == ["gradcam?layer=conv1", "gradcam?layer=conv2&n=2", "own"]


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (["masked", "unmasked", "masked/class_mean"], ["masked"]),
        (["accuracy_area", "lor_area", "delta_lor_area"], ["accuracy_area", "lor_area"]),
        (["", "class_mean"], [""]),
        (["class_mean"], ["class_mean"]),
        (["forward", "backward"], ["backward", "forward"]),
        (["", "tolerance=1", "tolerance=1/class_mean"], ["", "tolerance=1"]),
    ],
)
def test_variants_named_after_others_are_left_out(variants, expected):
    assert primary_variants(variants) == expected
