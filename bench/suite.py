"""What to run, as text: suites in TOML, checked whole before anything starts."""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..datasets.limited_reading import MEBIBYTE, read_text

_SUITES = Path(__file__).parent / "suites"
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
Name = Annotated[str, Field(min_length=1)]


class SuiteError(ValueError):
    """A suite that cannot be run as it is written."""


class Experiment(BaseModel):
    """Subjects that share a dataset and a model.

    Attributes:
        dataset: name of the dataset.
        model: name of the model, `name@weights` for weights of one's own.
        explainers: names; the controls are always added.
        metrics: names; all that apply if left out.
        limit: use the first samples only.
    """

    model_config = _STRICT

    dataset: Name
    model: Name
    explainers: tuple[Name, ...] = Field(strict=False, min_length=1)
    metrics: tuple[Name, ...] | None = Field(default=None, strict=False, min_length=1)
    limit: int | None = Field(default=None, ge=1, lt=2**63)


class Suite(BaseModel):
    """A named list of experiments.

    Attributes:
        name: names the default output folder.
        description: a line for people.
        seed: seeds every draw.
        experiments: what to run.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    experiments: tuple[Experiment, ...] = Field(strict=False, min_length=1)


def suites() -> dict[str, Path]:
    """Return the suites that come with the package."""
    return {path.stem: path for path in sorted(_SUITES.glob("*.toml"))}


def load_suite(name_or_path: str) -> Suite:
    """Read a suite by name or from a `.toml` file.

    Raises:
        SuiteError: there is no such suite, or it is not one; every problem is named with its path.
    """
    known = suites()
    if name_or_path in known:
        return _read(known[name_or_path])
    if not name_or_path.endswith(".toml"):
        near = difflib.get_close_matches(name_or_path, known, n=3)
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"known are: {', '.join(known)}"
        raise SuiteError(f"unknown suite `{name_or_path}`: {hint} (your own: a file ending in .toml)")
    if not Path(name_or_path).is_file():
        raise SuiteError(f"suite file `{name_or_path}` does not exist")
    return _read(Path(name_or_path))


def _read(path: Path) -> Suite:
    try:
        content = tomllib.loads(read_text(path, most=MEBIBYTE))
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"suite file `{path}` is not TOML: {error}") from error
    return checked_suite(content, path)


def checked_suite(content: object, path: Path) -> Suite:
    """Return the suite that stands in a file.

    Raises:
        SuiteError: it is none; every problem is named with its path.
    """
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise SuiteError("\n".join(_lines(path, error))) from error
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"suite file `{path}` is not TOML: {error}") from error


def _lines(path: Path, error: ValidationError) -> list[str]:
    lines: list[str] = []
    problems = error.errors()
    within = {problem["loc"][:-1] for problem in problems} | {problem["loc"][:-2] for problem in problems}
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in within:
            continue  # a list counts as empty when nothing in it is valid, which is said already
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            known = list((Suite if len(problem["loc"]) == 1 else Experiment).model_fields)
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            message = "unknown key" + (f", did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}")
        found = "" if problem["type"] in {"missing", "extra_forbidden"} else f", was {_shown(problem['input'])}"
        lines.append(f"suite file `{path}`: `{place}`: {message}{found}")
    return lines


def _shown(value: object) -> str:
    """Show what was found, but not all of what has no end."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no number of thousands of digits
        return f"a {type(value).__name__} too long to show"
