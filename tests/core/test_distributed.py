"""Contract 9: N processes train exactly as one process on the joint batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from perceptkd.core.distributed import all_reduce_mean

WORKER = Path(__file__).with_name("ddp_worker.py")


def train(folder: Path, world_size: int) -> list[dict[str, Any]]:
    """Run the worker in ``world_size`` processes; what each of them saved."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PERCEPTKD_OPS": "own"}
    outputs = [folder / f"{world_size}-{rank}.pth" for rank in range(world_size)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world_size), str(folder / f"meet-{world_size}"), str(output)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(output) for output in outputs]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_contract_09_two_gloo_ranks_equal_one_process_on_the_joint_batch(tmp_path: Path) -> None:
    (alone,) = train(tmp_path, 1)
    ranks = train(tmp_path, 2)
    assert any("adapters" in key for key in alone["state"])
    for key, value in alone["state"].items():
        assert torch.equal(ranks[0]["state"][key], ranks[1]["state"][key])
        torch.testing.assert_close(ranks[0]["state"][key], value, rtol=1e-5, atol=1e-6)
    # the ranks hold 3 and 7 objects: an average over local counts would have been another loss
    mean = (ranks[0]["term"] + ranks[1]["term"]) / 2
    torch.testing.assert_close(mean, alone["term"], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(ranks[0]["term"], ranks[1]["term"])


def test_contract_09_one_process_needs_no_reduction() -> None:
    value = torch.tensor([3.0, 4.0], requires_grad=True)
    reduced = all_reduce_mean(value)
    assert torch.equal(reduced, value)
    assert not reduced.requires_grad
