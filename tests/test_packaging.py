"""Wheel and source distribution hold what they should, and nothing else; the wheel works where it is installed."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "baselines", "metrics", "leaderboards", "bench")

# Run by the Python of a clean environment: what is installed there, found without importing a dependency.
INSPECT = """
import importlib.metadata, importlib.util, json, sys
found = importlib.metadata.distribution("interpeval")
scripts = {entry.name: entry.value for entry in found.entry_points if entry.group == "console_scripts"}
locate = lambda name: getattr(importlib.util.find_spec(name), "origin", None)
print(json.dumps({
    "version": found.version,
    "scripts": scripts,
    "origins": {name: locate(name) for name in sys.argv[1:]},
    "torch": importlib.util.find_spec("torch") is not None,
    "strangers": [name for name in ("datasets", "metrics", "baselines", "leaderboards", "bench") if locate(name)],
}))
"""

# Run by the Python of the tests, which has the dependencies, with the installed wheel first on its path.
IMPORT = """
import importlib, json, sys
print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))
"""


def run(*command: object, cwd: Path, path: str | None = None) -> str:
    """Run a command away from the checkout and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def wanted_files() -> set[str]:
    """What the wheel must hold of the library, as paths within it."""
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    boards = ROOT / "leaderboards"
    data = [*(ROOT / "bench" / "suites").glob("*.toml"), *(ROOT / folder / "py.typed" for folder in FOLDERS)]
    data += [boards / "orderings.toml", boards / "published.csv", *(boards / "templates").iterdir()]
    return {f"interpeval/{path.relative_to(ROOT).as_posix()}" for path in (*sources, *data)}


def module_names() -> list[str]:
    """Full names of all modules of the library."""
    return [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in sorted(wanted_files())
        if name.endswith(".py")
    ]


@pytest.fixture(scope="module")
def project():
    """The table `pyproject.toml`."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a source distribution and of the wheel made from it, so that a gap in the former shows in both."""
    folder = tmp_path_factory.mktemp("packaging")
    listed = [*FOLDERS, "tests", "examples"]
    for name in listed:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith(".coverage"):
            shutil.copy2(path, folder / "source")
    (folder / "source" / "metrics" / "planted.txt").write_text("must not be packed", encoding="utf-8")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", "source", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    """The wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    return python


@pytest.fixture(scope="module")
def facts(installed):
    """What the environment knows of the package."""
    return json.loads(run(installed, "-c", INSPECT, *module_names(), cwd=installed.parent))


def test_every_folder_of_the_library_is_a_package(project):
    setuptools = project["tool"]["setuptools"]
    names = {f"interpeval.{folder}" for folder in FOLDERS}
    assert set(setuptools["packages"]) == names
    assert setuptools["package-dir"] == {name: name.removeprefix("interpeval.") for name in names}


def test_wheel_holds_the_library_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == wanted_files()


def test_wheel_carries_licence_and_dependencies(wheel, project):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        fields = Parser().parsestr(archive.read(metadata).decode())
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert fields["License-Expression"] == "Apache-2.0"
    base = [text for text in fields.get_all("Requires-Dist") if "extra ==" not in text]
    assert len(base) == len(project["project"]["dependencies"])


def test_source_distribution_holds_all_that_is_needed_to_build_and_test(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f"tests/{path.relative_to(ROOT / 'tests').as_posix()}" for path in (ROOT / "tests").rglob("*.py")}
    files = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "pyproject.toml",
        "Makefile",
        "constraints.txt",
    }
    assert tests | files | {"examples/my_explainer.py"} <= names
    assert {name.removeprefix("interpeval/") for name in wanted_files()} <= names
    assert not [name for name in names if "__pycache__" in name or "planted" in name]


def test_installed_package_is_found_without_its_dependencies(facts, installed, project):
    assert not facts["torch"], "the environment was to be clean"
    assert facts["version"] == project["project"]["version"]
    assert facts["scripts"] == project["project"]["scripts"]
    environment = installed.parents[1].resolve()
    assert facts["origins"].keys() == set(module_names())
    for name, origin in facts["origins"].items():
        assert origin is not None, name
        assert Path(origin).resolve().is_relative_to(environment), name


def test_nothing_is_installed_under_a_name_of_its_own(facts):
    assert facts["strangers"] == []


def test_console_script_leads_to_a_function(installed, project):
    module, _, function = project["project"]["scripts"]["interpeval"].partition(":")
    source = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    defined = {node.name for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.FunctionDef)}
    assert function in defined
    assert installed.with_name("interpeval").exists() or installed.with_name("interpeval.exe").exists()


def test_every_module_of_the_wheel_imports(installed):
    """From the wheel, not from the checkout: relative imports and data files must be right there too."""
    question = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = run(installed, "-c", question, cwd=installed.parent).strip()
    files = json.loads(run(sys.executable, "-c", IMPORT, *module_names(), cwd=installed.parent, path=packages))
    assert all(Path(file).is_relative_to(packages) for file in files)
