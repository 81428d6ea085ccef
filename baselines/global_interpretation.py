"""What the attributes of an interpreter stand for: for one image, for a class, and in which samples they are strong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..datasets.base import Dataset
from ..datasets.philox import sample_keys, uniform
from .base import Interpretable, Interpretation
from .lent_model import lent
from .option_checks import check_counts
from .relevance import Scale, global_relevance, relevance


class LocalInterpretation(NamedTuple):
    """Why the interpreter predicts what it does.

    Attributes:
        classes: `(B,)` int64, the classes that the interpreter predicts.
        relevance: `(B, J)` float64, relevance of each attribute for them (`interpeval.baselines.relevance`).
        order: `(B, J)` int64, the attributes by descending relevance.
    """

    classes: Tensor
    relevance: Tensor
    order: Tensor


class GlobalInterpretation(NamedTuple):
    """What each attribute has to do with each class.

    Attributes:
        relevance: `(K, J)` float64, mean relevance over the samples for which the interpreter predicts a class; NaN
            for a class that it never predicts.
        pairs: `P` tuples (class, attribute) whose relevance is above the threshold, the most relevant of a class
            first.
        strongest: for each pair the names of the samples of that class which activate the attribute most, the
            strongest first (maximum activating samples).
        ids: names of all samples that were looked at.
    """

    relevance: Tensor
    pairs: tuple[tuple[int, int], ...]
    strongest: Mapping[tuple[int, int], tuple[str, ...]]
    ids: tuple[str, ...]


def local_interpretation(found: Interpretation, *, scale: Scale = "max_abs") -> LocalInterpretation:
    """Say which attributes the interpreter's predictions rest on.

    Args:
        found: what `interpret` returned for some images.
        scale: see `interpeval.baselines.relevance.relevance`.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> activations = torch.tensor([[3.0, 1.0, 1.0]])
        >>> local_interpretation(Interpretation(torch.tensor([[0.0, 1.0]]), activations, weights))
        LocalInterpretation(classes=tensor([1]), relevance=tensor([[0.0000, 0.5000, 1.0000]], dtype=torch.float64), \
order=tensor([[2, 1, 0]]))
    """
    classes = found.logits.argmax(dim=1)
    shares = relevance(found.activations, found.weights, classes, scale=scale)
    return LocalInterpretation(classes, shares, shares.argsort(dim=1, descending=True, stable=True))


def global_interpretation(
    model: nn.Module,
    dataset: Dataset,
    *,
    threshold: float = 0.1,
    n_samples: int = 1020,
    n_strongest: int = 3,
    seed: int = 0,
    batch_size: int = 256,
    scale: Scale = "max_abs",
) -> GlobalInterpretation:
    """Interpret a model as a whole, from random samples of a dataset, usually of its training part.

    The relevance of attribute j for class c is the mean of `r_j,c(x)` over the samples for which the *interpreter*
    predicts c (the paper's text and the released code; its formula prints a sum). The strongest samples are taken among
    those whose *label* is c. Ties are decided by the order of the dataset.

    Thresholds published with FLINT: 0.1 for MNIST and Fashion-MNIST, 0.2 for QuickDraw and CIFAR-10, 0.4 for CUB. The
    released code divides by the largest α, not by the largest magnitude: `scale="signed_max"`.

    Args:
        model: a model with an interpreter (`interpeval.baselines.base.Interpretable`), asked in evaluation mode and
            given back as it was.
        dataset: samples with one label each.
        threshold: the relevance above which a class and an attribute belong together.
        n_samples: how many samples to look at, or all where there are fewer; 1020 in the released code.
        n_strongest: how many samples to name for each pair; a class may have fewer.
        seed: decides which samples are looked at.
        batch_size: how many at once.
        scale: see `interpeval.baselines.relevance.relevance`.

    Raises:
        TypeError: the model has no interpreter.
        ValueError: the dataset is empty or has several labels per sample, or a number is below 1.

    Example:
        >>> from interpeval.baselines.flint import Flint
        >>> from interpeval.datasets.digits import Digits
        >>> found = global_interpretation(Flint((1, 28, 28), 10), Digits(split="train"), n_samples=64)
        >>> tuple(found.relevance.shape), len(found.ids)
        ((10, 25), 64)
    """
    if not isinstance(model, Interpretable):
        raise TypeError(f"`model` must have an interpreter, `interpret(inputs)`; {type(model).__name__} has none")
    check_counts(n_samples=n_samples, n_strongest=n_strongest, batch_size=batch_size)
    if len(dataset) == 0 or dataset.labels.ndim != 1:
        raise ValueError(f"`dataset` must have samples with one label each, `{dataset.name}` has not")
    rows = random_rows(dataset.ids, n_samples, seed)
    found = _interpreted(model, dataset, rows, batch_size)
    local = local_interpretation(found, scale=scale)
    shares = global_relevance(local.relevance, local.classes, found.logits.shape[1])
    labels, ids = dataset.labels[rows], tuple(dataset.ids[row] for row in rows)
    pairs = tuple(
        (label, attribute)
        for label, order in enumerate(shares.argsort(dim=1, descending=True, stable=True).tolist())
        for attribute in order
        if shares[label, attribute] > threshold
    )
    strongest = {
        (label, attribute): tuple(
            ids[row] for row in strongest_samples(found.activations[:, attribute], labels == label, n_strongest)
        )
        for label, attribute in pairs
    }
    return GlobalInterpretation(shares, pairs, strongest, ids)


def strongest_samples(activations: Tensor, among: Tensor, count: int) -> list[int]:
    """Return the rows of the largest of `(N,)` activations where `(N,)` bool `among` is true, the largest first.

    Example:
        >>> strongest_samples(torch.tensor([1.0, 9.0, 3.0, 2.0]), torch.tensor([True, False, True, True]), 2)
        [2, 3]
    """
    rows = among.nonzero()[:, 0]
    return rows[activations[rows].argsort(descending=True, stable=True)[:count]].tolist()


def random_rows(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Choose samples at random by their names: `count` rows, ascending, or all where there are fewer.

    Example:
        >>> len(random_rows(["a", "b", "c"], 2, 0)), random_rows(["a", "b"], 5, 0)
        (2, [0, 1])
    """
    drawn = uniform(seed, "global_interpretation", sample_keys(ids), 0, 1)[:, 0]
    return sorted(drawn.argsort(stable=True)[:count].tolist())


def _interpreted(model: nn.Module, dataset: Dataset, rows: Sequence[int], batch_size: int) -> Interpretation:
    """What the interpreter says about some samples, on the CPU."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    parts: list[Interpretation] = []
    with lent(model), torch.no_grad():
        model.eval()
        for start in range(0, len(rows), batch_size):
            images = dataset.take(rows[start : start + batch_size]).images.to(device)
            parts.append(cast(Interpretable, model).interpret(images))
    logits, activations = (torch.cat([part[member].cpu() for part in parts]) for member in range(2))
    return Interpretation(logits, activations, parts[0].weights.cpu())
