"""PVD on MinkUNet and Cylinder3D of mmdet3d: training steps, and outputs against a loop over predictions."""

import math
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, PointData
from torch import Tensor

from perceptkd.core.batch import RawBatch
from perceptkd.core.errors import InputError
from perceptkd.distillers.pvd import PVD
from perceptkd.registry import MODELS

CLASSES = 3
RARE = 2


def minkunet(width: int, *, max_voxels: int | None = None, voxel_size: float = 1.0) -> dict:
    size = [voxel_size] * 3
    channels = [width, 2 * width]
    return {
        "type": "mmdet3d.MinkUNet",
        "data_preprocessor": {
            "type": "mmdet3d.Det3DDataPreprocessor", "voxel": True, "voxel_type": "minkunet", "max_voxels": max_voxels,
            "voxel_layer": {"max_num_points": -1, "point_cloud_range": [-20, -20, -4, 20, 20, 4], "voxel_size": size,
                            "max_voxels": (-1, -1)},
        },
        "backbone": {
            "type": "MinkUNetBackbone", "in_channels": 4, "num_stages": 2, "base_channels": width,
            "encoder_channels": channels, "encoder_blocks": [1, 1], "decoder_channels": channels[::-1],
            "decoder_blocks": [1, 1], "sparseconv_backend": "spconv",
        },
        "decode_head": {"type": "mmdet3d.MinkUNetHead", "channels": width, "num_classes": CLASSES, "dropout_ratio": 0,
                        "loss_decode": {"type": "mmdet.CrossEntropyLoss", "avg_non_ignore": True},
                        "ignore_index": CLASSES},
    }  # fmt: skip


def cylinder3d(width: int) -> dict:
    grid, reach = [24, 18, 8], [0, -math.pi, -4, 20, math.pi, 4]
    return {
        "type": "mmdet3d.Cylinder3D",
        "data_preprocessor": {
            "type": "mmdet3d.Det3DDataPreprocessor", "voxel": True, "voxel_type": "cylindrical",
            "voxel_layer": {"grid_shape": grid, "point_cloud_range": reach, "max_num_points": -1, "max_voxels": -1},
        },
        "voxel_encoder": {"type": "mmdet3d.SegVFE", "feat_channels": [8, 8], "in_channels": 6,
                          "with_voxel_center": True, "grid_shape": grid, "point_cloud_range": reach,
                          "feat_compression": width},
        "backbone": {"type": "mmdet3d.Asymm3DSpconv", "grid_size": grid, "input_channels": width,
                     "base_channels": width, "backbone_depth": 2, "height_pooing": [True, False]},
        "decode_head": {"type": "mmdet3d.Cylinder3DHead", "channels": 4 * width, "num_classes": CLASSES + 1,
                        "ignore_index": CLASSES, "loss_lovasz": {"type": "mmdet3d.LovaszLoss", "reduction": "none"}},
    }  # fmt: skip


def make_clouds(samples: int = 2) -> dict:
    """A raw batch: a ground of class 0, a wall of class 1, posts of class 2, and some points without a class."""
    clouds, data_samples = [], []
    for number in range(samples):
        ground = torch.cat((torch.rand(300, 2) * 30 - 15, torch.full((300, 1), -1.8)), dim=1)
        wall = torch.cat((torch.full((100, 1), 8.3), torch.rand(100, 1) * 20 - 10, torch.rand(100, 1) * 3), dim=1)
        posts = torch.cat((torch.tensor([[-6.3, 4.1]]).expand(30, 2) + number, torch.rand(30, 1) * 3 - 1.5), dim=1)
        points = torch.cat((ground, wall, posts))
        labels = torch.repeat_interleave(torch.arange(3), torch.tensor([300, 100, 30]))
        labels[:20] = CLASSES
        clouds.append(torch.cat((points, torch.rand(len(points), 1)), dim=1))
        data_samples.append(Det3DDataSample(gt_pts_seg=PointData(pts_semantic_mask=labels)))
    return {"inputs": {"points": clouds}, "data_samples": data_samples}


def distill(student: dict, teacher: dict, **options: Any) -> Any:
    method = {"type": "perceptkd.PVD", "minority_classes": [RARE], "supervoxel_size": (8, 8, 4), **options}
    return MODELS.build(
        {
            "type": "perceptkd.DistillModel",
            "student": student,
            "teachers": {"teacher": {"config": {"model": teacher, "default_scope": "mmdet3d"}, "allow_random": True}},
            "distillers": [method],
        }
    ).train()


PAIRS = {
    "minkunet": (minkunet(4), minkunet(8)),
    "minkunet, capped": (minkunet(4, max_voxels=150), minkunet(8)),
    "cylinder3d": (cylinder3d(4), cylinder3d(8)),
}


class TestSegmentors:
    @pytest.mark.parametrize("pair", PAIRS)
    def test_a_step_trains_the_student_alone(self, pair: str) -> None:
        model = distill(*PAIRS[pair])
        teacher = model.distillers.teachers["teacher"].model
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        losses = model(RawBatch(make_clouds(), True), mode="loss")
        terms = [losses[f"loss_kd/pvd/{term}"] for term in PVD.default_weights]
        assert all(term.isfinite() and term > 0 for term in terms)
        sum(terms).backward()
        reached = [name for name, parameter in model.student.named_parameters() if parameter.grad is not None]
        assert reached == [name for name, _ in model.student.named_parameters()]
        assert all(parameter.grad.isfinite().all() for parameter in model.student.parameters())
        assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

    @pytest.mark.parametrize("pair", PAIRS)
    def test_outputs_of_points_and_voxels_equal_a_loop_over_predictions(self, pair: str) -> None:
        """The teacher's own prediction of every point, which knows nothing of rows, against the student's voxels."""
        model = distill(*PAIRS[pair])
        batch = make_clouds()
        with torch.no_grad():
            losses = model(RawBatch(batch, True), mode="loss")
        teacher = model.distillers.teachers["teacher"].model.eval()
        student = model.student
        heads = []
        handle = student.decode_head.conv_seg.register_forward_hook(
            lambda _module, _inputs, output: heads.append(output)
        )
        torch.manual_seed(0)
        with torch.no_grad():
            expected = teacher.test_step(copy_of(batch))
            data = student.data_preprocessor(copy_of(batch), True)
            student._run_forward(data, mode="loss")
        handle.remove()
        (logits,) = heads
        logits = logits if isinstance(logits, Tensor) else logits.features
        start, total, count = 0, 0.0, 0
        for sample, prediction in zip(data["data_samples"], expected):
            row = sample.point2voxel_map
            seen = row >= 0
            theirs = prediction.pts_seg_logits.pts_seg_logits.T[seen].log_softmax(dim=1)
            own = logits[start + row[seen]].log_softmax(dim=1)
            total += float((theirs.exp() * (theirs - own)).sum())
            count += int(seen.sum()) * logits.shape[1]
            start += len(sample.gt_pts_seg.voxel_semantic_mask)
        if "capped" not in pair:  # its two passes keep different voxels
            assert float(losses["kd/pvd/point_output"]) == pytest.approx(total / count, rel=1e-3)
        assert start == len(logits)

    def test_a_student_learns_to_speak_as_its_teacher(self) -> None:
        """Distillation alone, on one cloud, brings every term down."""
        weights = {name: 10.0 if "affinity" in name else 1.0 for name in PVD.default_weights}
        model = distill(*PAIRS["minkunet"], num_supervoxels=99, num_points=200, num_voxels=100, weights=weights)
        batch = RawBatch(make_clouds(1), True)
        optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-2)
        history = []
        for _ in range(14):
            losses = model(batch, mode="loss")
            optimizer.zero_grad()
            sum(losses[f"loss_kd/pvd/{name}"] for name in weights).backward()
            optimizer.step()
            history.append({name: losses[f"kd/pvd/{name}"].item() for name in weights})
        for name in weights:
            assert history[-1][name] < (0.85 if "affinity" in name else 0.3) * history[0][name]

    def test_other_voxel_sizes_are_refused(self) -> None:
        model = distill(minkunet(4, voxel_size=1.0), minkunet(8, voxel_size=0.3))
        with pytest.raises(InputError, match="same voxel size"):
            model(RawBatch(make_clouds(), True), mode="loss")

    def test_the_student_predicts_every_point(self) -> None:
        for student, teacher in PAIRS.values():
            batch = make_clouds()
            predictions = distill(student, teacher).eval().test_step(batch)
            lengths = [len(prediction.pred_pts_seg.pts_semantic_mask) for prediction in predictions]
            assert lengths == [len(points) for points in batch["inputs"]["points"]]


def copy_of(batch: dict) -> dict:
    points = [points.clone() for points in batch["inputs"]["points"]]
    return {"inputs": {"points": points}, "data_samples": [sample.clone() for sample in batch["data_samples"]]}
