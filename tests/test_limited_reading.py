"""Reading within limits: what is refused is refused before it costs anything, and what is not is read as ever."""

import gzip
import json
import os
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpeval.datasets import limited_reading
from interpeval.datasets.limited_reading import DEPTH, parse_json, read_bytes, read_json, read_text, unpacked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON, st.booleans())
def test_json_is_read_as_python_reads_it(content, ascii_only):
    data = json.dumps(content, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert parse_json(data) == json.loads(data)


def deepest(content):
    if not isinstance(content, list | dict):
        return 0
    return 1 + max(map(deepest, content.values() if isinstance(content, dict) else content), default=0)


@given(JSON, st.integers(1, 9))
def test_depth_is_that_of_brackets_outside_of_strings(content, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited_reading, "_PIECE", piece)
        assert limited_reading._depth(json.dumps(content).encode()) == deepest(content)


@pytest.mark.parametrize("text", ["[]]", "\\", '\\"[', '"[[', "]]][[["])
def test_text_that_is_no_json_is_refused_by_whatever_notices(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text.encode())


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_an_end(opening, closing):
    def nested(depth):
        return (opening * depth + "0" + closing * depth).encode()

    assert deepest(parse_json(nested(DEPTH))) == DEPTH
    for depth in (DEPTH + 1, 10**6):
        with pytest.raises(ValueError, match=f"must be at most {DEPTH} deep, are {depth}"):
            parse_json(nested(depth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice in one object"),
        ('[{"x": {"\\u0061": 1, "a": 2}}]', "the key 'a' stands twice"),
        ("[NaN]", "numbers must be finite, one is NaN"),
        ("[-Infinity]", "numbers must be finite, one is -Infinity"),
        ("[1e999]", "numbers must be finite, one is 1e999"),
        ("9" * 5000, "4300"),
    ],
)
def test_json_with_two_meanings_or_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text.encode())


def test_json_in_another_encoding_is_refused():
    """Its brackets would not be counted."""
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(json.dumps([1]).encode("utf-16"))
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


def test_a_file_of_the_greatest_size_is_read_and_a_larger_one_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_bytes(path, most=6) == path.read_bytes()
    assert read_text(path, most=6) == "[1]"
    assert read_json(path, most=6) == [1]
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(ValueError, match="must have at most 5 bytes, has 6 bytes"):
            read(path, most=5)


def test_what_has_no_end_is_no_file(tmp_path):
    """A pipe would be waited for, and a device such as /dev/zero be read for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="must be a plain file"):
            read_bytes(tmp_path / path, most=1)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", most=1)


def test_a_packed_file_is_unpacked_no_further_than_allowed():
    packed = gzip.compress(bytes(1000)) + gzip.compress(bytes(24))
    assert unpacked(BytesIO(packed), most=1024) == bytes(1024)
    with pytest.raises(ValueError, match="must unpack to at most 1023 bytes"):
        unpacked(BytesIO(packed), most=1023)
    bomb = BytesIO(gzip.compress(bytes(64 * 2**20)))
    with pytest.raises(ValueError, match="must unpack to at most 1 MiB"):
        unpacked(bomb, most=2**20)
    assert bomb.tell() < len(bomb.getvalue())  # the rest was not even looked at
