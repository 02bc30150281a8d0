"""Hooks, found by MMEngine under the prefix ``perceptkd.``."""

from perceptkd.engine.hooks.bev_visualization_hook import BEVVisualizationHook
from perceptkd.engine.hooks.distill_log_hook import DistillLogHook
from perceptkd.engine.hooks.seed_epoch_hook import SeedEpochHook
from perceptkd.engine.hooks.student_checkpoint_hook import StudentCheckpointHook

__all__ = ["BEVVisualizationHook", "DistillLogHook", "SeedEpochHook", "StudentCheckpointHook"]
