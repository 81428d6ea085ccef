"""The samples of a page that explainers do best and worst on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .board import Board
from .cases import Cases, Subject, cases_of, sample_scores, subject_of
from .names import CONTROLS, labels, printable
from .page_gallery import Gallery, GallerySample, score_of
from .series import Series

_Key = tuple[Subject, str, str]
"""What a sample is of, the class that is explained, and its name."""


_EXPLAINED = {"predicted": "the predicted class", "label": "the labelled class", "none": "the whole output"}


def extreme_lines(board: Board, galleries: Sequence[Gallery]) -> list[dict[str, Any]]:
    """What samples explainers score best and worst on, for each dataset and model.

    Args:
        board: the board.
        galleries: heatmaps of the samples that are best and worst for all explainers together.
    """
    pictures = {
        (gallery.subject, gallery.target, sample.id): sample for gallery in galleries for sample in gallery.samples
    }
    together = cases_of(board) if pictures else []
    parts: list[dict[str, Any]] = []
    for title, rows in board.blocks.items():
        names = labels(row for row in rows if row.explainer)
        lines = [
            (column.name, names[key], *_extremes(item, higher=column.higher_is_better))
            for column, scores in sample_scores(board, subject_of(rows[0]))
            for key, item in sorted(scores.items())
            if item.explainer not in CONTROLS and item.valid.any()
        ]
        shown = [_case(cases, names, pictures) for cases in together if cases.subject == subject_of(rows[0])]
        part = {"title": printable(title), "rows": lines, "cases": [case for case in shown if case["samples"]]}
        parts += [part] if lines else []
    return parts


def _case(cases: Cases, names: Mapping[tuple[str, str], str], pictures: Mapping[_Key, GallerySample]) -> dict[str, Any]:
    """The best and the worst sample of a column with their heatmaps, as far as there are any."""
    named = {"best": cases.best, "worst": cases.worst}
    if cases.best == cases.worst:
        named = {"best and worst": cases.best}
    found = [
        (word, case, sample)
        for word, case in named.items()
        if (sample := pictures.get((cases.subject, cases.target, case.id))) is not None
    ]
    shown = {key: label for key, label in names.items() if any(key in sample.heatmaps for *_, sample in found)}
    return {
        "name": cases.column.name,
        "arrow": "↑" if cases.column.higher_is_better else "↓",
        "said": "; ".join(f"{word} {printable(case.id)}, mean {case.mean:.3g}" for word, case in named.items()),
        "of": cases.best.of,
        "explained": _EXPLAINED.get(cases.target, ""),
        "labels": list(shown.values()),
        "masks": any(sample.mask for *_, sample in found),
        "samples": [
            {
                "word": word,
                "name": printable(case.id),
                "mean": f"{case.mean:.3g}",
                "image": sample.image,
                "mask": sample.mask,
                "cells": [(sample.heatmaps.get(key), _written(cases.scores.get(key), case.id)) for key in shown],
            }
            for word, case, sample in found
        ],
    }


def _written(item: Series | None, name: str) -> str:
    score = score_of(item, name)
    return "" if score is None else f"{score:.3g}"


def _extremes(item: Series, *, higher: bool) -> tuple[str, str, str, str]:
    """Best and worst sample with their scores; the first by name among equals."""
    scored = [(float(value), name) for value, name in zip(item.values, item.ids, strict=True) if np.isfinite(value)]
    sign = -1 if higher else 1
    best = min(scored, key=lambda pair: (sign * pair[0], pair[1]))
    worst = min(scored, key=lambda pair: (-sign * pair[0], pair[1]))
    return printable(best[1]), f"{best[0]:.3g}", printable(worst[1]), f"{worst[0]:.3g}"
