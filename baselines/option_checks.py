"""Checks of the options that several explainers have."""

from __future__ import annotations

from collections.abc import Sequence


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
        listed = ", ".join(f'"{word}"' for word in words)
        raise ValueError(f"`{name}` must be one of {listed}; was {found!r}")
