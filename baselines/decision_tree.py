"""A decision tree over the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.tree import DecisionTreeClassifier
from torch import nn

from ..datasets.base import Dataset
from .fitted_models import training_arrays
from .tree_ensemble import TreeEnsemble


class DecisionTree(TreeEnsemble, nn.Module):  # the catalog knows models by this base
    """A decision tree over the pixels, grown by scikit-learn.

    The logit of a class is the logarithm of its share among the training images in the leaf, no less than that of
    float32's ε. It has no gradients. The tree takes images of one size only.

    Args:
        image_shape: `(C, H, W)`.
        n_classes: number of logits.

    Example:
        >>> from ..datasets.digits import Digits
        >>> train, test = Digits(split="train"), Digits()
        >>> tree = DecisionTree(train.image_shape, 10)
        >>> tree.fit(train, DecisionTree.recipe("digits"), seed=0)
        >>> bool((tree(test.take(range(50)).images).argmax(1) == test.labels[:50]).float().mean() > 0.7)
        True
    """

    name: ClassVar[str] = "decision_tree"

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return scikit-learn's own defaults, for every dataset."""
        del dataset_name
        return {"max_depth": None, "min_samples_leaf": 1}

    def fit(self, dataset: Dataset, recipe: Mapping[str, Any], seed: int) -> None:
        """Grow the tree on all samples of a dataset; `seed` breaks ties between equally good splits.

        Raises:
            ValueError: samples have several labels, a class has none, or images are of another shape.
        """
        pixels, labels = training_arrays(dataset, self.n_classes, self.image_shape)
        classifier: Any = DecisionTreeClassifier(
            max_depth=recipe["max_depth"], min_samples_leaf=recipe["min_samples_leaf"], random_state=seed
        )
        self.grow([classifier.fit(pixels, labels).tree_])
