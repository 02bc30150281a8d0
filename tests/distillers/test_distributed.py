"""Contract 9, for every method: two processes with one and two samples train as one process on all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perceptkd.distillers  # noqa: F401  (registers the methods)
from perceptkd.registry import DISTILLERS

WORKER = Path(__file__).with_name("ddp_worker.py")
CASES = ("unequal", "one rank without boxes")
METHODS = sorted(cls.__name__ for cls in DISTILLERS.module_dict.values() if "perceptkd.distillers." in cls.__module__)
TOLERANCE = 2e-5  # methods add an eps to counts per rank


@pytest.fixture(scope="module")
def ranks(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes saved."""
    return run_ranks(WORKER, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_contract_09_two_ranks_equal_one_process(ranks: list[dict[str, Any]], method: str, case: str) -> None:
    """Values and gradients, averaged as DDP does. The ranks alone are far from it, so that nothing holds by chance."""
    joint = ranks[0]["joint"][case][method]
    own = [rank["own"][case][method] for rank in ranks]
    assert all(joint.keys() == rank.keys() for rank in own)
    for term, expected in joint.items():
        for part, whole in enumerate(expected):  # the value, then the gradient
            mean = (own[0][term][part] + own[1][term][part]) / 2
            size = whole.abs().max().item()
            assert size > 1e-6
            assert (mean - whole).abs().max().item() <= TOLERANCE * size, term
            assert (own[0][term][part] - whole).abs().max().item() > 100 * TOLERANCE * size, term
