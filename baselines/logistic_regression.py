"""Logistic regression on the pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression as Fitter
from torch import Tensor, nn

from ..datasets.base import Dataset
from .fitted_models import check_inputs, training_arrays


class LogisticRegression(nn.Module):
    """A linear map of the pixels, fitted by scikit-learn; the logits are its outputs, so it has gradients.

    scikit-learn keeps one row of weights for two classes; here the first class then has the logit 0. Everything is
    computed in float32.

    Args:
        image_shape: `(C, H, W)`; other images are refused.
        n_classes: number of logits, at least 2.

    Raises:
        ValueError: there are fewer classes.

    Example:
        >>> from ..datasets.digits import Digits
        >>> train, test = Digits(split="train"), Digits()
        >>> model = LogisticRegression(train.image_shape, 10)
        >>> model.fit(train, LogisticRegression.recipe("digits"), seed=0)
        >>> bool((model(test.take(range(50)).images).argmax(1) == test.labels[:50]).float().mean() > 0.8)
        True
    """

    name: ClassVar[str] = "logistic_regression"

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"`n_classes` must be at least 2, was {n_classes}")
        self.image_shape = image_shape
        self.n_classes = n_classes
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(math.prod(image_shape), n_classes)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return scikit-learn's own penalty, and more iterations than its 100, which are too few for images."""
        del dataset_name
        return {"C": 1.0, "max_iter": 1000}

    def fit(self, dataset: Dataset, recipe: Mapping[str, Any], seed: int) -> None:
        """Fit the weights to all samples of a dataset; the solution is unique, `seed` has no part in it.

        Raises:
            ValueError: samples have several labels, a class has none, or images are of another shape.
        """
        pixels, labels = training_arrays(dataset, self.n_classes, self.image_shape)
        fitter: Any = Fitter(C=recipe["C"], max_iter=recipe["max_iter"], random_state=seed).fit(pixels, labels)
        weight, bias = fitter.coef_, fitter.intercept_
        if self.n_classes == 2:
            weight, bias = np.concatenate((0 * weight, weight)), np.concatenate((0 * bias, bias))
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs; their softmax is scikit-learn's `predict_proba`.

        Raises:
            ValueError: the images are of another shape.
        """
        check_inputs(inputs, self.image_shape, fitted=True, name=self.name)
        return self.linear(self.flatten(inputs))
