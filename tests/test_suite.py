"""Suites are checked whole: every mistake is named with its place before anything starts."""

import pytest

from interpeval.bench.catalog import check_name, parse
from interpeval.bench.resolve import split_model
from interpeval.bench.suite import Experiment, Suite, SuiteError, load_suite, suites

GOOD = """
name = "mine"
seed = 3
[[experiments]]
dataset = "digits"
model = "site@weights.safetensors"
explainers = ["own", "integrated_gradients?n_steps=5"]
metrics = ["accuracy"]
limit = 10
[[experiments]]
dataset = "digit_scenes"
model = "cifar_cnn"
explainers = ["gradient"]
"""


@pytest.fixture
def read(tmp_path):
    """Write text to a file and read it as a suite."""

    def read(text):
        path = tmp_path / "suite.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_suite(str(path))

    return read


def refusal(read, text):
    with pytest.raises(SuiteError) as caught:
        read(text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("suite file `") and "suite.toml`" in line for line in lines)
    return [line.partition("suite.toml`")[2].lstrip(": ") for line in lines]


def test_a_suite_is_read_as_written(read):
    assert read(GOOD) == Suite(
        name="mine",
        description="",
        seed=3,
        experiments=(
            Experiment(
                dataset="digits",
                model="site@weights.safetensors",
                explainers=("own", "integrated_gradients?n_steps=5"),
                metrics=("accuracy",),
                limit=10,
            ),
            Experiment(dataset="digit_scenes", model="cifar_cnn", explainers=("gradient",)),
        ),
    )


def test_a_suite_survives_being_written_down(read):
    suite = read(GOOD)
    assert Suite.model_validate(suite.model_dump()) == suite


@pytest.mark.parametrize("name", suites())
def test_suites_of_the_package_name_what_there_is(name, monkeypatch):
    for folder in ("INTERPEVAL_DATA", "INTERPEVAL_MODELS"):
        monkeypatch.setenv(folder, "anywhere")
    suite = load_suite(name)
    assert suite.name == name
    for experiment in suite.experiments:
        check_name("datasets", parse(experiment.dataset))
        check_name("models", parse(split_model(experiment.model)[0]))
        for explainer in experiment.explainers:
            check_name("explainers", parse(explainer))
        for metric in experiment.metrics or ():
            check_name("metrics", parse(metric))


def test_the_quickstart_is_there():
    assert "quickstart" in suites()


def replaced(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (replaced("seed", "sead"), ["`sead`: unknown key, did you mean `seed`?"]),
        (replaced("limit", "limt"), ["`experiments[0].limt`: unknown key, did you mean `limit`?"]),
        (replaced("explainers", "explainer"), [
            "`experiments[0].explainers`: Field required",
            "`experiments[0].explainer`: unknown key, did you mean `explainers`?",
        ]),
        (replaced("seed = 3", "seed = 3\nzzz = 1"), [
            "`zzz`: unknown key; known are name, description, seed, experiments"
        ]),
        (replaced("seed = 3", 'seed = 3\ndataset = "x"'), [
            "`dataset`: unknown key; known are name, description, seed, experiments"
        ]),
        (replaced("limit = 10", "seed = 10"), [
            "`experiments[0].seed`: unknown key; known are dataset, model, explainers, metrics, limit"
        ]),
        (replaced("seed = 3", "seed = -1"), ["`seed`: Input should be greater than or equal to 0, was -1"]),
        (replaced("seed = 3", "seed = 3.0"), ["`seed`: Input should be a valid integer, was 3.0"]),
        (replaced("seed = 3", "seed = nan"), ["`seed`: Input should be a valid integer, was nan"]),
        (replaced("seed = 3", "seed = true"), ["`seed`: Input should be a valid integer, was True"]),
        (replaced("seed = 3", 'seed = "3"'), ["`seed`: Input should be a valid integer, was '3'"]),
        (replaced("limit = 10", "limit = 0"), [
            "`experiments[0].limit`: Input should be greater than or equal to 1, was 0"
        ]),
        (replaced("limit = 10", "limit = inf"), ["`experiments[0].limit`: Input should be a valid integer, was inf"]),
        (replaced('["gradient"]', '["gradient", 3]'), [
            "`experiments[1].explainers[1]`: Input should be a valid string, was 3"
        ]),
        (replaced('["gradient"]', '"gradient"'), [
            "`experiments[1].explainers`: Input should be a valid tuple, was 'gradient'"
        ]),
        (replaced('["gradient"]', "[]"), [
            "`experiments[1].explainers`: Tuple should have at least 1 item after validation, not 0, was []"
        ]),
        (replaced('["accuracy"]', "[]"), [
            "`experiments[0].metrics`: Tuple should have at least 1 item after validation, not 0, was []"
        ]),
        (replaced('["accuracy"]', '[""]'), [
            "`experiments[0].metrics[0]`: String should have at least 1 character, was ''"
        ]),
        (replaced('dataset = "digits"', 'dataset = ["digits"]'), [
            "`experiments[0].dataset`: Input should be a valid string, was ['digits']"
        ]),
        (replaced('dataset = "digits"', ""), ["`experiments[0].dataset`: Field required"]),
        (replaced('"mine"', '"../mine"'), [
            "`name`: String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$', was '../mine'"
        ]),
        ('name = "mine"', ["`experiments`: Field required"]),
        ('name = "mine"\nexperiments = []', [
            "`experiments`: Tuple should have at least 1 item after validation, not 0, was []"
        ]),
        ("", ["`name`: Field required", "`experiments`: Field required"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(read, text, expected):
    assert refusal(read, text) == expected


@pytest.mark.parametrize("name", ["../up", "/root", "a/b", "..", ".hidden", "-x", "a\\b", "a b", "", "x" * 65, "a\n"])
def test_a_name_can_be_that_of_a_folder(read, name):
    with pytest.raises(SuiteError, match="`name`"):
        read(replaced('"mine"', repr(name).replace("'", '"')))


def test_all_mistakes_are_named_at_once(read):
    lines = refusal(read, 'seed = "x"\nother = 1\n[[experiments]]\nlimit = 0')
    places = [line.partition("`:")[0].lstrip("`") for line in lines]
    parts = ("dataset", "model", "explainers", "limit")
    assert places == ["name", "seed", *(f"experiments[0].{part}" for part in parts), "other"]


@pytest.mark.parametrize("text", ["name = ", "[[experiments]", "name = 'a'\nname = 'b'", b"\xff\xfe", "{}"])
def test_what_is_not_toml_is_named(read, text):
    (line,) = refusal(read, text)
    assert line.startswith("is not TOML: ")


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"suite file `.*none\.toml` does not exist"):
        load_suite(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SuiteError, match="does not exist"):
        load_suite(str(tmp_path / "folder.toml"))


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(SuiteError, match=r"unknown suite `quickstar`: did you mean `quickstart`\? .*ending in \.toml"):
        load_suite("quickstar")
    with pytest.raises(SuiteError, match=r"unknown suite `zzz`: known are: .*quickstart"):
        load_suite("zzz")


def test_a_suite_cannot_be_changed(read):
    with pytest.raises(ValueError, match="frozen"):
        read(GOOD).seed = 4
