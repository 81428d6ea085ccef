"""Paired comparisons restated one sample, one flip and one p-value at a time."""

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np


def weights(ids, class_of=None):
    """Share of each sample in the mean, or in the mean of class means."""
    if class_of is None:
        return {name: Fraction(1, len(ids)) for name in ids}
    sizes = {one: sum(class_of[name] == one for name in ids) for one in {class_of[name] for name in ids}}
    return {name: Fraction(1, len(sizes) * sizes[class_of[name]]) for name in ids}


def p_of_all_flips(parts):
    """Share of all flips of signs whose sum is at least as far from 0; exact for fractions."""
    far = [
        abs(sum(sign * part for sign, part in zip(signs, parts, strict=True))) >= abs(sum(parts))
        for signs in itertools.product((1, -1), repeat=len(parts))
    ]
    return sum(far) / len(far)


def p_of_random_flips(parts, seed, flips):
    """`(c + 1) / (flips + 1)`: the i-th sample is flipped where the i-th lowest bit of the flip's words is 1."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/sign flips".encode(), digest_size=16).digest(), "little")
    count = -(-len(parts) // 64)
    words = [int(word) for word in np.random.Philox(key=key).random_raw(flips * count)]
    far = 0
    for flip in range(flips):
        bits = sum(word << 64 * place for place, word in enumerate(words[flip * count : (flip + 1) * count]))
        far += abs(sum(-part if bits >> i & 1 else part for i, part in enumerate(parts))) >= abs(sum(parts))
    return (far + 1) / (flips + 1)


def totals(part_of, cluster_of):
    """Sum over each cluster, clusters in the order of their names."""
    names = sorted(set(cluster_of.values()))
    return [sum(part for name, part in part_of.items() if cluster_of[name] == one) for one in names]


def describe(difference_of, class_of=None):
    """Mean, effect, and share of greater ones of the differences of all samples."""
    share = weights(list(difference_of), class_of)
    mean = sum(share[name] * number for name, number in difference_of.items())
    greater = sum(
        share[name] * (Fraction(number > 0) + Fraction(number == 0) / 2) for name, number in difference_of.items()
    )
    n = len(difference_of)
    if n < 2:
        return mean, math.nan, greater
    variance = sum(share[name] * (number - mean) ** 2 for name, number in difference_of.items()) * n / (n - 1)
    if variance == 0:
        return mean, math.copysign(math.inf, mean) if mean else 0.0, greater
    return mean, float(mean) / math.sqrt(variance), greater


def holm(p):
    """For each p-value, the largest of `rank from above * p` over it and all smaller ones."""
    tests = sorted(number for number in p if not math.isnan(number))
    products = [(len(tests) - place) * number for place, number in enumerate(tests)]
    return [
        math.nan if math.isnan(number) else min(1.0, max(products[: len([t for t in tests if t <= number])]))
        for number in p
    ]
