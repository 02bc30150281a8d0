"""The stored teacher gives the losses of the running one, and only for what was stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from perceptkd.cli.arguments import UserError
from perceptkd.cli.cache_teacher import SIZED_SAMPLES, main, training_precision
from perceptkd.cli.train import read_config
from perceptkd.core.cache import CacheError
from perceptkd.core.errors import InputError
from perceptkd.core.source import build_model, read_model_source
from perceptkd.core.teacher import FrozenTeacher
from perceptkd.datasets.seeded import collect_seeded_datasets
from perceptkd.registry import DATASETS, MODELS

FP32 = ["--device", "cpu", "--cfg-options", "optim_wrapper.precision=fp32"]
DISTILLERS = [f"perceptkd.{name}" for name in ("UniDistill", "ForegroundDistill", "TiGBEV", "BEVDistill", "DistillBEV")]
READ_WHOLE_MAPS = ("perceptkd.ForegroundDistill", "perceptkd.DistillBEV")


@pytest.fixture
def job(tiny_comparison: Path) -> tuple[Path, Config]:
    """The tiny distillation with a teacher of random weights on disk."""
    config = read_config(str(tiny_comparison))
    teacher = config.model.teachers.lidar
    path = Path(teacher.checkpoint)
    path.parent.mkdir(parents=True)
    torch.manual_seed(3)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        torch.save(build_model(read_model_source(teacher.config)).state_dict(), path)
    return tiny_comparison, config


def terms(
    config: Config, *, kind: str, epoch: int, size: int = 1, seed: int = 0, bf16: bool = False, **teacher: Any
) -> dict[str, torch.Tensor]:
    """What the distiller adds to the loss of the first training samples in an epoch."""
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        dataset = DATASETS.build(config.train_dataloader.dataset)
        for seeded in collect_seeded_datasets(dataset):
            seeded.set_epoch(epoch, seed=seed)
        torch.manual_seed(0)
        options = {"lidar": {**config.model.teachers.lidar, **teacher}}
        model = MODELS.build({**config.model, "teachers": options, "distillers": [{"type": kind, "teacher": "lidar"}]})
        batch = pseudo_collate([dataset[index] for index in range(size)])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = model.train()(**model.data_preprocessor(batch, True), mode="loss")
    return {name: value.detach() for name, value in losses.items() if name.startswith("loss_kd/")}


@pytest.mark.parametrize("kind", DISTILLERS)
def test_losses_from_the_store_are_those_of_the_teacher(
    job: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    path, config = job
    store = tmp_path / "store"
    other = path.with_name("other.py")
    other.write_text(f"_base_ = ['{path.name}']\nmodel = dict(distillers=[dict(type='{kind}', teacher='lidar')])\n")
    assert main([str(other), "--out", str(store), "--epochs", "2", "--dtype", "float32", *FP32]) == 0
    output = capsys.readouterr().out
    assert ("every cell" in output) == (kind in READ_WHOLE_MAPS)
    assert f"model.teachers.lidar.role=cached model.teachers.lidar.cache={store}" in output
    for epoch, size in enumerate((1, 2)):
        live = terms(config, kind=kind, epoch=epoch, size=size)
        cached = terms(config, kind=kind, epoch=epoch, size=size, role="cached", cache=str(store))
        assert live.keys() == cached.keys()
        assert max(live.values()) > 0
        for name, value in live.items():
            torch.testing.assert_close(cached[name], value, rtol=1e-5, atol=1e-7)
    with pytest.raises(CacheError, match=r"has sample '.*', but not with these inputs"):
        terms(config, kind=kind, epoch=2, role="cached", cache=str(store))


def test_a_second_run_continues_and_adds_nothing(
    job: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = tmp_path / "store"
    arguments = [str(job[0]), "--out", str(store), "--epochs", "1", *FP32]
    assert main(arguments) == main(arguments) == 0
    output = capsys.readouterr().out
    assert ": 0 samples added" in output.splitlines()[-2]
    told = float(output.split("it computes in fp32 and will take about ")[1].split(" GiB, ")[1].split(" MiB")[0])
    samples = int(output.split("for each of ")[1].split()[0])
    stored = sum(path.stat().st_size for path in store.glob("*.bin")) / 2**20
    assert stored == pytest.approx(told * samples, rel=0.25)  # how much of a map is near boxes differs
    assert main([*arguments, "model.distillers.0.teacher_taps.feature=backbone"]) == 2
    assert "Write another folder, or delete this one" in capsys.readouterr().err


def test_data_that_no_epoch_augments_anew_are_stored_once_and_for_every_seed(
    job: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, config = job
    steps = config.train_dataloader.dataset.dataset.to_dict()["pipeline"]
    steps = [{**step, "training": False} if step["type"].endswith("AugmentImages") else step for step in steps]
    fixed = path.with_name("fixed.py")
    pipeline = [step for step in steps if step["type"] != "perceptkd.AugmentBEV"]
    fixed.write_text(
        f"_base_ = ['{path.name}']\ntrain_dataloader = dict(dataset=dict(dataset=dict(pipeline={pipeline})))\n"
    )
    plain, runs, collect = read_config(str(fixed)), [], FrozenTeacher.collect
    monkeypatch.setattr(FrozenTeacher, "collect", lambda self, batch: runs.append(1) or collect(self, batch))
    store = tmp_path / "store"
    assert main([str(fixed), "--out", str(store), "--epochs", "3", "--dtype", "float32", *FP32]) == 0
    output = capsys.readouterr().out
    samples = int(output.split("for each of ")[1].split()[0])
    assert "where each of 3 epochs augments anew" in output
    assert f": {samples} samples added" in output
    assert len(runs) == samples + min(samples, SIZED_SAMPLES)
    when = {"kind": DISTILLERS[0], "epoch": 7, "seed": 5}
    live, cached = (terms(plain, **when, **role) for role in ({}, {"role": "cached", "cache": str(store)}))
    for name, value in live.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-5, atol=1e-7)
    with pytest.raises(CacheError, match=r"but not with these inputs as in view '5-7-0'"):
        terms(config, **when, role="cached", cache=str(store))


def test_a_store_is_computed_in_the_precision_of_the_training(job: tuple[Path, Config], tmp_path: Path) -> None:
    """It also knows the classes of the teacher's head, which the student's have to equal."""
    path, config = job
    store = tmp_path / "store"
    kind = DISTILLERS[0]
    options = ["--whole-maps", "--dtype", "float32", "--device", "cpu", "--cfg-options", "optim_wrapper.precision=bf16"]
    assert main([str(path), "--out", str(store), "--epochs", "1", *options]) == 0
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["fingerprint"]["precision"] == "bf16"
    live, cached = (
        terms(config, kind=kind, epoch=0, bf16=True, **teacher)
        for teacher in ({}, {"role": "cached", "cache": str(store)})
    )
    assert all(torch.equal(cached[name], value) for name, value in live.items())
    with pytest.raises(CacheError, match="was computed in bf16, and this training computes its teacher in fp32"):
        terms(config, kind=kind, epoch=0, role="cached", cache=str(store))
    config.model.student.bbox_head.tasks[1].class_names.reverse()
    with pytest.raises(InputError, match=r"other classes or another order: .* \(student\), .* \(teacher\)"):
        terms(config, kind=kind, epoch=0, bf16=True, role="cached", cache=str(store))


@pytest.mark.parametrize(
    ("wrapper", "amp", "expected"),
    [
        ({}, False, None),
        ({"type": "OptimWrapper"}, False, None),
        ({"type": "perceptkd.AmpOptimWrapper", "precision": "bf16"}, False, torch.bfloat16),
        ({"type": "perceptkd.AmpOptimWrapper", "precision": "fp16"}, True, torch.float16),
        ({"type": "OptimWrapper", "precision": "bf16"}, True, torch.bfloat16),
    ],
)
def test_the_precision_is_that_of_the_optim_wrapper(wrapper: dict, amp: bool, expected: torch.dtype | None) -> None:
    assert training_precision(Config({"optim_wrapper": wrapper}), "cpu", amp=amp).dtype == expected


def test_an_optim_wrapper_of_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"what optim_wrapper\.type=ApexOptimWrapper computes in is not known"):
        training_precision(Config({"optim_wrapper": {"type": "ApexOptimWrapper"}}), "cpu")


def test_teachers_are_named(job: tuple[Path, Config], tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(job[0]), "--teacher", "radar"]) == 2
    assert "name one of the config's teachers with --teacher: lidar" in capsys.readouterr().err
    assert main([str(tiny_folder / "retinanet.py")]) == 2
    assert "--teacher: it has none" in capsys.readouterr().err
    assert main([str(job[0]), "--cfg-options", "model.distill=False"]) == 2  # the control
    assert "--teacher: it has none" in capsys.readouterr().err
    assert main([str(job[0]), "--cfg-options", "model.distillers=[]"]) == 2
    assert "but teachers= has ['lidar']" in capsys.readouterr().err


def test_a_teacher_that_changes_cannot_be_stored(job: tuple[Path, Config], capsys: pytest.CaptureFixture) -> None:
    assert main([str(job[0]), "--cfg-options", "model.teachers.lidar.role=ema"]) == 2
    assert "only a frozen one gives the same every time" in capsys.readouterr().err
    assert main([str(job[0]), "--cfg-options", "model.teachers.lidar.checkpoint=https://example.org/a.pth"]) == 2
    assert "download https://example.org/a.pth and name the file" in capsys.readouterr().err
    assert main([str(job[0]), "--epochs", "0"]) == 2
    assert "--epochs 0 stores nothing" in capsys.readouterr().err


def test_a_teacher_that_is_inherited_from_is_not_stored(
    job: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Training would refuse the store."""
    arguments = [str(job[0]), "--out", str(tmp_path / "store"), "--cfg-options"]
    assert main([*arguments, "model.distillers.0.inherit=bbox_head"]) == 2
    expected = "perceptkd.UniDistill starts the student with modules of teacher 'lidar' (inherit=), which a cached"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_teacher_whose_output_depends_on_the_batch_cannot_be_stored(
    job: tuple[Path, Config], capsys: pytest.CaptureFixture
) -> None:
    assert main([str(job[0]), "--cfg-options", "model.teachers.lidar.norm=train"]) == 2
    assert "its outputs depend on the batch, not a sample" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cached teacher needs norm='eval'"):
        terms(job[1], kind=DISTILLERS[0], epoch=0, role="cached", cache="x", norm="train")


def test_frames_that_are_drawn_anew_cannot_be_stored(job: tuple[Path, Config], capsys: pytest.CaptureFixture) -> None:
    drawn = job[0].with_name("drawn.py")
    drawn.write_text(
        f"_base_ = ['{job[0].name}']\n"
        "train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, type='mmdet3d.CBGSDataset', "
        "dataset={{_base_.train_dataloader.dataset.dataset}})))\n"
    )
    assert main([str(drawn), "--device", "cpu"]) == 2
    assert "CBGSDataset draws its frames anew" in capsys.readouterr().err
