"""Upstream detectors on batches in which a cloud, the last one too, has no point in range, or a box no known class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from perceptkd.core.errors import InputError

FRONT = [0.0, -3.84, -3.0], [7.68, 3.84, 1.0]
AROUND = [-6.4, -6.4, -5.0], [6.4, 6.4, 3.0]
CENTERPOINT = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


def kitti_model(name: str, middle_encoder: dict[str, Any]) -> dict[str, Any]:
    """The model of an upstream KITTI config on a range of 7.68 m."""
    model = get_config(f"mmdet3d::{name}").model.to_dict()
    low, high = FRONT
    model["data_preprocessor"]["voxel_layer"]["point_cloud_range"] = low + high
    if "point_cloud_range" in model["voxel_encoder"]:
        model["voxel_encoder"]["point_cloud_range"] = low + high
    model["middle_encoder"].update(middle_encoder)
    generator = model["bbox_head"]["anchor_generator"]
    generator["ranges"] = [[*low[:2], r[2], *high[:2], r[5]] for r in generator["ranges"]]
    return model


@pytest.fixture(params=["pointpillars", "second", "dynamic", "centerpoint"])
def case(request: pytest.FixtureRequest, scene: Callable, centerpoint_config: Callable) -> tuple[nn.Module, dict]:
    """A detector and a batch of two clouds."""
    if request.param == "centerpoint":
        config = centerpoint_config(CENTERPOINT, *AROUND, [64, 64, 1])
        config["pts_middle_encoder"]["output_shape"] = (64, 64)
        batch = scene(*AROUND, columns=5, box_columns=9, classes=10)
    else:
        name, size = {
            "pointpillars": ("pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", [48, 48]),
            "second": ("second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py", [41, 160, 160]),
            "dynamic": ("dynamic_voxelization/pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car.py", [48, 48]),
        }[request.param]
        config = kitti_model(name, {"sparse_shape" if len(size) == 3 else "output_shape": size})
        batch = scene(*FRONT, columns=4, box_columns=7, classes=1)
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(config)), batch


@torch.no_grad()
def first_map(model: nn.Module, clouds: list[Tensor], samples: list) -> Tensor:
    """The first BEV map [B, C, H, W] that the detector makes of these clouds, with 1 as its largest value."""
    inputs = model.eval().data_preprocessor({"inputs": {"points": clouds}, "data_samples": samples})["inputs"]
    if hasattr(model, "pts_neck"):
        features = model.extract_feat(inputs, [{}] * len(clouds))[1]
    else:
        features = model.extract_feat(inputs)
    return features[0] / features[0].abs().max()


@pytest.mark.parametrize("move_m", [None, 1000.0], ids=["no-point", "out-of-range"])
def test_an_empty_cloud_keeps_its_place_wherever_it_is(case: tuple, move_m: float | None) -> None:
    model, batch = case
    full, samples = batch["inputs"]["points"][0], batch["data_samples"]
    empty = full[:0] if move_m is None else full + full.new_tensor([move_m] + [0.0] * (full.shape[1] - 1))
    last, first = first_map(model, [full, empty], samples), first_map(model, [empty, full], samples)
    assert len(last) == 2
    torch.testing.assert_close(last, first.flip(0))
    torch.testing.assert_close(last[:1], first_map(model, [full], samples[:1]))
    assert not torch.allclose(last[0], last[1])


def test_a_batch_with_an_empty_last_cloud_trains_and_is_predicted(case: tuple) -> None:
    model, batch = case
    batch["inputs"]["points"][1] = batch["inputs"]["points"][1][:0]
    losses = model.train()(**model.data_preprocessor(batch, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(batch), mode="predict")
    assert len(found) == 2


def test_a_batch_without_any_point_is_refused(case: tuple) -> None:
    model, batch = case
    batch["inputs"]["points"] = [cloud[:0] for cloud in batch["inputs"]["points"]]
    with pytest.raises(InputError, match=r"none of the 2 clouds .* inside point_cloud_range: check .* unit \(metres\)"):
        model(**model.data_preprocessor(batch, training=True), mode="loss")


@pytest.mark.parametrize("name", ["PartA2", "SASSD", "PointVoxelRCNN"])
def test_detectors_that_count_voxels_refuse_an_empty_last_cloud(name: str) -> None:
    from mmdet3d.models import detectors

    detector = getattr(detectors, name)
    inputs = {"points": [torch.ones(1, 4), torch.ones(0, 4)], "voxels": {"coors": torch.zeros(1, 4, dtype=torch.int)}}
    with pytest.raises(InputError, match=f"the last of the 2 clouds .* which {name} cannot do without"):
        detector.extract_feat(object.__new__(detector), inputs)


def test_the_dynamic_fusion_detector_refuses_an_empty_last_cloud() -> None:
    from mmdet3d.models.detectors import DynamicMVXFasterRCNN

    voxels, points = {"coors": torch.zeros(1, 4, dtype=torch.int)}, [torch.ones(1, 4), torch.ones(0, 4)]
    with pytest.raises(InputError, match="the last of the 2 clouds"):
        DynamicMVXFasterRCNN.extract_pts_feat(object.__new__(DynamicMVXFasterRCNN), voxels, points=points)


@pytest.mark.parametrize("label", [-1, 77])
def test_a_label_that_the_head_does_not_know_is_named(case: tuple, label: int) -> None:
    model, batch = case
    batch["data_samples"][1].gt_instances_3d.labels_3d[2] = label
    data = model.train().data_preprocessor(batch, training=True)
    if label < 0 and hasattr(model, "pts_bbox_head"):
        losses = model(**data, mode="loss")  # a centre head leaves the box out
        assert all(torch.isfinite(value) for value in losses.values())
        return
    with pytest.raises(InputError, match=rf"labels \[{label}\], the head knows 0 to \d: .* differ; choose them alike"):
        model(**data, mode="loss")
