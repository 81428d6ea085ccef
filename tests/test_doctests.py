"""The examples in docstrings do what they show, one test for each module of the library that has some.

Modules are imported by their full names: `--doctest-modules` would load each a second time under a short one.
"""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "baselines", "metrics", "leaderboards", "bench")


def modules_with_examples() -> list[str]:
    """Full names of the library's modules in which an example stands."""
    return [
        ".".join(("interpeval", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path / "cache"))
    module = importlib.import_module(name)
    assert Path(inspect.getsourcefile(module)).is_relative_to(ROOT), "not the library of this checkout"
    outcome = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted > 0, "the examples are not in docstrings that doctest reads"
    assert outcome.failed == 0
