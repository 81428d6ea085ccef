"""Telling early, and in words, that torch and torchvision do not belong together."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

REMEDY = 'python -m pip install --upgrade --force-reinstall "torch>=2.9,!=2.13.*" "torchvision>=0.24"'


def check_torchvision() -> None:
    """Import torchvision, or say which two builds met and how to mend it.

    A torchvision that was built for another torch fails with "operator torchvision::nms does not exist", which
    tells a user nothing.

    Raises:
        ImportError: torchvision cannot be imported beside the installed torch.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"`torchvision` {_version('torchvision')} cannot be imported beside `torch` {_version('torch')} ({error}); "
            f"install two builds that belong together: {REMEDY}"
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
