"""Median and median absolute deviation of rows, selected rather than sorted."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

MedianRule = Literal["average", "datadepth"]


def median_mad(rows: Tensor, *, rule: MedianRule = "average") -> tuple[Tensor, Tensor]:
    """Median of each row, and median of the absolute deviations from it, without the factor 1.4826.

    Args:
        rows: `(R, n)` floating point, finite.
        rule: what an even n takes: `"average"`, the mean of the two middle values for both (NumPy's rule);
            `"datadepth"`, that mean for the median and the upper middle value for the deviations, as the package
            data-depth does. (`torch.median` takes the lower middle value: never this one.)

    Returns:
        The medians `(R,)` and the deviations `(R,)`, in the type and on the device of `rows`.

    Example:
        >>> median_mad(torch.tensor([[1.0, 2.0, 4.0, 9.0]]))
        (tensor([3.]), tensor([1.5000]))
        >>> median_mad(torch.tensor([[1.0, 2.0, 4.0, 9.0]]), rule="datadepth")
        (tensor([3.]), tensor([2.]))
    """
    median = _middle(rows, average=True)
    return median, _middle((rows - median[:, None]).abs_(), average=rule == "average")


def _middle(rows: Tensor, *, average: bool) -> Tensor:
    """`(R,)`: the middle value of each row, for an even length the mean of both or the upper one."""
    half = rows.shape[1] // 2
    both = average and rows.shape[1] % 2 == 0
    if rows.device.type == "cpu":  # NumPy's vectorised partition is several times faster than `kthvalue` here
        parted = np.partition(rows.numpy(), half, axis=1)
        upper = torch.from_numpy(np.ascontiguousarray(parted[:, half]))
        return (torch.from_numpy(parted[:, :half].max(axis=1)) + upper) / 2 if both else upper
    upper = rows.kthvalue(half + 1, dim=1).values
    return (rows.kthvalue(half, dim=1).values + upper) / 2 if both else upper
