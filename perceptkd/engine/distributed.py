"""Training in several processes: on a machine without a GPU, and with convolutions in channels_last."""

import gc
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed

from perceptkd.engine.precision import choose_precision, to_channels_last
from perceptkd.registry import SCOPE


@MODEL_WRAPPERS.register_module()
class FlexibleDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` for models on any device, in the layout that they train in.

    Layouts must not change once a model is wrapped: torch's reducer then mixes up the gradients of the weights that it
    averages, in the first step, and in all steps with ``find_unused_parameters``.

    Args:
        module: The model.
        device_ids: Of MMEngine; left out for a model on the CPU, where torch refuses them.
        precision: What the ``AmpOptimWrapper`` is asked for; its rule says whether convolutions are laid out here. None
            leaves them as they are.
        **kwargs: Of ``MMDistributedDataParallel``.
    """

    def __init__(
        self, module: torch.nn.Module, *, device_ids: Any = None, precision: str | None = None, **kwargs: Any
    ) -> None:
        device = next(module.parameters()).device
        if precision is not None and choose_precision(device, request=precision).channels_last:
            to_channels_last(module)
        super().__init__(module, device_ids=None if device.type == "cpu" else device_ids, **kwargs)


def prepare_processes(config: Config) -> None:
    """Choose our wrapper if the config asks for several processes; without a GPU, join them over gloo.

    Call it before the Runner is built. The launcher's environment (RANK, WORLD_SIZE, MASTER_ADDR, ...) must be set. A
    wrapper that the config itself names stays.
    """
    if config.get("launcher", "none") == "none":
        return
    if not torch.cuda.is_available() and not is_distributed():
        distributed.init_process_group("gloo")
    if config.get("model_wrapper_cfg") is None:
        config.model_wrapper_cfg = {
            "type": FlexibleDistributedDataParallel.__name__,
            "precision": _precision(config),
            "broadcast_buffers": False,
            "find_unused_parameters": config.get("find_unused_parameters", False),
        }


def _precision(config: Config) -> str | None:
    wrapper = config.get("optim_wrapper") or {}
    return wrapper.get("precision", "auto") if wrapper.get("type") == f"{SCOPE}.AmpOptimWrapper" else None


def leave_processes() -> None:
    """Leave the group of processes, if this one is in one, and wait for gloo's threads.

    Such a thread may hold the last tensor of a finished broadcast. Freeing it takes the interpreter's lock, which in an
    interpreter that is about to end aborts the process. The group ends its threads when nothing refers to it any more,
    and a Runner, which has cycles, refers to it until they are collected.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()
