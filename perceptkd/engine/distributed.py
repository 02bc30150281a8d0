"""Several processes on a machine without a GPU, for which MMEngine's launcher and wrapper insist on one."""

import gc
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` without device numbers, which torch refuses for a model on the CPU."""

    def __init__(self, module: torch.nn.Module, *, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, device_ids=None, **kwargs)


def prepare_cpu_processes(config: Config) -> None:
    """Join the processes over gloo and choose our wrapper, if the config asks for several and there is no GPU.

    Call it before the Runner is built. The launcher's environment (RANK, WORLD_SIZE, MASTER_ADDR, ...) must be set.
    """
    if config.get("launcher", "none") == "none" or torch.cuda.is_available():
        return
    if not is_distributed():
        distributed.init_process_group("gloo")
    config.model_wrapper_cfg = {
        "type": CPUDistributedDataParallel.__name__,
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }


def leave_processes() -> None:
    """Leave the group of processes, if this one is in one, and wait for gloo's threads.

    Such a thread may hold the last tensor of a finished broadcast. Freeing it takes the interpreter's lock, which in an
    interpreter that is about to end aborts the process. The group ends its threads when nothing refers to it any more,
    and a Runner, which has cycles, refers to it until they are collected.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()
