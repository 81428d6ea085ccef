"""Means and intervals restated one resample, one sample and one class at a time."""

import hashlib
import math

import numpy as np
from scipy import stats

RESAMPLES = 2000


def resamples(ids, seed, cluster_of=None):
    """For every resample, the ids it holds, with repetitions; those of a cluster enter together."""
    if cluster_of is not None:
        drawn = resamples(set(cluster_of.values()), seed)
        members = {one: [name for name in ids if cluster_of[name] == one] for one in set(cluster_of.values())}
        return [[name for one in clusters for name in members[one]] for clusters in drawn]
    names, size = sorted(ids), len(ids)
    key = int.from_bytes(hashlib.blake2b(f"{seed}/bootstrap".encode(), digest_size=16).digest(), "little")
    words = [int(word) for word in np.random.Philox(key=key).random_raw(RESAMPLES * size)]
    chosen = [names[(word // 2**32) * size // 2**32] for word in words]
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def mean(names, value_of, class_of=None):
    """Mean over the names that have a value, or over their classes of the class means; `None` without any."""
    valid = [name for name in names if not math.isnan(value_of[name])]
    if not valid:
        return None
    if class_of is None:
        return math.fsum(value_of[name] for name in valid) / len(valid)
    means = []
    for one in {class_of[name] for name in valid}:
        members = [value_of[name] for name in valid if class_of[name] == one]
        means.append(math.fsum(members) / len(members))
    return math.fsum(means) / len(means)


def estimate(ids, values, seed, classes=None, clusters=None):
    """Value, lower and upper end for one column; `None` for what is missing."""
    value_of = dict(zip(ids, values, strict=True))
    class_of = None if classes is None else dict(zip(ids, classes, strict=True))
    cluster_of = None if clusters is None else dict(zip(ids, clusters, strict=True))
    valid = [value for value in values if not math.isnan(value)]
    value, n = mean(ids, value_of, class_of), len(valid)
    if cluster_of is not None:
        n = len({cluster_of[name] for name in ids if not math.isnan(value_of[name])})
    if n < 2:
        return value, None, None
    if len(set(valid)) == 1:
        return value, value, value
    means = [mean(resample, value_of, class_of) for resample in resamples(ids, seed, cluster_of)]
    means = sorted(number for number in means if number is not None)
    if n >= 30:
        return value, quantile(means, 0.025), quantile(means, 0.975)
    error = math.sqrt(variance(valid) * n / (n - 1) / n)
    if class_of is not None or cluster_of is not None:
        error = math.sqrt(variance(means) * n / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return value, value - half, value + half


def variance(numbers):
    """Mean squared distance from the mean."""
    centre = math.fsum(numbers) / len(numbers)
    return math.fsum((number - centre) ** 2 for number in numbers) / len(numbers)


def quantile(ordered, share):
    """Linear interpolation between the two nearest of the ordered numbers."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
