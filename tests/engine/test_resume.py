"""A run that is killed and resumed ends with the same bits as one that is not (contract of the core, line 12)."""

import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

ITERATIONS_PER_EPOCH = 3


def same(left: object, right: object) -> bool:
    """Equality to the bit of nested states."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def final(work_dir: Path, name: str) -> dict:
    """Everything of a checkpoint that further training would use."""
    checkpoint = torch.load(work_dir / name, weights_only=False)
    keys = ("state_dict", "optimizer", "param_schedulers", "ema_state_dict")
    return {key: checkpoint[key] for key in keys if key in checkpoint}


def by_iteration(config: Config, sampler: str) -> None:
    """Turn the config into one that counts iterations, and saves in the middle of the second pass."""
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 8, "val_interval": 4}
    config.train_dataloader.sampler.type = sampler
    config.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    config.log_processor = {"by_epoch": False}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs(tiny_config: Config, tmp_path: Path, train, num_workers: int) -> None:
    tiny_config.train_dataloader.update(num_workers=num_workers, persistent_workers=num_workers > 0)
    tiny_config.custom_hooks.append({"type": "EMAHook", "momentum": 0.1})
    train(tiny_config, tmp_path / "through")
    train(tiny_config, tmp_path / "stopped", kill_at=ITERATIONS_PER_EPOCH + 1)
    train(tiny_config, tmp_path / "stopped", resume=True)
    through, stopped = final(tmp_path / "through", "epoch_2.pth"), final(tmp_path / "stopped", "epoch_2.pth")
    assert "ema_state_dict" in through
    assert through["optimizer"]["state"]
    assert same(through, stopped)


@pytest.mark.parametrize(("sampler", "num_workers"), [("DefaultSampler", 0), ("InfiniteSampler", 2)])
def test_iterations_from_the_middle_of_a_pass(
    tiny_config: Config, tmp_path: Path, train, sampler: str, num_workers: int
) -> None:
    by_iteration(tiny_config, sampler)
    tiny_config.train_dataloader.num_workers = num_workers
    train(tiny_config, tmp_path / "through")
    train(tiny_config, tmp_path / "stopped", kill_at=5)
    train(tiny_config, tmp_path / "stopped", resume=True)
    assert same(final(tmp_path / "through", "iter_8.pth"), final(tmp_path / "stopped", "iter_8.pth"))


@pytest.fixture
def distill_config(repository: Path, tmp_path: Path) -> Config:
    """A student with drop block, an adapter to a wider teacher, an EMA teacher, weights that change, and EMA of all."""
    assets = repository / "tests/assets/tiny_coco"
    runpy.run_path(str(assets / "mimic.py"))
    config = Config.fromfile(assets / "distill.py")
    wide = Config.fromfile(assets / "retinanet.py").model.to_dict()
    wide["neck"]["out_channels"] = wide["bbox_head"]["in_channels"] = 12
    config.model.teachers = {
        "big": {"config": {"default_scope": "mmdet", "model": wide}, "allow_random": True},
        "mean": {"role": "ema", "momentum": 0.5},
    }
    cosine, warmup = {"type": "cosine", "value": 4.0}, {"type": "warmup", "value": 2.0, "end": 0.9}
    config.model.distillers = [
        {"type": "TinyMimic", "teacher": "big", "name": "wide", "weights": {"feature": cosine}},
        {"type": "TinyMimic", "teacher": "mean", "name": "own", "weights": {"feature": warmup}},
    ]
    config.custom_hooks.append({"type": "EMAHook", "momentum": 0.1})
    config.train_cfg.val_interval = 10
    config.log_level = "ERROR"
    return config


@pytest.mark.slow
def test_contract_12_a_distillation_with_all_its_state(distill_config: Config, tmp_path: Path, train) -> None:
    """Adapter, EMA teacher, EMA of the model, schedules and the student's random draws, through our checkpoints."""
    runner = train(distill_config, tmp_path / "through")
    train(distill_config, tmp_path / "stopped", kill_at=ITERATIONS_PER_EPOCH + 1)
    train(distill_config, tmp_path / "stopped", resume=True)
    through, stopped = final(tmp_path / "through", "epoch_2.pth"), final(tmp_path / "stopped", "epoch_2.pth")
    weights = through["state_dict"]
    assert [key for key in weights if key.startswith("distillers.wide.adapters.") and key.endswith("weight")]
    assert weights["distillers._extra_state"]["ema"]["mean"]
    assert "ema_state_dict" in through
    model = runner.model.distillers
    assert model["wide"].weight("feature", 0.2) > model["wide"].weight("feature", 0.8)
    assert same(through, stopped)
    students = [torch.load(tmp_path / run / "epoch_2_student.pth")["state_dict"] for run in ("through", "stopped")]
    assert same(*students)


def test_the_hook_is_what_makes_it_exact(tiny_config: Config, tmp_path: Path, train) -> None:
    """Without our hook and wrapper the same comparison fails: the model draws from the random state."""
    tiny_config.custom_hooks = []
    tiny_config.train_dataloader.dataset = tiny_config.train_dataloader.dataset.dataset
    train(tiny_config, tmp_path / "through")
    train(tiny_config, tmp_path / "stopped", kill_at=ITERATIONS_PER_EPOCH + 1)
    train(tiny_config, tmp_path / "stopped", resume=True)
    assert not same(final(tmp_path / "through", "epoch_2.pth"), final(tmp_path / "stopped", "epoch_2.pth"))
