"""Files of others, damaged and forged at random: each is read, or refused by the error that its reader documents.

`INTERPEVAL_FUZZ=100` tries a hundred times as many as usual, at other places every time. What was found so is kept in
the tables of `KEPT`, which are tried first.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import json
import os
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import nn

from coco_files import annotation, run_lengths, written
from idx_files import idx
from interpeval.bench import weights
from interpeval.bench.checkpoint import Checkpoint
from interpeval.bench.gallery import galleries
from interpeval.bench.progress import progress
from interpeval.bench.results import Results
from interpeval.bench.run import Manifest
from interpeval.bench.store import MetricResult, Store, Unit
from interpeval.bench.suite import SuiteError, load_suite, suites
from interpeval.datasets.coco_annotations import object_mask, read_annotations
from interpeval.datasets.files import BadSampleError, DatasetError
from interpeval.datasets.mnist import read_idx
from interpeval.datasets.pascal_xml import box_mask, read_annotation
from interpeval.datasets.quickdraw import QuickDraw
from interpeval.datasets.tar_members import read_member, tar_members
from interpeval.leaderboards.baseline import Baseline, Row, Samples, read_baseline, scores_path, write_baseline
from interpeval.leaderboards.csv_table import csv_text, read_csv
from interpeval.leaderboards.terminal import summary_table
from interpeval.metrics.base import Facts, Scores
from leaderboard_cases import record
from pascal_files import document, thing
from tar_files import archive

TIMES = int(os.environ.get("INTERPEVAL_FUZZ", "1"))
KEY = "0123456789abcdef0123"


def tries(count):
    """Settings of a test that tries so many inputs, the same ones unless many more are asked for."""
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


ODD = st.one_of(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=8),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324]),
    st.sampled_from(["..", "../../etc/passwd", "/etc/passwd", "\x1b[2J", "\ud800", "\0", "\u202e", "=1+1", "*", "a/b"]),
    st.sampled_from([[], {}, [[]], {"": {}}, [0] * 7, [None], {"counts": "PPPPPPPPPP", "size": [2, 2]}]),
)
"""Values that stand where others are expected."""


@st.composite
def forged(draw, content):
    """JSON-able content of which a few members are others, gone, or there twice."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            change = draw(st.sampled_from(["other", "gone", "twice"]))
            if change == "other":
                place[key] = copy.deepcopy(draw(ODD))
            elif change == "gone":
                del place[key]
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            break
    return content


@st.composite
def damaged(draw, data, words=()):
    """Bytes of which a few are others, gone, or repeated; `words` are put in whole."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 7, 10**6])))
        new = draw(st.sampled_from([b"", *words]) | st.binary(max_size=4) | st.just(data[start:end] * 2))
        data = data[:start] + new + data[end:]
    return data


def as_json(content):
    return json.dumps(content).encode()


SUITE = suites()["quickstart"].read_bytes()
TOML = (
    b"[",
    b"[[",
    b"]",
    b'"',
    b"'''",
    b"= 0x" + b"f" * 5000,
    b"\n[a.b]\n",
    b"inf",
    b"nan",
    b"1979-05-27",
    b"{",
    b"\\",
)


def read_suite(path):
    path.with_suffix(".toml").write_bytes(path.read_bytes())
    with contextlib.suppress(SuiteError):
        load_suite(str(path.with_suffix(".toml")))


RECORDS = [record(0.5, ci_low=0.25, ci_high=1.0), record(None, kind="not_applicable", source="why", metric="f1")]
TABLE = csv_text(RECORDS).encode()
CELLS = (b",", b'"', b"\n", b"\r", b"'=1+1", b"1e999", b"nan", b"-1", b"9" * 5000, b"\x1b[2J", b"\xff", b"\0", b"True")


def read_table(path):
    try:
        found = read_csv(path)
    except ValueError:
        return
    assert unprintable(summary_table(found)) == set()


def unprintable(text):
    return {character for character in text if not character.isprintable()} - {"\n"}


def scores_file():
    row = Row.of(RECORDS[0])
    samples = Samples(("a", "b"), torch.tensor([0.25, 0.75], dtype=torch.float64).numpy())
    return Baseline({row: RECORDS[0].model_copy(update={"n": 2})}, {row: samples})


def read_scores(path):
    board = path.with_name("board.csv")
    write_baseline(scores_file(), board)
    scores_path(board).write_bytes(gzip.compress(path.read_bytes(), 1))
    with contextlib.suppress(ValueError):
        read_baseline(board)


def read_packed_scores(path):
    board = path.with_name("board.csv")
    write_baseline(scores_file(), board)
    scores_path(board).write_bytes(path.read_bytes())
    with contextlib.suppress(ValueError):
        read_baseline(board)


def coco(tmp_path):
    code = run_lengths([[0, 1, 1], [0, 0, 1]])
    objects = [annotation(1, 1, 3), annotation(2, 1, 7, code), annotation(3, 1, 7, {"size": [6, 8], "counts": "03S1"})]
    return json.loads(written(tmp_path, objects).read_bytes())


def read_coco(path):
    try:
        for image in read_annotations(path).images:
            size = tuple(min(length, 64) for length in image.size)  # that of the image, which is opened first
            for truth in ("segmentation", "box"):
                for one in image.objects:
                    with contextlib.suppress(BadSampleError):
                        object_mask([one], size, truth=truth, path=path)
    except DatasetError:
        pass


VOC = document(thing("cat", 1, 1, 4, 3), thing("dog", 2.5, 1, 4, 3, difficult=1), size=(6, 8)).encode()
XML = (
    b"<!DOCTYPE a [",
    b'<!ENTITY x "y">]>',
    b"&x;",
    b"<a>" * 70,
    b"<![CDATA[",
    b"1e999",
    b"nan",
    b"-7",
    b"\0",
    b"\xff",
)


def read_voc(path):
    with contextlib.suppress(BadSampleError):
        box_mask(read_annotation(path).objects, (6, 8), path=path)


def sound_unit():
    """A unit that a leaderboard can be made of."""
    status = torch.tensor([0, 1, 3], dtype=torch.uint8)
    scores = Scores(torch.tensor([0.5, 0.0, torch.nan], dtype=torch.float64), status)
    return Unit(
        KEY,
        {**ABOUT, **dict.fromkeys(("interpeval", "torch", "captum", "device"), "1")},
        ("a", "b", "c#1"),
        torch.tensor([0, 1, 1]),
        {
            "m1": MetricResult(
                "m", 1, "", ("items", "classes"), {"": Facts(True, (0.0, 1.0), 0.5)}, {"": scores}, 1.0, 2
            )
        },
        faults=({"kind": "exception", "message": "\x1b[2J", "ids": ["c#1"]},),
        previews={"images": torch.zeros(1, 1, 2, 2), "heatmaps": torch.zeros(1, 2, 2)},
    )


def stored(tmp_path):
    """The description and the arrays of a unit, as they stand in a store."""
    Store(tmp_path / "sound").write(sound_unit())
    [description] = (tmp_path / "sound/units").glob("*.json")
    content = {**json.loads(description.read_bytes()), "written": 1, "sha256": ""}  # the same in every run
    return content, description.with_suffix(".safetensors").read_bytes()


def find(folder, description, arrays):
    """Read a unit whose digests are those of what is read, as whoever forges one would write them."""
    units = folder / "units"
    units.mkdir(exist_ok=True)
    if isinstance(description, dict):
        description = {**description, "arrays_sha256": hashlib.sha256(arrays).hexdigest()}
        description.pop("sha256", None)
        text = json.dumps(description, sort_keys=True, separators=(",", ":"))
        description["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (units / f"{KEY}-1.json").write_bytes(as_json(description))
    (units / f"{KEY}-1.safetensors").write_bytes(arrays)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = Store(folder).find(KEY)
    assert [unprintable(str(warning.message)) for warning in said] == [set()] * len(said)
    return found


ABOUT = {
    **dict.fromkeys(("dataset", "dataset_revision", "model", "model_digest", "explainer"), "any"),
    "explainer_params": "{}",
    "seed": 0,
}
MANIFEST = {
    "schema": 1, "suite": {"name": "mine", "experiments": [{"dataset": "digits", "limit": None}]}, "command": "run",
    "seed": 0, "started": "then", "finished": None, "versions": {"torch": "1"}, "source": {}, "device": "cpu",
    "threads": 1, "batch_size": "auto", "rows": [{"about": ABOUT, "units": [KEY], "metrics": {"m1": {"name": "m1"}}}],
    "not_applicable": [{"about": ABOUT, "metric": "m", "version": 1, "higher_is_better": True, "reason": "why"}],
    "left_out": {"digits": {"why": 1}}, "faults": [], "failures": [{**ABOUT, "message": "why", "trace": ""}],
}  # fmt: skip


def read_run(path):
    folder = path.with_name("run")
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(path.read_bytes())
    try:
        manifest = Manifest.read(folder)
        progress(folder, manifest.content)
        text = manifest.results(Store(folder)).table()
    except ValueError:
        return
    assert unprintable(text) == set()


def read_weights(path):
    model = nn.Linear(2, 1)
    before = weights.digest(model)
    file = path.with_suffix(".safetensors")
    file.write_bytes(path.read_bytes())
    for read in (weights.facts_of, lambda path: weights.load(model, path)):
        try:
            read(file)
        except ValueError:
            assert weights.digest(model) == before


def safetensors_of(header, data):
    text = header if isinstance(header, bytes) else as_json(header)
    return len(text).to_bytes(8, "little") + text + data


def read_pickled(path):
    file = path.with_suffix(".pt")
    file.write_bytes(path.read_bytes())
    with contextlib.suppress(ValueError):
        weights.load(nn.Linear(2, 1), file)


def read_checkpoint(path):
    with contextlib.suppress(ValueError):
        Checkpoint(path, {}).read()


def read_tar(path):
    try:
        for member in tar_members(path):
            if not isinstance(member, BadSampleError):
                read_member(path, member)
    except DatasetError:
        pass


def read_mnist(path):
    with contextlib.suppress(ValueError):  # which `Mnist` turns into a `DatasetError`
        read_idx(path)


def read_drawings(path):
    file = path.with_suffix(".ndjson")
    file.write_bytes(path.read_bytes())
    with contextlib.suppress(DatasetError):
        _ = QuickDraw(file, words="cat").ids


def torch_file(tmp_path, content):
    torch.save(content, tmp_path / "file.pt")
    return (tmp_path / "file.pt").read_bytes()


def tried(tmp_path, data, read):
    path = tmp_path / "tried"
    path.write_bytes(data)
    read(path)


KEPT = [
    (read_suite, b"a" + b".a" * 3000 + b" = 1"),
    (read_suite, b"experiments = " + b"[" * 5000),
    (read_suite, b'name = "a"\nseed = 0x' + b"f" * 5000),
    (read_suite, b"\xff"),
    (read_table, b'"\n'),
    (read_table, csv_text([record(0.5, model="\x1b[2J")]).encode()),
    (read_table, TABLE.replace(b",100,", b"," + b"9" * 30 + b",")),
    (read_scores, b"dataset,dataset\n"),
    (read_packed_scores, gzip.compress(b"a")[:-3]),
    (read_coco, b"[" * 100_000),
    (read_coco, b'{"images": [], "images": []}'),
    (read_coco, b'{"images": [{"id": 1, "file_name": "\\ud800", "height": 1, "width": 1}]}'),
    (read_coco, b'{"images": [{"id": NaN}]}'),
    (read_voc, b"<a>" * 100_000),
    (read_voc, b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"),
    (read_run, as_json({**MANIFEST, "rows": [{"about": ABOUT, "units": ["../../../x"], "metrics": {}}]})),
    (read_run, as_json({**MANIFEST, "rows": None})),
    (read_run, b'{"schema": ' + b"[" * 100_000),
    (read_weights, safetensors_of({"__metadata__": {"options": "[" * 100_000}}, b"")),
    (read_weights, (2**63).to_bytes(8, "little") + b"{}"),
    (read_drawings, b'{"word": 7, "drawing": []}'),
    (read_drawings, b'{"word": "cat", "drawing": [[[1e308, -1e308], [0, 1]]]}\n' * 10),
    (read_mnist, bytes([0, 0, 8, 255])),
    (read_mnist, b"\0\0\x08\x03" + b"\xff" * 12),
]
"""Readers, and what has once led to something else than the error that they document, or must not."""


@pytest.mark.parametrize(("read", "data"), KEPT)
def test_what_was_found_once_is_refused(tmp_path, read, data):
    tried(tmp_path, data, read)


def test_what_is_sound_is_read(tmp_path):
    """Readers that refuse everything would pass all that follows."""
    path = tmp_path / "file"
    path.write_bytes(TABLE)
    assert read_csv(path) == RECORDS
    write_baseline(scores_file(), tmp_path / "board.csv")
    assert [len(samples.ids) for samples in read_baseline(tmp_path / "board.csv").samples.values()] == [2]
    path.write_bytes(as_json(coco(tmp_path)))
    [image] = read_annotations(path).images
    sums = [object_mask([one], image.size, truth="box", path=path).sum() for one in image.objects]
    assert sums == [4, 4, 4]
    path.write_bytes(VOC)
    assert [one.name for one in read_annotation(path).objects] == ["cat", "dog"]
    description, arrays = stored(tmp_path)
    [one] = find(tmp_path, description, arrays)
    assert len(Results([one]).records) == 2
    (tmp_path / "run.json").write_bytes(as_json(MANIFEST))
    assert Manifest.read(tmp_path).content == MANIFEST
    (tmp_path / "cat.ndjson").write_bytes(as_json({"word": "cat", "drawing": [[[0, 255], [0, 9]]]}) + b"\n")
    (tmp_path / "cat.ndjson").write_bytes((tmp_path / "cat.ndjson").read_bytes() * 5)
    assert len(QuickDraw(tmp_path, words="cat").ids) == 1


@tries(60)
@given(st.data())
def test_suites(tmp_path, data):
    tried(tmp_path, data.draw(damaged(SUITE, TOML)), read_suite)


@tries(60)
@given(st.data())
def test_leaderboards(tmp_path, data):
    tried(tmp_path, data.draw(damaged(TABLE, CELLS)), read_table)


@tries(40)
@given(st.data())
def test_scores_of_samples(tmp_path, data):
    board = tmp_path / "board.csv"
    write_baseline(scores_file(), board)
    packed = scores_path(board).read_bytes()
    tried(tmp_path, data.draw(damaged(gzip.decompress(packed), CELLS)), read_scores)
    tried(tmp_path, data.draw(damaged(packed)), read_packed_scores)


@tries(80)
@given(st.data())
def test_coco(tmp_path, data):
    content = coco(tmp_path)
    if data.draw(st.booleans()):
        tried(tmp_path, as_json(data.draw(forged(content))), read_coco)
    else:
        tried(tmp_path, data.draw(damaged(as_json(content), (b"NaN", b"1e999", b"[", b"{", b'"', b"\\"))), read_coco)


@tries(80)
@given(st.data())
def test_voc(tmp_path, data):
    tried(tmp_path, data.draw(damaged(VOC, XML)), read_voc)


@tries(60)
@given(st.data())
def test_units(tmp_path, data):
    description, arrays = stored(tmp_path)
    if data.draw(st.booleans()):
        description = data.draw(forged(description))
    else:
        arrays = data.draw(damaged(arrays))
    for one in find(tmp_path, description, arrays):
        assert all(len(scores.values) == len(one.ids) for m in one.metrics.values() for scores in m.scores.values())
        try:
            text = Results([one]).table()
            galleries([one])
        except ValueError:
            continue
        assert unprintable(text) == set()


@tries(60)
@given(st.data())
def test_run_json(tmp_path, data):
    Store(tmp_path / "run").write(sound_unit())
    if data.draw(st.booleans()):
        tried(tmp_path, as_json(data.draw(forged(MANIFEST))), read_run)
    else:
        tried(tmp_path, data.draw(damaged(as_json(MANIFEST))), read_run)


@tries(60)
@given(st.data())
def test_headers_of_weights(tmp_path, data):
    tensors = {name: tensor.detach() for name, tensor in nn.Linear(2, 1).state_dict().items()}
    file = to_safetensors(tensors, {"model": "linear", "options": '{"width": 3}', "seed": "0"})
    size = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:size])
    if data.draw(st.booleans()):
        changed = safetensors_of(as_json(data.draw(forged(header))), file[size:])
    else:
        changed = data.draw(damaged(file))
    tried(tmp_path, changed, read_weights)


@tries(20)
@given(st.data())
def test_pickled_weights_and_checkpoints(tmp_path, data):
    state = {"state_dict": nn.Linear(2, 1).state_dict()}
    tried(tmp_path, data.draw(damaged(torch_file(tmp_path, state))), read_pickled)
    Checkpoint(tmp_path / "whole", {}).write({"weights": torch.zeros(3), "epoch": 1})
    tried(tmp_path, data.draw(damaged((tmp_path / "whole").read_bytes())), read_checkpoint)


@tries(30)
@given(st.data())
def test_archives_and_arrays(tmp_path, data):
    inner = archive({"b.JPEG": b"text"})
    tried(tmp_path, data.draw(damaged(archive({"a.JPEG": b"text", "n01440764.tar": inner}))), read_tar)
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).numpy()
    tried(tmp_path, data.draw(damaged(idx(image))), read_mnist)


@tries(30)
@given(st.data())
def test_drawings(tmp_path, data):
    drawing = {"word": "cat", "drawing": [[[0, 255, 3], [0, 0, 9]], [[7], [8]]]}
    lines = [as_json(drawing)] * 5 + [as_json(data.draw(forged(drawing)))]
    tried(tmp_path, b"\n".join(lines), read_drawings)
