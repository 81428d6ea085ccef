"""The samples of a page that explainers do best and worst on."""

from __future__ import annotations

from typing import Any

import numpy as np

from .board import Board
from .cases import sample_scores, subject_of
from .names import CONTROLS, labels, printable
from .series import Series


def extreme_lines(board: Board) -> list[dict[str, Any]]:
    """What samples each explainer scores best and worst on, for each dataset and model."""
    parts: list[dict[str, Any]] = []
    for title, rows in board.blocks.items():
        names = labels(row for row in rows if row.explainer)
        lines = [
            (column.name, names[key], *_extremes(item, higher=column.higher_is_better))
            for column, scores in sample_scores(board, subject_of(rows[0]))
            for key, item in sorted(scores.items())
            if item.explainer not in CONTROLS and item.valid.any()
        ]
        parts += [{"title": printable(title), "rows": lines}] if lines else []
    return parts


def _extremes(item: Series, *, higher: bool) -> tuple[str, str, str, str]:
    """Best and worst sample with their scores; the first by name among equals."""
    scored = [(float(value), name) for value, name in zip(item.values, item.ids, strict=True) if np.isfinite(value)]
    sign = -1 if higher else 1
    best = min(scored, key=lambda pair: (sign * pair[0], pair[1]))
    worst = min(scored, key=lambda pair: (-sign * pair[0], pair[1]))
    return printable(best[1]), f"{best[0]:.3g}", printable(worst[1]), f"{worst[0]:.3g}"
