"""Gradient-boosted trees over the pixels, by XGBoost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.base import Dataset
from .base import DEFAULT_THREADS
from .fitted_models import check_inputs, training_arrays, without_gradient


class Xgboost(nn.Module):
    """Gradient-boosted trees over the pixels, fitted and asked by XGBoost, on the CPU.

    The logits are XGBoost's margins, whose softmax is its `predict_proba`; for two classes the first has the logit 0.
    There are no gradients. What was learnt is kept as XGBoost writes it (UBJSON), in a buffer of bytes.

    Args:
        image_shape: `(C, H, W)`; other images are refused.
        n_classes: number of logits, at least 2.

    Raises:
        ValueError: there are fewer classes.
        ImportError: from `fit` and `forward`, where XGBoost is not installed (`pip install interpeval[xgboost]`).

    Reference:
        T. Chen, C. Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.

    Example:
        >>> Xgboost.recipe("digits")["n_estimators"]
        100
    """

    name: ClassVar[str] = "xgboost"
    differentiable: ClassVar[bool] = False

    learnt: Tensor

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"`n_classes` must be at least 2, was {n_classes}")
        self.image_shape = image_shape
        self.n_classes = n_classes
        self.register_buffer("learnt", torch.zeros(0, dtype=torch.uint8))
        self._read: Any = None
        self.register_load_state_dict_post_hook(Xgboost._forget)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return XGBoost's own defaults, for every dataset."""
        del dataset_name
        return {"n_estimators": 100, "max_depth": 6, "learning_rate": 0.3}

    def fit(self, dataset: Dataset, recipe: Mapping[str, Any], seed: int) -> None:
        """Fit the trees to all samples of a dataset.

        Raises:
            ValueError: samples have several labels, a class has none, or images are of another shape.
        """
        pixels, labels = training_arrays(dataset, self.n_classes, self.image_shape)
        classifier = _library().XGBClassifier(
            n_estimators=recipe["n_estimators"],
            max_depth=recipe["max_depth"],
            learning_rate=recipe["learning_rate"],
            n_jobs=recipe.get("threads", DEFAULT_THREADS),
            random_state=seed,
        )
        written = classifier.fit(pixels, labels).get_booster().save_raw("ubj")
        self.learnt = torch.frombuffer(bytearray(written), dtype=torch.uint8).to(self.learnt.device)
        self._forget(self)

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        """Make room for the trees of a state dict."""
        if "learnt" in state:
            self.learnt = self.learnt.new_zeros(state["learnt"].shape)
            self._forget(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs.

        Raises:
            RuntimeError: nothing has been fitted.
            ValueError: the images are of another shape.
        """
        check_inputs(inputs, self.image_shape, fitted=len(self.learnt) > 0, name=self.name)
        if self._read is None:
            self._read = _library().Booster(model_file=bytearray(self.learnt.cpu().numpy().tobytes()))
            self._read.set_param({"nthread": torch.get_num_threads()})
        pixels = inputs.detach().flatten(1).float().cpu().numpy()
        margins = np.asarray(self._read.inplace_predict(pixels, predict_type="margin"))
        if self.n_classes == 2:
            margins = np.stack((np.zeros_like(margins), margins), axis=1)
        return without_gradient(inputs, torch.from_numpy(margins).to(inputs.device), self.name)

    @staticmethod
    def _forget(model: Xgboost, *_: object) -> None:
        """Drop what was read from the bytes, which have changed; also called by torch after loading."""
        model._read = None


def _library() -> Any:
    """Import XGBoost, which is an extra."""
    try:
        import xgboost  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("the model `xgboost` needs the package: pip install interpeval[xgboost]") from error
    return xgboost
