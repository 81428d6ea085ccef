"""The catalog finds everything by its place without importing it, and says of it what the classes say."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import interpeval.bench
from interpeval.baselines.base import Explainer
from interpeval.bench import catalog
from interpeval.bench.catalog import KINDS, Entry, UnknownNameError, check_name, entries, load, package_digest, parse
from interpeval.datasets.base import Dataset
from interpeval.metrics.base import Metric

LIBRARY = Path(interpeval.bench.__file__).parent.parent
FOLDERS = {"explainers": "baselines", "models": "baselines", "datasets": "datasets", "metrics": "metrics"}
EVERYTHING = [entry for kind in KINDS for entry in entries(kind).values()]
FACTS = ("name", "version", "higher_is_better", "range", "chance", "needs", "reference", "control", "has_masks",
         "needs_gradient")  # fmt: skip


def named_classes(folder):
    """Every concrete class of a folder that has a name, found by importing all of its files."""
    for path in sorted((LIBRARY / folder).glob("*.py")):
        module = importlib.import_module(f"interpeval.{folder}.{path.stem}")
        for thing in vars(module).values():
            own = inspect.isclass(thing) and thing.__module__ == module.__name__ and not inspect.isabstract(thing)
            if own and isinstance(getattr(thing, "name", None), str):
                yield thing


@pytest.mark.parametrize("folder", ["baselines", "datasets", "metrics"])
def test_every_class_with_a_name_is_found(folder):
    found = {entry.load() for entry in EVERYTHING if entry.module.startswith(f"{folder}.")}
    assert found == set(named_classes(folder))
    assert found


@pytest.mark.parametrize("entry", EVERYTHING, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_an_entry_says_what_its_class_says(entry):
    thing = entry.load()
    assert thing.__name__ == entry.attribute
    for fact in FACTS:
        if hasattr(thing, fact) and not isinstance(inspect.getattr_static(thing, fact), property):
            assert entry.facts[fact] == getattr(thing, fact), fact
            assert type(entry.facts[fact]) is type(getattr(thing, fact)), fact
        else:
            assert fact not in entry.facts


@pytest.mark.parametrize("entry", EVERYTHING, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_an_entry_is_of_its_kind(entry):
    thing = entry.load()
    if entry.kind == "models":
        assert issubclass(thing, nn.Module)
        assert callable(thing.recipe)
    elif entry.kind == "metrics":
        assert issubclass(thing, Metric)
    elif entry.kind == "datasets":
        assert all(hasattr(thing, member) for member in vars(Dataset) if not member.startswith("_"))
    else:
        assert isinstance(thing(), Explainer)
        assert not issubclass(thing, nn.Module)


@pytest.mark.parametrize("entry", EVERYTHING, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_an_entry_has_a_summary_of_one_sentence(entry):
    assert entry.summary == " ".join(entry.summary.split())
    assert entry.summary.endswith(".")
    assert len(entry.summary) > 20


@pytest.mark.parametrize("entry", [*entries("metrics").values(), *entries("explainers").values()], ids=lambda e: e.name)
def test_metrics_and_explainers_name_where_they_come_from(entry):
    assert bool(entry.facts["reference"]) or entry.name in {"accuracy", "cost"}


@pytest.mark.parametrize("entry", entries("metrics").values(), ids=lambda entry: entry.name)
def test_facts_of_a_metric_agree_with_one_another(entry):
    low, high = entry.facts["range"]
    assert low < high
    assert entry.facts["chance"] is None or low <= entry.facts["chance"] <= high
    assert entry.facts["needs"] <= {
        "explainer",
        "masks",
        "distractors",
        "backgrounds",
        "label",
        "interpreter",
        "sum",
        "classes",
        "gradient",
        "parameters",
    }


def test_names_are_in_alphabetical_order_and_each_is_that_of_its_entry():
    for kind in KINDS:
        assert list(entries(kind)) == sorted(entries(kind))
        assert all(name == entry.name and entry.kind == kind for name, entry in entries(kind).items())


def test_the_contract_of_part_one_is_there():
    assert {"random", "uniform", "center", "edges", "truth", "own", "gradient", "input_x_gradient", "guided_backprop",
            "deconvnet", "integrated_gradients", "gradcam"} <= entries("explainers").keys()  # fmt: skip
    assert {"pointing_game", "stochastic_pointing_game", "content_heatmap", "self_consistency", "mask_k_pixels",
            "negative_quadrants_heatmap", "accuracy", "cost"} <= entries("metrics").keys()  # fmt: skip
    assert {"digits", "digit_scenes"} <= entries("datasets").keys()
    assert {"site", "cifar_cnn"} <= entries("models").keys()


def test_the_comparators_of_self_explaining_models_are_there():
    assert {"lenet", "site_backbone", "resnet18_gap", "resnet18_gmp", "decision_tree", "random_forest",
            "logistic_regression", "xgboost"} <= entries("models").keys()  # fmt: skip


def test_listing_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from interpeval.bench.catalog import KINDS, check_name, entries, parse\n"
        "from interpeval.bench.suite import load_suite\n"
        "names = [name for kind in KINDS for name in entries(kind)]\n"
        "check_name('explainers', parse('gradient?reduction=sum'))\n"
        "load_suite('quickstart')\n"
        "print(len(names), *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert int(count) == len(EVERYTHING)
    heavy = {"torch", "torchvision", "captum", "numpy", "pandas"}
    assert {module.partition(".")[0] for module in modules} & heavy == set()
    assert not any(module.startswith(("interpeval.baselines.", "interpeval.metrics.")) for module in modules)


# ---------------------------------------------------------------------- reading source


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of one's own, and a function that writes a file of it and lists what is found."""
    for folder in {*FOLDERS.values()}:
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(catalog, "_LIBRARY", tmp_path)

    def listed(kind, **files):
        for stem, text in files.items():
            (tmp_path / FOLDERS[kind] / f"{stem}.py").write_text(text, encoding="utf-8")
        return entries.__wrapped__(kind)

    return listed


def test_facts_are_read_as_python_would(library):
    text = '''
import does_not_exist
class One(Metric):
    """Do one
    thing.

    More."""
    name: ClassVar[str] = "one"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    needs = frozenset({"a", "b"})
    nothing = frozenset()
    nested = ((1, -2.5), ("x", None, True))
    computed = 1 + len("x")
    untyped: int
    a, b = 1, 2
class Nameless:
    """Not an entry."""
    name: ClassVar[str]
class Computed:
    name = "x" + str(1)
def function():
    class Inner:
        name = "inner"
'''
    (entry,) = library("metrics", one=text).values()
    inf = float("inf")
    assert entry == Entry(
        "metrics", "one", "metrics.one", "One", "Do one thing.",
        {"name": "one", "range": (-inf, inf), "needs": frozenset({"a", "b"}), "nothing": frozenset(),
         "nested": ((1, -2.5), ("x", None, True))},
    )  # fmt: skip


def test_models_and_explainers_share_a_folder(library):
    text = "class A(nn.Module):\n  name='a'\nclass B(Module, Other):\n  name='b'\nclass C:\n  name='c'"
    assert list(library("models", file=text)) == ["a", "b"]
    assert list(library("explainers", file=text)) == ["c"]


def test_two_entries_of_one_name_are_refused(library):
    with pytest.raises(ValueError, match=r"two metrics are named `x`: metrics\.first and metrics\.second"):
        library("metrics", first="class A:\n  name='x'", second="class B:\n  name='x'")


def test_a_model_and_an_explainer_may_share_a_name(library):
    text = "class A(nn.Module):\n  name='x'\nclass B:\n  name='x'"
    assert library("models", file=text)["x"].attribute == "A"
    assert library("explainers", file=text)["x"].attribute == "B"


def test_a_file_of_the_library_that_is_not_python_is_named(library):
    with pytest.raises(SyntaxError) as caught:
        library("metrics", broken="class :")
    assert caught.value.filename.endswith("broken.py")


def test_the_digest_of_the_library_changes_with_any_file_of_it(tmp_path, monkeypatch):
    for folder in ("baselines", "datasets", "metrics", "bench", "leaderboards"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    monkeypatch.setattr(catalog, "_LIBRARY", tmp_path)
    digests = [package_digest.__wrapped__()]
    assert package_digest.__wrapped__() == digests[0]
    for folder in ("baselines", "datasets", "metrics", "bench", "leaderboards"):
        (tmp_path / folder / "a.py").write_text("2")
        digests.append(package_digest.__wrapped__())
    (tmp_path / "metrics" / "a.py").rename(tmp_path / "metrics" / "b.py")
    digests.append(package_digest.__wrapped__())
    assert len(set(digests)) == len(digests)


# ---------------------------------------------------------------------- names with arguments


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("gradient", "gradient", {}),
        ("gradient?", "gradient", {}),
        ("ig?n_steps=20", "ig", {"n_steps": 20}),
        ("a?x=0.5&y=-1&z=1e-3", "a", {"x": 0.5, "y": -1, "z": 0.001}),
        ("a?x=True&y=false&z=none&w=None", "a", {"x": True, "y": False, "z": None, "w": None}),
        ("a?layer=layer4.1", "a", {"layer": "layer4.1"}),
        ("a?s='20'&t=\"x\"", "a", {"s": "20", "t": "x"}),
        ("a?t=(1,2)&l=[1]&d={'k':1}", "a", {"t": (1, 2), "l": [1], "d": {"k": 1}}),
        ("a?root=C:\\data\\digits", "a", {"root": "C:\\data\\digits"}),
        ("a?root=/data/x%26y=z?", "a", {"root": "/data/x&y=z?"}),
        ("a?x=", "a", {"x": ""}),
        ("p.q:R?x=1", "p.q:R", {"x": 1}),
    ],
)
def test_arguments_are_read_as_python_values_or_text(text, name, params):
    spec = parse(text)
    assert (spec.text, spec.name, dict(spec.params)) == (text, name, params)
    assert [type(value) for value in spec.params.values()] == [type(value) for value in params.values()]


@pytest.mark.parametrize(
    "value",
    ["__import__('os').system('true')", "{[]:1}", "{{}}", "(" * 3000, "1if 2else 3", "9" * 5000, "\x00", "0777", "1+x"],
)
def test_what_is_no_literal_is_text_whatever_it_holds(value):
    assert parse(f"a?x={value}").params == {"x": value}


def test_python_does_not_warn_of_a_value():
    assert parse("a?x='\\d'").params == {"x": "\\d"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a?x", "must be `name.argument=value&…`, found `x`"),
        ("a?=1", "found `=1`"),
        ("a?x y=1", "found `x y=1`"),
        ("a?x=1&x=2", "argument `x` is given twice in `a.x=1&x=2`"),
        ("?x=1", "has no name before"),
        ("", "has no name before"),
        (" ", "has no name before"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_any_text_is_either_read_or_refused(text):
    try:
        spec = parse(text)
    except ValueError:
        return
    assert text.startswith(spec.name)
    if spec.name in entries("explainers"):  # hypothesis tries words that it finds in the source
        return
    with pytest.raises(UnknownNameError):
        load("explainers", spec)


# ---------------------------------------------------------------------- finding things


@pytest.mark.parametrize("entry", EVERYTHING, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_an_entry_is_loaded_by_name_and_by_place(entry):
    thing = load(entry.kind, parse(entry.name))
    place = f"interpeval.{entry.module}"
    assert load(entry.kind, parse(f"{place}:{entry.attribute}")) is thing
    assert load(entry.kind, parse(f"{place}.{entry.attribute}")) is thing


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        ("explainers", "gradeint", "gradient"),
        ("explainers", "integrated-gradients", "integrated_gradients"),
        ("explainers", "Random", "random"),
        ("metrics", "pointing_gam", "pointing_game"),
        ("datasets", "digit", "digits"),
        ("models", "sit", "site"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(kind, name, near):
    with pytest.raises(UnknownNameError, match=f"^unknown {kind[:-1]} `{name}`: did you mean .*`{near}`") as caught:
        load(kind, parse(name))
    with pytest.raises(UnknownNameError) as checked:
        check_name(kind, parse(name))
    assert str(caught.value) == str(checked.value)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(UnknownNameError, match=r"known are: .*digit_scenes, digits, "):
        load("datasets", parse("zzzz"))


def test_a_name_is_looked_for_in_its_own_kind_only():
    with pytest.raises(UnknownNameError):
        load("metrics", parse("gradient"))
    check_name("explainers", parse("gradient"))


@pytest.mark.parametrize(
    "name",
    [":x", "a:", ".x:y", "..:x", "a..b:c", ".", "..", "../..", "gradient.", ".gradient", "os:nothing", "a b:c",
     "a\0b:c", "a\0b.py:c", "/" + "x" * 5000 + ".py:c",
     "x" * 5000, "torchvision:resnet18", "nan", "~", "/", "\\", "ä.ö:ü",
     "not_installed.module:Name", "not_installed.Name"],
)  # fmt: skip
def test_a_place_where_nothing_is_is_an_unknown_name(name):
    with pytest.raises(UnknownNameError):
        load("explainers", parse(name))


def test_a_file_without_a_name_in_it_is_answered_with_how_to_write_it(tmp_path):
    with pytest.raises(UnknownNameError, match=r"must say which metric of the file is meant: `.*mine\.py:Name`"):
        load("metrics", parse(f"{tmp_path / 'mine.py'}"))


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match=r"file `.*none\.py` does not exist"):
        load("metrics", parse(f"{tmp_path / 'none.py'}:X"))
    with pytest.raises(UnknownNameError, match="does not exist"):
        load("metrics", parse(f"{tmp_path}/:X"))


def test_a_file_that_is_not_python_by_its_name_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("X = 1")
    with pytest.raises(UnknownNameError, match=r"its name must end in \.py"):
        load("metrics", parse(f"{tmp_path / 'mine.txt'}:X"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class :", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import not_installed", "cannot be imported: ModuleNotFoundError: No module named 'not_installed'"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("\0", "cannot be imported"),
        ("Thing = 1", "there is no `Think`; there are: Thing"),
        ("", "there is no `Think`; there are: no names"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_leaves_nothing_behind(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(UnknownNameError, match=message):
        load("metrics", parse(f"{tmp_path / 'mine.py'}:Think"))
    assert sys.path == path
    new = set(sys.modules) - modules
    assert not new or message.startswith("there is no")


def test_ctrl_c_while_a_file_is_imported_is_not_swallowed(tmp_path):
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("metrics", parse(f"{tmp_path / 'mine.py'}:X"))


@pytest.mark.parametrize("text", ["class :", "raise RuntimeError('no')", "import sys; sys.exit()"])
def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch, text):
    (tmp_path / "broken_module_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("broken_module_of_mine:X", "broken_module_of_mine.X"):
        with pytest.raises(UnknownNameError, match=r"import `broken_module_of_mine` of .*: (Syn|Run|SystemExit)"):
            load("metrics", parse(name))


def test_a_file_finds_its_neighbours_and_is_executed_once(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("value = 7")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom neighbour_of_mine import value\n"
        "@dataclass(frozen=True)\nclass Mine:\n    field: int = value\n"
    )
    path = list(sys.path)
    first = load("explainers", parse(f"{tmp_path}/mine.py:Mine"))
    assert first().field == 7
    assert load("explainers", parse(f"{tmp_path}/../{tmp_path.name}/mine.py:Mine")) is first
    assert sys.path == path


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text(f"X = {number}")
    assert [load("metrics", parse(f"{tmp_path}/{number}/mine.py:X")) for number in (1, 2)] == [1, 2]


def test_a_file_may_change_the_search_path(tmp_path):
    more = str(tmp_path / "more")
    (tmp_path / "mine.py").write_text(f"import sys\nsys.path.pop(0)\nsys.path.append({more!r})\nX = 1")
    before = list(sys.path)
    try:
        assert load("metrics", parse(f"{tmp_path}/mine.py:X")) == 1
        assert sys.path == [*before, more]
    finally:
        sys.path[:] = before


def test_every_fact_that_is_listed_is_a_literal():
    """What `list` shows must not need an import: no class-level fact of the contract may be computed.

    Nor may it be inherited from a class that several metrics share, which is known by its abstract methods.
    """
    contract = {"name", "version", "higher_is_better", "range", "chance", "needs", "reference"}
    for path in sorted((LIBRARY / "metrics").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or "abstractmethod" in ast.dump(node):
                continue
            if any(getattr(base, "id", "").endswith("Metric") for base in node.bases):
                assert contract <= catalog._facts(node).keys(), path


def test_environment_variables_stand_for_places(monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "/data/a&b=c")
    spec = parse("${SOME_FOLDER}/models.py:make?root=${SOME_FOLDER}/x&size=3")
    assert (spec.name, spec.params) == ("/data/a&b=c/models.py:make", {"root": "/data/a&b=c/x", "size": 3})
    assert spec.text.startswith("${SOME_FOLDER}")  # what is recorded names nobody's folders
    monkeypatch.delenv("SOME_FOLDER")
    with pytest.raises(ValueError, match=r"environment variable `SOME_FOLDER`, which `.*` names, must be set"):
        parse("coco?images=${SOME_FOLDER}/x")
