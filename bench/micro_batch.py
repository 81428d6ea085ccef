"""How many rows go through a model at once: a matter of memory and speed, never of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

CPU_BUDGET = 256 * 2**20
_GPU_SHARE = 0.4  # of the memory that is free when a subject starts
_LARGEST = 4096
_MULTIPLE = 8
_GRAPH_FACTOR = 3  # activations are kept for the backward pass, whose gradients need as much again

Result = TypeVar("Result")


class MicroBatch:
    """The number of rows per call; halved for good when the device runs out of memory."""

    def __init__(self, size: int) -> None:
        """Start with `size` rows."""
        if size < 1:
            raise ValueError(f"`batch_size` must be at least 1, was {size}")
        self.size = size
        self._multiple = _MULTIPLE

    def pad(self, rows: Tensor) -> Tensor:
        """Fill a batch up with `pad_rows`, unless memory is too short even for eight rows."""
        return pad_rows(rows, self._multiple)

    def run(
        self, count: int, call: Callable[[Tensor], Result], device: torch.device
    ) -> Iterator[tuple[Tensor, Result]]:
        """Yield `(rows, call(rows))` for consecutive row numbers until `count` of them are done."""
        start = 0
        while start < count:
            rows = torch.arange(start, min(start + self.size, count), device=device)
            try:
                result = call(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or (len(rows) == 1 and self._multiple == 1):
                    raise
            else:
                yield rows, result
                start += len(rows)
                continue
            # Not in the handler: until it is left, the error keeps alive what the failed call had allocated.
            self.size = max(1, len(rows) // 2)
            if self.size < _MULTIPLE:
                self._multiple = 1
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; torch has a class for it on a GPU, but not on a CPU.

    Example:
        >>> try:
        ...     _ = torch.empty(10**15)
        ... except RuntimeError as error:
        ...     is_out_of_memory(error), is_out_of_memory(RuntimeError("another one"))
        (True, False)
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def pad_rows(rows: Tensor, multiple: int = _MULTIPLE) -> Tensor:
    """Repeat the last row until the number of rows is a multiple of eight, or of another number.

    Convolutions and matrix products take other code paths for a handful of rows, and other paths round differently.
    On the CPU the results for a row are the same to the bit in every batch whose size is a multiple of eight
    (measured; a lone row differs in the seventh digit), and a difference in the seventh digit is enough to change
    the order of two pixels and with it a score.

    Example:
        >>> pad_rows(torch.arange(9)).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8]
    """
    missing = -len(rows) % multiple
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def auto_size(model: nn.Module, image: Tensor) -> int:
    """Return how many `(C, H, W)` images fit the memory budget, from the activations of one of them."""
    held = 0

    def add(module: nn.Module, args: object, output: object) -> None:
        nonlocal held
        del module, args
        if isinstance(output, Tensor):
            held += output.numel() * output.element_size()

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [leaf.register_forward_hook(add) for leaf in leaves]
    try:
        with torch.no_grad():
            model(image[None])
    finally:
        for handle in handles:
            handle.remove()
    row = _GRAPH_FACTOR * (held + image.numel() * image.element_size())
    size = min(_LARGEST, _budget(image.device) // row)
    return max(_MULTIPLE, size - size % _MULTIPLE)  # fewer rows would be filled up to as many all the same


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((torch.cuda.mem_get_info(device)[0] + cached) * _GPU_SHARE)
    return CPU_BUDGET
