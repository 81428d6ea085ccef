"""LRP-ε of one input of a plain network, one layer after the other, with the layers as matrices."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.functional import jacobian

PASSED = (nn.ReLU, nn.Tanh, nn.Dropout)
MOVING = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Identity)


def lrp(layers, image, target, epsilon):
    """Return the relevances of a `(1, C, H, W)` image."""
    activations = [image]
    for layer in layers:
        activations.append(layer(activations[-1]).detach())
    relevance = torch.zeros_like(activations[-1])
    relevance[0, target] = activations[-1][0, target]
    for layer, below, above in reversed(list(zip(layers, activations, activations[1:], strict=False))):
        if not isinstance(layer, PASSED):
            weights = jacobian(layer, below).reshape(above.numel(), below.numel())
            if isinstance(layer, MOVING):  # ones and zeros
                relevance = (weights.T @ relevance.flatten()).view(below.shape)
                continue
            stabilised = torch.where(above >= 0, above + epsilon, above - epsilon)
            relevance = below * (weights.T @ (relevance / stabilised).flatten()).view(below.shape)
    return relevance
