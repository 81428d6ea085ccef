"""What perturbation methods read off a classifier about the class they explain."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from .option_checks import check_word

Score = Literal["softmax", "sigmoid", "logit"]


def class_score(logits: Tensor, target: Tensor | int, score: Score) -> Tensor:
    """Score one class in every row of logits.

    Args:
        logits: `(N, K)` floating point.
        target: the class.
        score: `"softmax"`, its probability among the classes; `"sigmoid"`, its probability on its own; or `"logit"`.

    Returns:
        `(N,)` in the type of `logits`.

    Raises:
        ValueError: `score` is unknown, or `"softmax"` of a single logit, which is 1 whatever the model says.

    Example:
        >>> import torch
        >>> class_score(torch.tensor([[0.0, 0.0], [5.0, 3.0]]), 1, "logit").tolist()
        [0.0, 3.0]
    """
    check_word("score", score, get_args(Score))
    if score == "softmax":
        if logits.shape[1] == 1:
            raise ValueError('`score="softmax"` needs two classes or more, the model has one output; use "logit"')
        return logits.softmax(dim=1)[:, target]
    if score == "sigmoid":
        return logits[:, target].sigmoid()
    return logits[:, target]
