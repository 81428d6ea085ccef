"""The rules that hold the folders together, read from the source; each has a case in which its checker objects."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "baselines", "metrics", "leaderboards", "bench")  # each imports only from those before it

# Paths of somebody's machine, and addresses of package registries. Put together here, so that this file holds none.
MACHINE = re.compile(
    "|".join(
        (
            r"(?<![\w.])/" + r"(?:home|root|Users|work)/(?!someone\b)[\w.]",  # tests may speak of someone
            r"[A-Za-z]:\\" + r"Users\\",
            r"(?:index|extra-index)-" + r"url",
            r"pypi\.(?:org|python)|files\.pythonhosted|registry\.npmjs|/simple/\w",
        )
    )
)


def import_faults(root: Path) -> list[str]:
    """Imports against the direction, absolute ones within the library, and of packages that it must do without."""
    faults = []
    for place, folder in enumerate(FOLDERS):
        for path in sorted((root / folder).rglob("*.py")):
            depth = len(path.relative_to(root).parts) - 1  # dots that lead to the folder itself, one more to the root
            for node in ast.walk(ast.parse(path.read_bytes())):
                for level, module in imported(node):
                    where = f"{path.relative_to(root)}:{node.lineno}"
                    top = module.split(".")[0]
                    if level == 0 and top in {"interpeval", *FOLDERS}:
                        faults.append(f"{where} imports `{module}` absolutely")
                    elif level == 0 and top == "quantus":
                        faults.append(f"{where} imports quantus, which is for tests only")
                    elif level > depth and top not in FOLDERS[: place + 1]:
                        faults.append(f"{where} imports `{module}` from `{folder}`")
    return faults


def imported(node: ast.AST) -> list[tuple[int, str]]:
    """Level and name of what an import statement names."""
    if isinstance(node, ast.Import):
        return [(0, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # `from .. import metrics` names the folder after the `import`.
        return [(node.level, node.module)] if node.module else [(node.level, alias.name) for alias in node.names]
    return []


def name_faults(root: Path) -> list[str]:
    """Files that must not exist: `utils` under any of its names, and `datasets/__init__.py`."""
    names = {"util", "utils", "helper", "helpers", "common", "misc"}
    faults = [
        f"{path.relative_to(root)}: a helper lives beside its leftmost user"
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.stem.strip("_") in names
    ]
    if (root / "datasets" / "__init__.py").exists():
        faults.append("datasets/__init__.py would hide the package `datasets` from whoever works in a checkout")
    return faults


def machine_faults(root: Path, files: list[str]) -> list[str]:
    """Lines of text files that name a machine's folder or a package registry."""
    faults = []
    for name in files:
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        faults += [f"{name}:{i}: {line}" for i, line in enumerate(text.splitlines(), 1) if MACHINE.search(line)]
    return faults


def own_files() -> list[str]:
    """What git tracks or would track; without git, everything but hidden and built folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [name for name in listed.split("\0") if (ROOT / name).is_file()]
    except (FileNotFoundError, subprocess.CalledProcessError):
        skipped = {"build", "dist", "results", "htmlcov", "__pycache__"}
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [
            str(path)
            for path in paths
            if not skipped & set(path.parts)
            and not any(p.startswith(".") or p.endswith(".egg-info") for p in path.parts)
        ]


@pytest.fixture
def planted(tmp_path):
    """Write a file into an otherwise empty library and return its root."""

    def plant(name: str, source: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        return tmp_path

    return plant


def test_imports_point_one_way_and_are_relative():
    assert sum(1 for folder in FOLDERS for _ in (ROOT / folder).rglob("*.py")) > len(FOLDERS)
    assert import_faults(ROOT) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("metrics/a.py", "from ..bench.store import Store"),
        ("metrics/a.py", "from .. import leaderboards"),
        ("metrics/a.py", "def f():\n    from ..bench import store"),
        ("metrics/deeper/a.py", "from ...bench import store"),
        ("datasets/a.py", "from ..baselines.base import Explainer"),
        ("baselines/a.py", "from interpeval.datasets.base import Batch"),
        ("baselines/a.py", "import interpeval.datasets.base"),
        ("bench/a.py", "from metrics.base import Metric"),
        ("bench/a.py", "from ..tests import conftest"),
        ("metrics/a.py", "import quantus"),
        ("metrics/a.py", "def f():\n    from quantus.metrics import PointingGame"),
    ],
)
def test_a_wrong_import_is_noticed(planted, name, source):
    assert len(import_faults(planted(name, source))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bench/a.py", "from ..datasets.base import Batch\nfrom . import store\nfrom .store import Store\nimport json"),
        ("metrics/deeper/a.py", "from ..base import Metric\nfrom ...datasets import philox"),
    ],
)
def test_a_right_import_is_not_objected_to(planted, name, source):
    assert import_faults(planted(name, source)) == []


def test_no_file_has_a_forbidden_name():
    assert name_faults(ROOT) == []


@pytest.mark.parametrize(
    "name", ["metrics/utils.py", "bench/_helpers.py", "baselines/utils/a.py", "datasets/__init__.py"]
)
def test_a_forbidden_name_is_noticed(planted, name):
    assert len(name_faults(planted(name))) == 1


def test_no_file_names_a_machine_or_a_registry():
    files = own_files()
    assert {"pyproject.toml", "Makefile", "tests/test_architecture.py"} <= set(files)
    assert machine_faults(ROOT, files) == []


@pytest.mark.parametrize(
    "line",
    [
        "data = '/" + "home/somebody/data'",
        "cache: /" + "root/.cache/torch",
        "see C:\\" + "Users\\somebody",
        "pip install --index-" + "url x",
        "https://pypi" + ".org/project/torch",
        "http://mirror.example/" + "simple/torch",
    ],
)
def test_a_machine_path_or_registry_is_noticed(planted, line):
    assert len(machine_faults(planted("a.txt", f"first\n{line}\n"), ["a.txt"])) == 1


def test_torch_2_13_is_excluded():
    """Its CPU build beside the registry's torchvision does not import."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requirements = [Requirement(text) for text in tomllib.load(file)["project"]["dependencies"]]
    (torch,) = [requirement.specifier for requirement in requirements if requirement.name == "torch"]
    accepted = [
        v for v in ("2.8.0", "2.9.0", "2.12.1", "2.13.0", "2.13.0+cpu", "2.13.1", "2.14.0", "2.15.0") if v in torch
    ]
    assert accepted == ["2.9.0", "2.12.1", "2.14.0", "2.15.0"]
