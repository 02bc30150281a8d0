"""Runs the kernels on the GPU, or on CPU through Triton's interpreter, which the suite's conftest chooses."""

import importlib

import pytest
import torch


@pytest.fixture
def kernel_device() -> str:
    """Where the kernels run here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends the tensors of every op to the kernels, those on CPU too."""
    for name in ("ball_query", "bev_pool", "box_iou_rotated", "furthest_points", "ms_deform_attn", "voxelize"):
        monkeypatch.setattr(importlib.import_module(f"perceptkd.ops.{name}"), "runs_on_triton", lambda _: True)
