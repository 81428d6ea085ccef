"""Boxes are read as Pascal VOC counts them, and nothing harmful or damaged is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpeval.datasets.files import BadSampleError
from interpeval.datasets.pascal_xml import (
    BROKEN,
    NO_ANNOTATION,
    OUTSIDE,
    PascalObject,
    box_mask,
    counted,
    read_annotation,
)
from pascal_files import document, filled, thing

ANY = Path("1.xml")


@pytest.fixture
def read(tmp_path):
    """Write an annotation file and read it."""

    def read(content):
        path = tmp_path / "1.xml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_annotation(path)

    return read


def test_objects_are_read_in_their_order_with_the_size(read):
    annotation = read(document(thing("dog", 3, 4, 5, 6), thing("cat", 1, 1, 1, 2, difficult=1), size=(7, 9)))
    assert annotation.size == (7, 9)
    assert annotation.objects == (
        PascalObject("dog", (3, 4, 5, 6), False),
        PascalObject("cat", (1, 1, 1, 2), True),
    )


def test_a_file_may_lack_the_size_and_objects_and_have_fractions_and_parts(read):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
    whole = thing("person", "45.70000076", "2.4", " 60 ", "7", difficult=0).replace("</object>", f"{part}</object>")
    assert read(document(whole)) == (None, (PascalObject("person", (46, 2, 60, 7), False),))
    assert read(document(size=(0, 0))) == (None, ())


boxes = st.tuples(st.integers(-3, 12), st.integers(-3, 12), st.integers(0, 9), st.integers(0, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(deadline=None, max_examples=60)
@given(some=st.lists(boxes, max_size=3))
def test_a_mask_is_the_union_of_the_pixels_in_the_boxes(some):
    size = (7, 9)
    inside = [np.array(filled(box, size)) for box in some]
    objects = [PascalObject("cat", box, False) for box in some]
    if all(pixels.any() for pixels in inside):
        expected = np.any([np.zeros(size, dtype=bool), *inside], axis=0)
        assert np.array_equal(box_mask(objects, size, path=ANY), expected)
    else:
        with pytest.raises(BadSampleError, match=OUTSIDE):
            box_mask(objects, size, path=ANY)


def test_difficult_objects_count_as_one_wants():
    easy, hard = (PascalObject("cat", (1, 1, 2, 2), flag) for flag in (False, True))
    dog = PascalObject("dog", (1, 1, 2, 2), True)
    objects = [hard, dog, easy]
    assert counted(objects, "keep") == (True, True, True)
    assert counted(objects, "drop") == (False, False, True)
    assert counted(objects, "skip") == (True, False, True)  # the difficult cat stands beside one that is not


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    "content",
    [
        LAUGHS + document(thing("&c;", 1, 1, 2, 2)),
        ('<?xml version="1.0" encoding="utf-16"?>' + LAUGHS + document(thing("cat", 1, 1, 2, 2))).encode("utf-16"),
        '<!DOCTYPE a SYSTEM "file:///etc/hostname">' + document(thing("cat", 1, 1, 2, 2)),
    ],
    ids=["entities", "entities in another encoding", "another file"],
)
def test_a_document_type_is_refused_in_any_encoding(read, content):
    with pytest.raises(BadSampleError, match="declares a document type"):
        read(content)


def test_other_encodings_are_read(read):
    text = '<?xml version="1.0" encoding="utf-16"?>' + document(thing("cat", 1, 1, 2, 2))
    assert read(text.encode("utf-16")).objects[0].name == "cat"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no XML",
        document(thing("cat", 1, 1, 2, 2))[:-5],
        document(thing("cat", 1, 1, 2, 2)) + "<more/>",
        '<?xml version="1.0" encoding="klingon"?>' + document(),
        document(thing("&undefined;", 1, 1, 2, 2)),
        document(thing("", 1, 1, 2, 2)),
        document("<object><name>cat</name></object>"),
        document("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"),
        document(thing("cat", "one", 1, 2, 2)),
        document(thing("cat", "nan", 1, 2, 2)),
        document(thing("cat", 1, 1, "inf", 2)),
        document(thing("cat", 3, 1, 2, 2)),
        document(thing("cat", 1, 3, 2, 2)),
        document(thing("cat", 1, 1, 2, 2, difficult="perhaps")),
        document(size=("high", 3)),
    ],
    ids=[
        "empty", "text", "truncated", "two documents", "unknown encoding", "unknown entity", "no name", "no box",
        "half a box", "word", "nan", "infinite", "negative width", "negative height", "no flag", "no size",
    ],
)  # fmt: skip
def test_what_is_damaged_is_an_error_that_names_the_file(read, tmp_path, content):
    with pytest.raises(BadSampleError, match=BROKEN) as raised:
        read(content)
    assert raised.value.path == tmp_path / "1.xml"


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(BadSampleError, match=NO_ANNOTATION):
        read_annotation(tmp_path / "1.xml")
