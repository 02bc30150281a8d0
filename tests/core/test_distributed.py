"""Contract 9: N processes train exactly as one process on the joint batch."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from perceptkd.core.distributed import all_reduce_mean

WORKER = Path(__file__).with_name("ddp_worker.py")


@pytest.fixture(scope="module")
def alone(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process saved that trained on the joint batches."""
    return run_ranks(WORKER, tmp_path_factory.mktemp("alone"), "1", "none", count=1, timeout_s=300)[0]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize(("wrapper", "kind"), [("ddp", "Parameter"), ("fsdp2", "DTensor")])
def test_contract_09_two_gloo_ranks_equal_one_process_on_the_joint_batch(
    alone: dict[str, Any], run_ranks: Callable[..., list[Any]], tmp_path: Path, wrapper: str, kind: str
) -> None:
    """Behind DDP, and with torch's fully_shard on the student's blocks and the rest of the model."""
    if wrapper == "fsdp2" and not hasattr(import_module("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    ranks = run_ranks(WORKER, tmp_path, "2", wrapper, timeout_s=300)
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
