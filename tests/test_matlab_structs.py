"""Structs of MATLAB files are read as SciPy reads them, and what is damaged or forged costs an error and no more."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from interpeval.datasets.limited_reading import MEBIBYTE
from interpeval.datasets.matlab_structs import read_structs

ROWS = [(1, "n01440764", 0.5, "é"), (-300, "n01514668", 1e300, "two words"), (70000, "", -0.0, "x" * 99)]
NAMES = ("id", "word", "number", "text")
KEPT = {"max_examples": 300, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
BROKEN = (ValueError, OverflowError, zlib.error, struct.error)


def saved(path, *, compress=False, **more):
    structs = np.array([(*row, np.zeros((2, 3))) for row in ROWS], dtype=[(name, object) for name in (*NAMES, "other")])
    savemat(path, {**more, "before": np.eye(3), "structs": structs[:, None]}, do_compression=compress)
    return path


def read(path):
    return read_structs(path, "structs", most=MEBIBYTE)


@pytest.mark.parametrize("compress", [False, True])
def test_texts_and_numbers_are_those_that_scipy_reads(tmp_path, compress):
    path = saved(tmp_path / "file.mat", compress=compress)
    theirs = loadmat(path, squeeze_me=True)["structs"]
    ours = read(path)
    assert [tuple(row[name] for name in NAMES) for row in ours] == ROWS
    assert [[row[name] for name in ("id", "number")] for row in theirs] == [[row["id"], row["number"]] for row in ours]
    assert [str(row["text"]) for row in theirs] == [row["text"] for row in ours]
    assert [row["other"] for row in ours] == [None] * 3


def element(kind, content, size=None):
    return struct.pack("<II", kind, len(content) if size is None else size) + content + bytes(-len(content) % 8)


def matrix(kind, shape, *parts):
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, head + b"".join(parts))


def structs(shape, inner, *, name=b"structs"):
    fields = element(5, struct.pack("<i", 4)) + element(1, b"id\0\0")
    return matrix(2, shape, element(1, name), fields, inner)


def written(path, *elements):
    path.write_bytes(b"MATLAB".ljust(124) + b"\x00\x01IM" + b"".join(elements))
    return path


def number(value):
    return matrix(6, (1, 1), element(1, b""), element(9, struct.pack("<d", value)))


def test_a_file_made_by_hand_is_read(tmp_path):
    assert read(written(tmp_path / "file", structs((1, 2), number(3.5) + number(4.0)))) == [{"id": 3.5}, {"id": 4.0}]
    short = struct.pack("<HHi", 5, 4, 7)  # an element within its tag
    inside = structs((1, 1), matrix(6, (1, 1), element(1, b""), short))
    assert read(written(tmp_path / "file", inside)) == [{"id": 7}]
    assert read(written(tmp_path / "file", structs((1, 1), element(14, b"")))) == [{"id": None}]


def nested(depth):
    """Cells within cells; SciPy follows some ten thousand of them into a crash."""
    head = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1)) + element(1, b"")
    sizes = [8 + number * (len(head) + 8) + len(head) - 8 for number in range(depth)]
    return b"".join(struct.pack("<II", 14, size) + head for size in reversed(sizes)) + element(14, b"")


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ([], "must have an array of structs `structs`, has none"),
        ([structs((1, 1), number(1.0), name=b"others")], "must have an array of structs `structs`"),
        ([structs((2**31 - 1, 2**31 - 1), number(1.0))], "ends too early"),
        ([structs((1, 1), element(9, bytes(8)))], r"there must be a matrix \(14\), there is something else \(9\)"),
        ([struct.pack("<II", 14, 2**32 - 1)], "ends within an element of 4294967295 bytes"),
        ([element(15, zlib.compress(bytes(2 * MEBIBYTE)))], "must unpack to at most 1 MiB"),
        ([bytes(2 * MEBIBYTE)], "must have at most 1 MiB"),
        ([matrix(2, (1, 1), element(1, b"structs"), element(5, bytes(4)), element(1, b"id"))], "fields are damaged"),
    ],
)
def test_what_is_forged_is_refused(tmp_path, elements, said):
    with pytest.raises(ValueError, match=said):
        read(written(tmp_path / "file", *elements))


def test_depth_costs_nothing(tmp_path):
    assert read(written(tmp_path / "file", structs((1, 1), nested(10_000)))) == [{"id": None}]


def test_another_version_or_no_such_file_is_refused(tmp_path):
    savemat(tmp_path / "old.mat", {"x": np.eye(2)}, format="4")
    for path in (tmp_path / "old.mat", written(tmp_path / "empty")):
        with pytest.raises(ValueError, match=r"MATLAB 5 to 7.2|has none"):
            read(path)


@settings(**KEPT)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path, data):
    whole = saved(tmp_path / "file.mat", compress=data.draw(st.booleans())).read_bytes()
    place = data.draw(st.integers(124, len(whole) - 1))
    (tmp_path / "file.mat").write_bytes(whole[:place] + data.draw(st.binary(max_size=16)) + whole[place + 4 :])
    try:
        found = read(tmp_path / "file.mat")
    except BROKEN:
        return
    assert all(value is None or isinstance(value, str | int | float) for row in found for value in row.values())
