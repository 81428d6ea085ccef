"""A random forest over the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.ensemble import RandomForestClassifier
from torch import nn

from ..datasets.base import Dataset
from .base import DEFAULT_THREADS
from .fitted_models import training_arrays
from .tree_ensemble import TreeEnsemble


class RandomForest(TreeEnsemble, nn.Module):  # the catalog knows models by this base
    """A random forest over the pixels, grown by scikit-learn.

    The logit of a class is the logarithm of its share, averaged over the trees, no less than that of float32's ε. It
    has no gradients. The forest takes images of one size only.

    Args:
        image_shape: `(C, H, W)`.
        n_classes: number of logits.

    Example:
        >>> from ..datasets.digits import Digits
        >>> train, test = Digits(split="train"), Digits()
        >>> forest = RandomForest(train.image_shape, 10)
        >>> forest.fit(train, RandomForest.recipe("digits") | {"n_estimators": 10}, seed=0)
        >>> bool((forest(test.take(range(50)).images).argmax(1) == test.labels[:50]).float().mean() > 0.8)
        True
    """

    name: ClassVar[str] = "random_forest"

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return scikit-learn's own defaults, for every dataset."""
        del dataset_name
        return {"n_estimators": 100, "max_depth": None, "min_samples_leaf": 1}

    def fit(self, dataset: Dataset, recipe: Mapping[str, Any], seed: int) -> None:
        """Grow the forest on all samples of a dataset; `seed` decides what each tree sees.

        Raises:
            ValueError: samples have several labels, a class has none, or images are of another shape.
        """
        pixels, labels = training_arrays(dataset, self.n_classes, self.image_shape)
        classifier: Any = RandomForestClassifier(
            recipe["n_estimators"],
            max_depth=recipe["max_depth"],
            min_samples_leaf=recipe["min_samples_leaf"],
            n_jobs=recipe.get("threads", DEFAULT_THREADS),  # changes nothing but the time
            random_state=seed,
        )
        self.grow([tree.tree_ for tree in classifier.fit(pixels, labels).estimators_])
