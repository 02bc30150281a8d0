"""The detectors of mmdet and mmdet3d run on our ops: loss, backward and predict, from upstream's own config files.

Only sizes are changed: a smaller range, no downloaded weights, score thresholds of 0 so that NMS has work.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from mmengine.hub import get_config

import perceptkd.compat  # noqa: F401
from perceptkd.ops import mmcv_ext

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_ops() -> None:
    assert mmcv_ext.backends()["mmcv_ops"] == "own"


def build(config: Mapping, scope: str, device: str) -> torch.nn.Module:
    """Builds a model of another scope the way the Runner does."""
    from mmengine import ConfigDict
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.utils import import_modules_from_strings

    import_modules_from_strings([f"{scope}.models"])
    init_default_scope(scope)
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(config)).to(device)


def replace_lists(node: object, old: list, new: list) -> object:
    """Replaces every list equal to ``old`` in nested dicts and lists."""
    if isinstance(node, (list, tuple)) and list(node) == old:
        return list(new)
    if isinstance(node, Mapping):
        return {key: replace_lists(value, old, new) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(replace_lists(value, old, new) for value in node)
    return node


def check_training(model: torch.nn.Module, batch: dict) -> None:
    """One loss and backward: finite, positive, and a gradient for every parameter."""
    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    assert total > 0
    total.backward()
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, value in trainable.items() if value.grad is None] == []
    broken = [name for name, value in trainable.items() if not torch.isfinite(value.grad).all()]
    assert broken == []


@torch.no_grad()
def predict(model: torch.nn.Module, batch: dict) -> list:
    model.eval()
    return model(**model.data_preprocessor(batch, training=False), mode="predict")


def check_boxes_3d(results: list, nms_threshold: float) -> None:
    """Every sample has boxes, by falling score per class, and none that overlap more than NMS allows."""
    from perceptkd.ops.box_iou_rotated import box_iou_rotated

    for result in results:
        found = result.pred_instances_3d
        assert len(found) > 1
        assert torch.isfinite(found.bboxes_3d.tensor).all()
        for label in found.labels_3d.unique():
            bev = found.bboxes_3d.bev[found.labels_3d == label]
            assert box_iou_rotated(bev, bev).fill_diagonal_(0).max() <= nms_threshold + 1e-4


def kitti_config(name: str, low: list[float], high: list[float]) -> dict:
    model = get_config(name).model.to_dict()
    old = model["data_preprocessor"]["voxel_layer"]["point_cloud_range"]
    model = replace_lists(model, old, low + high)
    generator = model["bbox_head"]["anchor_generator"]
    generator["ranges"] = [[*low[:2], r[2], *high[:2], r[5]] for r in generator["ranges"]]
    model["test_cfg"].update(score_thr=0.0)
    return model


def test_pointpillars_trains_and_predicts(device: str, scene: Make) -> None:
    low, high = [0.0, -7.68, -3.0], [15.36, 7.68, 1.0]
    model = kitti_config("mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", low, high)
    model["middle_encoder"]["output_shape"] = [96, 96]
    detector, batch = build(model, "mmdet3d", device), scene(low, high, columns=4, box_columns=7, classes=3)
    check_training(detector, batch)
    check_boxes_3d(predict(detector, batch), model["test_cfg"]["nms_thr"])


def test_pointpillars_with_dynamic_voxels_trains_and_predicts(device: str, scene: Make) -> None:
    """Dynamic voxelization and dynamic scatter in place of bounded voxels."""
    low, high = [0.0, -7.68, -3.0], [15.36, 7.68, 1.0]
    name = "mmdet3d::dynamic_voxelization/pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car.py"
    model = kitti_config(name, low, high)
    model["middle_encoder"]["output_shape"] = [96, 96]
    detector, batch = build(model, "mmdet3d", device), scene(low, high, columns=4, box_columns=7, classes=1)
    check_training(detector, batch)
    check_boxes_3d(predict(detector, batch), model["test_cfg"]["nms_thr"])


def test_second_trains_and_predicts(device: str, scene: Make) -> None:
    low, high = [0.0, -4.8, -3.0], [9.6, 4.8, 1.0]
    model = kitti_config("mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py", low, high)
    model["middle_encoder"]["sparse_shape"] = [41, 192, 192]
    detector, batch = build(model, "mmdet3d", device), scene(low, high, columns=4, box_columns=7, classes=3)
    check_training(detector, batch)
    check_boxes_3d(predict(detector, batch), model["test_cfg"]["nms_thr"])


def test_centerpoint_pillar_trains_and_predicts(device: str, scene: Make, centerpoint_config: Make) -> None:
    low, high = [-9.6, -9.6, -5.0], [9.6, 9.6, 3.0]
    name = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    model = centerpoint_config(name, low, high, [96, 96, 1])
    model["pts_middle_encoder"]["output_shape"] = (96, 96)
    detector, batch = build(model, "mmdet3d", device), scene(low, high, columns=5, box_columns=9, classes=10)
    check_training(detector, batch)
    check_boxes_3d(predict(detector, batch), model["test_cfg"]["pts"]["nms_thr"])


def test_centerpoint_voxel_trains_and_predicts(device: str, scene: Make, centerpoint_config: Make) -> None:
    low, high = [-6.4, -6.4, -5.0], [6.4, 6.4, 3.0]
    name = "mmdet3d::centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    model = centerpoint_config(name, low, high, [128, 128, 40])
    model["pts_middle_encoder"]["sparse_shape"] = [41, 128, 128]
    detector, batch = build(model, "mmdet3d", device), scene(low, high, columns=5, box_columns=9, classes=10)
    check_training(detector, batch)
    check_boxes_3d(predict(detector, batch), model["test_cfg"]["pts"]["nms_thr"])


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
        "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    ],
)
def test_detectors_2d_train_and_predict(device: str, name: str) -> None:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from perceptkd.ops.bbox_overlaps import bbox_overlaps

    model = get_config(name).model.to_dict()
    model["backbone"]["init_cfg"] = None
    model["test_cfg"].update(score_thr=0.0, max_per_img=50)
    detector = build(model, "mmdet", device)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8) for _ in range(2)]
    samples = []
    for _ in images:
        meta = {"img_shape": (96, 128), "ori_shape": (96, 128), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo={**meta, "pad_shape": (96, 128), "batch_input_shape": (96, 128)})
        boxes = torch.tensor([[8.0, 8.0, 60.0, 70.0], [50.0, 20.0, 120.0, 90.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 5]))
        samples.append(sample)
    batch = {"inputs": images, "data_samples": samples}
    check_training(detector, batch)
    for result in predict(detector, batch):
        found = result.pred_instances
        assert len(found) > 1
        assert (found.scores[:-1] >= found.scores[1:]).all()
        for label in found.labels.unique():
            same = found.bboxes[found.labels == label]
            assert bbox_overlaps(same, same).fill_diagonal_(0).max() <= model["test_cfg"]["nms"]["iou_threshold"] + 1e-4
