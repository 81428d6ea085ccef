"""What a store's files must be before anything in them is used: a folder of results may come from anywhere.

Further keys are left alone, so that a later version's files can be told from damaged ones by their schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..datasets.limited_reading import MEBIBYTE, read_json
from ..metrics.base import Status

if TYPE_CHECKING:
    from .store import Unit

_MOST = 256 * MEBIBYTE  # the names of the units of a run over a million images have an eighth of it
_LENIENT = ConfigDict(extra="allow", frozen=True, strict=True)
_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]  # part of a file name, so nothing that leads elsewhere
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Subject(BaseModel):
    model_config = _LENIENT

    dataset: str
    dataset_revision: str
    model: str
    model_digest: str
    explainer: str
    explainer_params: str
    seed: int


class _MadeBy(_Subject):
    interpeval: str
    torch: str
    captum: str
    device: str


class _Row(BaseModel):
    model_config = _LENIENT

    about: _Subject
    units: list[_Key]
    metrics: dict[str, Any]
    pictures: _Key | None = None  # earlier runs do not state it


class _Reason(BaseModel):
    model_config = _LENIENT

    about: _Subject
    metric: str
    version: _Whole
    higher_is_better: bool
    reason: str


class _Failure(BaseModel):
    model_config = _LENIENT

    dataset: str
    model: str
    explainer: str
    message: str


class _Suite(BaseModel):
    model_config = _LENIENT

    name: str = ""
    experiments: list[dict[str, Any]] = []


class _Source(BaseModel):
    model_config = _LENIENT

    commit: str = ""
    dirty: bool = False


class _Manifest(BaseModel):
    model_config = _LENIENT

    suite: _Suite = _Suite()
    command: str = ""
    seed: int
    started: str
    finished: str | None
    versions: dict[str, str] = {}
    source: _Source = _Source()
    rows: list[_Row]
    not_applicable: list[_Reason]
    left_out: dict[str, dict[str, int]] = {}
    failures: list[_Failure]


class _Variant(BaseModel):
    model_config = _LENIENT

    facts: Annotated[list[bool | float | None], Field(min_length=2, max_length=2)]
    range: Annotated[list[float | None], Field(min_length=2, max_length=2)] = [None, None]
    steps: list[float]


class _Metric(BaseModel):
    model_config = _LENIENT

    name: str
    version: _Whole
    configuration: str
    aggregations: list[str]
    variants: dict[str, _Variant]
    seconds: float
    passes: _Whole


class _Fault(BaseModel):
    model_config = _LENIENT

    kind: str
    message: str
    ids: list[str]


class _Description(BaseModel):
    model_config = _LENIENT

    key: _Key
    about: _MadeBy
    ids: list[str]
    metrics: dict[str, _Metric]
    faults: list[_Fault]
    written: int


def read_object(path: Path, *, schema: int) -> dict[str, Any]:
    """Read the JSON object of a schema that a file holds.

    Raises:
        ValueError: it is none, or of another schema; the message says what is wrong and does not name the file.
        OSError: it cannot be read.
    """
    content = read_json(path, most=_MOST)
    if not isinstance(content, Mapping) or "schema" not in content:
        raise ValueError("it must be an object with a `schema`")
    if content["schema"] != schema:
        raise ValueError(f"its schema is {content['schema']}, this version reads {schema}")
    return dict(content)


def check_manifest(content: Mapping[str, Any]) -> None:
    """Check what `run.json` holds.

    Raises:
        ValueError: something is missing or is not what it must be; it is named.
    """
    _check(content, _Manifest)


def check_description(content: Mapping[str, Any]) -> None:
    """Check what the description of a unit holds; what it raises is as in `check_manifest`."""
    _check(content, _Description)


def check_unit(unit: Unit) -> None:
    """Check that the arrays of a unit are about its samples.

    Raises:
        ValueError: one has another shape or type than it must have.
    """
    count = len(unit.ids)
    _check_array("classes", unit.classes, (count,), floating=False)
    for result in unit.metrics.values():
        for variant, scores in result.scores.items():
            name = f"{result.name} {variant}".rstrip()
            shape = (count, len(scores.steps)) if scores.steps else (count,)
            _check_array(f"values of {name}", scores.values, shape, floating=True)
            _check_array(f"status of {name}", scores.status, (count,), floating=False)
            if count and not 0 <= int(scores.status.min()) <= int(scores.status.max()) <= max(Status):
                raise ValueError(f"the status of {name} has a code that means nothing")
            if scores.variance is not None:
                _check_array(f"variance of {name}", scores.variance, (count,), floating=True)
    _check_previews(unit, count)


def _check_array(name: str, array: torch.Tensor, shape: tuple[int, ...], *, floating: bool) -> None:
    right = array.is_floating_point() if floating else array.dtype in {torch.uint8, torch.int64}
    if not right or tuple(array.shape) != shape:
        kind = "floating-point" if floating else "whole"
        raise ValueError(f"the {name} must be {kind} numbers {shape}, are {array.dtype} {tuple(array.shape)}")


def _check_previews(unit: Unit, count: int) -> None:
    """Check the pictures: images, heatmaps and perhaps masks, as many of each, of the first samples."""
    if not unit.previews:
        return
    if not {"images", "heatmaps"} <= unit.previews.keys():
        raise ValueError("the previews must be `images` and `heatmaps`, one of them is missing")
    number = len(unit.previews["images"])
    for name, axes in (("images", 4), ("heatmaps", 3), ("masks", 3)):
        part = unit.previews.get(name)
        if part is not None and (part.ndim != axes or len(part) != number or number > count or 0 in part.shape):
            raise ValueError(f"the previews `{name}` must have {axes} axes for {number} samples, are {part.shape}")


def _check(content: Mapping[str, Any], shape: type[BaseModel]) -> None:
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"`{place}`: {first['msg']}") from None
