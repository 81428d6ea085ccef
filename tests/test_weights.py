"""Weights on disk, and the cache of trained models."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from interpeval.bench.weights import _with_siblings, cache_folder, digest, facts_of, header_of, load, save, trained
from interpeval.datasets.base import ArrayDataset, Arrays, Normalization
from trained_toys import Dropped


def network(seed: int = 0) -> nn.Sequential:
    """With parameters, buffers and a whole-number buffer of no dimension."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_equal_weights_have_equal_digests_whatever_their_memory_looks_like() -> None:
    model = network()
    first = digest(model)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert digest(network()) == first
    assert digest(model.to(memory_format=torch.channels_last)) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model[3].bias.data[0].copy_(torch.nextafter(model[3].bias.data[0], torch.tensor(9.0))),
        lambda model: model[1].running_mean.add_(1),
        lambda model: model[1].num_batches_tracked.add_(1),
        lambda model: model.double(),
        lambda model: setattr(model[3], "weight", nn.Parameter(model[3].weight.data.view(3, 8))),
        lambda model: model.add_module("4", model[3]),
    ],
    ids=["last bit", "buffer", "counter", "type", "shape", "name"],
)
def test_any_change_of_the_weights_changes_the_digest(change: Callable[[nn.Module], object]) -> None:
    model = network()
    before = digest(model)
    change(model)
    assert digest(model) != before


def test_what_is_saved_is_loaded_bit_for_bit_with_its_header(tmp_path: Path) -> None:
    model, other, path = network(), network(1), tmp_path / "a.safetensors"
    assert digest(model) != digest(other)
    save(model, path, {"recipe": '{"epochs": 3}'})
    assert load(other, path) is other
    assert digest(other) == digest(model)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"recipe": '{"epochs": 3}', "digest": digest(model)}
    assert list(tmp_path.iterdir()) == [path]


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    def tied(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
        return model

    with torch.random.fork_rng(devices=[]):
        model, other = tied(0), tied(1)
    save(model, tmp_path / "a.safetensors", {})
    assert digest(load(other, tmp_path / "a.safetensors")) == digest(model)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save(network(), path, {})
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(network(1), path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
    ids=["plain", "state_dict", "module prefix", "old batch norm"],
)
def test_files_of_torch_save_are_loaded(tmp_path: Path, suffix: str, wrap: Callable[[Any], object]) -> None:
    model, path = network(), tmp_path / f"a{suffix}"
    torch.save(wrap(model.state_dict()), path)
    assert digest(load(network(1), path)) == digest(model)


def test_a_model_whose_own_names_begin_with_module_keeps_them(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.module = network(seed)

    torch.save(Wrapped(0).state_dict(), tmp_path / "a.pt")
    assert digest(load(Wrapped(1), tmp_path / "a.pt")) == digest(Wrapped(0))


def test_half_precision_becomes_the_precision_of_the_model(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "a.pth"
    torch.save(network(1).half().state_dict(), path)
    load(model, path)
    assert model[3].weight.dtype == torch.float32
    assert torch.equal(model[3].weight, network(1)[3].weight.half().float())


def test_weights_that_do_not_fit_are_all_named_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "a.pt"
    state = weights_of(network(1))
    state["extra"] = state.pop("0.bias")
    state["3.weight"] = torch.zeros(2, 5)
    torch.save(state, path)
    expected = r"missing: 0\.bias; unexpected: extra; of another shape: 3\.weight \(2, 5\) instead of \(2, 12\)"
    with pytest.raises(ValueError, match=expected):
        load(model, path)
    assert digest(model) == digest(network())


class Malicious:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "a.pt")
    Path("b.pt").write_bytes(pickle.dumps(Malicious()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=rf"`{name}` holds more than tensors"):
            load(network(), Path(name))
    assert not Path("ran").exists()


def test_the_refusal_names_what_the_file_asks_for_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "a.pt")
    with pytest.raises(ValueError, match=r"asks for `getattr`.*save `model.state_dict\(\)` alone.*`--trust`"):
        load(network(), Path("a.pt"))


def test_a_trusted_pickle_runs_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**network().state_dict(), "extra": Malicious()}, "a.pt")
    with pytest.raises(ValueError, match="must hold a state dict"):  # what the code leaves behind is no tensor
        load(network(), Path("a.pt"), trust=True)
    assert Path("ran").exists()


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"state_dict": model.state_dict(), "by": Path()}])
def test_a_network_that_was_pickled_whole_is_read_if_trusted(tmp_path: Path, wrap: Callable[[Any], object]) -> None:
    path = tmp_path / "a.pth"
    torch.save(wrap(network()), path)
    with pytest.raises(ValueError, match="holds more than tensors"):
        load(network(1), path)
    assert digest(load(network(1), path, trust=True)) == digest(network())


def test_a_trusted_file_that_needs_code_which_is_not_here_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"cno_such_module\nThing\n.")
    with pytest.raises(ValueError, match="needs code that is not here: No module named 'no_such_module'"):
        load(network(), path, trust=True)


class Growing(nn.Module):
    """Keeps as many rows as it was given."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(2.0 * rows).view(rows, 2))

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        self.rows = torch.zeros_like(state["rows"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_model_adapts_to_the_shapes_of_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(Growing(3), path, {}) if suffix == ".safetensors" else torch.save(Growing(3).state_dict(), path)
    assert torch.equal(load(Growing(), path).rows, torch.tensor([[0.0, 1], [2, 3], [4, 5]]))


def test_a_file_that_a_model_cannot_adapt_to_does_not_fit(tmp_path: Path) -> None:
    save(network(), tmp_path / "a.safetensors", {})
    with pytest.raises(ValueError, match="does not fit the model `Growing`: 'rows'"):
        load(Growing(), tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    model, path = network(), tmp_path / f"a{suffix}"
    save(network(1), path, {}) if suffix == ".safetensors" else torch.save(network(1).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"`.*a{suffix}` (is damaged|holds more than tensors, or is damaged)"):
        load(model, path)
    assert digest(model) == digest(network())


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(network(), path, {})
    flip_last_bit(path)
    with pytest.raises(ValueError, match="do not match the digest in its header"):
        load(network(), path)


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        load(network(), tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.pt, \.pth, \.th, was `a\.npz`"):
        load(network(), tmp_path / "a.npz")
    for name in ("list.pt", "numbers.pt"):
        with pytest.raises(ValueError, match="must hold a state dict"):
            load(network(), tmp_path / name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"INTERPEVAL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"INTERPEVAL_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/interpeval"),
        ({"INTERPEVAL_CACHE": "~/own"}, "/home/someone/own"),
        ({}, "/home/someone/.cache/interpeval"),
    ],
)
def test_the_cache_folder(variables: Mapping[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("INTERPEVAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@dataclass(frozen=True)
class Noise(ArrayDataset):
    """Random images; the two splits differ."""

    name: ClassVar[str] = "noise"
    classes: ClassVar[tuple[str, ...]] = ("a", "b")
    normalization: ClassVar[Normalization] = Normalization((0.0,), (1.0,))
    image_shape: ClassVar[tuple[int, int, int]] = (1, 4, 4)
    has_masks: ClassVar[bool] = False

    seed: int = 0
    split: str = "test"

    def load(self) -> Arrays:
        generator = np.random.default_rng((self.seed, self.split == "train"))
        pixels = generator.integers(0, 256, (8, 1, 4, 4), dtype=np.uint8)
        return Arrays(tuple(f"n{i}" for i in range(8)), pixels, np.arange(8) % 2, None)


class Tiny(nn.Module):
    """One layer that counts its training steps."""

    name: ClassVar[str] = "tiny"
    rate: ClassVar[float] = 0.01
    steps: ClassVar[int] = 0

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(int(np.prod(image_shape)), n_classes)

    @classmethod
    def recipe(cls, dataset_name: str) -> Mapping[str, Any]:
        return {"epochs": 1, "batch_size": 4, "learning_rate": cls.rate}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1))

    def training_loss(self, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        type(self).steps += 1
        logits = self(images)
        return F.cross_entropy(logits, labels), logits


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path))
    monkeypatch.setattr(Tiny, "steps", 0)
    return tmp_path / "models"


def get(*, dataset: Noise | None = None, seed: int = 0) -> str:
    model = trained(Tiny, dataset or Noise(), seed=seed, progress=False)
    assert not model.training
    return digest(model)


def test_a_model_is_trained_once_and_then_read(cache: Path) -> None:
    first = get()
    assert Tiny.steps == 2
    assert get() == get(dataset=Noise(split="train")) == first
    assert Tiny.steps == 2
    (file,) = cache.iterdir()
    assert file.name.startswith("tiny-noise-")
    assert file.suffix == ".safetensors"


def test_the_cache_says_what_it_holds(cache: Path) -> None:
    get(seed=4)
    with safe_open(next(cache.iterdir()), framework="pt") as file:
        header = file.metadata()
    assert header["model"] == "tiny"
    assert header["dataset"] == "noise"
    assert header["revision"] == Noise(split="train").revision
    assert header["seed"] == "4"
    assert header["recipe"] == '{"epochs": 1, "batch_size": 4, "learning_rate": 0.01}'


@pytest.mark.parametrize("changed", ["seed", "recipe", "dataset", "source"])
def test_whatever_decides_the_weights_is_in_the_key(cache: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    get()
    if changed == "recipe":
        monkeypatch.setattr(Tiny, "rate", 0.02)
    elif changed == "source":
        copy = cache.parent / "copy.py"
        copy.write_bytes(Path(__file__).read_bytes() + b"\n")
        monkeypatch.setattr("interpeval.bench.weights.inspect.getfile", lambda _: str(copy))
    get(seed=int(changed == "seed"), dataset=Noise(seed=int(changed == "dataset")))
    assert Tiny.steps == 4
    assert len(list(cache.iterdir())) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def garble(path: Path) -> None:
    path.write_bytes(b"not weights")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, garble, flip_last_bit])
def test_a_damaged_cache_file_is_trained_anew_with_a_warning(cache: Path, damage: Callable[[Path], None]) -> None:
    first = get()
    damage(next(cache.iterdir()))
    with pytest.warns(UserWarning, match="cannot be used and is trained anew: .* is damaged"):
        assert get() == first
    assert Tiny.steps == 4
    assert get() == first
    assert Tiny.steps == 4, "the damaged file was not replaced"


def test_a_cache_that_cannot_be_written_costs_a_warning_only(cache: Path) -> None:
    first = get()
    become_a_folder(next(cache.iterdir()))
    with (
        pytest.warns(UserWarning, match="trained anew"),
        pytest.warns(UserWarning, match="cannot be kept in the cache, set INTERPEVAL_CACHE"),
    ):
        assert get() == first


def test_a_class_without_a_source_file_is_refused(cache: Path) -> None:
    made = type("Made", (Tiny,), {"__module__": "__main__elsewhere"})
    with pytest.raises(TypeError, match="`model_class` must be a class of a source file"):
        trained(made, Noise(), seed=0)
    assert not cache.exists()


def test_options_are_in_the_key_and_in_the_header_defaults_included(cache: Path) -> None:
    def get_wide(options: Mapping[str, Any]) -> int:
        model = trained(Dropped, Noise(), seed=0, options=options, progress=False)
        return model.hidden.out_features

    assert (get_wide({}), get_wide({"width": 6}), get_wide({"width": 4})) == (4, 6, 4)
    headers = sorted(facts_of(path)["options"]["width"] for path in cache.iterdir())
    assert headers == [4, 6], "the default and the same value given are one model"


def test_the_source_of_a_model_is_all_its_files(tmp_path: Path) -> None:
    """A file that is imported relatively counts, through another one, also where files import each other."""

    def source_digest(shared: str) -> str:
        (tmp_path / "__init__.py").touch()
        (tmp_path / "deeper.py").write_text(f"from . import between\nWIDTH = {shared}\n")
        (tmp_path / "between.py").write_text("from .deeper import WIDTH\n")
        (tmp_path / "own.py").write_text("def f():\n    from .between import WIDTH\n")
        files = _with_siblings(tmp_path / "own.py", {})
        assert {path.name for path in files} == {"own.py", "between.py", "deeper.py"}
        return hashlib.sha256(b"".join(files[path] for path in sorted(files))).hexdigest()

    assert source_digest("1") != source_digest("2")


def test_headers_give_back_what_was_recorded(tmp_path: Path) -> None:
    facts = {"model": "m", "revision": "123", "options": {"width": 3}, "seed": 7, "accuracy": 0.1 + 0.2, "limit": None}
    save(network(), tmp_path / "a.safetensors", header_of(facts))
    assert facts_of(tmp_path / "a.safetensors") == {**facts, "digest": digest(network())}
    torch.save(network().state_dict(), tmp_path / "a.pt")
    assert facts_of(tmp_path / "a.pt") == {}
