"""Giving a model back as it was lent: what an explainer left changed is found, named and undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_MEMBERS = ("_modules", "_parameters", "_buffers")
_HOOK_KIND = "_is_full_backward_hook"  # stays set when the hook is removed properly, so it is no fault
_PLAIN = (bool, int, float, str, tuple)


class ModelGuard:
    """A copy of everything in a model that an explainer could leave changed.

    Watched are weights and buffers, training flags, `requires_grad`, gradients, hooks, which modules there are, their
    `forward`, and the settings of torch's own layers, such as `inplace`. `restore` puts back what differs and says
    what it was. What a model of one's own notes in itself while it runs is left alone.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> guard = ModelGuard(model)
        >>> model[1].inplace = True
        >>> guard.restore(), model[1].inplace
        (['inplace of `1`'], False)
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the state of `model` as it is now."""
        self._modules = [_WatchedModule(name or type(model).__name__, module) for name, module in model.named_modules()]
        self._tensors = [
            _WatchedTensor(name, tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())
        ]

    def restore(self) -> list[str]:
        """Put the model back and return what was found changed, as phrases like ``training mode of `bn1` ``."""
        watched: list[_WatchedModule | _WatchedTensor] = [*self._modules, *self._tensors]
        return list(dict.fromkeys(change for one in watched for change in one.restore()))


class _WatchedModule:
    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.dicts = {kind: dict(getattr(module, kind)) for kind in (*_HOOKS, *_MEMBERS)}
        self.settings = _settings(module)
        self.forward = module.forward
        self.own_forward = vars(module).get("forward")

    def restore(self) -> list[str]:
        changes = [
            f"{'hooks' if kind in _HOOKS else kind[1:]} of `{self.name}`"
            for kind, content in self.dicts.items()
            if _put_back(getattr(self.module, kind), content)
        ]
        return [*changes, *self._restore_settings(), *self._restore_forward()]

    def _restore_settings(self) -> list[str]:
        now, kept = vars(self.module), self.settings
        changed = [name for name in kept if name not in now or now[name] != kept[name]]
        now.update({name: kept[name] for name in changed})
        words = {"training": "training mode"}
        return [f"{words.get(name, name)} of `{self.name}`" for name in changed if name != _HOOK_KIND]

    def _restore_forward(self) -> list[str]:
        forward = vars(self.module).get("forward")
        if forward is self.own_forward:
            return []
        vars(self.module).pop("forward", None)
        if self.own_forward is not None:
            vars(self.module)["forward"] = self.own_forward
        # An explainer that saved `module.forward` and put it back made it a member, and changed nothing by it.
        return [] if forward == self.forward else [f"forward of `{self.name}`"]


class _WatchedTensor:
    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name = name
        self.tensor = tensor
        self.data = tensor.data  # where the numbers are, should `tensor.data` be replaced
        self.copy = self.data.clone()
        self.requires_grad = tensor.requires_grad
        self.is_leaf = tensor.is_leaf
        self.grad = _gradient(tensor)
        self.grad_copy = None if self.grad is None else self.grad.detach().clone()

    def restore(self) -> list[str]:
        found = {
            "weights": self._restore_data(),
            "requires_grad of": self._restore_requires_grad(),
            "gradient of": self._restore_grad(),
        }
        return [f"{what} `{self.name}`" for what, changed in found.items() if changed]

    def _restore_data(self) -> bool:
        now = self.tensor.data
        intact = _same(self.data, self.copy)
        if not intact:
            self.data.copy_(self.copy)
        if _same_place(now, self.data):
            return not intact
        self.tensor.data = self.data
        return not _same(now, self.copy)

    def _restore_requires_grad(self) -> bool:
        changed = self.tensor.requires_grad != self.requires_grad or self.tensor.is_leaf != self.is_leaf
        if changed and self.is_leaf:
            self.tensor.detach_().requires_grad_(self.requires_grad)
        return changed

    def _restore_grad(self) -> bool:
        if _gradient(self.tensor) is self.grad and (
            self.grad is None or self.grad_copy is None or _same(self.grad.detach(), self.grad_copy)
        ):
            return False
        if self.grad is not None and self.grad_copy is not None:
            self.grad.data.copy_(self.grad_copy)
        self.tensor.grad = self.grad
        return True


def listed(changes: Sequence[str]) -> str:
    """Name the first three of some changes, and say how many more there are.

    Example:
        >>> listed(["hook on `a`", "hook on `b`", "hook on `c`", "hook on `d`"])
        'hook on `a`, hook on `b`, hook on `c` and 1 more'
    """
    return ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def _settings(module: nn.Module) -> dict[str, Any]:
    """Plain attributes; of a class that is not torch's own, the two that torch keeps in every module."""
    if not type(module).__module__.startswith("torch.nn."):
        return {name: vars(module).get(name) for name in ("training", _HOOK_KIND)}
    return {name: value for name, value in vars(module).items() if value is None or isinstance(value, _PLAIN)}


def _gradient(tensor: Tensor) -> Tensor | None:
    return tensor.grad if tensor.is_leaf else None  # torch warns of being asked for any other


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN being equal to itself."""
    if tensor.shape != copy.shape or tensor.device != copy.device or tensor.dtype != copy.dtype:
        return False
    return torch.equal(tensor, copy) or bool(((tensor == copy) | (tensor.isnan() & copy.isnan())).all())


def _same_place(tensor: Tensor, kept: Tensor) -> bool:
    """Whether two tensors read the same memory in the same way."""
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) == (
        kept.data_ptr(),
        kept.dtype,
        kept.shape,
        kept.stride(),
    )


def _put_back(current: dict[Any, Any], kept: dict[Any, Any]) -> bool:
    """Make a module's dictionary hold `kept` again; return whether it did not."""
    if not current and not kept:  # nearly all dictionaries of hooks
        return False
    if current.keys() == kept.keys() and all(current[key] is value for key, value in kept.items()):
        return False
    current.clear()
    current.update(kept)
    return True
