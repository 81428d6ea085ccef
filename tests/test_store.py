"""What was stored comes back to the bit, and what is torn or damaged counts as missing, never as a result."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interpeval.bench.results import Results
from interpeval.bench.store import MetricResult, Store, Unit, digest_of
from interpeval.leaderboards.files import ABANDONED, sweep, write_whole
from interpeval.metrics.base import Facts, Scores, Status

KEY = "0123456789abcdef0123"


def unit(*, key=KEY, metrics=("m1",), shift=0.0):
    """A unit with everything in it that a unit can hold."""
    nan, inf = float("nan"), float("inf")
    status = torch.tensor([Status.OK, Status.DEGENERATE, Status.NO_TRUTH], dtype=torch.uint8)
    one = Scores(torch.tensor([0.1 + shift, -0.0, nan], dtype=torch.float64), status)
    variance = torch.tensor([0.5, 0.0, nan], dtype=torch.float64)
    drawn = Scores(torch.tensor([1e-320, inf, nan], dtype=torch.float64), status, variance)
    values = torch.tensor([[1 / 3, 2.0], [-inf, 4.0], [nan, nan]], dtype=torch.float64)
    curve = Scores(values, status, steps=(0.05, 1 / 3))
    return Unit(
        key=key,
        about={
            **dict.fromkeys(("dataset_revision", "model", "model_digest", "explainer"), "any"),
            **dict.fromkeys(("interpeval", "torch", "captum"), "1"),
            "dataset": "größe ✓",
            "seed": 0,
            "explainer_params": '{"a": 0.1}',
            "device": "cpu",
        },
        ids=("a", "ü/\u2028", "c"),
        classes=torch.tensor([5, 0, 2**40]),
        metrics={
            name: MetricResult(
                name=name,
                version=3,
                configuration="k=0.1",
                aggregations=("items", "classes"),
                facts={
                    "": Facts(True, (-inf, inf), None),
                    "a": Facts(False, (0.0, inf), 0.1),
                    "a/b": Facts(True, (-1 / 3, 1.0), 1 / 3),
                },
                scores={"": one, "a": drawn, "a/b": curve},
                seconds=0.1 + shift,
                passes=12,
            )
            for name in metrics
        },
        faults=({"kind": "exception", "message": "ValueError: ½", "ids": ["a"]},),
        previews={
            "images": torch.arange(18.0).view(2, 1, 3, 3),
            "heatmaps": -torch.arange(18.0).view(2, 3, 3),
            "masks": torch.tensor([True, False]).view(2, 1, 1).expand(2, 3, 3),
        },
        attributions={"predicted": torch.full((3, 1, 2, 2), nan)},
    )


def bits(tensor):
    return None if tensor is None else (tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes())


def content(one):
    """Everything in a unit, with tensors as bits, comparable by `==`."""
    return (
        one.key, dict(one.about), one.ids, bits(one.classes), list(one.faults),
        {name: bits(tensor) for name, tensor in one.previews.items()},
        {name: bits(tensor) for name, tensor in one.attributions.items()},
        {
            key: (
                m.name, m.version, m.configuration, m.aggregations, dict(m.facts), m.seconds, m.passes,
                {v: (bits(s.values), bits(s.status), bits(s.variance), s.steps) for v, s in m.scores.items()},
            )
            for key, m in one.metrics.items()
        },
    )  # fmt: skip


def files(store):
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.exists() else []


def found_or_warned(store, key=KEY):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = store.find(key)
    return found, [str(warning.message) for warning in caught]


def only_file(store, ending):
    (path,) = store.folder.glob(f"*{ending}")
    return path


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def test_a_unit_comes_back_to_the_bit(store):
    written = unit()
    store.write(written)
    (found,) = store.find(KEY)
    assert content(found) == content(written)


def test_the_comparison_sees_a_single_bit():
    assert content(unit()) != content(replace(unit(), classes=torch.tensor([5, 0, 2**40 + 1])))
    first, second = unit(), unit(shift=2**-53)
    assert content(replace(first, previews={})) != content(replace(second, previews={}))


def test_tensors_that_share_memory_or_are_not_contiguous_come_back(store):
    shared = torch.arange(12.0).view(1, 1, 3, 4)
    views = {"a": shared, "b": shared, "c": shared[..., 1:3], "d": shared.mT, "e": shared.expand(2, -1, -1, -1)}
    written = replace(unit(), attributions=views)
    store.write(written)
    assert content(store.find(KEY)[0]) == content(written)


def test_an_empty_store_and_an_unknown_key_hold_nothing(store):
    assert store.find(KEY) == []
    store.write(unit())
    assert store.find("f" * 20) == []


def test_metrics_that_were_added_later_are_both_found(store):
    first, second = unit(metrics=("m1",)), unit(metrics=("m2", "m3"))
    store.write(first)
    store.write(second)
    assert [content(one) for one in store.find(KEY)] == [content(second), content(first)]


def test_writing_a_unit_again_replaces_it(store):
    store.write(unit())
    store.write(unit(shift=1.0))
    assert content_scores(store.find(KEY)) == [("m1", 1.1)]
    assert len(files(store)) == 2


def test_series_of_the_same_samples_share_their_names_and_classes(store):
    """For a million samples they take more memory than the scores."""

    def plain(key, *metrics, classes=(5, 0, 7), **about):
        one = unit(key=key, metrics=metrics)
        only = {name: replace(found, scores={"": found.scores[""]}) for name, found in one.metrics.items()}
        store.write(replace(one, metrics=only, classes=torch.tensor(classes), about={**one.about, **about}))
        return store.find(key)

    units = plain("1" * 20, "m1", "m2") + plain("2" * 20, "m1", explainer="another")
    series = Results(units + plain("3" * 20, "m1", dataset="another", classes=(0, 0, 1))).series
    *same, other = series
    assert len(same) == 3
    assert {(id(item.ids), id(item.classes)) for item in same} == {(id(same[0].ids), id(same[0].classes))}
    assert other.classes.tolist() == [0, 0, 1]
    assert list(map(id, other.ids)) == list(map(id, same[0].ids))


def content_scores(units):
    return [(key, result.seconds) for one in units for key, result in one.metrics.items()]


def test_a_metric_that_two_units_hold_is_that_of_the_later_one(store):
    store.write(unit(metrics=("m1", "m2")))
    store.write(unit(metrics=("m2", "m3"), shift=1.0))
    store.write(unit(metrics=("m4",), shift=2.0))
    assert content_scores(store.find(KEY)) == [("m4", 2.1), ("m2", 1.1), ("m3", 1.1), ("m1", 0.1)]
    store.write(unit(metrics=("m1", "m2"), shift=3.0))
    assert content_scores(store.find(KEY)) == [("m1", 3.1), ("m2", 3.1), ("m4", 2.1), ("m3", 1.1)]


def test_units_of_another_key_are_not_found(store):
    store.write(unit())
    store.write(unit(key="f" * 20, shift=1.0))
    assert content_scores(store.find(KEY)) == [("m1", 0.1)]


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
@pytest.mark.parametrize("left", [0, 1, 0.5, -1])
def test_a_truncated_file_counts_as_missing(store, ending, left):
    store.write(unit())
    path = only_file(store, ending)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if left == 0.5 else left])
    found, warned = found_or_warned(store)
    assert found == []
    assert len(warned) == 1
    assert warned[0].startswith(f"unit `{path.stem}.json` is damaged and counts as missing: ")
    store.write(unit())  # and can be computed again
    assert content_scores(store.find(KEY)) == [("m1", 0.1)]


def test_any_flipped_bit_in_the_arrays_counts_as_missing(store):
    store.write(unit())
    path = only_file(store, ".safetensors")
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        path.write_bytes(flipped(data, bit))
        found, warned = found_or_warned(store)
        assert (found, len(warned)) == ([], 1), bit


def test_a_flipped_bit_in_the_description_counts_as_missing_or_means_the_same(store):
    """JSON has letters that may be of either case, as in `1e-05`; every other bit matters."""
    written = replace(unit(), previews={}, attributions={})
    store.write(written)
    expected = content(written)
    path = only_file(store, ".json")
    data = path.read_bytes()
    missing = 0
    bits_tried = random.Random(1).sample(range(8 * len(data)), 400)
    for bit in bits_tried:
        path.write_bytes(flipped(data, bit))
        found, warned = found_or_warned(store)
        if found:
            assert [content(one) for one in found] == [expected], bit
            assert not warned
        else:
            assert len(warned) == 1
            missing += 1
    assert missing > 0.9 * len(bits_tried)


@pytest.mark.parametrize("field", ["seconds", "version", "ids", "name", "written", "about"])
def test_a_description_that_was_edited_counts_as_missing(store, field):
    store.write(unit())
    path = only_file(store, ".json")
    description = json.loads(path.read_bytes())
    place = description if field in description else description["metrics"]["m1"]
    place[field] = [] if isinstance(place[field], list) else {} if isinstance(place[field], dict) else 7
    path.write_text(json.dumps(description))
    found, warned = found_or_warned(store)
    assert found == []
    assert "the description does not match its digest" in warned[0]


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.mark.parametrize("text", ["5", "[]", "null", '"x"', "{}", '{"schema": 1}', "\ufeff{}"])
def test_another_file_under_the_name_of_a_description_counts_as_missing(store, text):
    store.write(unit())
    only_file(store, ".json").write_text(text, encoding="utf-8")
    found, warned = found_or_warned(store)
    assert (found, len(warned)) == ([], 1)


def test_a_unit_of_another_schema_counts_as_missing_and_says_so(store):
    store.write(unit())
    path = only_file(store, ".json")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 999'))
    found, warned = found_or_warned(store)
    assert found == []
    assert "its schema is 999, this version reads 1" in warned[0]


def test_a_unit_from_before_ranges_were_stated_has_none(store):
    store.write(unit())
    path = only_file(store, ".json")
    description = json.loads(path.read_bytes())
    for variant in description["metrics"]["m1"]["variants"].values():
        del variant["range"]
    del description["sha256"]
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**description, "sha256": hashlib.sha256(text.encode()).hexdigest()}))
    [found] = store.find(KEY)
    stated = unit().metrics["m1"].facts
    unbounded = (-float("inf"), float("inf"))
    assert found.metrics["m1"].facts == {name: fact._replace(range=unbounded) for name, fact in stated.items()}


def test_arrays_of_another_unit_are_not_taken_for_its_own(store):
    store.write(unit())
    arrays = only_file(store, ".safetensors").read_bytes()
    store.write(unit(shift=1.0))
    only_file(store, ".safetensors").write_bytes(arrays)
    found, warned = found_or_warned(store)
    assert found == []
    assert "the arrays do not match their digest" in warned[0]


class Crash(BaseException):
    """What ends the process, for these tests."""


def crash_at(monkeypatch, name, call):
    """Let the `call`-th use of `os.<name>` raise, and all before it work."""
    true, calls = getattr(os, name), []

    def crashing(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return true(*arguments, **options)

    monkeypatch.setattr(os, name, crashing)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize(("call", "left"), [(1, []), (2, [".safetensors"])])
def test_a_crash_while_a_unit_is_written_leaves_no_unit_and_no_half_file(store, monkeypatch, name, call, left):
    crash_at(monkeypatch, name, call)
    with pytest.raises(Crash):
        store.write(unit())
    monkeypatch.undo()
    assert [Path(file).suffix for file in files(store)] == left
    assert found_or_warned(store) == ([], [])
    store.write(unit())
    assert content_scores(store.find(KEY)) == [("m1", 0.1)]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_crash_between_the_files_of_a_unit_that_is_replaced_leaves_none_of_it(store, monkeypatch, name):
    """New arrays with the old description: nothing of the two may be combined."""
    store.write(unit())
    crash_at(monkeypatch, name, 2)
    with pytest.raises(Crash):
        store.write(unit(shift=1.0))
    monkeypatch.undo()
    found, warned = found_or_warned(store)
    assert (found, len(warned)) == ([], 1)
    assert len(files(store)) == 2


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_crash_before_anything_was_replaced_leaves_the_old_unit(store, monkeypatch, name):
    store.write(unit())
    crash_at(monkeypatch, name, 1)
    with pytest.raises(Crash):
        store.write(unit(shift=1.0))
    monkeypatch.undo()
    assert content_scores(store.find(KEY)) == [("m1", 0.1)]
    assert len(files(store)) == 2


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, name):
    path = tmp_path / "file"
    write_whole(path, b"old")
    crash_at(monkeypatch, name, 1)
    with pytest.raises(Crash):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_has_the_rights_that_any_new_file_gets(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    write_whole(tmp_path / ("x" * 255), b"data")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"data"


def test_nothing_is_left_where_there_is_no_folder(tmp_path):
    with pytest.raises(OSError, match="none"):
        write_whole(tmp_path / "none" / "file", b"data")
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_store import unit
from interpeval.bench.store import Store
store = Store(Path(sys.argv[1]))
number = 0
while True:
    store.write(unit(key=f"{number % 50:020x}", shift=float(number)))
    number += 1
"""


def test_a_killed_writer_leaves_only_whole_units(tmp_path):
    """Whatever is found is complete; at most the one unit that was being replaced is damaged."""
    folder = tmp_path / "run"
    units = folder / "units"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, folder, Path(__file__).parent])
    try:
        deadline = time.monotonic() + 60
        while (not units.exists() or len(list(units.glob("*.json"))) < 20) and time.monotonic() < deadline:
            assert writer.poll() is None
            time.sleep(0.005)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    damaged = 0
    for number in range(50):
        found, warned = found_or_warned(Store(folder), f"{number:020x}")
        damaged += len(warned)
        for one in found:
            shift = one.metrics["m1"].seconds - 0.1
            assert round(shift) % 50 == number
            assert content(one) == content(unit(key=one.key, shift=round(shift)))
    assert len(list(units.glob("*.json"))) >= 20
    assert damaged <= 1


def test_digests_do_not_depend_on_the_order_of_facts_but_on_every_value():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    digests = [digest_of(facts) for facts in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"b": 1}, {"a": [1]}, {"a": None}, {})]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 20 for digest in digests)


HALF_A_FILE = """
import os, sys, time
os.fsync = lambda descriptor: (print("written", flush=True), time.sleep(600))
from interpeval.leaderboards.files import write_whole
write_whole(sys.argv[1], b"data")
"""


def test_what_a_killed_writer_left_is_swept_when_it_is_a_day_old_and_nothing_else_is(tmp_path):
    path = tmp_path / "unit.json"
    with subprocess.Popen([sys.executable, "-c", HALF_A_FILE, path], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.kill()
    (left,) = tmp_path.iterdir()
    for name in ("unit.json", ".mine.tmp", f"{'0' * 32}.tmp", ".lease"):
        (tmp_path / name).write_bytes(b"")
    others = sorted(set(tmp_path.iterdir()) - {left})
    newest = max(left.stat().st_mtime, left.stat().st_ctime)
    sweep(tmp_path, now=newest + ABANDONED - 60)
    assert left.exists()
    os.utime(left, (0, 0))  # as a lease that was renamed: the time of its content is old, that of the change is not
    sweep(tmp_path, now=newest + ABANDONED - 60)
    assert left.exists()
    sweep(tmp_path, now=left.stat().st_ctime + ABANDONED + 60)
    assert sorted(tmp_path.iterdir()) == others
    sweep(tmp_path / "none", now=0.0)
