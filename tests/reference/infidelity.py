"""Infidelity and max-sensitivity for one sample, from their formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def infidelity(
    logit: Callable[[Floats], float],
    image: Floats,
    attribution: Floats,
    perturbations: Sequence[tuple[Floats, Floats]],
    *,
    normalize: bool = False,
) -> float:
    """Mean squared difference of `Σ a·I` and `f(x) − f(x − I)` over pairs of I and x − I.

    Normalised, the attribution is first scaled by the factor that a least-squares fit finds.
    """
    foretold = np.array([float((attribution * change).sum()) for change, _ in perturbations])
    happened = np.array([logit(image) - logit(perturbed) for _, perturbed in perturbations])
    if normalize:
        foretold = foretold * np.linalg.lstsq(foretold[:, None], happened, rcond=None)[0][0]
    return float(np.mean((foretold - happened) ** 2))


def max_sensitivity(explain: Callable[[Floats], Floats], image: Floats, copies: Sequence[Floats]) -> float:
    """Largest Euclidean distance of an explanation from that of the image, divided by the norm of the latter."""
    original = explain(image)
    norm = np.sqrt((original**2).sum())
    return max(float(np.sqrt(((explain(copy) - original) ** 2).sum()) / norm) for copy in copies)
