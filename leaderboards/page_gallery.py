"""The heatmaps of a page: the same samples under every explainer, with their scores."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .board import Board
from .cases import Subject, sample_scores, subject_of
from .names import labels, printable
from .series import Series


class Picture(NamedTuple):
    """A picture in the gallery.

    Attributes:
        png: the file.
        alt: what it shows, in words.
        scale: what its darkest colour stands for; empty for images and masks.
    """

    png: bytes
    alt: str
    scale: str = ""

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


class GallerySample(NamedTuple):
    """One sample under every explainer.

    Attributes:
        id: name of the sample.
        image: the image.
        mask: its mask; `None` without one.
        heatmaps: by explainer and its parameters.
    """

    id: str
    image: Picture
    mask: Picture | None
    heatmaps: Mapping[tuple[str, str], Picture]


class Gallery(NamedTuple):
    """The samples of one dataset and model.

    Attributes:
        subject: dataset, dataset_revision, model, model_digest and seed.
        samples: the samples.
        target: which class the heatmaps explain; empty where that is not said.
    """

    subject: Subject
    samples: Sequence[GallerySample]
    target: str = ""


class Galleries:
    """What the template fills in of heatmaps, as plain values."""

    def __init__(self, board: Board, galleries: Sequence[Gallery]) -> None:
        """Name the board that has the scores, and the heatmaps to show."""
        self.board = board
        self._galleries = galleries

    @cached_property
    def _known(self) -> list[tuple[Gallery, dict[tuple[str, str], str], str]]:
        """Galleries with the labels of their explainers and their titles."""
        titles = {subject_of(rows[0]): (title, rows) for title, rows in self.board.blocks.items()}
        found: list[tuple[Gallery, dict[tuple[str, str], str], str]] = []
        for gallery in self._galleries:
            title, rows = titles.get(gallery.subject, ("", []))
            held = {key for sample in gallery.samples for key in sample.heatmaps}
            names = labels(row for row in rows if row.explainer)
            if held & names.keys():
                found.append((gallery, {key: label for key, label in names.items() if key in held}, printable(title)))
        return found

    @cached_property
    def shown(self) -> list[dict[str, Any]]:
        """The galleries of which the board has rows."""
        return [
            {
                "title": title,
                "labels": list(names.values()),
                "metrics": [column["name"] for column in scored["metrics"]],
                "masks": any(sample.mask for sample in gallery.samples),
                "samples": [
                    {
                        "name": printable(sample.id),
                        "image": sample.image,
                        "mask": sample.mask,
                        "heatmaps": [sample.heatmaps.get(key) for key in names],
                    }
                    for sample in gallery.samples
                ],
            }
            for (gallery, names, title), scored in zip(self._known, self.data, strict=True)
        ]

    @cached_property
    def data(self) -> list[dict[str, Any]]:
        """For every gallery and metric, the scores of its samples by explainer."""
        return [
            {
                "metrics": [
                    {
                        "name": column.name,
                        "higher": column.higher_is_better,
                        "scores": [
                            [score_of(scores.get(key), sample.id) for key in names] for sample in gallery.samples
                        ],
                    }
                    for column, scores in sample_scores(self.board, gallery.subject)
                ]
            }
            for gallery, names, _ in self._known
        ]


def score_of(item: Series | None, name: str) -> float | None:
    """Return the score of one sample; `None` if there is none."""
    if item is None or name not in item.ids:
        return None
    value = float(item.values[item.ids.index(name)])
    return float(format(value, ".6g")) if np.isfinite(value) else None
