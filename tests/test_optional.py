"""Contract 15: a missing optional dependency is one line with the pip command."""

import sys
from pathlib import Path

import pytest
from mmengine.registry import VISBACKENDS

from perceptkd.cli.arguments import run_command
from perceptkd.optional import MissingDependencyError, require


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"extra": "deploy"}, "pip install 'perceptkd[deploy]'"),
        ({"package": "no-such-package"}, "pip install no-such-package"),
        ({}, "pip install no_such_module"),
    ],
)
def test_contract_15_missing_dependency_is_one_line_with_the_pip_command(options: dict, command: str) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_module.inside", **options)
    assert str(caught.value) == f"no_such_module.inside is not installed: {command}"


def test_contract_15_a_broken_installation_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import its_missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_missing_part") as caught:
        require("half_installed")
    assert not isinstance(caught.value, MissingDependencyError)
    assert "half_installed" not in sys.modules


def test_contract_15_a_library_of_the_system_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = "libusb-1.0.so.0: cannot open shared object file"
    (tmp_path / "needs_usb.py").write_text(f"raise ImportError({cause!r})")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        require("needs_usb", libraries="libusb-1.0 (apt-get install libusb-1.0-0)")
    assert (
        str(caught.value) == f"needs_usb cannot be loaded ({cause}): it needs libusb-1.0 (apt-get install libusb-1.0-0)"
    )
    with pytest.raises(ImportError, match="libusb") as caught:
        require("needs_usb")
    assert not isinstance(caught.value, MissingDependencyError)


@pytest.mark.parametrize(
    ("backend", "package"), [("TensorboardVisBackend", "tensorboard"), ("WandbVisBackend", "wandb")]
)
def test_contract_15_a_command_without_its_tracker_ends_in_one_line_with_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, backend: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", package))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = {"type": backend, "save_dir": str(tmp_path)}
    assert run_command(lambda arguments: VISBACKENDS.build(config).experiment and 0) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "pip install" in error
    assert package in error
