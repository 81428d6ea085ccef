"""A user's own explainer: `interpeval run --dataset digit_scenes --explainer examples/my_explainer.py:MyExplainer`."""

import torch


class MyExplainer:
    def attribute(self, model, inputs, targets):
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs).gather(1, targets[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), inputs)
        return inputs.detach() * gradient
