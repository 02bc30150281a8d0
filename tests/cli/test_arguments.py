"""Errors of users are one sentence and status 2; faults of ours keep their traceback."""

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader, Dataset

from perceptkd.cli.arguments import (
    WORLDS,
    ConfigOptions,
    UserError,
    build_parser,
    check_data,
    describe_missing,
    run_command,
)
from perceptkd.cli.create_data import main as create_data
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import GeometryError
from perceptkd.core.tap import TapError


def raising(error: Exception):
    def command(arguments: object) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("weights must be positive"), "error: weights must be positive\n"),
        (InputError("sample 3 holds NaN"), "error: sample 3 holds NaN\n"),
        (GeometryError("declare layout="), "error: declare layout=\n"),
        (FloatingPointError("the term is NaN"), "error: the term is NaN\n"),
        (ImportError('run "pip install wandb"'), 'error: run "pip install wandb"\n'),
        (
            FileNotFoundError(2, "No such file", "data/simworld/nuscenes/x.pkl"),
            "error: data/simworld/nuscenes/x.pkl does not exist: write it with "
            "python tools/create_data.py simworld --out data/simworld\n",
        ),
    ],
)
def test_user_errors(capsys: pytest.CaptureFixture, error: Exception, sentence: str) -> None:
    assert run_command(raising(error)) == 2
    assert capsys.readouterr().err == sentence


def test_worlds_are_written_as_the_configs_and_the_documentation_say(repository: Path) -> None:
    documented = (repository / "data/README.md").read_text()
    for world in WORLDS:
        _, command = describe_missing(f"data/{world}/infos_train.pkl").split("write it with ")
        assert command.startswith(f"python tools/create_data.py simworld --out data/{Path(world).parent}")
        assert f"`{command}`" in documented
    other = "/disk/my_simworld_copy/a.pkl"
    assert describe_missing(other) == f"{other} does not exist"


class BadSample(Dataset):
    """Its only sample cannot be loaded."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise KeyError("what the sentence was made of")
        except KeyError as cause:
            raise self.error from cause


@pytest.mark.parametrize(
    "error",
    [
        InputError("sample 3: 2 points are NaN"),
        InputError("two lines:\n  the second"),
        FileNotFoundError("image 3.jpg is missing; restore it"),
        TapError("the tap did not fire"),
    ],
)
def test_an_error_in_a_worker_of_a_data_loader_is_the_same_sentence(
    capsys: pytest.CaptureFixture, error: Exception
) -> None:
    assert run_command(lambda arguments: list(DataLoader(BadSample(error), num_workers=1))) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        ValueError("not for users"),
        RuntimeError("nor this"),
        ImportError("cannot import name 'gone'", name="perceptkd.core.tap"),
    ],
)
def test_faults_of_ours_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(raising(error))


def test_status_is_passed_on() -> None:
    assert run_command(lambda arguments: 1) == 1
    assert run_command(lambda arguments: None) == 0


def test_options_take_nested_literals() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions)
    parsed = parser.parse_args(["--cfg-options", "a.b=[{'type': 'X'}]", "c=1e-3", "d=[1,2]", "model.distill=False"])
    assert parsed.cfg_options == {"a.b": [{"type": "X"}], "c": 0.001, "d": [1, 2], "model.distill": False}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("model.distill", "error: --cfg-options expects KEY=VALUE, as in train_cfg.max_epochs=2; got 'model."),
        ("a={1", "error: --cfg-options: '{1' cannot be read as a value: "),
        ("a=[1,(2]", "error: --cfg-options: '[1,(2]' cannot be read as a value: "),
    ],
)
def test_an_option_that_is_none_is_a_sentence(capsys: pytest.CaptureFixture, option: str, sentence: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions)
    assert run_command(lambda arguments: parser.parse_args(["--cfg-options", "b=1", option]) and 0) == 2
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture) -> None:
    parser = build_parser("Trains.", examples="train.py")
    parser.add_argument("--cfg-options")
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-option", "x"])
    assert "unrecognized arguments: --cfg-option" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        create_data(["simworld", "--out", "x", "--key", "5"])
    assert "unrecognized arguments: --key" in capsys.readouterr().err


def test_the_help_ends_with_the_default_of_every_option_that_has_one() -> None:
    parser = build_parser("What it does.", examples="tool.py x")
    parser.add_argument("config", help="a file")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--size", type=int, default=3, help="of the batch (default: three)")
    parser.add_argument("--amp", action="store_true", help="half the bits")
    parser.add_argument("--out", help="where it goes")
    lines = [line.strip() for line in parser.format_help().splitlines()]
    assert "--seed SEED  of the weights (default: 0)" in lines
    assert "--size SIZE  of the batch (default: three)" in lines
    assert "--amp        half the bits" in lines
    assert "--out OUT    where it goes" in lines


def loader(**dataset: object) -> dict:
    return {"dataset": {"type": "perceptkd.SeededDataset", "dataset": {"type": "X", **dataset}}}


def test_missing_data_are_found_inside_wrappers(tmp_path: Path) -> None:
    missing = Config({"train_dataloader": loader(data_root=f"{tmp_path}/data/simworld/nuscenes", ann_file="a.pkl")})
    with pytest.raises(UserError, match=r"nuscenes/a\.pkl does not exist: write it with .* --out .*data/simworld$"):
        check_data(missing, stages=("train",))
    check_data(missing, stages=("test",))
    (tmp_path / "a.pkl").touch()
    check_data(Config({"train_dataloader": loader(data_root=str(tmp_path), ann_file="a.pkl")}), stages=("train",))
    remote = loader(ann_file="s3://bucket/a.pkl")
    check_data(Config({"train_dataloader": remote}), stages=("train",))


def test_an_interruption_is_a_sentence(capsys: pytest.CaptureFixture) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    assert run_command(interrupted) == 130
    assert "interrupted" in capsys.readouterr().err
