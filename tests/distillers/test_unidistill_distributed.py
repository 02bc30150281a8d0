"""F13: two processes with 1 and 3 boxes get the gradient of one process on all 4 (run as a script by the test)."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from perceptkd.engine.distributed import leave_processes

RANKS = 2
BOXES = [
    [(10.0, 5.0, 4.6, 2.0, 0.5)],
    [(0.0, -3.0, 4.6, 2.0, 0.1), (-20.0, 30.0, 8.0, 3.0, 1.0), (30, -9, 0.7, 0.7, 0)],
]
TERMS = ("feature", "relation", "response_cls", "response_reg")


def maps(samples: list[int]) -> tuple[Tensor, Tensor]:
    """Raw maps (student, teacher) [samples, 10, 60, 60] of 0.6 m cells."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, len(BOXES), 10, 180, 180, generator=generator)
    return student[samples], teacher[samples]


def gradients(samples: list[int], make_taps: Callable, make_step: Callable) -> dict[str, Tensor]:
    """Gradient of each term with respect to a weight per channel [10] that all samples and taps share."""
    from perceptkd.distillers.unidistill import UniDistill

    student, teacher = maps(samples)
    scale = torch.ones(10, 1, 1, requires_grad=True)

    def taps(bev_map: Tensor) -> dict:
        return make_taps(bev_map, bev_map, ([{"heatmap": bev_map[:, :8], "reg": bev_map[:, 8:]}],))

    terms = UniDistill().loss(taps(student * scale), taps(teacher), make_step([BOXES[sample] for sample in samples]))
    return {name: torch.autograd.grad(terms[name], scale, retain_graph=True)[0].flatten() for name in TERMS}


def test_f13_two_ranks_equal_one_process(tmp_path: Path, make_taps: Callable, make_step: Callable) -> None:
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    errors = [worker.communicate(timeout=600)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * RANKS, "\n".join(errors)
    per_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    joint = gradients([0, 1], make_taps, make_step)
    for term in TERMS:
        averaged = torch.stack([rank[term] for rank in per_rank]).mean(dim=0)
        assert joint[term].abs().max() > 1e-3
        # eps is added to 2 boxes per rank, but to 4 boxes in one process: 25 ppm apart.
        assert averaged == pytest.approx(joint[term], rel=1e-4, abs=1e-7)


def work(rank: int, folder: Path) -> None:
    """One of the two processes."""
    sys.path.insert(0, str(Path(__file__).parent))
    import conftest

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    make_taps, make_step = (fixture.__wrapped__() for fixture in (conftest.make_taps, conftest.make_step))
    torch.save(gradients([rank], make_taps, make_step), folder / f"{rank}.pt")
    leave_processes()


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
