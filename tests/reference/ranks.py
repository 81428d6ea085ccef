"""Ranks and tie groups restated by looking at every pair and every run."""

import math
from string import ascii_lowercase


def standings(names, scores, better, met):
    """(rank, low, high, group) of each row, or `None`."""
    everybody = range(len(names))
    scored = [i for i in everybody if not math.isnan(scores[i])]
    ranked = [i for i in scored if len(scored) == 1 or any(met[i][j] for j in scored)]
    digits = {i: float(f"{scores[i]:.9g}") for i in ranked}
    order = sorted(ranked, key=lambda i: (-digits[i], names[i]))
    runs = [
        order[start:stop]
        for start in range(len(order))
        for stop in range(start + 1, len(order) + 1)
        if not any(better[i][j] for i in order[start:stop] for j in order[start:stop])
    ]
    longest = [run for run in runs if not any(set(run) < set(other) for other in runs)]
    found = []
    for i in everybody:
        if i not in ranked:
            found.append(None)
            continue
        above = sum(digits[j] > digits[i] for j in ranked)
        beaten_by = sum(bool(better[j][i]) for j in ranked)
        beats = sum(bool(better[i][j]) for j in ranked)
        group = "".join(ascii_lowercase[place] for place, run in enumerate(longest) if i in run)
        found.append((1 + above, 1 + beaten_by, len(ranked) - beats, group))
    return found
