"""Contract 9: N processes train exactly as one process on the joint batch."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from perceptkd.core.distributed import all_reduce_mean

WORKER = Path(__file__).with_name("ddp_worker.py")


def train(folder: Path, world_size: int, wrapper: str) -> list[dict[str, Any]]:
    """Run the worker in ``world_size`` processes; what each of them saved."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PERCEPTKD_OPS": "own"}
    outputs = [folder / f"{wrapper}-{rank}.pth" for rank in range(world_size)]
    arguments = [str(world_size), wrapper, str(folder / f"meet-{wrapper}")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), *arguments, str(output)],
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process saved that trained on the joint batches."""
    return train(tmp_path_factory.mktemp("alone"), 1, "none")[0]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize(("wrapper", "kind"), [("ddp", "Parameter"), ("fsdp2", "DTensor")])
def test_contract_09_two_gloo_ranks_equal_one_process_on_the_joint_batch(
    alone: dict[str, Any], tmp_path: Path, wrapper: str, kind: str
) -> None:
    """Behind DDP, and with torch's fully_shard on the student's blocks and the rest of the model."""
    if wrapper == "fsdp2" and not hasattr(import_module("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    ranks = train(tmp_path, 2, wrapper)
    assert ranks[0]["kinds"] == [{kind}, {"Parameter"}]  # the teacher's are never sharded
    assert all(torch.equal(value, ranks[1]["teacher"][key]) for key, value in alone["teacher"].items())
    assert any("adapters" in key for key in alone["state"])
    assert alone["state"].keys() == ranks[0]["state"].keys()  # what is gathered is a checkpoint like any other
    for key, value in alone["state"].items():
        assert torch.equal(ranks[0]["state"][key], ranks[1]["state"][key])
        torch.testing.assert_close(ranks[0]["state"][key], value, rtol=1e-5, atol=1e-6)
    for number, expected in enumerate(alone["logs"]):
        # the ranks hold 3 and 7 objects: an average over local counts would have been another loss
        first, second = (rank["logs"][number]["kd/toydistiller/feature"] for rank in ranks)
        torch.testing.assert_close((first + second) / 2, expected["kd/toydistiller/feature"], rtol=1e-5, atol=1e-6)
        assert not torch.isclose(first, second)


def test_contract_09_one_process_needs_no_reduction() -> None:
    value = torch.tensor([3.0, 4.0], requires_grad=True)
    reduced = all_reduce_mean(value)
    assert torch.equal(reduced, value)
    assert not reduced.requires_grad
