"""Checkpoints: bit for bit, whole, without code, and of one training only."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interpeval.bench.checkpoint import Checkpoint, differences
from interpeval.bench.generators import GeneratorState, read_generators, write_generators

FACTS = {"model": "tiny", "recipe": {"epochs": 3, "milestones": (1, 2)}, "seed": 0}


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    state = {"weights": torch.tensor([1 / 3, float("nan")]), "rate": 1 / 3, "betas": (0.1, 0.2), "nothing": None}
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", FACTS)
    assert checkpoint.read() is None
    checkpoint.write({"epoch": 1})
    checkpoint.write(state)
    found = checkpoint.read()
    assert found is not None
    assert torch.equal(found["weights"].view(torch.int32), state["weights"].view(torch.int32))
    assert {key: found[key] for key in ("rate", "betas", "nothing")} == {
        "rate": 1 / 3, "betas": (0.1, 0.2), "nothing": None,
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["a.checkpoint"]


def test_a_failed_write_leaves_the_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", FACTS)
    checkpoint.write({"epoch": 1})

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write({"epoch": 2})
    assert checkpoint.read() == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_another_training_is_refused_and_all_differences_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    Checkpoint(path, FACTS).write({"epoch": 1})
    other = Checkpoint(path, {"model": "tiny", "recipe": {"epochs": 4, "milestones": (1, 2), "w": 1}, "seed": 2})
    with pytest.raises(ValueError, match="belongs to another training") as caught:
        other.read()
    expected = "`recipe.epochs` was 3, is 4 now; `seed` was 0, is 2 now; `recipe.w` was not set, is 1 now"
    assert expected in str(caught.value)
    assert "`model`" not in str(caught.value)
    assert "milestones" not in str(caught.value)
    assert Checkpoint(path, FACTS).read() == {"epoch": 1}


def test_a_fact_that_is_gone_is_a_difference() -> None:
    assert differences({"a": 1, "b": None}, {"b": None}) == ["`a` was 1, is not set now"]
    assert differences(FACTS, dict(reversed(FACTS.items()))) == []


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("damage", ["cut", "code", "other"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(Path("a.checkpoint"), FACTS)
    checkpoint.write({"epoch": 1})
    if damage == "cut":
        checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-200])
    else:
        torch.save(Malicious() if damage == "code" else {"weights": 1}, checkpoint.path)
    with pytest.raises(ValueError, match="remove it to start anew"):
        checkpoint.read()
    assert not Path("ran").exists()


def test_generators_go_on_where_they_were_after_a_round_trip_through_a_file(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), np.random.normal(), torch.rand(1).item(), random.random()

    cpu = torch.device("cpu")
    before = GeneratorState(cpu)
    try:
        draws()  # leaves half a pair of Gaussian numbers behind in Python and NumPy
        checkpoint = Checkpoint(tmp_path / "a.checkpoint", {})
        checkpoint.write(read_generators(cpu))
        first, later = draws(), draws()
        assert first != later
        saved = checkpoint.read()
        assert saved is not None
        write_generators(saved, cpu)
        assert draws() == first
    finally:
        before.restore()
