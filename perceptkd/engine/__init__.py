"""What the stock MMEngine Runner lacks for distillation: exact resume, student checkpoints, bf16 on the CPU."""

from perceptkd.engine import hooks
from perceptkd.engine.amp_optim_wrapper import AmpOptimWrapper
from perceptkd.engine.backends import backends

__all__ = ["AmpOptimWrapper", "backends", "hooks"]
