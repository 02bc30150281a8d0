"""mmdet3d's segmentors of point sets run on our ops: loss and backward, from upstream's own config files."""

import pytest
import torch
from mmengine import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings

import perceptkd.compat  # noqa: F401

CLASSES = 13


def room(points: int) -> dict:
    """Two clouds with colours and normalised coordinates, and a random class for each point."""
    from mmdet3d.structures import Det3DDataSample, PointData

    clouds, samples = [], []
    for _ in range(2):
        clouds.append(torch.rand(points, 9))
        sample = Det3DDataSample()
        sample.gt_pts_seg = PointData(pts_semantic_mask=torch.randint(0, CLASSES, (points,)))
        samples.append(sample)
    return {"inputs": {"points": clouds}, "data_samples": samples}


@pytest.mark.parametrize(
    "name",
    [
        "pointnet2/pointnet2_ssg_2xb16-cosine-50e_s3dis-seg.py",
        "paconv/paconv_ssg-cuda_8xb8-cosine-200e_s3dis-seg.py",
        "dgcnn/dgcnn_4xb32-cosine-100e_s3dis-seg_test-area5.py",
    ],
)
def test_segmentors_train(device: str, name: str) -> None:
    import_modules_from_strings(["mmdet3d.models"])
    init_default_scope("mmdet3d")
    model = MODELS.build(ConfigDict(get_config(f"mmdet3d::{name}").model.to_dict())).to(device)
    losses = model(**model.data_preprocessor(room(1100), training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    broken = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert broken == []
