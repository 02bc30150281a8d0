"""``perceptkd COMMAND`` runs the commands behind tools/ and imports none but the one that is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perceptkd.cli.console import COMMANDS, main


def test_help_lists_the_commands_and_loads_none_of_them() -> None:
    code = "import sys; from perceptkd.cli.console import main; print(main(['--help'])); print(*sys.modules)"
    help_text, _, rest = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.partition("\n0\n")
    listed = [line.split()[0] for line in help_text.splitlines() if line.startswith("  ") and "perceptkd" not in line]
    assert listed == list(COMMANDS)
    assert not {"torch", "numpy", "mmengine", "perceptkd.cli.arguments"} & set(rest.split())


def test_every_tool_is_a_command(repository: Path) -> None:
    scripts = {path.stem for path in repository.glob("tools/**/*.py")} - {"install"}
    converters = {path.stem for path in repository.glob("tools/model_converters/*.py")}
    scripts = scripts - converters | {"convert_checkpoint"}  # one command, named by its argument
    assert {name.replace("-", "_") for name in COMMANDS} == scripts


def test_no_arguments_mean_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["perceptkd"])
    assert main() == 0
    assert "usage: perceptkd COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/perceptkd", name, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert f"usage: perceptkd {name} " in capsys.readouterr().out


def test_a_command_gets_its_arguments_and_gives_its_status(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scalars, out = tmp_path / "scalars.json", tmp_path / "curves.png"
    scalars.write_text("".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 30)))
    assert main(["plot-curves", str(scalars), "--out", str(out)]) == 0
    assert out.stat().st_size > 5000
    assert main(["plot-curves", str(tmp_path / "gone"), "--out", str(out)]) == 2
    assert "no vis_data/scalars.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("create_data", "did you mean create-data?"),
        ("xyz", f"it has {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_command_names_the_nearest(name: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert main([name]) == 2
    assert capsys.readouterr().err == f"error: perceptkd has no command {name!r}; {hint}\n"
