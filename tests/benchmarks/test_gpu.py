"""benchmarks/gpu.py runs from end to end; on a CPU its figures mean nothing and are not written."""

import math

import gpu
import pytest
import torch


@pytest.mark.parametrize("with_peer", [False, True])
def test_every_row_can_be_measured(device: str, with_peer: bool) -> None:
    if with_peer and gpu.load_peer(device) is None:
        pytest.skip("spconv is not installed")
    points = torch.rand(500, 3) * torch.tensor([4.0, 4.0, 2.0])
    rows = gpu.measure(points, gpu.Setting(device, 1, gpu.load_peer(device) if with_peer else None))
    names = [row["name"] for row in rows]
    layers = [name for channels in gpu.LAYER_CHANNELS for name in gpu.layer_names(channels)]
    assert sorted(names) == sorted([*gpu.TARGETS_MS, *gpu.FURTHER_ROWS, *layers])
    assert len(names) == len(set(names))
    assert all(math.isfinite(row["ours"]) and isinstance(row["met"], bool | None) for row in rows)
    assert sum("no peer" in row["note"] for row in rows) == (0 if with_peer else 6)
    assert sum(row["peer"] is not None for row in rows) == (2 if not with_peer else 7 if device == "cpu" else 8)
