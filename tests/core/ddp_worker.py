"""One process of the two-rank test of contract 9: trains on its share of the batches and saves what came out.

Usage: ddp_worker.py RANK FOLDER WORLD_SIZE WRAPPER, where WRAPPER is none, ddp or fsdp2
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

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


def wrap(model: DistillModel, wrapper: str, world_size: int) -> Any:
    """The model as it trains: alone, behind DDP, or with its parameters sharded in place."""
    if wrapper == "ddp":
        return MMDistributedDataParallel(model)
    if wrapper == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world_size,))
        for block in (model.student.backbone, model.student.neck, model.student.bbox_head, model):
            fully_shard(block, mesh=mesh)
    return model


def train(rank: int, world_size: int, wrapper: str, output: Path) -> None:
    """Three steps on every ``world_size``-th part of batches of four samples with 1, 2, 3 and 4 objects."""
    model = build()
    wrapped = wrap(model, wrapper, world_size)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05), clip_grad={"max_norm": 2.0})
    share = 4 // world_size
    logs = []
    for seed in range(3):
        batch = conftest.make_batch(size=4, seed=seed)
        part = {key: value[rank * share : (rank + 1) * share] for key, value in batch.items()}
        logs.append(wrapped.train_step(part, optimizer))
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    teacher = model.distillers.teachers["teacher"].model
    torch.save(
        {
            "state": {key: value for key, value in state.items() if isinstance(value, Tensor)},
            "logs": [{key: value.detach() for key, value in step.items()} for step in logs],
            "teacher": teacher.state_dict(),
            "kinds": [{type(parameter).__name__ for parameter in each.parameters()} for each in (model, teacher)],
        },
        output,
    )


if __name__ == "__main__":
    rank, folder, world_size, wrapper = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    train(rank, world_size, wrapper, folder / f"{rank}.pt")
    leave_processes()
