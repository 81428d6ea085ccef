"""Checks of the options that several explainers and models have."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

from torch import Tensor


def check_counts(**counts: int) -> None:
    """Check that options that count something are whole numbers of at least 1.

    Raises:
        TypeError: one is no whole number.
        ValueError: one is less than 1.

    Example:
        >>> check_counts(n_masks=0)
        Traceback (most recent call last):
        ValueError: `n_masks` must be at least 1, was 0
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool):
            raise TypeError(f"`{name}` must be a whole number, was {count!r}")
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, was {count}")


def check_numbers(**numbers: float) -> None:
    """Check that options are numbers, of whatever size.

    Raises:
        TypeError: one is none.

    Example:
        >>> check_numbers(dropout="much")
        Traceback (most recent call last):
        TypeError: `dropout` must be a number, was 'much'
    """
    for name, number in numbers.items():
        if not isinstance(number, Real) or isinstance(number, bool):
            raise TypeError(f"`{name}` must be a number, was {number!r}")


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
