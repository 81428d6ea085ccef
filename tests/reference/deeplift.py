"""DeepLift's rescale rule for one input of a plain network, one layer and one pooling window after the other."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.functional import jacobian

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU)


def deeplift(layers, image, target, reference_input):
    """Return the contributions of a `(1, C, H, W)` image; differences must not vanish at the maxima of poolings."""
    values, references = [image], [torch.full_like(image, reference_input)]
    for layer in layers:
        values.append(layer(values[-1]).detach())
        references.append(layer(references[-1]).detach())
    multipliers = torch.zeros_like(values[-1])
    multipliers[0, target] = 1.0
    steps = list(zip(layers, values, values[1:], references, references[1:], strict=False))
    for layer, x, y, x0, y0 in reversed(steps):
        if isinstance(layer, ACTIVATIONS):
            slope = [
                slope_of(layer, *pair)
                for pair in zip(x.flatten(), x0.flatten(), y.flatten(), y0.flatten(), strict=True)
            ]
            multipliers = multipliers * torch.tensor(slope, dtype=x.dtype).view(x.shape)
        elif isinstance(layer, nn.MaxPool2d):
            multipliers = max_pool(layer, x, x0, multipliers)
        else:
            weights = jacobian(layer, x).reshape(y.numel(), x.numel())
            multipliers = (weights.T @ multipliers.flatten()).view(x.shape)
    return multipliers * (values[0] - references[0])


def slope_of(activation, x, x0, y, y0):
    """Return Δy / Δx, or the derivative where there is no difference."""
    if abs(x - x0) > 1e-9:
        return float((y - y0) / (x - x0))
    return float(jacobian(activation, x))


def max_pool(pool, x, x0, multipliers):
    """Return the multipliers below a max-pooling without padding."""
    contributions = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        for row in range(multipliers.shape[2]):
            for column in range(multipliers.shape[3]):
                top, left = row * pool.stride, column * pool.stride
                places = [(top + i, left + j) for i in range(pool.kernel_size) for j in range(pool.kernel_size)]
                winner = max(places, key=lambda place: x[0, channel][place])
                there = max(places, key=lambda place: x0[0, channel][place])
                y, y0 = x[0, channel][winner], x0[0, channel][there]
                multiplier = multipliers[0, channel, row, column]
                contributions[0, channel][winner] += multiplier * (max(y, y0) - y0)
                contributions[0, channel][there] += multiplier * (y - max(y, y0))
    return torch.where(x == x0, torch.zeros_like(x), contributions / (x - x0))
