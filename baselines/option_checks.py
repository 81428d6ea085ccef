"""Checks of the options that several explainers have."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_counts(**counts: int) -> None:
    """Check that options that count something are at least 1.

    Raises:
        ValueError: one is not.

    Example:
        >>> check_counts(n_masks=0)
        Traceback (most recent call last):
        ValueError: `n_masks` must be at least 1, was 0
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, was {count}")


def check_word(name: str, found: object, words: Sequence[str]) -> None:
    """Check that an option holds one of its words.

    Raises:
        ValueError: it does not.
    """
    if found not in words:
        raise ValueError(f"`{name}` must be one of {', '.join(words)}; was {found!r}")


def given_keys(keys: Tensor | None, explainer: str) -> Tensor:
    """Return the samples' keys that an explainer draws by, which it states in `needs`.

    Raises:
        ValueError: there are none.
    """
    if keys is None:
        raise ValueError(f"`keys` must be given: `{explainer}` draws by the samples' keys")
    return keys
