"""The geometry of masks, restated with exact fractions, pixel by pixel."""

from fractions import Fraction
from math import floor


def nearest_mask(mask, size, mode):
    """Return a mask at the input size: every pixel's centre is looked up in the source."""
    height, width = len(mask), len(mask[0])
    if mode == "squash":
        new_height, new_width = size, size
    else:
        short = size if mode == "crop" else mode
        long = short * max(height, width) // min(height, width)
        new_height, new_width = (short, long) if height <= width else (long, short)
    top, left = round(Fraction(new_height - size, 2)), round(Fraction(new_width - size, 2))
    result = []
    for row in range(size):
        y = Fraction(2 * (top + row) + 1, 2) * height / new_height
        line = []
        for column in range(size):
            x = Fraction(2 * (left + column) + 1, 2) * width / new_width
            line.append(bool(mask[floor(y)][floor(x)]))
        result.append(line)
    return result
