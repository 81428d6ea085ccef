"""Philox-4x32-10 of one counter in plain whole numbers, from the rounds that Salmon et al. (2011) define."""

from __future__ import annotations

Words4 = tuple[int, int, int, int]


def philox_4x32_10(counter: Words4, key: tuple[int, int]) -> Words4:
    """Encrypt one counter."""
    left0, right0, left1, right1 = counter
    for step in range(10):
        high0, low0 = divmod(left0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(left1 * 0xCD9E8D57, 2**32)
        key0 = (key[0] + step * 0x9E3779B9) % 2**32
        key1 = (key[1] + step * 0xBB67AE85) % 2**32
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
    return left0, right0, left1, right1
