"""What there is by name, found by its place, without importing it; and how names become objects.

The catalog reads the source files of the library: a class with a literal `name` in `datasets/`, `baselines/` or
`metrics/` is an entry. Nothing is imported before it is asked for, so listing needs no torch.

A name may carry arguments: `integrated_gradients?n_steps=20`. What is not in the catalog is named by its place:
`package.module:Name` or `path/to/file.py:Name`.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

Kind = Literal["explainers", "models", "datasets", "metrics"]
KINDS: tuple[Kind, ...] = ("explainers", "models", "datasets", "metrics")
_FOLDERS: dict[Kind, str] = {
    "explainers": "baselines",
    "models": "baselines",
    "datasets": "datasets",
    "metrics": "metrics",
}
_LIBRARY = Path(__file__).resolve().parent.parent


class UnknownNameError(LookupError):
    """A name that is neither in the catalog nor the place of something."""

    def __str__(self) -> str:
        """Return the message without the quotes that lookups add."""
        return str(self.args[0])


@dataclass(frozen=True)
class Entry:
    """One thing in the catalog.

    Attributes:
        kind: what it is.
        name: its name in commands and tables.
        module: where it is defined, relative to the library, like `baselines.gradient`.
        attribute: the class.
        summary: first sentence of its documentation.
        facts: the literal facts of the class, such as `higher_is_better` or `needs`.
    """

    kind: Kind
    name: str
    module: str
    attribute: str
    summary: str
    facts: Mapping[str, Any]

    def load(self) -> Any:
        """Import and return the class."""
        return getattr(importlib.import_module(f"interpeval.{self.module}"), self.attribute)


@dataclass(frozen=True)
class Spec:
    """A name with arguments, as written on the command line or in a suite.

    Attributes:
        text: as written.
        name: the part before `?`.
        params: the arguments after it.
    """

    text: str
    name: str
    params: Mapping[str, Any]


@cache
def entries(kind: Kind) -> Mapping[str, Entry]:
    """Return everything of a kind by name, in alphabetical order."""
    found: dict[str, Entry] = {}
    for path in sorted((_LIBRARY / _FOLDERS[kind]).glob("*.py")):
        for entry in _entries_of(path, kind):
            if entry.name in found:
                raise ValueError(f"two {kind} are named `{entry.name}`: {found[entry.name].module} and {entry.module}")
            found[entry.name] = entry
    return dict(sorted(found.items()))


def parse(text: str) -> Spec:
    """Split `name?argument=value&…` into its parts; values that read as Python literals become them.

    `${NAME}` stands for an environment variable, so that suites need not say where somebody's data is.

    Raises:
        ValueError: an argument is not of this form or given twice, or a variable is not set.

    Example:
        >>> parse("integrated_gradients?n_steps=20").params
        {'n_steps': 20}
    """
    name, _, query = text.partition("?")
    params: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"arguments in `{text}` must be `name?argument=value&…`, found `{pair}`")
        if key in params:
            raise ValueError(f"argument `{key}` is given twice in `{text}`")
        params[key] = literal(expanded(unquote(value)))
    if not name.strip():
        raise ValueError(f"`{text}` has no name before `?`")
    return Spec(text, expanded(name), params)


def literal(text: str) -> Any:
    """Return the Python literal that a text reads as, the text itself if it reads as none.

    Example:
        >>> literal("0.5"), literal("true"), literal("[1, 2]"), literal("adam")
        (0.5, True, [1, 2], 'adam')
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Python warns of text that is nearly a number
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it may raise
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def expanded(text: str) -> str:
    """Put the values of environment variables in the places of their `${NAME}`."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"environment variable `{match[1]}`, which `{text}` names, must be set")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def load(kind: Kind, spec: Spec) -> Any:
    """Return the class or object that a name stands for, from the catalog or from its place.

    Raises:
        UnknownNameError: nothing has this name; the message lists near matches.
    """
    known = entries(kind)
    if spec.name in known:
        return known[spec.name].load()
    if ":" in spec.name:
        return _from_place(spec.name)
    if "." in spec.name:
        return _from_dotted(kind, spec.name)
    raise _unknown(kind, spec.name)


def check_name(kind: Kind, spec: Spec) -> None:
    """Raise what `load` would raise for a bare name that is not in the catalog, without importing anything."""
    if ":" not in spec.name and "." not in spec.name and spec.name not in entries(kind):
        raise _unknown(kind, spec.name)


@cache
def package_digest() -> str:
    """Return a digest of the library's own source: results are re-used only where the code is the same."""
    digest = hashlib.sha256()
    for folder in sorted({*_FOLDERS.values(), "bench", "leaderboards"}):
        for path in sorted((_LIBRARY / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _unknown(kind: Kind, name: str) -> UnknownNameError:
    known = list(entries(kind))
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"known are: {', '.join(known)}"
    return UnknownNameError(
        f"unknown {kind[:-1]} `{name}`: {hint} (your own: `package.module:Name` or `path/to/file.py:Name`)"
    )


def _from_place(text: str) -> Any:
    place, _, attribute = text.rpartition(":")
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    return _member(_import_file(Path(place)) if is_file else _import_module(place, text), attribute, text)


def _from_dotted(kind: Kind, text: str) -> Any:
    if text.endswith(".py"):
        raise UnknownNameError(f"`{text}` must say which {kind[:-1]} of the file is meant: `{text}:Name`")
    place, _, attribute = text.rpartition(".")
    return _member(_import_module(place, text), attribute, text)


def _import_module(place: str, text: str) -> Any:
    if not all(part.isidentifier() for part in place.split(".")):
        raise UnknownNameError(f"`{text}` must be `package.module:Name` or `path/to/file.py:Name`")
    with _failing_as(f"cannot import `{place}` of `{text}`"):
        return importlib.import_module(place)


@contextmanager
def _failing_as(message: str) -> Generator[None]:
    """Turn whatever a stranger's module raises while it is imported into one kind of error."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise UnknownNameError(f"{message}: {type(error).__name__}: {error}") from error


def _member(module: Any, attribute: str, text: str) -> Any:
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=3) or names[:8]
        raise UnknownNameError(f"`{text}`: there is no `{attribute}`; there are: {', '.join(near) or 'no names'}")
    return getattr(module, attribute)


def _import_file(path: Path) -> Any:
    if not os.path.isfile(path):  # noqa: PTH113  # `Path.is_file` raises for names that no file can have
        raise UnknownNameError(f"file `{path}` does not exist (looked in {Path.cwd()})")
    # An edited file is another module: whoever edits and runs again in one process must not get the old code.
    place = f"{path.resolve()}\n".encode() + path.read_bytes()
    name = f"interpeval_file_{path.stem}_{hashlib.sha256(place).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"file `{path}` cannot be imported as Python: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module  # so that dataclasses and inspect find the module of what it defines
    sys.path.insert(0, folder)
    try:
        with _failing_as(f"file `{path}` cannot be imported"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        with suppress(ValueError):  # the file may have taken it out itself
            sys.path.remove(folder)
    return module


def _entries_of(path: Path, kind: Kind) -> list[Entry]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    found: list[Entry] = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        facts = _facts(node)
        if isinstance(facts.get("name"), str) and (kind not in {"explainers", "models"} or _kind_of(node) == kind):
            module = f"{_FOLDERS[kind]}.{path.stem}"
            summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            found.append(Entry(kind, facts["name"], module, node.name, summary, facts))
    return found


def _kind_of(node: ast.ClassDef) -> Kind:
    bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    return "models" if "Module" in bases else "explainers"


def _facts(node: ast.ClassDef) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            target, value = statement.target.id, statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            target, value = statement.targets[0].id, statement.value
        else:
            continue
        try:
            facts[target] = _constant(value)
        except ValueError:
            continue
    return facts


def _constant(node: ast.expr) -> Any:
    """Read a literal, `frozenset({…})`, or `float("inf")`; tuples may hold any of these."""
    if isinstance(node, ast.Tuple):
        return tuple(_constant(element) for element in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_constant(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        arguments = [_constant(argument) for argument in node.args]
        if node.func.id == "frozenset":
            return frozenset(*arguments)
        if node.func.id == "float":
            return float(*arguments)
    return ast.literal_eval(node)
