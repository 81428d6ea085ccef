"""Models that scikit-learn and XGBoost fit predict what those libraries predict, and have no gradients."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression as SklearnRegression
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from interpeval.baselines.base import has_gradients
from interpeval.baselines.decision_tree import DecisionTree
from interpeval.baselines.fitted_models import SMALLEST_SHARE, log_share, training_arrays
from interpeval.baselines.gradient import Gradient
from interpeval.baselines.logistic_regression import LogisticRegression
from interpeval.baselines.occlusion import Occlusion
from interpeval.baselines.random_forest import RandomForest
from interpeval.baselines.rise import Rise
from interpeval.baselines.scorecam import ScoreCam
from interpeval.baselines.tree_ensemble import TreeEnsemble
from interpeval.baselines.xgboost import Xgboost
from interpeval.bench import evaluate
from interpeval.datasets.base import Arrays
from interpeval.datasets.digits import Digits
from toys import Plain, Squares

SHAPE = (3, 16, 16)
SHORT: dict[type, dict[str, Any]] = {RandomForest: {"n_estimators": 7}, Xgboost: {"n_estimators": 3}}
MODELS = [DecisionTree, RandomForest, LogisticRegression, Xgboost]


class FewSquares(Squares):
    """Squares of some classes only, or of two classes in all."""

    def load(self) -> Arrays:
        """Leave out the last class."""
        arrays = super().load()
        kept = arrays.labels < 3
        return Arrays(tuple(np.array(arrays.ids)[kept]), arrays.pixels[kept], arrays.labels[kept], arrays.masks[kept])


class TwoSquares(Squares):
    """Squares on the left or on the right."""

    classes = ("left", "right")

    def load(self) -> Arrays:
        """Merge the quarters."""
        arrays = super().load()
        return arrays._replace(labels=arrays.labels % 2)


def fitted(kind: Any, dataset: Squares, seed: int = 3) -> Any:
    if kind is Xgboost:
        pytest.importorskip("xgboost")
    model = kind(dataset.image_shape, len(dataset.classes))
    model.fit(dataset, kind.recipe(dataset.name) | SHORT.get(kind, {}), seed)
    return model.eval()


def images_near(dataset: Squares, count: int = 60) -> Tensor:
    """Noisy images besides those of the dataset, and values that lie on thresholds: those of its own pixels."""
    images = Squares(size=count).take(range(count)).images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat((images, images + noise, dataset.take(range(len(dataset))).images))


def theirs(kind: Any, dataset: Squares, images: Tensor, seed: int = 3) -> np.ndarray:
    """`predict_proba` of the library itself."""
    pixels, labels = training_arrays(dataset, len(dataset.classes), dataset.image_shape)
    if kind is Xgboost:
        xgboost = pytest.importorskip("xgboost")
        classifier = xgboost.XGBClassifier(n_estimators=3, random_state=seed)
    else:
        classifier = {
            DecisionTree: DecisionTreeClassifier(random_state=seed),
            RandomForest: RandomForestClassifier(7, random_state=seed),
            LogisticRegression: SklearnRegression(max_iter=1000),
        }[kind]
    return classifier.fit(pixels, labels).predict_proba(images.flatten(1).numpy())


@pytest.mark.parametrize("kind", [DecisionTree, RandomForest])
@pytest.mark.parametrize("dataset", [Squares(), TwoSquares()], ids=["four", "two"])
def test_trees_give_the_probabilities_of_scikit_learn_to_the_last_bit(kind: type, dataset: Squares) -> None:
    images = images_near(dataset)
    found = fitted(kind, dataset).probabilities(images).numpy()
    expected = theirs(kind, dataset, images)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > (2 if kind is RandomForest else 1)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dataset", [Squares(), TwoSquares()], ids=["four", "two"])
def test_the_softmax_of_the_logits_is_what_the_library_predicts(kind: type, dataset: Squares) -> None:
    images = images_near(dataset)
    with torch.no_grad():
        logits = fitted(kind, dataset)(images)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.softmax(1).numpy(), theirs(kind, dataset, images), atol=2e-6)


def test_a_pixel_on_the_threshold_goes_left_and_the_next_larger_one_right() -> None:
    """The threshold 0.1 lies between two float32; scikit-learn compares float32 pixels with it in float64."""

    class Stump:
        node_count, max_depth = 3, 1
        children_left, children_right = np.array([1, -1, -1]), np.array([2, -1, -1])
        feature = np.array([1, -2, -2])
        value = np.array([[[0.5, 0.5]], [[1.0, 0.0]], [[0.0, 1.0]]])

        def __init__(self, threshold: float) -> None:
            self.threshold = np.array([threshold, -2.0, -2.0])

    above = torch.tensor(0.1)  # float32 rounds 0.1 up
    below = torch.nextafter(above, torch.tensor(0.0))
    images = torch.zeros(2, 1, 1, 2)
    images[:, 0, 0, 1] = torch.stack((below, above))
    model = TreeEnsemble((1, 1, 2), 2)
    model.grow([Stump(0.1)])
    assert model.probabilities(images)[:, 1].tolist() == [0.0, 1.0]
    model.grow([Stump(float(above))])
    assert model.probabilities(images)[:, 1].tolist() == [0.0, 0.0]


def test_logits_are_logarithms_of_shares_and_never_infinite() -> None:
    logits = log_share(torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64))
    expected = torch.tensor([[0.25, 0.75, SMALLEST_SHARE]]).log()
    torch.testing.assert_close(logits, expected)


def test_on_real_digits_a_forest_is_right_as_often_as_scikit_learns() -> None:
    train, test = Digits(split="train"), Digits()
    model = RandomForest(train.image_shape, 10)
    model.fit(train, RandomForest.recipe("digits") | {"n_estimators": 10}, seed=0)
    pixels, labels = training_arrays(train, 10, train.image_shape)
    classifier = RandomForestClassifier(10, random_state=0).fit(pixels, labels)
    images = test.take(range(len(test))).images
    expected = classifier.predict(images.flatten(1).numpy())
    np.testing.assert_array_equal(model(images).argmax(1).numpy(), expected)
    assert (expected == test.labels.numpy()).mean() > 0.85


@pytest.mark.parametrize("kind", MODELS)
def test_what_was_learnt_survives_saving_and_loading(kind: Any, tmp_path: Path) -> None:
    dataset = Squares()
    model, images = fitted(kind, dataset), images_near(dataset)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    state: Mapping[str, Tensor] = torch.load(tmp_path / "weights.pt", weights_only=True)
    fresh = kind(SHAPE, 4)
    if hasattr(fresh, "adapt_to"):
        fresh.adapt_to(state)
    fresh.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(fresh(images), model(images))
        assert torch.equal(deepcopy(model)(images), model(images))


@pytest.mark.parametrize("kind", [DecisionTree, Xgboost])
def test_loading_replaces_what_an_answer_was_computed_from(kind: Any) -> None:
    dataset, images = Squares(), images_near(Squares())
    model, other = fitted(kind, dataset), fitted(kind, Squares(reversed_order=True, size=12))
    with torch.no_grad():
        before, expected = model(images), other(images)
        model.adapt_to(other.state_dict())
        model.load_state_dict(other.state_dict())
        assert torch.equal(model(images), expected)
    assert not torch.equal(before, expected)


@pytest.mark.parametrize("kind", [RandomForest, Xgboost])
def test_the_seed_alone_decides_a_forest(kind: Any) -> None:
    first, same = fitted(kind, Squares()), fitted(kind, Squares())
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), same.buffers(), strict=True))
    if kind is RandomForest:
        other = fitted(kind, Squares(), seed=4)
        assert not torch.equal(other(images_near(Squares())), first(images_near(Squares())))


@pytest.mark.parametrize("kind", [DecisionTree, RandomForest, Xgboost])
def test_a_model_that_learnt_nothing_says_so(kind: Any) -> None:
    with pytest.raises(RuntimeError, match="must be fitted before it is asked"):
        kind(SHAPE, 4)(torch.zeros(1, *SHAPE))


@pytest.mark.parametrize("kind", MODELS)
def test_images_of_another_shape_are_refused(kind: Any) -> None:
    model = fitted(kind, Squares())
    with pytest.raises(ValueError, match=r"`inputs` must be \(B, 3, 16, 16\), was \(1, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("kind", MODELS)
def test_a_class_without_a_sample_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"has none of class 3"):
        fitted(kind, FewSquares())


@pytest.mark.parametrize("kind", [DecisionTree, RandomForest, Xgboost])
def test_whoever_differentiates_a_tree_is_told_that_it_has_no_gradients(kind: Any) -> None:
    model, images = fitted(kind, Squares()), images_near(Squares())[:2]
    assert not has_gradients(model)
    with pytest.raises(RuntimeError, match=f"`{kind.name}` has no gradients"):
        Plain().attribute(model, images, torch.tensor([0, 1]))


def test_logistic_regression_has_gradients_its_weights() -> None:
    model, images = fitted(LogisticRegression, Squares()), images_near(Squares())[:2]
    assert has_gradients(model)
    found = Gradient().attribute(model, images, torch.tensor([3, 1]))
    torch.testing.assert_close(found.flatten(1), model.linear.weight.detach()[[3, 1]])


def test_explainers_that_need_gradients_do_not_apply_and_perturbing_ones_do() -> None:
    dataset, model = Squares(size=8), fitted(RandomForest, Squares())
    explainers = [Gradient(), ScoreCam(), Occlusion(window=4, stride=4), Rise(n_masks=20)]
    results = evaluate(
        model, explainers, dataset, metrics=["accuracy", "fgsm_accuracy", "pointing_game", "parameter_randomization"]
    )
    table = results.summary().set_index(["explainer", "metric"])
    scored = {key for key, row in table.iterrows() if row["n"] == 8}
    assert {("", "accuracy"), ("occlusion", "pointing_game"), ("rise", "pointing_game")} <= scored
    assert not {key for key in scored if key[0] in {"gradient", "scorecam"} or key[1] == "fgsm_accuracy"}
    reasons = {(item.about["explainer"], item.metric): item.reason for item in results.inapplicable}
    assert reasons["gradient", "pointing_game"].startswith("gradient needs gradients, model ")
    assert reasons["", "fgsm_accuracy"].endswith("has no gradients")
    assert reasons["occlusion", "parameter_randomization"].endswith("has no parameters")
    assert "no feature map" in reasons["scorecam", "pointing_game"]
    assert results.faults == []


def test_an_explainer_that_does_not_say_whether_it_needs_gradients_is_asked() -> None:
    """Both differentiate; on a network neither is held back, on a tree the silent one fails with the reason."""

    class Silent(Plain):
        name = "silent"

    tree, network = fitted(DecisionTree, Squares()), nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    for model, failures in ((network, 0), (tree, 1)):
        results = evaluate(model, [Silent()], Squares(size=4), metrics=["pointing_game"])
        assert not results.inapplicable
        faults = [fault for fault in results.faults if "has no gradients" in str(fault)]
        assert bool(faults) == bool(failures)
