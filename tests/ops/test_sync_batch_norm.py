"""mmcv's synchronised batch normalisation against torch's on the joint batch (run as a script by the test)."""

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch import distributed as dist

from perceptkd.engine.distributed import leave_processes
from perceptkd.ops.mmcv_ext import install

RANKS = 2
CHANNELS = 3
STEPS = 2


def batches(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Maps and the gradients of the outputs, each [STEPS, 4, CHANNELS, 5, 2]; the halves of a batch differ."""
    generator = torch.Generator().manual_seed(0)
    maps, upstream = torch.randn(2, STEPS, 4, CHANNELS, 5, 2, generator=generator)
    return (maps * 3 + torch.arange(4).view(4, 1, 1, 1)).to(dtype), upstream.to(dtype)


def train(norm: nn.Module, samples: slice, dtype: torch.dtype = torch.float32) -> dict[str, list[Tensor]]:
    """Takes the steps on some of the samples; what comes out of each, and of an evaluation after the last."""
    norm.train()
    norm.weight.data.copy_(torch.tensor([0.5, 2.0, -1.0]))
    norm.bias.data.copy_(torch.tensor([0.1, 0.0, -3.0]))
    record: dict[str, list[Tensor]] = {name: [] for name in ("output", "input", "weight", "bias", "mean", "var")}
    for maps, upstream in zip(*batches(dtype)):
        leaf = maps[samples].to(norm.weight.device).requires_grad_()
        output = norm(leaf)
        gradients = torch.autograd.grad(output, (leaf, norm.weight, norm.bias), upstream[samples].to(output.device))
        values = (output.detach(), *gradients, norm.running_mean.clone(), norm.running_var.clone())
        for name, value in zip(record, values):
            record[name].append(value)
    record["evaluated"] = [norm.eval()(leaf).detach()]
    return record


def make_sync_norm(**options: object) -> nn.Module:
    import mmcv.ops  # noqa: F401  (registers it)

    return build_norm_layer({"type": "MMSyncBN", **options}, CHANNELS)[1]


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    """mmcv's layer asks for a group of processes even if there is one only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    leave_processes()


@pytest.mark.parametrize("stats_mode", ["default", "N"])
def test_one_process_equals_torch(device: str, alone_in_a_group: None, stats_mode: str) -> None:
    found = train(make_sync_norm(stats_mode=stats_mode).to(device), slice(None))
    expected = train(nn.BatchNorm2d(CHANNELS).to(device), slice(None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_has_float32_statistics(device: str, alone_in_a_group: None) -> None:
    found = train(make_sync_norm().to(device), slice(None), torch.float16)
    expected = train(nn.BatchNorm2d(CHANNELS).to(device), slice(None))
    assert {found[name][0].dtype for name in ("output", "input")} == {torch.float16}
    for name, values in expected.items():
        torch.testing.assert_close([value.float() for value in found[name]], values, rtol=1e-2, atol=3e-2)


def test_no_samples(device: str, alone_in_a_group: None) -> None:
    norm = make_sync_norm(stats_mode="N").to(device)
    maps = torch.zeros(0, CHANNELS, 5, 2, device=device, requires_grad=True)
    output = norm(maps)
    assert output.shape == maps.shape
    gradients = torch.autograd.grad(output.sum(), (maps, norm.weight, norm.bias))
    assert gradients[0].shape == maps.shape
    assert not any(gradient.any() for gradient in gradients[1:])
    assert norm.running_mean.tolist() == [0.0] * CHANNELS
    assert norm.running_var.tolist() == [1.0] * CHANNELS


def test_cumulative_average_and_no_running_statistics(alone_in_a_group: None) -> None:
    found, expected = (
        train(norm, slice(None)) for norm in (make_sync_norm(momentum=None), nn.BatchNorm2d(CHANNELS, momentum=None))
    )
    torch.testing.assert_close(found["var"], expected["var"])
    maps = batches()[0][0]
    untracked = make_sync_norm(track_running_stats=False, affine=False)
    torch.testing.assert_close(untracked.eval()(maps), nn.BatchNorm2d(CHANNELS, affine=False)(maps))


def test_two_processes_equal_torch_on_the_joint_batch(run_ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    ranks = run_ranks(__file__, tmp_path, count=RANKS)
    expected = train(nn.BatchNorm2d(CHANNELS), slice(None))
    for case, name in (("equal", "output"), ("equal", "input"), ("uneven", "output")):
        joint = [torch.cat(parts) for parts in zip(*(rank[case][name] for rank in ranks))]
        torch.testing.assert_close(joint, expected[name], rtol=1e-4, atol=1e-5)
    for rank in ranks:
        for name in ("mean", "var"):
            torch.testing.assert_close(rank["equal"][name], expected[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rank["uneven"]["mean"], expected["mean"], rtol=1e-4, atol=1e-5)
        for name in ("weight", "bias"):
            # mmcv averages over the processes, as DistributedDataParallel will once more
            halves = [value / RANKS for value in expected[name]]
            torch.testing.assert_close(rank["equal"][name], halves, rtol=1e-4, atol=1e-5)


def work(rank: int, folder: Path) -> None:
    """One of the two processes: two samples each, and then three and one."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    equal = train(make_sync_norm(), slice(2 * rank, 2 * rank + 2))
    uneven = train(make_sync_norm(stats_mode="N"), [slice(0, 3), slice(3, 4)][rank])
    torch.save({"equal": equal, "uneven": uneven}, folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    install()
    work(int(sys.argv[1]), Path(sys.argv[2]))
