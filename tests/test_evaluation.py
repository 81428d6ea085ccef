"""The benchmark from Python."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from interpeval.bench import evaluate
from interpeval.datasets.base import Arrays
from interpeval.leaderboards.record import COLUMNS
from interpeval.metrics.accuracy import Accuracy
from interpeval.metrics.content_heatmap import ContentHeatmap
from interpeval.metrics.pointing_game import PointingGame
from small_subject import Grad, Pictures, SmallNet
from toys import Plain, Squares, network, plain_function


class Masks:
    """A perfect explainer written by hand: bright pixels."""

    reduction = "sum"

    def attribute(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return (inputs > 0.9).all(dim=1, keepdim=True).float()


def test_summary_has_the_columns_of_the_leaderboard_and_scores_their_samples() -> None:
    found = evaluate(network(), Plain(), Squares(), ["content_heatmap"], limit=12)
    summary, scores = found.summary(), found.scores
    assert tuple(summary.columns) == COLUMNS
    row = summary[(summary.explainer == "Plain") & (summary.variant == "")].iloc[0]
    values = scores[scores.explainer == "Plain"].value
    assert len(values) == 12
    assert row["value"] == pytest.approx(values.mean(), abs=1e-12)


def test_controls_stand_beside_unless_they_are_not_wanted() -> None:
    names = {"Plain", "random", "uniform", "center", "edges", "truth"}
    assert set(evaluate(network(), Plain(), Squares(), [ContentHeatmap()], limit=4).summary().explainer) == names
    alone = evaluate(network(), Plain(), Squares(), [ContentHeatmap()], limit=4, controls=False)
    assert set(alone.summary().explainer) == {"Plain"}


def test_an_explainer_that_knows_the_answer_beats_chance_by_a_known_amount() -> None:
    found = evaluate(network(), Masks(), Squares(), ["content_heatmap"], controls=False)
    assert found.summary()["value"].tolist() == [1.0]


def test_ranks_and_differences_say_who_is_better_by_more_than_chance() -> None:
    found = evaluate(network(), [Masks(), Plain()], Squares(), ["content_heatmap", "accuracy"], limit=12)
    ranks = found.ranks()
    assert list(ranks.columns) == [
        "dataset", "model", "metric", "variant", "explainer", "value", "rank", "rank_low", "rank_high", "group",
    ]  # fmt: skip
    rows = ranks.set_index("explainer")
    assert set(rows.index) == {"Masks", "Plain", "random", "uniform", "center", "edges", "truth"}
    assert rows.loc[["Masks", "truth"], "rank"].tolist() == [1, 1]
    assert rows.loc[["Masks", "truth"], "rank_high"].tolist() == [2, 2]
    assert not set("".join(rows.drop(["Masks", "truth"]).group)) & set(rows.group["Masks"])
    differences = found.differences().set_index(["a", "b"])
    assert len(differences) == 7 * 6 / 2
    row = differences.loc["Masks", "Plain"]
    scores = found.scores[found.scores.metric == "content_heatmap"].pivot(index="sample_id", columns="explainer")[
        "value"
    ]
    assert row.difference == pytest.approx((scores.Masks - scores.Plain).mean(), rel=1e-12)
    assert (row.p, row.n, row.n_left_out, row.won) == (2 / 2**12, 12, 0, 1.0)
    table = [line.split() for line in found.table().splitlines()]
    assert ["Masks"] in [line[:1] for line in table if any("†" in cell for cell in line[1:2])]
    assert not [line for line in table if line[:1] in (["Plain"], ["truth"]) and any("†" in cell for cell in line)]


def test_functions_classes_and_captum_methods_are_the_same_to_it() -> None:
    values = [
        evaluate(network(), one, Squares(), ["content_heatmap"], limit=8, controls=False).scores.value.tolist()
        for one in (Plain(), Plain, plain_function)
    ]
    assert values[0] == values[1] == values[2]
    saliency = evaluate(network(), Saliency, Squares(), ["content_heatmap"], limit=8, controls=False)
    gradient = evaluate(network(), "gradient", Squares(), ["content_heatmap"], limit=8, controls=False)
    assert saliency.scores.value.tolist() == gradient.scores.value.tolist()


def test_several_explainers_share_the_samples() -> None:
    found = evaluate(network(), [Plain(), "gradcam"], Squares(), ["pointing_game"], limit=8, controls=False)
    counts = found.scores.groupby("explainer").sample_id.agg(list)
    assert counts["Plain"] == counts["gradcam"] == list(Squares().ids[:8])


def test_the_model_is_given_back_in_its_mode() -> None:
    model = network().train()
    model[5].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, "gradient", Squares(), ["self_consistency"], limit=4)
    assert model.training
    assert not model[5].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_in_training_mode_is_scored_in_evaluation_mode() -> None:
    trained, evaluated = network().train(), network().eval()
    one, other = (
        evaluate(model, "gradient", Squares(), ["content_heatmap"], limit=8, controls=False).scores
        for model in (trained, evaluated)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_saves_a_store_a_board_and_pictures(tmp_path: Path) -> None:
    found = evaluate(network(), Plain(), Squares(), limit=8)
    found.save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    curves = [f"{metric}_curves.png" for metric in ("deletion", "insertion", "mask_k", "parameter_randomization")]
    assert names == sorted([*curves, "gallery.png", "leaderboard.csv", "report.html", "units"])
    read = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert len(read) == len(found.summary())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "`model` must be a torch.nn.Module or a name, was int"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(768, 7))}, ValueError, "7 classes, dataset `squares` has 4"),
        ({"model": nn.Conv2d(3, 4, 3)}, ValueError, "must return logits"),
        ({"explainer": 3}, TypeError, "explainer"),
        ({"metrics": ["nothing"]}, LookupError, "unknown metric `nothing`"),
        ({"device": "quantum"}, ValueError, "`device` must be"),
        ({"batch_size": -1}, ValueError, "`batch_size` must be at least 1"),
    ],
)
def test_arguments_that_are_not_what_they_must_be(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {
        "model": network(),
        "explainer": "gradient",
        "dataset": Squares(),
        "metrics": ["accuracy"],
        "limit": 4,
    } | change
    with pytest.raises(error, match=message):
        evaluate(**arguments)


def test_a_classifier_with_a_layer_called_encoder_is_no_encoder() -> None:
    class Classifier(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Identity()

    board = evaluate(Classifier(), Grad(), Pictures(), [Accuracy()], controls=False, device="cpu").summary()
    assert set(board["kind"]) == {"measured"}


def test_an_encoder_is_scored_without_targets_alone() -> None:
    class Encoder(SmallNet):
        encoder = True

        def forward(self, inputs: Tensor) -> Tensor:
            return self.relu(self.conv(inputs)).mean(dim=(2, 3))  # six numbers, for three classes

    metrics = [PointingGame(tolerance=1.0, target="none", truth="all"), PointingGame(), Accuracy()]
    board = evaluate(Encoder(), Grad(), Pictures(), metrics, controls=False, device="cpu").summary()
    reasons = dict(zip(board["metric"] + " " + board["variant"], board["source"], strict=True))
    assert board.loc[board["kind"] == "measured", "n"].gt(0).all()
    assert set(board.loc[board["variant"].str.contains("target=none"), "kind"]) == {"measured"}
    assert reasons["accuracy "] == 'model Encoder is an encoder: only metrics with `target="none"` apply'
    with pytest.raises(ValueError, match="gives 6 classes, dataset `pictures` has 3"):
        evaluate(type("Plain", (Encoder,), {"encoder": False})(), Grad(), Pictures(), metrics, device="cpu")


def test_items_of_one_image_are_resampled_together() -> None:
    class Items(Pictures):
        def load(self) -> Arrays:
            arrays = super().load()
            return arrays._replace(ids=tuple(f"image {i // 5}#{i}" for i in range(len(arrays.ids))))

    def widths(dataset: Pictures) -> list[float]:
        board = evaluate(SmallNet(), Grad(), dataset, ["pointing_game"], controls=False, device="cpu").summary()
        row = board[board["variant"] == ""].iloc[0]
        return [row["value"], row["ci_high"] - row["ci_low"]]

    apart, together = widths(Pictures(count=60)), widths(Items(count=60))
    assert apart[0] == together[0]
    assert apart[1] != together[1]
