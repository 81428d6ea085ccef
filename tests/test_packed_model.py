"""A model as data: built again elsewhere with the same weights, and nothing is read or trained for it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interpeval.baselines.lenet import Lenet
from interpeval.bench import training, weights
from interpeval.bench.packed_model import pack, unpack
from interpeval.bench.resolve import resolve_model
from interpeval.datasets.digits import Digits
from toys import Squares

TOYS = Path(__file__).with_name("toys.py")
CPU = torch.device("cpu")


def resolved(text, dataset):
    return resolve_model(text, dataset, seed=0, device=CPU, progress=False)


@pytest.fixture
def lenet(tmp_path, monkeypatch):
    """A file of weights, and a cache of this test's own."""
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path / "cache"))
    data = Digits()
    model = training.build(Lenet, data, 3)
    facts = {**weights.facts_about(Lenet, data, {}), "recipe": {}, "seed": 3}
    weights.save(model, tmp_path / "lenet.safetensors", weights.header_of(facts))
    return tmp_path / "lenet.safetensors"


@pytest.mark.parametrize("name", ["lenet@{}", "kmex?prototypes_per_class=2&of=lenet@{}", "decision_tree"])
def test_a_model_of_the_catalog_is_built_again_without_its_files(name, lenet, monkeypatch):
    model = resolved(name.format(lenet), Digits())
    packed = pickle.loads(pickle.dumps(pack(name.format(lenet), model)))  # noqa: S301  # its own bytes
    lenet.unlink()
    for function in ("train", "finish"):
        monkeypatch.setattr(training, function, lambda *_, **__: pytest.fail("nothing is learnt again"))
    again = unpack(packed, Digits(), seed=0, device=CPU)
    assert (again.name, again.digest, again.code) == (model.name, model.digest, model.code)
    images = Digits().take(range(4)).images
    assert again.module(images).equal(model.module(images))
    assert not again.module.training


def test_a_network_of_a_factory_is_built_again(monkeypatch):
    model = resolved(f"{TOYS}:network", Squares())
    with torch.no_grad():
        model.module[0].weight.add_(1)
    changed = replace(model, digest=weights.digest(model.module))
    again = unpack(pack(f"{TOYS}:network", changed), Squares(), seed=0, device=CPU)
    assert again.digest == changed.digest != weights.digest(resolved(f"{TOYS}:network", Squares()).module)


def test_weights_that_changed_on_the_way_are_refused():
    packed = pack(f"{TOYS}:network", resolved(f"{TOYS}:network", Squares()))
    state = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in packed.state.items()}
    with pytest.raises(ValueError, match="must have digest"):
        unpack(replace(packed, state=state), Squares(), seed=0, device=CPU)
    del state["0.weight"]
    with pytest.raises(ValueError, match="do not fit the network built here"):
        unpack(replace(packed, state=state), Squares(), seed=0, device=CPU)
