"""What the stock MMEngine Runner lacks for distillation: exact resume, student checkpoints, bf16 on the CPU."""

from perceptkd.engine import hooks  # noqa: F401  (registers them)
