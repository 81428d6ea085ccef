"""The promises of SECURITY.md that no test of a single module can show; the table there names the test of each."""

import ast
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from interpeval.bench import weights
from interpeval.bench.cli import main
from interpeval.bench.disagreement import Report
from interpeval.bench.resolve import resolve_dataset, resolve_metric
from interpeval.bench.run_notes import suite_toml
from interpeval.bench.store import MetricResult, Store, Unit
from interpeval.datasets.files import BadSampleError, DatasetError, inside, open_image
from interpeval.datasets.quickdraw import QuickDraw
from interpeval.leaderboards.csv_table import write_csv
from interpeval.leaderboards.files import write_whole
from interpeval.leaderboards.names import printable
from interpeval.metrics.base import Facts, Scores
from leaderboard_cases import record

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "baselines", "metrics", "leaderboards", "bench")
TOYS = Path(__file__).parent / "toys.py"
EVIL = "x\x1b[2J\r\u202e\u200b\x07\u009b"
SUBJECT = {
    **dict.fromkeys(("dataset", "dataset_revision", "model", "model_digest", "explainer"), EVIL),
    "explainer_params": "{}",
    "seed": 0,
}


def test_every_threat_has_a_test_and_every_test_named_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 15
    for threat, *_, tests in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert named, f"no test for {threat}"
        for file, function in named:
            tree = ast.parse((ROOT / "tests" / file).read_bytes())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, function)


def source_faults(folder):
    """Calls and imports of a folder's files that the promises forbid."""
    faults = []
    network = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "urllib3"}
    runs = {"dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                faults += [f"{where} imports {name}" for name in names if name.split(".")[0] in network | runs]
                faults += [f"{where} imports {name}" for name in names if name == "urllib.request"]
            if isinstance(node, ast.Call):
                faults += [f"{where} {fault}" for fault in call_faults(node)]
    return faults


def call_faults(call):
    name = ast.unparse(call.func)
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if name in {"eval", "exec", "pickle.load", "pickle.loads", "os.system", "torch.hub.load"}:
        return [f"calls {name}"]
    if name == "np.load" and options.get("allow_pickle") != "False":
        return ["reads arrays that may hold pickles"]
    if name == "torch.load" and options.get("weights_only") not in {"True", "not trust"}:
        return ["unpickles"]
    return []


ASKED_FOR = ["ray_cluster.py imports socket"]  # `--ray ADDRESS`: whether somebody listens there


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_source_asks_no_network_and_runs_nothing_that_is_data(folder):
    faults = [re.sub(r":\d+", "", fault) for fault in source_faults(ROOT / folder)]
    assert faults == (ASKED_FOR if folder == "bench" else [])


def test_a_source_that_does_would_be_noticed(tmp_path):
    calls = (
        "import requests\neval('1')\nnp.load(f)\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nimport urllib.request"
    )
    (tmp_path / "a.py").write_text(calls)
    assert len(source_faults(tmp_path)) == 6


def test_downloads_stand_in_the_methods_that_are_called_when_asked_for_one():
    for path in (ROOT / "datasets").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef) and node.name != "fetch":
                calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
                assert not any(option.arg == "download" for call in calls for option in call.keywords), (
                    path,
                    node.name,
                )


NO_NETWORK = """
import sys
asked = []
allowed = {"socket.__new__", "socket.gethostname"}

def refuse(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")) and event not in allowed:
        asked.append(event)
        raise PermissionError(f"no network: {event}")

sys.addaudithook(refuse)
import json, shutil, socket, tempfile
from pathlib import Path
from click.testing import CliRunner
from interpeval.bench.cli import main
from interpeval.bench.resolve import resolve_dataset

toys, folder = Path(sys.argv[1]), Path(tempfile.mkdtemp())

def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    codes[" ".join(words[:1])] = done.exit_code
    assert done.exit_code in {0, 2}, (words, done.output, done.exception)
    return done.output

codes = {}
toy = ["--dataset", f"{toys}:Squares", "--model", f"{toys}:network", "--limit", 2, "--device", "cpu"]
call("list", "--json")
call("run", *toy, "--explainer", "gradient", "--out", folder / "a")
shutil.copytree(folder / "a", folder / "b")
call("train", "lenet", "--dataset", "digits", "--limit", 20, "--epochs", 1, "--out", folder / "w.safetensors")
call("status", folder / "a")
call("scores", folder / "a", "--out", folder / "scores.csv")
call("board", folder / "a", folder / "b", "--out", folder / "board")
call("compare", folder / "a", folder / "b")
call("check", folder / "a", "--against", folder / "b")
call("conform", "gradient")
assert set(codes.values()) == {0}, codes
unasked = call("run", "--dataset", f"mnist?root={folder}", "--model", "lenet", "--explainer", "gradient")
assert "is not in" in unasked, unasked
assert "needs weights" in call("run", "--model", "torchvision:resnet18", "--explainer", "gradient")
during = list(asked)
try:
    resolve_dataset(f"mnist?root={folder}", download=True).ids
except ValueError as error:
    assert "cannot download" in str(error), error
print(json.dumps([during, sorted(set(asked))]))
"""


@pytest.mark.slow
def test_nothing_asks_the_network_unless_told_to(tmp_path):
    """Python reports every use of a socket, of whatever library, and here refuses it."""
    environment = {**os.environ, "INTERPEVAL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, TOYS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    during, after = json.loads(done.stdout.splitlines()[-1])
    assert during == []
    assert after, "the download that was asked for should have been noticed, and refused"


@pytest.mark.parametrize("module", ["torch", "numpy", "click"])
def test_a_file_in_the_working_folder_is_no_module(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("open('planted', 'w')\n")
    script = (ROOT / "action.yml").read_text(encoding="utf-8")
    calls = re.findall(r'"\$PYTHON" (.*)interpeval.bench.cli', script)
    assert calls == ["-P -m "] * 2
    command = [sys.executable, "-P", "-m", "interpeval.bench.cli", "list", "metrics"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [f"{module}.py"]


def test_a_name_does_not_call_any_function_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for resolve, what in ((resolve_dataset, "a dataset"), (resolve_metric, "a metric")):
        for place in ("os:system?command=touch planted", "os:mkdir?path=planted", "subprocess:getoutput?cmd=touch x"):
            with pytest.raises(TypeError, match=f"must be {what}"):
                resolve(place)
    assert list(tmp_path.iterdir()) == []


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("file", ["cat.npy", "all.npz", "rows"])
def test_no_array_is_unpickled(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Malicious()], dtype=object)
    bitmaps = np.zeros((10, 784), dtype=np.uint8)
    np.save("cat.npy", objects if file == "cat.npy" else bitmaps)
    np.save("cat_id.npy", objects)
    np.savez("all.npz", x=bitmaps, y=np.zeros(10, dtype=np.int64), classes=objects)
    dataset = QuickDraw("all.npz" if file == "all.npz" else ".", words="cat", rows="." if file == "rows" else None)
    with pytest.raises(DatasetError, match=r"allow_pickle=False|Python objects"):
        _ = dataset.ids
    assert not Path("ran").exists()


def test_an_archive_of_arrays_does_not_unpack_to_any_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", b"")
    content = bytearray((tmp_path / "all.npz").read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = b"\xfe\xff\xff\xff"  # what the directory says that it unpacks to
    second = content[entry : content.index(b"PK\x05\x06")]
    end = content.index(b"PK\x05\x06")
    content[end + 8 : end + 12] = b"\x03\x00\x03\x00"
    content[end + 12 : end + 16] = (3 * len(second)).to_bytes(4, "little")
    content[end:end] = second * 2
    (tmp_path / "all.npz").write_bytes(content)
    with pytest.raises(DatasetError, match="must unpack to at most"):
        _ = QuickDraw(tmp_path / "all.npz", words="cat").ids


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO"])
def test_an_image_is_only_what_its_kind_may_be(tmp_path, kind):
    """Pillow would start Ghostscript to draw PostScript, whatever the file is called."""
    path = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(path, format=kind)
    with pytest.raises(BadSampleError, match="not an image"):
        open_image(path)
    Image.new("RGB", (16, 16)).save(path, format="PNG")
    assert open_image(path).size == (16, 16)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../a.png", "C:\\a.png", "out.png", "folder/a.png", "\0"])
def test_a_name_leads_to_no_place_outside_of_its_folder(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    (folder / "out.png").symlink_to(tmp_path / "a.png")
    (folder / "folder").symlink_to(tmp_path)
    with pytest.raises(DatasetError, match="must lead to a file in"):
        inside(folder, name)
    (folder / "b.png").write_bytes(b"")
    (folder / "within.png").symlink_to("b.png")
    (tmp_path / "named").symlink_to(folder)
    assert inside(tmp_path / "named", "within.png").read_bytes() == b""


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_a_file_is_private_until_it_is_whole_and_never_writable_for_all(tmp_path, monkeypatch):
    seen = []

    chmod = Path.chmod

    def watched(self, mode, **options):
        chmod(self, mode, **options)
        seen.append((self.name, rights(self), self.stat().st_size))

    monkeypatch.setattr(Path, "chmod", watched)
    for _ in range(2):
        write_whole(tmp_path / "table.csv", b"secret")
    assert rights(tmp_path / "table.csv") == 0o664
    private, finished = seen[0], seen[1]
    assert private[1:] == (0o600, 0)  # before the first byte
    assert finished[1:] == (0o664, 6)
    names = {name for name, *_ in seen}
    assert len(names) == 2  # never the same
    assert all(re.fullmatch(r"\.table\.csv\.[0-9a-f]{32}\.tmp", name) for name in names)


@pytest.mark.usefixtures("open_umask")
def test_no_command_writes_what_everybody_can_change(tmp_path):
    write_csv([record(0.5)], tmp_path / "leaderboard.csv")
    done = CliRunner().invoke(main, ["board", str(tmp_path), "--out", str(tmp_path / "board")])
    assert done.exit_code == 0, done.output
    made = [tmp_path / "board", *(tmp_path / "board").iterdir()]
    assert len(made) == 5
    assert [path.name for path in made if rights(path) & stat.S_IWOTH] == []


def test_a_cache_that_everybody_can_write_to_is_not_trusted(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    weights._check_own(folder)
    for place in (folder, tmp_path):
        before = rights(place)
        place.chmod(0o777)
        with pytest.raises(ValueError, match=f"everybody can write to `{place}`"):
            weights._check_own(folder)
        place.chmod(before)
    model = torch.nn.Linear(1, 1)
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path))
    learnt = []
    facts = {"model": "m", "dataset": "d"}
    weights._cached(model, facts, lambda: learnt.append(1))
    weights._cached(model, facts, lambda: learnt.append(1))
    assert learnt == [1]  # the second time it was read
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="everybody can write to"):
        weights._cached(model, facts, lambda: learnt.append(1))
    assert learnt == [1, 1]


def test_a_cache_that_a_group_shares_is_read(tmp_path, monkeypatch):
    """As a cluster's group does, each member of which may then exchange the weights of the others."""
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path))
    model, facts, learnt = torch.nn.Linear(1, 1), {"model": "m", "dataset": "d"}, []
    weights._cached(model, facts, lambda: learnt.append(1))
    for place in (tmp_path, tmp_path / "models"):
        place.chmod(0o2770)
    weights._cached(model, facts, lambda: learnt.append(1))
    assert learnt == [1]


def hostile_run(folder, value=1.0, version=1):
    """A folder of results in which every name would clear a terminal."""
    scores = Scores(torch.tensor([0.5, value], dtype=torch.float64), torch.tensor([0, 1], dtype=torch.uint8))
    result = MetricResult(EVIL, version, EVIL, ("items",), {EVIL: Facts(True, (0.0, 1.0), 0.5)}, {EVIL: scores}, 1.0, 2)
    about = {**SUBJECT, **dict.fromkeys(("interpeval", "torch", "captum", "device"), EVIL)}
    fault = {"kind": EVIL, "message": EVIL, "ids": [EVIL]}
    key = "0" * 20
    Store(folder).write(Unit(key, about, (EVIL, "=1+1"), torch.tensor([0, 1]), {"m": result}, faults=(fault,)))
    content = {
        "schema": 1, "suite": {"name": EVIL}, "command": EVIL, "seed": 0, "started": EVIL, "finished": EVIL,
        "versions": {EVIL: EVIL}, "rows": [{"about": SUBJECT, "units": [key], "metrics": {"m": {}}}],
        "not_applicable": [
            {"about": SUBJECT, "metric": EVIL, "version": 1, "higher_is_better": True, "reason": EVIL}
        ],
        "left_out": {EVIL: {EVIL: 1}}, "faults": [], "failures": [{**SUBJECT, "message": EVIL, "trace": EVIL}],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status", "A"], 0),
        (["scores", "A", "--out", "scores.csv"], 0),
        (["board", "A", "--out", "board"], 0),
        (["compare", "A", "B"], 0),
        (["compare", "A", "B", "--format", "markdown"], 0),
        (["compare", "A", "B", "--json"], 0),
        (["check", "C", "--against", "A"], 1),
        (["check", "C", "--against", "A", "--format", "junit", "--format", "github", "--format", "summary"], 1),
        (["check", "A", "--against", "d.csv"], 1),
        (["run", "evil.toml"], 2),
    ],
)
def test_no_name_reaches_the_terminal_as_it_is(tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    hostile_run(Path("A"))
    hostile_run(Path("B"), 0.75)
    hostile_run(Path("C"), version=2)
    write_csv([record(0.7, n=2, **{**SUBJECT, "metric": EVIL, "metric_version": 2})], "d.csv")
    evil = {"dataset": EVIL, "model": EVIL, "explainers": [EVIL]}
    Path("evil.toml").write_text(suite_toml({"name": "x", "experiments": [evil]}))
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == code
    assert {letter for letter in done.output if not letter.isprintable()} <= {"\n"}
    assert ("[2J" in done.output) == (words[0] not in {"scores", "board"})


def test_texts_of_others_are_shown_escaped():
    assert printable("a\x1b[2J\u202e\u200b\x00\r\n\u2028\ud800é→") == (
        "a\\x1b[2J\\u202e\\u200b\\x00\\r\\n\\u2028\\ud800é→"
    )


def test_no_table_of_samples_holds_a_formula(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile_run(Path("A"))
    assert CliRunner().invoke(main, ["scores", "A", "--out", "scores.csv"]).exit_code == 0
    assert "'=1+1" in set(pd.read_csv("scores.csv").sample_id)
    Report(pd.DataFrame({"sample_id": ["@x"], "depth": [-1.5]}), {}, 1, 0).save("report")
    assert Path("report/disagreement.csv").read_text() == "sample_id,depth\n'@x,-1.5\n"
