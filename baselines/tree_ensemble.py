"""Decision trees as arrays, grown by scikit-learn and walked by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .base import model_name
from .fitted_models import check_inputs, log_share, without_gradient

_ARRAYS = ("feature", "threshold", "left", "right", "share", "roots", "depth")


class TreeEnsemble(nn.Module):
    """One or several decision trees over the pixels of an image, whose class shares are averaged.

    What `decision_tree` and `random_forest` have in common. The logits are the logarithms of the shares
    (`log_share`). The trees are buffers; their sizes depend on what was learnt, and `adapt_to` takes those of a file.

    Args:
        image_shape: `(C, H, W)`; the trees take images of this size only.
        n_classes: number of logits.
    """

    differentiable: ClassVar[bool] = False

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    share: Tensor
    roots: Tensor
    depth: Tensor

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.n_classes = n_classes
        whole, nothing = torch.int64, (0,)
        self.register_buffer("feature", torch.zeros(nothing, dtype=whole))  # the pixel that a node looks at
        self.register_buffer("threshold", torch.zeros(nothing))  # up to which it sends an image to the left
        self.register_buffer("left", torch.zeros(nothing, dtype=whole))  # the node there; a leaf stays where it is
        self.register_buffer("right", torch.zeros(nothing, dtype=whole))
        self.register_buffer("share", torch.zeros(0, n_classes, dtype=torch.float64))  # of each class in a node
        self.register_buffer("roots", torch.zeros(nothing, dtype=whole))  # where each tree begins
        self.register_buffer("depth", torch.zeros((), dtype=whole))  # of the deepest tree

    def grow(self, trees: Sequence[Any]) -> None:
        """Take over trees of scikit-learn (`tree_` of its fitted classifiers)."""
        sizes = np.array([tree.node_count for tree in trees])
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        nodes = np.arange(sizes.sum())
        left, right = (
            np.concatenate([_absolute(getattr(tree, side), start) for tree, start in zip(trees, starts, strict=True)])
            for side in ("children_left", "children_right")
        )
        leaf = left < 0
        found = {
            "feature": np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])),
            "threshold": _rounded_down(np.concatenate([tree.threshold for tree in trees])),
            "left": np.where(leaf, nodes, left),
            "right": np.where(leaf, nodes, right),
            "share": np.concatenate([tree.value[:, 0, :] for tree in trees]),
            "roots": starts,
            "depth": np.array(max(tree.max_depth for tree in trees)),
        }
        for name in _ARRAYS:
            buffer = self.get_buffer(name)
            setattr(self, name, torch.from_numpy(found[name]).to(buffer))

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        """Make room for the trees of a state dict."""
        for name in _ARRAYS:
            if name in state:
                setattr(self, name, self.get_buffer(name).new_zeros(state[name].shape))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` float64 shares of the classes, as scikit-learn's `predict_proba`.

        Args:
            inputs: `(B, C, H, W)`, normalised.

        Raises:
            RuntimeError: nothing has been fitted.
            ValueError: the images are of another shape.
        """
        check_inputs(inputs, self.image_shape, fitted=len(self.roots) > 0, name=model_name(self))
        pixels = inputs.detach().flatten(1).float()
        nodes = self.roots.expand(len(pixels), -1)
        for _ in range(int(self.depth)):
            goes_left = pixels.gather(1, self.feature[nodes]) <= self.threshold[nodes]
            nodes = torch.where(goes_left, self.left[nodes], self.right[nodes])
        total = torch.zeros_like(self.share[nodes[:, 0]])
        for tree in range(nodes.shape[1]):  # one after the other, as scikit-learn adds them, to the last bit
            total += self.share[nodes[:, tree]]
        return total / nodes.shape[1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs, the logarithms of `probabilities`."""
        return without_gradient(inputs, log_share(self.probabilities(inputs)), model_name(self))


def _absolute(children: NDArray[np.int64], start: int) -> NDArray[np.int64]:
    """Number the nodes of a tree from `start`; -1, no child, stays."""
    return np.where(children < 0, -1, children + start)


def _rounded_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 not above each threshold: pixels are float32, so the same ones are at most as large."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
