"""Small annotation files in the XML format of Pascal VOC, written for tests."""

from __future__ import annotations


def thing(name, left, top, right, bottom, *, difficult=None):
    """An object; corners are counted from 1 and belong to the box."""
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox></object>"


def document(*objects, size=None):
    """An annotation file of some objects in an image of a height and width."""
    told = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>any.jpg</filename>{told}{''.join(objects)}</annotation>"


def filled(box, size):
    """The pixels of a box, found one by one."""
    left, top, right, bottom = box
    return [
        [left <= column <= right and top <= row <= bottom for column in range(1, size[1] + 1)]
        for row in range(1, size[0] + 1)
    ]
