"""A small model with an interpreter, for tests of what is said about both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interpeval.baselines.base import Interpretation
from small_subject import SmallNet


class Interpreted(SmallNet):
    """`SmallNet` as the predictor, and a linear interpreter of a few attributes made of its features."""

    def __init__(self, n_attributes: int = 4, n_classes: int = 3) -> None:
        """Draw the weights.

        The number of attributes is a multiple of four: with others, matrix products of few rows round differently
        from row to row, in which no batch is like another to the bit.
        """
        super().__init__(n_classes=n_classes)
        generator = torch.Generator().manual_seed(5)
        self.attributes = nn.Conv2d(6, n_attributes, 1)
        self.interpreter = nn.Linear(n_attributes, n_classes)
        for weight in (*self.attributes.parameters(), *self.interpreter.parameters()):
            weight.data = torch.randn(weight.shape, generator=generator)

    def interpret(self, inputs: Tensor) -> Interpretation:
        """Return logits, activations and weights of the interpreter."""
        activations = self.attributes(self.relu(self.conv(inputs))).relu().mean(dim=(2, 3))
        return Interpretation(self.interpreter(activations), activations, self.interpreter.weight.T)


class Says(nn.Module):
    """A model that says beforehand known things about the images of a batch, in any order and number."""

    def __init__(
        self,
        images: Tensor,
        *,
        predictor: Tensor,
        interpreter: Tensor | None = None,
        activations: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Store what to say: `(B, K)` logits of both, `(B, J)` activations and `(J, K)` weights."""
        super().__init__()
        self.images, self.predictor = images, predictor
        self.interpreter = predictor if interpreter is None else interpreter
        self.activations = torch.zeros(len(images), 2) if activations is None else activations
        self.weights = torch.zeros(self.activations.shape[1], predictor.shape[1]) if weights is None else weights
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the predictor."""
        return self.predictor[self._which(inputs)]

    def interpret(self, inputs: Tensor) -> Interpretation:
        """Return what the interpreter says."""
        rows = self._which(inputs)
        return Interpretation(self.interpreter[rows], self.activations[rows], self.weights)

    def _which(self, inputs: Tensor) -> Tensor:
        return (inputs[:, None] == self.images).flatten(2).all(dim=2).int().argmax(dim=1)
