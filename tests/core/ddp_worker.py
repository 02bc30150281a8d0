"""One process of the two-rank test of contract 9: trains one step on its share of the batch and saves what came out.

Usage: ddp_worker.py RANK WORLD_SIZE RENDEZVOUS_FILE OUTPUT
"""

import sys
from pathlib import Path

import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import conftest
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from perceptkd.core import DistillModel
from perceptkd.engine.distributed import leave_processes


def build() -> DistillModel:
    """The same model in every process, with an adapter that trains."""
    torch.manual_seed(0)
    return DistillModel(
        {"type": "perceptkd.ToyDetector", "channels": 4, "norm": False},
        teachers={"teacher": {"config": {"type": "perceptkd.ToyDetector", "channels": 6}, "allow_random": True}},
        distillers=[
            {
                "type": "perceptkd.ToyDistiller",
                "weights": {"feature": 10.0},
                "adapters": {"feature": {"type": "conv", "in_channels": 4, "out_channels": 6}},
            }
        ],
    )


def train(rank: int, world_size: int, output: Path) -> None:
    """Two steps on every ``world_size``-th part of a batch of four samples with 1, 2, 3 and 4 objects."""
    model = build()
    wrapped = MMDistributedDataParallel(model) if world_size > 1 else model
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    share = 4 // world_size
    for seed in range(2):
        batch = conftest.make_batch(size=4, seed=seed)
        part = {key: value[rank * share : (rank + 1) * share] for key, value in batch.items()}
        logs = wrapped.train_step(part, optimizer)
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    term = logs["kd/toydistiller/feature"]
    torch.save({"state": state, "term": term}, output)


if __name__ == "__main__":
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    train(rank, world_size, Path(sys.argv[4]))
    leave_processes()
