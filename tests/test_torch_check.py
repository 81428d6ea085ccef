"""A torchvision that does not belong to the installed torch is named as such."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from interpeval.bench.torch_check import check_torchvision


def test_builds_that_belong_together_pass() -> None:
    check_torchvision()
    assert "torchvision" in sys.modules


@pytest.mark.parametrize(
    "fault", [RuntimeError("operator torchvision::nms does not exist"), ImportError("undefined symbol: _ZN3c10")]
)
def test_builds_that_do_not_are_named_with_the_remedy(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_name: str) -> None:
        raise fault

    monkeypatch.setattr("interpeval.bench.torch_check.importlib.import_module", failing)
    with pytest.raises(ImportError) as caught:
        check_torchvision()
    message = str(caught.value)
    assert f"`torchvision` {version('torchvision')} cannot be imported beside `torch` {version('torch')}" in message
    assert str(fault) in message
    assert 'pip install --upgrade --force-reinstall "torch>=2.9,!=2.13.*" "torchvision>=0.24"' in message
    assert caught.value.__cause__ is fault


def test_a_torchvision_that_is_not_there_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    def failing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("interpeval.bench.torch_check.version", absent)
    monkeypatch.setattr("interpeval.bench.torch_check.importlib.import_module", failing)
    with pytest.raises(ImportError, match=r"`torchvision` \(not installed\) cannot be imported"):
        check_torchvision()
