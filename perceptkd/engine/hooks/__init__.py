"""Hooks, found by MMEngine under the prefix ``perceptkd.``."""

from perceptkd.engine.hooks.seed_epoch_hook import SeedEpochHook

__all__ = ["SeedEpochHook"]
