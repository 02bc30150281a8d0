"""PointDistiller on a real KITTI frame, with mmdet3d's PointPillars and the published sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

import perceptkd.registry  # noqa: F401  (makes mmdet3d importable)
from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.distillers.pointdistiller import graph_weights

POINT_PILLARS = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"


def write(path: Path, base: int) -> str:
    """PointPillars with ``base`` channels in its pillar encoder, and a shallow BEV backbone."""
    widths = [base, 2 * base, 4 * base]
    model = {
        "voxel_encoder": {"feat_channels": [base]},
        "middle_encoder": {"in_channels": base},
        "backbone": {"in_channels": base, "layer_nums": [1, 1, 1], "out_channels": widths},
        "neck": {"in_channels": widths, "out_channels": [base] * 3},
        "bbox_head": {"in_channels": 3 * base, "feat_channels": 3 * base},
    }
    path.write_text(f"_base_ = [{POINT_PILLARS!r}]\nmodel = {model!r}\n")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("released", [False, True])
def test_real_frame(real_data: Path, tmp_path: Path, released: bool) -> None:
    """3945 pillars, of which 56 are full. Those share all weight in the release, and half of it otherwise."""
    cloud = np.fromfile(real_data / "mmdet3d_demo" / "kitti" / "000008.bin", np.float32).reshape(-1, 4)
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 7)), labels_3d=torch.zeros(0, dtype=torch.long)
    )
    model = DistillModel(
        write(tmp_path / "student.py", 32),
        teachers={"teacher": {"config": write(tmp_path / "teacher.py", 64), "allow_random": True}},
        distillers=[
            {"type": "perceptkd.PointDistiller", "student_channels": 32, "teacher_channels": 64, "released": released}
        ],
    ).train()
    (distiller,) = model.distillers.each()
    seen = []
    gap = distiller._gap
    distiller._gap = lambda items, *encoders: (seen.append(items), gap(items, *encoders))[1]
    batch = {"inputs": {"points": [torch.from_numpy(cloud)]}, "data_samples": [sample]}
    losses = model(RawBatch(batch, True), mode="loss")
    ((items,), graphs) = seen, list(distiller._graphs(seen[0]))
    assert (len(items.importance), int((items.importance == 32).sum())) == (3945, 56)
    assert (len(graphs), *graphs[0].neighbour.shape) == ((1, 3945, 128) if released else (1, 1000, 128))
    full = graphs[0].weight[items.importance[graphs[0].centre] == 32].sum() / graphs[0].weight.sum()
    assert full > 0.999 if released else full < 0.6
    assert torch.equal(graphs[0].weight, graph_weights(items.importance[graphs[0].centre], **(
        {"mode": "raw", "tau": 0.01} if released else {"mode": "standard"}
    )))  # fmt: skip
    loss = losses["loss_kd/pointdistiller/graph"]
    loss.backward()
    weight = model.student.voxel_encoder.pfn_layers[0].linear.weight
    assert 0 < loss < 20
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().sum() > 0
