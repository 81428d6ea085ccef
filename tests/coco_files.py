"""Small datasets in COCO's format, written for tests."""

import json

import numpy as np
from PIL import Image

CATEGORIES = ({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "hot dog"})


def annotation(number, image, category, segmentation=None, **further):
    """An annotation with an outline, or with a box that fills the image's first pixels."""
    outline = [[0, 0, 2, 0, 2, 2, 0, 2]] if segmentation is None else segmentation
    return {
        "id": number, "image_id": image, "category_id": category, "segmentation": outline, "bbox": [0, 0, 2, 2],
        "iscrowd": 0, **further,
    }  # fmt: skip


def rectangle(left, top, right, bottom):
    """A polygon that covers columns left to right and rows top to bottom, the ends exclusive."""
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(mask):
    """The uncompressed code of a mask: lengths of runs, column by column, the first one of zeros."""
    counts, value = [0], False
    for pixel in np.asarray(mask, dtype=bool).T.ravel():
        if pixel == value:
            counts[-1] += 1
        else:
            counts.append(1)
            value = not value
    return {"size": [*np.shape(mask)], "counts": counts}


def written(folder, annotations, *, sizes=None, categories=CATEGORIES, images=None):
    """Write a dataset: green PNG images of given (height, width) by id, and the annotations; return the JSON's path."""
    sizes = {1: (6, 8)} if sizes is None else sizes
    for number, (height, width) in sizes.items():
        Image.new("RGB", (width, height), (0, 200, 0)).save(folder / f"{number:03d}.png")
    known = [
        {"id": number, "file_name": f"{number:03d}.png", "height": height, "width": width}
        for number, (height, width) in sizes.items()
    ]
    path = folder / "instances.json"
    content = {
        "images": known if images is None else images,
        "annotations": annotations,
        "categories": [*categories],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
