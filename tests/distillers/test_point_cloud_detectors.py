"""Distillers of point clouds on mmdet3d's detectors, from upstream's configs: a wide teacher, a narrow student."""

import copy
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub

from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.core.checkpoint import CheckpointError, load_weights
from perceptkd.core.source import build_model, read_model_source

_source = Path(__file__).resolve().parent.parent / "ops" / "conftest.py"
_spec = importlib.util.spec_from_file_location("upstream_detectors", _source)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

scene, centerpoint_config = _module.scene, _module.centerpoint_config

KITTI_LOW, KITTI_HIGH = [0.0, -3.84, -3.0], [7.68, 3.84, 1.0]
NUS_LOW, NUS_HIGH = [-4.8, -4.8, -5.0], [4.8, 4.8, 3.0]
NUS_BEV = {"layout": "yx", "extent": (-4.8, -4.8, 4.8, 4.8)}
POINT_PILLARS = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
DYNAMIC = "mmdet3d::dynamic_voxelization/pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car.py"
SECOND = "mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py"
CENTERPOINT = "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
POINT_RCNN = "mmdet3d::point_rcnn/point-rcnn_8xb2_kitti-3d-3class.py"


def bev_layers(base: int, channels: int, levels: int) -> dict[str, Any]:
    """Backbone, neck and head of an anchor detector with ``base`` channels in its first level."""
    widths = [base * 2**level for level in range(levels)]
    return {
        "backbone": {"in_channels": channels, "layer_nums": [1] * levels, "out_channels": widths},
        "neck": {"in_channels": widths, "out_channels": [base] * levels},
        "bbox_head": {"in_channels": base * levels, "feat_channels": base * levels},
    }


def pillars(base: int, classes: int = 3, max_voxels: tuple[int, int] = (16000, 40000)) -> dict[str, Any]:
    ranges = [[*KITTI_LOW[:2], z, *KITTI_HIGH[:2], z] for z in [-0.6, -0.6, -1.78][-classes:]]
    model = bev_layers(base, base, 3)
    model["bbox_head"]["anchor_generator"] = {"ranges": ranges}
    return {
        **model,
        "data_preprocessor": {"voxel_layer": {"point_cloud_range": KITTI_LOW + KITTI_HIGH, "max_voxels": max_voxels}},
        "voxel_encoder": {"feat_channels": [base], "point_cloud_range": KITTI_LOW + KITTI_HIGH},
        "middle_encoder": {"in_channels": base, "output_shape": [48, 48]},
    }


def dynamic_pillars(base: int) -> dict[str, Any]:
    return pillars(base, classes=1, max_voxels=(-1, -1))


def second(base: int) -> dict[str, Any]:
    low, high = [0.0, -2.4, -3.0], [4.8, 2.4, 1.0]
    model = bev_layers(base, 2 * 16, 2)
    model["bbox_head"]["anchor_generator"] = {"ranges": [[*low[:2], z, *high[:2], z] for z in (-0.6, -0.6, -1.78)]}
    return {
        **model,
        "data_preprocessor": {"voxel_layer": {"point_cloud_range": low + high}},
        "middle_encoder": {"sparse_shape": [41, 96, 96], "base_channels": 4, "output_channels": 16},
    }


def centerpoint(base: int) -> dict[str, Any]:
    widths = [base, 2 * base, 4 * base]
    size = {"pc_range": NUS_LOW[:2]}
    return {
        "data_preprocessor": {"voxel_layer": {"point_cloud_range": NUS_LOW + NUS_HIGH}},
        "pts_voxel_encoder": {"feat_channels": [base], "point_cloud_range": NUS_LOW + NUS_HIGH},
        "pts_middle_encoder": {"in_channels": base, "output_shape": (48, 48)},
        "pts_backbone": {"in_channels": base, "layer_nums": [1, 1, 1], "out_channels": widths},
        "pts_neck": {"in_channels": widths, "out_channels": [base] * 3},
        "pts_bbox_head": {"in_channels": 3 * base, "share_conv_channel": 16, "bbox_coder": {**size, "max_num": 50}},
        "train_cfg": {"pts": {"grid_size": [48, 48, 1], "point_cloud_range": NUS_LOW + NUS_HIGH}},
        "test_cfg": {"pts": size},
    }


def point_rcnn(base: int) -> dict[str, Any]:
    """Set abstraction of 64 and 16 points, and feature propagation back to all."""
    return {
        "backbone": {
            "num_points": (64, 16), "radii": ((0.5, 1.0), (1.0, 2.0)), "num_samples": ((8, 8), (8, 8)),
            "sa_channels": (((base, base), (base, base)), ((base, base), (base, base))),
            "fps_mods": ("D-FPS", "D-FPS"), "fps_sample_range_lists": (-1, -1), "aggregation_channels": (None, None),
            "dilated_group": (False, False), "out_indices": (0, 1),
        },
        "neck": {"fp_channels": ((4 * base, base), (base + 1, base))},
        "rpn_head": {
            "pred_layer_cfg": {"in_channels": base, "cls_linear_channels": (8,), "reg_linear_channels": (8,)}
        },
        "roi_head": {
            "bbox_roi_extractor": {"roi_layer": {"num_sampled_points": 32}},
            "bbox_head": {
                "mlp_channels": [base, base], "num_points": (8, 4, -1), "num_samples": (4, 4, 4),
                "sa_channels": ((base, base), (base, base), (base, base)),
                "pred_layer_cfg": {"in_channels": base, "cls_conv_channels": (8, 8), "reg_conv_channels": (8, 8)},
            },
        },
        "train_cfg": {"rpn": {"rpn_proposal": {"nms_post": 32}}, "rcnn": {"sampler": {"num": 16}}},
        "test_cfg": {"rpn": {"nms_cfg": {"nms_post": 32}}},
    }  # fmt: skip


ON_DYNAMIC = {"feature": "voxel_encoder[0]", "coors": "voxel_encoder[1]"}
ON_CENTERPOINT = {
    "feature": {"path": "pts_voxel_encoder", **NUS_BEV}, "coors": {"path": "pts_voxel_encoder(coors)", **NUS_BEV}
}  # fmt: skip
ON_HEAD = {"response": {"path": "pts_bbox_head", **NUS_BEV}}
CASES: dict[str, tuple[str, Callable[[int], dict], dict[str, Any], str]] = {
    "PointPillars": (POINT_PILLARS, pillars, {"student_channels": 8, "teacher_channels": 16}, "voxel_encoder"),
    "PointPillars, dynamic": (
        DYNAMIC,
        dynamic_pillars,
        {
            "student_channels": 8,
            "teacher_channels": 16,
            "student_taps": ON_DYNAMIC,
            "teacher_taps": {**ON_DYNAMIC, "num_points": "voxel_encoder(coors)"},
        },
        "voxel_encoder",
    ),
    "SECOND": (
        SECOND,
        second,
        {"on": "maps", "student_channels": [8, 16], "teacher_channels": [16, 32]},
        "middle_encoder backbone",
    ),
    "CenterPoint, maps": (
        CENTERPOINT,
        centerpoint,
        {
            "on": "maps",
            "importance": "cls_score",
            "student_channels": [8, 16, 32],
            "teacher_channels": [16, 32, 64],
            "student_taps": {"feature": {"path": "pts_backbone", **NUS_BEV}},
            "teacher_taps": {
                "feature": {"path": "pts_backbone", **NUS_BEV},
                "response": {"path": "pts_bbox_head", **NUS_BEV},
            },
        },
        "pts_voxel_encoder pts_backbone",
    ),
    "CenterPoint, pillars": (
        CENTERPOINT,
        centerpoint,
        {
            "importance": "boxes",
            "voxel_size_m": (0.2, 0.2),
            "student_channels": 8,
            "teacher_channels": 16,
            "student_taps": ON_CENTERPOINT,
            "teacher_taps": ON_CENTERPOINT,
        },
        "pts_voxel_encoder",
    ),
    "PointRCNN": (
        POINT_RCNN,
        point_rcnn,
        {"on": "points", "student_channels": 8, "teacher_channels": 16, "importance": "cls_score", "num_samples": 100},
        "backbone neck",
    ),
}


def write(path: Path, base: str, overrides: Mapping[str, Any]) -> str:
    path.write_text(f"_base_ = [{base!r}]\nmodel = {dict(overrides)!r}\n")
    return str(path)


def make_model(folder: Path, base: str, shrink: Callable[[int], dict], options: Mapping[str, Any]) -> DistillModel:
    torch.manual_seed(0)
    teacher, student = (write(folder / f"width{width}.py", base, shrink(width)) for width in (16, 8))
    return DistillModel(
        student,
        teachers={"teacher": {"config": teacher, "allow_random": True}},
        distillers=[{"type": "perceptkd.PointDistiller", "k": 8, "num_samples": 50, **options}],
    ).train()


@pytest.fixture
def make_clouds(scene: Callable) -> Callable[[str], dict[str, Any]]:
    def make(name: str) -> dict[str, Any]:
        if name.startswith("CenterPoint"):
            return scene(NUS_LOW, NUS_HIGH, columns=5, box_columns=9, classes=10)
        batch = scene(KITTI_LOW, KITTI_HIGH, columns=4, box_columns=7, classes=1 if "dynamic" in name else 3)
        if name == "PointRCNN":
            batch["inputs"]["points"] = [cloud[::8] for cloud in batch["inputs"]["points"]]
        return batch

    return make


@pytest.mark.parametrize("name", CASES)
def test_trains(name: str, tmp_path: Path, make_clouds: Callable[[str], dict]) -> None:
    base, shrink, options, reached = CASES[name]
    model = make_model(tmp_path, base, shrink, options)
    teacher = model.distillers.teachers["teacher"].model
    before = copy.deepcopy(teacher.state_dict())
    losses = model(RawBatch(make_clouds(name), True), mode="loss")
    graph = losses["loss_kd/pointdistiller/graph"]
    assert 0 < graph < 20
    parameters = dict(model.student.named_parameters())
    gradients = torch.autograd.grad(graph, list(parameters.values()), retain_graph=True, allow_unused=True)
    trained = {
        key.split(".")[0] for key, gradient in zip(parameters, gradients) if gradient is not None and gradient.any()
    }
    assert trained == set(reached.split())
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert [key for key, weight in parameters.items() if weight.grad is None or not weight.grad.isfinite().all()] == []
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())


HEADS = {
    "PointPillars": {"type": "perceptkd.SparseKD"},
    "CenterPoint": {"type": "perceptkd.SparseKD", "student_taps": ON_HEAD, "teacher_taps": ON_HEAD},
    "CenterPoint, itKD": {
        "type": "perceptkd.ItKD",
        "student_channels": 24,
        "teacher_channels": 48,
        "task_classes": [1, 2, 2, 1, 2, 2],
        "student_taps": {"feature": {"path": "pts_neck[0]", **NUS_BEV}, **ON_HEAD},
        "teacher_taps": {"feature": {"path": "pts_neck[0]", **NUS_BEV}, **ON_HEAD},
    },
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_train(name: str, tmp_path: Path, make_clouds: Callable[[str], dict]) -> None:
    """Every term is there and trains the student; annotated boxes lie on positive anchors and cells."""
    base, shrink = (POINT_PILLARS, pillars) if name == "PointPillars" else (CENTERPOINT, centerpoint)
    torch.manual_seed(0)
    teacher, student = (write(tmp_path / f"width{width}.py", base, shrink(width)) for width in (16, 8))
    model = DistillModel(
        student, teachers={"teacher": {"config": teacher, "allow_random": True}}, distillers=[HEADS[name]]
    ).train()
    batch = make_clouds(name)
    boxes = [sample.gt_instances_3d.bboxes_3d.tensor.clone() for sample in batch["data_samples"]]
    losses = model(RawBatch(batch, True), mode="loss")
    (distiller,) = model.distillers.each()
    for term in distiller.weights:
        value = losses[f"loss_kd/{distiller.name}/{term}"]
        assert value.isfinite()
        assert value > 0
        gradients = torch.autograd.grad(value, list(model.student.parameters()), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients)
    model.parse_losses(losses)[0].backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.student.parameters())
    assert all(torch.equal(s.gt_instances_3d.bboxes_3d.tensor, box) for s, box in zip(batch["data_samples"], boxes))


def test_a_student_with_fewer_voxels_is_paired_by_coordinate(
    tmp_path: Path, make_clouds: Callable[[str], dict]
) -> None:
    """The caps for training and evaluation differ, as mmdet3d's do; the offsets of the second sample shift."""

    def capped(width: int) -> dict[str, Any]:
        return pillars(width, max_voxels=(300, 40000))

    _, _, options, _ = CASES["PointPillars"]
    model = make_model(tmp_path, POINT_PILLARS, capped, {**options, "num_samples": 1000})
    batch = make_clouds("PointPillars")
    (distiller,) = model.distillers.each()
    seen: list[Any] = []
    pair = distiller._match

    def watch(student: torch.Tensor, teacher: torch.Tensor) -> Any:
        rows = pair(student, teacher)
        seen.append((student, teacher, rows))
        return rows

    distiller._match = watch
    model(RawBatch(batch, True), mode="loss")
    ((student, teacher, rows),) = seen
    assert (len(student), len(rows[0])) == (600, 600)
    assert len(teacher) > 2000
    assert torch.equal(student[rows[0]], teacher[rows[1]])
    assert not torch.equal(student, teacher[:600])
    assert MessageHub.get_current_instance().get_scalar("train/kd/pointdistiller/matched").current() == 1.0


def test_channels_are_found_by_a_dry_pass(tmp_path: Path, make_clouds: Callable[[str], dict]) -> None:
    torch.manual_seed(0)
    teacher, student = (write(tmp_path / f"width{width}.py", POINT_PILLARS, pillars(width)) for width in (16, 8))
    model = DistillModel(
        student,
        teachers={"teacher": {"config": teacher, "allow_random": True}},
        distillers=[{"type": "perceptkd.PointDistiller"}],
        dry_batch=make_clouds("PointPillars"),
    )
    (distiller,) = model.distillers.each()
    assert distiller.student_encoders[0].weight.shape == (32, 16)
    assert distiller.teacher_encoders[0].weight.shape == (32, 32)
    assert sum(weight.numel() for weight in distiller.parameters()) == 32 * 32 + 16 * 32 + 4 * 32


def test_a_teacher_from_before_the_pillar_encoder_had_ten_inputs_is_refused(tmp_path: Path) -> None:
    """It is one tensor of more than a hundred, and the one that the distilled features come from."""
    config = write(tmp_path / "teacher.py", POINT_PILLARS, pillars(16))
    model = build_model(read_model_source(config))
    state = model.state_dict()
    key = "voxel_encoder.pfn_layers.0.linear.weight"
    assert state[key].shape == (16, 10)
    torch.save({**state, key: state[key][:, :9].clone()}, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the teacher[\s\S]*\[16, 9\].*\[16, 10\]"):
        load_weights(model, tmp_path / "teacher.pth", owner="the teacher")
