"""Printed orders, held against rows of a board."""

import pytest

from interpeval.bench.catalog import entries, parse
from interpeval.leaderboards.board import Source, merge
from interpeval.leaderboards.markdown import markdown
from interpeval.leaderboards.orderings import PrintedOrder, orderings, read_orderings
from interpeval.leaderboards.page import Notes, page
from leaderboard_cases import record

# As printed: SITE's own explanation .886, Grad-CAM .8817, DeConvNet .8591, guided backpropagation .783.
TABLE = PrintedOrder(
    source="SITE (NeurIPS 2021)", table="Table 1", dataset="CIFAR-10 validation (whole set)",
    metric="self-consistency v_X(I)",
)  # fmt: skip
MAX_POOLING = PrintedOrder(
    source="GC/GMP (AAAI 2021)", table="Table 1", dataset="ImageNet val", metric="NQH",
    models={"ResNet18 Baseline": "plain", "ResNet18 GC": "consistent"},
)  # fmt: skip


def row(explainer, value, half=0.01, **changes):
    facts = {
        "dataset": "digits", "model": "site", "metric": "self_consistency", "variant": "n_draws=4/masked",
        "higher_is_better": True, "ci_low": value - half, "ci_high": value + half,
    }  # fmt: skip
    return record(value, explainer=explainer, **{**facts, **changes})


def only(records, printed=TABLE):
    (found,) = orderings(records, [printed])
    return found


def test_every_order_is_of_printed_numbers_and_models_that_exist():
    orders = read_orderings()
    assert len(orders) == len(set(map(repr, orders)))
    for order in orders:
        for printed in order.rows:
            assert parse(order.our_model(printed)).name in entries("models")
        assert set(order.datasets) <= entries("datasets").keys()


def test_pairs_are_counted_as_they_stand():
    found = only([row("own", 0.9), row("gradcam", 0.5), row("deconvnet", 0.7), row("guided_backprop", 0.6)])
    # Printed: own, gradcam, deconvnet, guided_backprop. Here Grad-CAM is last: two of six pairs the other way round.
    assert found.verdict == "4 of 6 pairs as printed, 4 of them with separate intervals"
    assert {(pair.better.explainer, pair.worse.explainer) for pair in found.reversed} == {
        ("gradcam", "deconvnet"), ("gradcam", "guided_backprop"),
    }  # fmt: skip
    assert found.exceptions == [
        "site gradcam (0.5) is not better than site guided_backprop (0.6)",
        "site gradcam (0.5) is not better than site deconvnet (0.7)",
    ]


@pytest.mark.parametrize(("own", "beyond", "exceptions"), [
    (0.71, 0, []),
    (0.7201, 1, []),
    (0.70, 0, ["site own (0.7) is not better than site gradcam (0.7), within their intervals"]),
    (0.69, 0, ["site own (0.69) is not better than site gradcam (0.7), within their intervals"]),
])  # fmt: skip
def test_what_is_within_the_intervals_is_said(own, beyond, exceptions):
    found = only([row("own", own), row("gradcam", 0.7)])
    assert sum(pair.is_separated for pair in found.pairs) == beyond
    assert found.exceptions == exceptions


def test_rows_without_intervals_are_not_separated():
    (pair,) = only([row("own", 0.9, ci_low=None, ci_high=None), row("gradcam", 0.1)]).pairs
    assert pair.holds
    assert not pair.is_separated


def test_lower_is_better_where_the_metric_says_so():
    # Printed: 24.35 plain, 7.62 consistent, which is better.
    facts = {"metric": "negative_quadrants_heatmap", "variant": "", "higher_is_better": False}
    (pair,) = only([row("gradcam", 0.4, model="plain", **facts), row("gradcam", 0.2, model="consistent", **facts)],
                   MAX_POOLING).pairs  # fmt: skip
    assert (pair.better.model, pair.printed, pair.holds) == ("consistent", (0.0762, 0.2435), True)


def test_rows_of_two_datasets_are_never_compared():
    assert orderings([row("own", 0.9), row("gradcam", 0.5, dataset="mnist")], [TABLE]) == []


def test_an_order_can_be_confined_to_datasets():
    rows = [row(name, value, dataset=dataset) for dataset in ("digits", "mnist")
            for name, value in (("own", 0.9), ("gradcam", 0.5))]  # fmt: skip
    assert [one.dataset for one in orderings(rows, [TABLE])] == ["digits", "mnist"]
    confined = TABLE.model_copy(update={"datasets": ("mnist",)})
    assert [one.dataset for one in orderings(rows, [confined])] == ["mnist"]


def test_the_row_of_most_samples_counts():
    rows = [row("own", 0.1, n=10), row("own", 0.9, n=20), row("gradcam", 0.5)]
    assert [pair.holds for pair in only(rows).pairs] == [True]
    assert [pair.holds for pair in only(rows[::-1]).pairs] == [True]


@pytest.mark.parametrize("variant", ["unmasked", "n_draws=4/unmasked", "notmasked"])
def test_other_variants_do_not_count(variant):
    assert orderings([row("own", 0.9, variant=variant), row("gradcam", 0.5)], [TABLE]) == []


def test_numbers_that_are_printed_equal_have_no_order():
    text = PrintedOrder(source="FLINT (preprint)", table="Table 4", dataset="MNIST", metric="fidelity of g to f (test)")
    assert orderings([row("", 0.9, metric="fidelity", variant="", model="flint")], [text]) == []


def test_a_file_with_an_order_of_unknown_numbers_is_refused(tmp_path):
    path = tmp_path / "orderings.toml"
    path.write_text('[[ordering]]\nsource = "Nobody"\ntable = "1"\ndataset = "d"\nmetric = "m"\n')
    with pytest.raises(ValueError, match=r"must be at least two numbers of published\.csv"):
        read_orderings(path)
    path.write_text("[other]\n")
    with pytest.raises(ValueError, match="must hold \\[\\[ordering\\]\\] tables only, had other"):
        read_orderings(path)


def test_a_board_says_which_orders_hold_and_why_some_may_not():
    text = markdown(merge([Source("a", [row("own", 0.9), row("gradcam", 0.5), row("deconvnet", 0.7)])]), title="t")
    section = text.split("## Orders that publications print\n\n")[1]
    assert "| 2 of 3 pairs as printed, 2 of them with separate intervals |" in section
    assert "site gradcam (0.5) is not better than site deconvnet (0.7)" in section
    assert "Likely cause: on digits the last feature map has few cells" in section
    assert "Orders that" not in markdown(merge([Source("a", [row("own", 0.9)])]), title="t")


def test_a_page_says_so_too_and_escapes_names():
    rows = [row("own", 0.9), row("gradcam", 0.5, dataset="<b>"), row("deconvnet", 0.7, dataset="<b>")]
    text = page(merge([Source("a", rows)]), Notes(title="t"))
    section = text.split('<section id="orders"')[1].split("</section>")[0]
    assert "0 of 1 pairs as printed" in section
    assert "<td>&lt;b&gt;</td>" in section
    assert '<a href="#orders">' in text
    assert 'id="orders"' not in page(merge([Source("a", rows[:1])]), Notes(title="t"))
