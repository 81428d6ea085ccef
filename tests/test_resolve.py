"""Names, with their arguments, become datasets, networks and metrics, or errors that say what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from coco_files import annotation, written
from interpeval.baselines.kmex import Kmex
from interpeval.bench import training, weights
from interpeval.bench.resolve import Model, as_model, resolve_dataset, resolve_metric, resolve_model, split_model
from interpeval.datasets.digits import Digits
from interpeval.metrics.pointing_game import PointingGame
from toys import Squares, network
from trained_toys import Dropped

TOYS = Path(__file__).with_name("toys.py")
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "pizza"}]


def resolved(text: str, dataset: object = None, seed: int = 0):
    return resolve_model(text, dataset or Squares(), seed=seed, device=torch.device("cpu"), progress=False)


def coco(folder: Path, arguments: str = "") -> str:
    path = written(folder, [annotation(1, 1, 1), annotation(2, 1, 2)], categories=CATEGORIES)
    return f"coco?images={folder}&annotations={path}&size=16{arguments}"


# ---------------------------------------------------------------- datasets


def test_labels_is_another_word_for_label_map(tmp_path: Path) -> None:
    by_labels, by_field = (resolve_dataset(coco(tmp_path, f"&{word}=imagenet")) for word in ("labels", "label_map"))
    assert by_labels.revision == by_field.revision
    assert by_labels.network_classes.nonzero()[:, 0].bincount().tolist() == [5, 1]  # five cats and a pizza


def test_an_option_reaches_the_datasets_that_take_it_and_an_argument_stands_above_it(tmp_path: Path) -> None:
    taken = resolve_dataset(coco(tmp_path), on_bad_sample="skip")
    assert taken.on_bad_sample == "skip"
    assert resolve_dataset(coco(tmp_path, "&on_bad_sample=error"), on_bad_sample="skip").on_bad_sample == "error"
    assert resolve_dataset("digits", on_bad_sample="skip") == Digits()


def test_arguments_that_a_dataset_cannot_do_without_are_named() -> None:
    with pytest.raises(ValueError, match=r"`coco` must be given `images`, `annotations`: write `coco.images=…&annot"):
        resolve_dataset("coco?size=16")


def test_options_reach_a_dataset_within_another(tmp_path: Path) -> None:
    inner = coco(tmp_path).replace("&", "%26")
    composites = resolve_dataset(f"composites?of={inner}", on_bad_sample="skip")
    assert composites.of.on_bad_sample == "skip"


# ---------------------------------------------------------------- networks


def test_a_network_of_torchvision_takes_a_state_dictionary(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = models.get_model("shufflenet_v2_x0_5", num_classes=4)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    found = resolved(
        f"torchvision:shufflenet_v2_x0_5?num_classes=4@{tmp_path / 'weights.safetensors'}", Squares(size=4)
    )
    for name, weight in found.module.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])
    assert found.name == "torchvision:shufflenet_v2_x0_5?num_classes=4"
    assert not found.module.training


def test_a_network_may_be_made_by_a_function_of_a_file() -> None:
    found = resolved(f"{TOYS}:network")
    assert found.name == "toys.py:network"
    for here, there in zip(found.module.parameters(), network().parameters(), strict=True):
        assert torch.equal(here, there)


def test_the_digest_is_that_of_the_weights() -> None:
    same, changed = network(), network()
    with torch.no_grad():
        changed[0].bias[0] += 1e-6
    digests = [as_model(one, Squares(), device=torch.device("cpu")).digest for one in (network(), same, changed)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("torchvision:squeezenet1_1", ValueError, "needs weights: write `torchvision:squeezenet1_1@FILE`"),
        ("torchvision:squeezenet1_1@nowhere.pth", FileNotFoundError, "weights file `nowhere.pth` of model"),
        (
            "torchvision:sqeezenet1_1@{weights}",
            LookupError,
            "no classifier `sqeezenet1_1`: did you mean squeezenet",
        ),
        ("cifar_cnm", LookupError, "did you mean `cifar_cnn`"),
        ("cifar_cnn@", ValueError, "must name a weights file after `@`"),
        (f"{TOYS}:network?depth=3", ValueError, "has no argument `depth`"),
        (f"{TOYS}:Plain", TypeError, "`model` must be a torch.nn.Module, was Plain"),
    ],
)
def test_networks_that_cannot_be_had(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(error, match=message.replace("(", r"\(")):
        resolved(text.format(weights=tmp_path / "weights.safetensors"))


def test_a_network_must_give_one_logit_for_each_class_or_more_than_the_map_knows(tmp_path: Path) -> None:
    def of(size: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, size))

    cpu, plain = torch.device("cpu"), resolve_dataset(coco(tmp_path))
    table = tmp_path / "labels.csv"
    table.write_text("class,network\ncat,3 4\npizza,7\n", encoding="utf-8")
    mapped = resolve_dataset(coco(tmp_path, f"&labels={table}"))
    as_model(of(2), plain, device=cpu)
    as_model(of(8), mapped, device=cpu)
    as_model(of(1000), mapped, device=cpu)  # classes beyond those of the file count as none
    for network_size, dataset in ((3, plain), (1000, plain), (7, mapped)):
        with pytest.raises(ValueError, match=rf"gives {network_size} classes, dataset `coco` has .*argument `labels`"):
            as_model(of(network_size), dataset, device=cpu)


def test_what_follows_an_at_sign_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", "/somewhere")
    assert split_model("site") == ("site", None)
    assert split_model("site@${WEIGHTS}/a.safetensors") == ("site", Path("/somewhere/a.safetensors"))


TRAINED = Path(__file__).with_name("trained_toys.py")


def saved(folder: Path, width: int, **facts: object) -> Path:
    path = folder / "a.safetensors"
    header = weights.header_of({"model": "dropped", "options": {"width": width}, **facts})
    weights.save(training.build(Dropped, Squares(), 3, {"width": width}), path, header)
    return path


def test_a_weights_file_restores_the_options_it_was_made_with(tmp_path: Path) -> None:
    path = saved(tmp_path, 7)
    for options in ("", "?width=7"):
        found = resolved(f"{TRAINED}:Dropped{options}@{path}")
        assert found.module.hidden.out_features == 7
        assert found.digest == weights.digest(training.build(Dropped, Squares(), 3, {"width": 7}))


@pytest.mark.parametrize(
    ("options", "facts", "message"),
    [
        ("?width=8", {}, "was made with `width=7`, `width=8` was asked for: leave it out"),
        ("", {"model": "other"}, "holds weights of model `other`, not of `dropped`"),
        ("", {"options": {"depth": 2}}, "was made with option `depth`, which `dropped` does not have"),
    ],
)
def test_options_that_contradict_the_file_are_refused(
    tmp_path: Path, options: str, facts: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(f"{TRAINED}:Dropped{options}@{saved(tmp_path, 7, **facts)}")


def test_a_file_without_a_header_takes_the_options_of_the_name(tmp_path: Path) -> None:
    model = training.build(Dropped, Squares(), 3, {"width": 5})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    assert resolved(f"{TRAINED}:Dropped?width=5@{tmp_path / 'a.pt'}").digest == weights.digest(model)


def test_options_of_a_name_reach_the_model_that_is_trained_and_its_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERPEVAL_CACHE", str(tmp_path))
    found = resolved(f"{TRAINED}:Dropped?width=3")
    assert found.module.hidden.out_features == 3
    assert found.name == "trained_toys.py:Dropped?width=3"
    assert len(list((tmp_path / "models").iterdir())) == 1


@pytest.mark.parametrize("name", ["site", f"{TRAINED}:Dropped"])
@pytest.mark.parametrize("argument", ["widht=3", "n_classes=3", "image_shape=3"])
def test_unknown_options_of_a_model_are_refused_before_it_is_built(name: str, argument: str) -> None:
    key = argument.partition("=")[0]
    with pytest.raises(ValueError, match=f"has no argument `{key}`: (did you mean `width`|it takes: (form, )?width)"):
        resolved(f"{name}?{argument}")


def made_of_squares(folder: Path, monkeypatch: pytest.MonkeyPatch, of: str, options: str = "") -> Model:
    monkeypatch.setenv("INTERPEVAL_CACHE", str(folder / "cache"))
    return resolved(f"kmex?{options}of={of}", Squares(split="train"))


def test_kmex_is_made_of_a_network_that_is_trained_and_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made_of_squares(tmp_path, monkeypatch, f"{TRAINED}:Dropped", "prototypes_per_class=2&")
    alone = resolved(f"{TRAINED}:Dropped", Squares(split="train"))
    images = Squares().take(range(4)).images
    torch.testing.assert_close(found.module.network_logits(images), alone.module(images))
    assert found.name == "kmex?prototypes_per_class=2&of=trained_toys.py:Dropped"
    by_hand = Kmex(Squares().image_shape, len(Squares().classes), prototypes_per_class=2, network=alone.module).eval()
    by_hand.fit_prototypes(Squares(split="train"))
    assert torch.equal(found.module.prototypes, by_hand.prototypes)

    monkeypatch.setattr(Kmex, "finish", lambda *_: pytest.fail("prototypes were in the cache"))
    again = made_of_squares(tmp_path, monkeypatch, f"{TRAINED}:Dropped", "prototypes_per_class=2&")
    assert again.digest == found.digest


def test_the_weights_file_of_kmex_is_that_of_its_network_and_decides_the_prototypes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [training.build(Dropped, Squares(), seed).eval() for seed in (1, 2)]
    for number, model in enumerate(models):
        weights.save(model, tmp_path / f"{number}.safetensors", {})
    first, second = (
        made_of_squares(tmp_path, monkeypatch, f"{TRAINED}:Dropped@{tmp_path / f'{number}.safetensors'}").module
        for number in (0, 1)
    )
    images = Squares().take(range(4)).images
    torch.testing.assert_close(first.network_logits(images), models[0](images))
    torch.testing.assert_close(second.network_logits(images), models[1](images))
    assert not torch.equal(first.prototypes, second.prototypes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kmex?of=lenett", "unknown model `lenett`: did you mean `lenet`"),
        ("kmex?of=lenet@nowhere.safetensors", "weights file `nowhere.safetensors` of model `lenet`"),
        ("kmex?of=lenet&prototypes=3", "model `kmex` has no argument `prototypes`"),
        ("lenet?of=kmex", "model `lenet` has no argument `of`"),
        ("kmex?network=lenet", "`network` must be a torch.nn.Module, was str; a name is given as `kmex.of=NAME`"),
    ],
)
def test_networks_to_make_a_model_of_that_cannot_be_had(text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, OSError), match=message):
        resolved(text, Digits())


@pytest.mark.parametrize(
    "text", ["senn?n_concepts=many", "site?width=wide", "nam?dropout=much", "cifar_cnn?consistency=x"]
)
def test_options_of_the_wrong_kind_are_named(text: str) -> None:
    option, _, value = text.partition("?")[2].partition("=")
    with pytest.raises(TypeError, match=f"`{option}` must be a (whole )?number, was '{value}'"):
        resolved(text, Digits())


def test_a_pickle_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    path, model = tmp_path / "a.pt", network()
    torch.save(model, path)
    with pytest.raises(ValueError, match="`--trust`"):
        resolved(f"{TOYS}:network@{path}")
    found = resolve_model(
        f"{TOYS}:network@{path}", Squares(), seed=0, device=torch.device("cpu"), progress=False, trust=True
    )
    assert found.digest == weights.digest(model)


# ---------------------------------------------------------------- metrics


def test_metrics_take_arguments() -> None:
    assert resolve_metric("pointing_game?tolerance=1") == PointingGame(tolerance=1)
    with pytest.raises(ValueError, match="has no argument `tolerence`: did you mean `tolerance`"):
        resolve_metric("pointing_game?tolerence=1")
    with pytest.raises(TypeError, match="must be a metric"):
        resolve_metric(f"{TOYS}:Plain")
