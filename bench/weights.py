"""Weights on disk: their digest, reading and writing them, and the cache of models trained on the spot."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import pickle
import re
import stat
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..baselines.base import TrainableModel
from ..datasets.base import Dataset
from ..datasets.limited_reading import parse_json
from ..leaderboards.files import write_whole
from ..leaderboards.names import printable
from . import training
from .checkpoint import NOT_A_PICKLE
from .store import digest_of

PICKLED = (".pt", ".pth", ".th")
"""Suffixes of files that `torch.load` reads."""
_PLAIN_TEXT = frozenset({"model", "source", "dataset", "revision", "torch", "digest"})
"""Entries of a header that are text: a revision of digits alone is no number."""


def digest(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that stand for a model's weights and buffers.

    SHA-256 over the name, type, shape and bytes of every tensor of the state dict, sorted by name. The device
    does not enter.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = digest(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> digest(layer) == before
        False
    """
    return _digest(_tensors(model))


def save(model: nn.Module, path: Path, header: Mapping[str, str]) -> None:
    """Write a model's state dict as safetensors, whole or not at all.

    Args:
        model: whose weights and buffers to keep.
        path: the file to write or replace; its folder must exist.
        header: what to record beside the tensors (`safetensors` keeps text only). `digest` is added, by which
            `load` recognises a damaged file.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    tensors = _tensors(model)
    write_whole(path, to_safetensors(tensors, {**header, "digest": _digest(tensors)}))


def load(model: nn.Module, path: Path, *, trust: bool = False) -> nn.Module:
    """Read weights from a file into a model.

    Args:
        model: the network; it gets the values of the file in its own floating-point type, or is left as it was. One
            whose shapes depend on what it learnt has a method `adapt_to`, which is called with the file's tensors
            first.
        path: `.safetensors`, or `.pt`, `.pth`, `.th` as written by `torch.save`, with a state dict or with
            `{"state_dict": …}`. A prefix `module.` on all names (as `DataParallel` leaves it) is dropped. Counters
            of batch normalisation (`num_batches_tracked`) may be missing.
        trust: unpickle a file of `torch.save` whole, which runs whatever code the file holds, if it holds more than
            tensors. A network that was pickled as a whole then gives its state dict; its code must be importable.

    Returns:
        `model`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is damaged, does not fit the model, or would run code and is not trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be an existing file, `{path}` is none")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in PICKLED:
        state = _read_pickled(path, trust=trust)
    else:
        raise ValueError(f"`weights` must end in .safetensors, {', '.join(PICKLED)}, was `{path.name}`")
    if _prefixed(state) and not _prefixed(model.state_dict()):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    try:
        training.adapt(model, state)
    except (ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"`{path}` does not fit the model `{type(model).__name__}`: {error}") from error
    _check_fit(model, state, path)
    model.load_state_dict(state, strict=False)  # _check_fit is the strict one, and names all at once
    return model


def facts_of(path: Path) -> dict[str, Any]:
    """Return what the header of a weights file records, nothing for a file without one.

    `trained` and `interpeval train` write `model`, `options` (of its constructor), `dataset`, `revision`, `recipe`,
    `seed` and more; `digest` is that of the tensors.

    Raises:
        ValueError: the file is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged or no safetensors file: {error}") from error
    return {key: _from_json(value) if key not in _PLAIN_TEXT else value for key, value in header.items()}


def header_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return a header for `save`: text as it is, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def cache_folder() -> Path:
    """Return the folder for files that can be made again.

    `$INTERPEVAL_CACHE`, else `interpeval` in `$XDG_CACHE_HOME`, else `~/.cache/interpeval`. It may not exist yet.
    """
    own, shared = os.environ.get("INTERPEVAL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "interpeval"


def trained(
    model_class: type[TrainableModel],
    dataset: Dataset,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> nn.Module:
    """Return a model trained on a dataset's training part: from the cache, or trained now and kept there.

    The cache file is `models/<model>-<dataset>-<key>.safetensors` in `cache_folder()`. The key stands for the
    source of the model and of the training loop, all options of the constructor, the revision of the training part,
    the recipe and the seed, so that none of them changes without training anew. A damaged file is trained anew with a
    warning, and a cache that cannot be written costs a warning, not the model.

    Args:
        model_class: the model, defined in a source file.
        dataset: either part of it; its training part is trained on.
        seed: decides the initial weights, the order of the samples, and the model's draws.
        options: keyword arguments of the model's constructor.
        device: where to train, and where the model is returned.
        progress: show a bar while training.

    Returns:
        The model in evaluation mode.

    Raises:
        TypeError: the source of `model_class` is not in a file.
    """
    part, recipe = dataset.with_split("train"), model_class.recipe(dataset.name)
    facts = {**facts_about(model_class, part, options or {}), "recipe": dict(recipe), "seed": seed}
    model = training.build(model_class, part, seed, options)

    def learn() -> None:
        training.train(model, part, seed=seed, recipe=recipe, device=device, progress=progress)

    return _cached(model, facts, learn).to(device).eval()


def completed(
    model_class: type[TrainableModel],
    network: nn.Module,
    dataset: Dataset,
    *,
    of: str,
    seed: int,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return a model made of a trained network, such as `kmex`: from the cache, or completed now and kept there.

    The network goes to the constructor as its option `network`; what is left to learn from the dataset's training part
    is the model's hook `finish`. The cache is that of `trained`, and the key stands for the network as well: its
    weights, what it prints as, and `of`.

    Args:
        model_class: the model.
        network: the trained network.
        dataset: either part of it.
        of: what else tells this network from others, such as a digest of its source.
        seed: of what the hook draws.
        options: further keyword arguments of the constructor.
        device: where the model is completed and returned.

    Returns:
        The model in evaluation mode.
    """
    part, recipe = dataset.with_split("train"), model_class.recipe(dataset.name)
    identity = [digest(network), hashlib.sha256(str(network).encode()).hexdigest()[:16], of]
    facts = {**facts_about(model_class, part, options or {}), "network": identity, "seed": seed}
    model = training.build(model_class, part, seed, {**(options or {}), "network": network})

    def learn() -> None:
        training.finish(model, part, seed=seed, recipe=recipe, device=device)

    return _cached(model, facts, learn).to(device).eval()


def facts_about(model_class: type[TrainableModel], dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a training before it starts, but for its recipe and seed.

    Raises:
        TypeError: the source of `model_class` is not in a file.
    """
    return {
        "model": model_class.name,
        "options": all_options(model_class, options),
        "source": _source_digest(model_class),
        "dataset": dataset.name,
        "revision": dataset.revision,
    }


def all_options(model_class: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a model's constructor with its value, given or default.

    Example:
        >>> from interpeval.baselines.protopnet import ProtoPnet
        >>> all_options(ProtoPnet, {"depth": 64})
        {'prototypes_per_class': 10, 'depth': 64}
    """
    known = list(inspect.signature(model_class).parameters.values())[2:]  # after the image's shape and the classes
    defaults = {one.name: one.default for one in known if one.default is not inspect.Parameter.empty}
    return {**defaults, **options}


def _cached(model: nn.Module, facts: Mapping[str, Any], learn: Callable[[], None]) -> nn.Module:
    """Load what was learnt by a training of which these are the facts, or learn and keep it."""
    path = cache_folder() / "models" / f"{facts['model']}-{facts['dataset']}-{digest_of(facts)}.safetensors"
    if not _loaded(model, path):
        learn()
        _keep(model, path, {**facts, "torch": torch.__version__})
    return model


def _loaded(model: nn.Module, path: Path) -> bool:
    if not path.exists():
        return False
    try:
        _check_own(path.parent)
        load(model, path)
    except (OSError, ValueError) as error:
        warnings.warn(printable(f"the cached model cannot be used and is trained anew: {error}"), stacklevel=4)
        return False
    return True


def _check_own(folder: Path) -> None:
    """Raise where anybody may have put a file: it would be taken for what was trained here."""
    for place in (folder, folder.parent):
        if place.stat().st_mode & stat.S_IWOTH:
            raise ValueError(f"everybody can write to `{place}`: take that right away (`chmod o-w`)")


def _keep(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        save(model, path, header_of(facts))
    except OSError as error:
        reason = printable(f"the trained model cannot be kept in the cache, set INTERPEVAL_CACHE: {error}")
        warnings.warn(reason, stacklevel=4)


def _source_digest(model_class: type[TrainableModel]) -> str:
    """Digest of the files that say how the model is built and trained."""
    try:
        own = inspect.getfile(model_class)
    except (TypeError, OSError) as error:
        raise TypeError(
            f"`model_class` must be a class of a source file to be cached, was {model_class!r}; "
            "use `interpeval.bench.training.build` and `train`"
        ) from error
    files = {**_with_siblings(Path(own), {}), **_with_siblings(Path(inspect.getfile(training)), {})}
    return hashlib.sha256(b"".join(files[path] for path in sorted(files))).hexdigest()[:16]


def _with_siblings(path: Path, found: dict[Path, bytes]) -> dict[Path, bytes]:
    """Read a source file, and those of its folder that it imports relatively (`from .x import y`), and so on."""
    found[path] = path.read_bytes()
    for node in ast.walk(ast.parse(found[path])):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for sibling in (path.parent / f"{name.replace('.', '/')}.py" for name in names):
                if sibling not in found and sibling.is_file():
                    _with_siblings(sibling, found)
    return found


def _from_json(text: str) -> Any:
    try:
        return parse_json(text.encode())
    except ValueError:
        return text


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as separate contiguous tensors on the CPU (safetensors refuses shared memory)."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("digest")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged or no safetensors file: {error}") from error
    if stated is not None and stated != _digest(state):
        raise ValueError(f"`{path}` is damaged: its tensors do not match the digest in its header")
    return state


def _read_pickled(path: Path, *, trust: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of either does not matter or ends in an error
            content = cast("object", torch.load(path, map_location="cpu", weights_only=not trust))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"`{path}` holds more than tensors, or is damaged{f' (it asks for `{code[1]}`)' if code else ''}; code "
            "from a weights file is not run: save `model.state_dict()` alone, or, if you trust whoever wrote the file, "
            "give `--trust` (in Python `trust=True`)"
        ) from error
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"`{path}` needs code that is not here: {error}") from error
    except NOT_A_PICKLE as error:
        raise ValueError(f"`{path}` is damaged or was not written by `torch.save`: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"`{path}` must hold a state dict (names with tensors), was {type(content).__name__}")
    return cast("dict[str, Tensor]", dict(content))


def _prefixed(state: Mapping[str, Tensor]) -> bool:
    return all(name.startswith("module.") for name in state)


def _check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise `ValueError` that names what is missing, too much, or of another shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(expected.keys() - given.keys() - counters),
        "unexpected": sorted(given.keys() - expected.keys()),
        "of another shape": [
            f"{name} {given[name]} instead of {expected[name]}"
            for name in sorted(given.keys() & expected.keys())
            if given[name] != expected[name]
        ],
    }
    found = [f"{kind}: {_shortened(names)}" for kind, names in faults.items() if names]
    if found:
        raise ValueError(f"`{path}` does not fit the model `{type(model).__name__}`; {'; '.join(found)}")


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
