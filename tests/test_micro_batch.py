"""Rows are computed once each, in order, however often memory runs out; sizes follow from bytes."""

import os
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from interpeval.bench import micro_batch
from interpeval.bench.micro_batch import CPU_BUDGET, MicroBatch, auto_size, pad_rows

CPU = torch.device("cpu")


class Device:
    """A device on which `capacity` rows fit."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.asked = []

    def __call__(self, rows):
        self.asked.append(rows.tolist())
        if len(rows) > self.capacity:
            raise torch.OutOfMemoryError("out of memory")
        return [row * row for row in rows.tolist()]


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 40), count=st.integers(0, 60), capacity=st.integers(1, 40))
def test_every_row_is_done_once_in_ascending_order(size, count, capacity):
    done = list(MicroBatch(size).run(count, Device(capacity), CPU))
    assert [row for rows, _ in done for row in rows.tolist()] == list(range(count))
    assert [value for _, result in done for value in result] == [row * row for row in range(count)]


def test_the_size_is_halved_until_it_fits_and_stays_so():
    batch, device = MicroBatch(16), Device(5)
    done = list(batch.run(10, device, CPU))
    assert [len(rows) for rows in device.asked] == [10, 5, 5]
    assert [len(rows) for rows, _ in done] == [5, 5]
    assert batch.size == 5
    device.capacity = 100
    list(batch.run(10, device, CPU))
    assert [len(rows) for rows in device.asked[3:]] == [5, 5]


def test_halving_goes_down_to_one_row():
    batch, device = MicroBatch(7), Device(1)
    list(batch.run(3, device, CPU))
    assert [len(rows) for rows in device.asked] == [3, 1, 1, 1]
    assert batch.size == 1


def test_a_single_row_that_does_not_fit_raises():
    device = Device(0)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        list(MicroBatch(4).run(9, device, CPU))
    assert device.asked == [[0, 1, 2, 3], [0, 1], [0]]


def test_other_errors_pass_through_at_once():
    calls = []

    def fail(rows):
        calls.append(rows)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(MicroBatch(4).run(9, fail, CPU))
    assert len(calls) == 1


def test_an_error_of_who_reads_the_results_is_not_taken_for_one_of_the_call():
    device = Device(4)
    running = MicroBatch(4).run(8, device, CPU)
    next(running)
    with pytest.raises(torch.OutOfMemoryError, match="reader"):
        running.throw(torch.OutOfMemoryError("reader"))
    assert device.asked == [[0, 1, 2, 3]]


def test_what_the_failed_call_allocated_is_free_when_the_cache_is_emptied(monkeypatch):
    """While an error is handled it keeps the frames alive that hold the memory in question."""
    big = []

    def call(rows):
        if len(rows) > 1:
            tensor = torch.zeros(3)
            big.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("out of memory")
        return rows

    alive = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(big[-1]() is not None))
    list(MicroBatch(2).run(2, call, CPU))
    assert alive == [False]


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, was {size}"):
        MicroBatch(size)


def test_the_size_is_the_budget_over_three_times_the_bytes_of_a_row_in_eights():
    model = nn.Conv2d(1, 64, 1, bias=False)
    image = torch.zeros(1, 100, 100)
    row = 3 * 4 * (64 * 100 * 100 + 100 * 100)  # float32 activations and input, three times for the backward pass
    assert 256 * 2**20 // row == 34
    assert auto_size(model, image) == 32


def test_activations_of_every_layer_count_each_time_it_is_called():
    layer = nn.Conv2d(1, 1, 1)
    image = torch.zeros(1, 256, 1024)  # 1 MiB, of which 256 / 3 = 85.3 are at hand
    assert auto_size(nn.Sequential(layer), image) == 40  # of 42.7
    assert auto_size(nn.Sequential(layer, layer, layer), image) == 16  # of 21.3


def test_smaller_activations_give_larger_batches():
    image = torch.zeros(3, 64, 64)
    sizes = [auto_size(nn.Conv2d(3, width, 3), image) for width in (128, 64, 32, 16)]
    assert sizes == sorted(set(sizes))


def test_half_precision_fits_twice_as_much():
    image = torch.zeros(1, 256, 256)
    model = nn.Conv2d(1, 15, 1)
    assert pytest.approx(21.3, abs=0.1) == CPU_BUDGET / (3 * 4 * 16 * 256 * 256)
    assert auto_size(model, image) == 16
    assert auto_size(model.half(), image.half()) == 40  # of 42.7


def test_the_size_is_at_least_eight_to_which_calls_are_filled_up_and_at_most_4096():
    assert auto_size(nn.Conv2d(1, 200, 1), torch.zeros(1, 400, 400)) == 8  # of 0.7
    assert auto_size(nn.Flatten(), torch.zeros(1, 2, 2)) == 4096


def test_looking_for_the_size_leaves_no_hook_even_if_the_model_raises():
    model = nn.Sequential(nn.Conv2d(3, 1, 1))
    with pytest.raises(RuntimeError):
        auto_size(model, torch.zeros(1, 4, 4))
    auto_size(model, torch.zeros(3, 4, 4))
    assert not any(module._forward_hooks for module in model.modules())


def test_on_a_gpu_two_fifths_of_what_is_free_are_used_what_torch_holds_unused_included(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    assert micro_batch._budget(torch.device("cuda")) == 400


@pytest.mark.parametrize(("count", "padded"), [(1, 8), (7, 8), (8, 8), (9, 16), (16, 16), (61, 64)])
@pytest.mark.parametrize("shape", [(), (2,), (3, 4, 5)])
def test_rows_are_filled_up_to_a_multiple_of_eight_with_the_last_one(count, padded, shape):
    rows = torch.arange(count).view(-1, *[1] * len(shape)).expand(count, *shape)
    filled = pad_rows(rows)
    assert filled.shape == (padded, *shape)
    assert torch.equal(filled[:count], rows)
    assert all(torch.equal(row, rows[-1]) for row in filled[count:])


def test_masks_and_no_rows_at_all_are_filled_up_too():
    assert pad_rows(torch.tensor([[True, False]])).tolist() == [[True, False]] * 8
    assert pad_rows(torch.zeros(0, 3)).shape == (0, 3)


def test_filled_up_rows_come_out_of_a_network_alike_in_every_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    images = torch.randn(40, 3, 10, 10)
    with torch.no_grad():
        whole = model(images)
        for size in (1, 3, 8, 24):
            parts = [model(pad_rows(part))[: len(part)] for part in images.split(size)]
            assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("width", [5, 10, 25, 54, 250])
def test_a_row_comes_out_of_a_linear_layer_alike_in_every_place(width):
    """Without what the package asks of MKL, rows of these widths differ in the seventh digit."""
    layer, row = nn.Linear(width, 10), torch.randn(1, width)
    for count in (8, 16, 24, 64):
        rows = layer(row.expand(count, -1).contiguous())
        assert (rows == rows[0]).all()
        assert torch.equal(rows[0], layer(row.expand(8, -1).contiguous())[0])


def test_without_what_is_asked_of_mkl_the_place_of_a_row_shows():
    """The control of the test before, in a process of its own; nothing to see where torch has no MKL."""
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch does not use MKL")
    code = (
        "import torch; layer, row = torch.nn.Linear(25, 10), torch.randn(1, 25); "
        "rows = layer(row.expand(64, -1).contiguous()); print(bool((rows == rows[0]).all()))"
    )
    answers = {}
    for word in ("interpeval.bench", "torch"):
        environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
        done = subprocess.run(
            [sys.executable, "-c", f"import {word}; {code}"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        answers[word] = done.stdout.strip()
    assert answers["interpeval.bench"] == "True"
    if answers["torch"] == "True":
        pytest.skip("this processor's products do not depend on the place of a row")
