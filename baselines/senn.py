"""SENN, a classifier that is linear in concepts, with weights that depend on the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model_checks import check_input_size, check_sides
from .option_checks import check_counts, check_word

Form = Literal["original", "reimplementation"]
Penalty = Literal["paper", "released"]

_N_CONCEPTS = {"original": 20, "reimplementation": 5}
_RECIPE: Mapping[str, Any] = {
    "epochs": 10,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "optimizer": "adam",
    "schedule": "constant",
    "robustness": 1e-2,
    "sparsity": 1e-4,
    "released_sparsity": 2e-5,
}
# Not published: few samples and a short training.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "digits": {"epochs": 8, "batch_size": 32, "learning_rate": 2e-3},
    "digit_scenes": {"epochs": 1, "batch_size": 64, "learning_rate": 2e-3},
}


class Senn(nn.Module):
    """Self-explaining neural network: concepts `h(x)`, and how much they count for each class in this image, `θ(x)`.

        logit_c(x) = Σ_j θ_jc(x) h_j(x)

    The conceptizer h makes of every image n feature maps and reads each map by the same linear layer; a decoder
    restores the image from the n numbers. The parametrizer θ is a second network with values in (−1, 1).

    The explanation that this model gives of itself (`contributions`) is one number for each concept, `θ_jc h_j`, which
    add up to the logit. For metrics on images it is laid out in space (`attribute`) without a further approximation:
    concept j is a weighted sum over the cells of its own feature map `p_j`, `h_j = Σ_s v_s p_js + b`, so cell s gets

        a_s = Σ_j θ_jc (v_s p_js + b / S),

    where S is the number of cells (4×4 for 28×28 pixels; the heatmap is enlarged from them): elements add up to the
    logit.

    The loss of a batch is

        CE(f(x), y) + λ·R + MSE(decoded, x) + ξ·|h(x)|_1,

    where R penalises that f is not, close to x, the linear function of concepts that it claims to be:

    * `penalty="paper"` (default): the mean over samples of the Frobenius norm of `∂f/∂x − θ(x)' ∂h/∂x`, with f the
      logits;
    * `"released"`: f is the log-softmax of the logits, and the norm is over the whole batch, so that it grows with
      the root of the batch size.

    In the trainer released first (dmelis/SENN) reconstruction and sparsity are computed, added, and then overwritten
    by the sum with the penalty, so that concepts do not learn to restore the image. This is not imitated. `ξ |h|_1` is
    here the mean over samples; in the re-implementation (AmanDaVinci/SENN) it is the sum over the batch.

    Departs from the published experiments in the pixels: they were normalised by MNIST's mean and deviation, where the
    decoder, which ends in tanh, cannot restore the bright ones. Here images are taken as they come, with pixels in
    [−1, 1].

    Args:
        image_shape: `(C, H, W)`; `H` and `W` multiples of 4 and at least 16. The network takes this size only.
        n_classes: number of logits.
        form: `"original"` (dmelis; 20 concepts) or `"reimplementation"` (AmanDaVinci's configuration for MNIST: 5
            concepts, and the sparsity that belongs to it; it was trained for 5 epochs with batches of 200 at a rate of
            0.0002, which `recipe` does not know).
        n_concepts: n; `None` is the number of the form. The paper has 5 on MNIST.
        penalty: `"paper"` or `"released"`, see above.

    Raises:
        ValueError: a size or an option is not as stated.

    Reference:
        D. Alvarez-Melis, T. Jaakkola, "Towards Robust Interpretability with Self-Explaining Neural Networks", NeurIPS
        2018.

    Example:
        >>> model = Senn((1, 28, 28), 10).eval()
        >>> images, targets = torch.rand(2, 1, 28, 28), torch.tensor([3, 7])
        >>> explanation = model.attribute(images, targets)
        >>> explanation.shape, torch.allclose(explanation.sum((1, 2, 3)), model(images)[[0, 1], targets], atol=1e-5)
        (torch.Size([2, 1, 4, 4]), True)
    """

    name: ClassVar[str] = "senn"
    cam_layer: ClassVar[str] = "conceptizer.maps"
    """The feature maps of the concepts, for Grad-CAM."""
    own_sums_to: ClassVar[str | None] = "logit"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        *,
        form: Form = "original",
        n_concepts: int | None = None,
        penalty: Penalty = "paper",
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        check_sides(image_shape, 4, least=16)
        check_word("form", form, ("original", "reimplementation"))
        check_word("penalty", penalty, ("paper", "released"))
        n_concepts = _N_CONCEPTS[form] if n_concepts is None else n_concepts
        check_counts(n_concepts=n_concepts)
        self.image_shape = (channels, height, width)
        self.form: Form = form
        self.penalty: Penalty = penalty
        grid = (height // 4 - 3, width // 4 - 3)  # two 5×5 convolutions, each with pooling
        self.conceptizer = _Conceptizer(channels, n_concepts, grid)
        self.parametrizer = _parametrizer(channels, grid, n_concepts, n_classes)
        self.decoder = _decoder(channels, grid, n_concepts)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        """Return how to train on a dataset, by default as the original on MNIST.

        `robustness` is the λ of the loss, `sparsity` its ξ, and `released_sparsity` the ξ of `form="reimplementation"`.
        """
        return {**_RECIPE, **_OWN.get(dataset_name, {})}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `(B, K)` logits of `(B, C, H, W)` inputs.

        Raises:
            ValueError: the inputs are not of the size that the network was built for.
        """
        check_input_size(inputs, self.image_shape)
        return _combine(self.parametrizer(inputs), self.conceptizer(inputs))

    def contributions(self, inputs: Tensor) -> Tensor:
        """Return `(B, n, K)`, what each concept adds to each logit, `θ_jc h_j`."""
        check_input_size(inputs, self.image_shape)
        return self.parametrizer(inputs) * self.conceptizer(inputs)[:, :, None]

    def attribute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return `(B, 1, h, w)`, what each cell adds to the logits of `targets`; see the class."""
        check_input_size(inputs, self.image_shape)
        rows = torch.arange(len(inputs), device=inputs.device)
        cells = self.conceptizer.cells(inputs)
        weights = self.parametrizer(inputs)[rows, :, targets]
        return torch.einsum("bn,bnhw->bhw", weights, cells)[:, None]

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of one batch (see the class) and its `(B, K)` logits."""
        leaf = images.detach().clone().requires_grad_()
        concepts, weights = self.conceptizer(leaf), self.parametrizer(leaf)
        logits = _combine(weights, concepts)
        released = self.penalty == "released"
        robustness = robustness_loss(
            logits.log_softmax(dim=1) if released else logits, concepts, weights, leaf, by_batch=released
        )
        sparsity = recipe["sparsity" if self.form == "original" else "released_sparsity"]
        loss = F.cross_entropy(logits, labels) + recipe["robustness"] * robustness
        loss = loss + F.mse_loss(self.decoder(concepts), images) + sparsity * concepts.abs().sum(dim=1).mean()
        return loss, logits


def robustness_loss(
    outputs: Tensor, concepts: Tensor, weights: Tensor, inputs: Tensor, *, by_batch: bool = False
) -> Tensor:
    """Measure how far the outputs are from being linear in the concepts: the norm of `∂f/∂x − θ' ∂h/∂x`.

    One backward pass for each class, which is itself differentiated afterwards.

    Args:
        outputs: `(B, K)` f, computed from `inputs`.
        concepts: `(B, n)` h, likewise.
        weights: `(B, n, K)` θ.
        inputs: `(B, C, H, W)`, of which gradients are recorded.
        by_batch: take one norm over the whole batch, not the mean of the norms of its samples.

    Returns:
        Scalar, 0 where weights do not depend on the inputs and `outputs` are the weighted concepts.

    Example:
        >>> x = torch.tensor([[[[3.0]]]], requires_grad=True)
        >>> h, theta = x.flatten(1), (2 * x).flatten(1)[..., None]  # f = θ h has slope 12, θ · ∂h/∂x is 6
        >>> robustness_loss(h * theta[..., 0], h, theta, x).item()
        6.0
    """
    differences: list[Tensor] = []
    for label in range(outputs.shape[1]):
        (difference,) = torch.autograd.grad(
            [outputs[:, label].sum(), concepts],
            inputs,
            grad_outputs=[outputs.new_ones(()), -weights[:, :, label]],
            create_graph=True,
        )
        differences.append(difference.flatten(1))
    every = torch.cat(differences, dim=1)
    # Its gradient at 0 is 0, which that of a root of a sum of squares is not.
    return torch.linalg.vector_norm(every) if by_batch else torch.linalg.vector_norm(every, dim=1).mean()


class _Conceptizer(nn.Module):
    """`(B, C, H, W)` to `(B, n)`."""

    def __init__(self, channels: int, n_concepts: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(channels, 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, n_concepts, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        self.read = nn.Linear(grid[0] * grid[1], 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.read(self.maps(inputs).flatten(2))[..., 0]

    def cells(self, inputs: Tensor) -> Tensor:
        """`(B, n, h, w)`, what each cell adds to each concept."""
        maps = self.maps(inputs)
        size = maps.shape[2] * maps.shape[3]
        return maps * self.read.weight.view(maps.shape[2:]) + self.read.bias / size


def _parametrizer(channels: int, grid: tuple[int, int], n_concepts: int, n_classes: int) -> nn.Sequential:
    """`(B, C, H, W)` to `(B, n, K)`, values in (−1, 1)."""
    return nn.Sequential(
        nn.Conv2d(channels, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * grid[0] * grid[1], n_concepts * n_classes),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.Unflatten(1, (n_concepts, n_classes)),
    )


def _decoder(channels: int, grid: tuple[int, int], n_concepts: int) -> nn.Sequential:
    """`(B, n)` to `(B, C, H, W)`: `s` cells on a side become `2 s + 3`, `2 s + 7` and `4 s + 12` pixels."""
    return nn.Sequential(
        nn.Unflatten(1, (n_concepts, 1)),
        nn.Linear(1, grid[0] * grid[1]),
        nn.Unflatten(2, grid),
        nn.ConvTranspose2d(n_concepts, 16, 5, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 5),
        nn.ReLU(),
        nn.ConvTranspose2d(8, channels, 2, stride=2, padding=1),
        nn.Tanh(),
    )


def _combine(weights: Tensor, concepts: Tensor) -> Tensor:
    """`(B, n, K)` and `(B, n)` to `(B, K)` logits."""
    return torch.einsum("bnk,bn->bk", weights, concepts)
