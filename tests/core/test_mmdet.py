"""The core on real detectors: mmdet models as students and teachers, untouched."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.tap import TapError, Taps
from perceptkd.registry import DISTILLERS, MODELS


@DISTILLERS.register_module(force=True)
class PyramidDistiller(Distiller):
    """Mean squared difference over all levels of a feature pyramid."""

    default_weights = {"pyramid": 1.0}
    default_student_taps = {"pyramid": "neck"}
    default_teacher_taps = {"pyramid": "neck"}

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        levels = zip(student["pyramid"].value, teacher["pyramid"].value, strict=True)
        return {"pyramid": torch.stack([(first - second).square().mean() for first, second in levels]).mean()}


def detector(channels: int, *, kind: str = "RetinaNet", first_level: int = 0, mean: float = 0.0) -> dict[str, Any]:
    """A RetinaNet or FCOS over a narrow ResNet-18; about a second per step on CPU."""
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
    head: dict[str, Any] = {"num_classes": 3, "in_channels": channels, "feat_channels": channels, "stacked_convs": 1}
    strides = [2 ** (level + 2 + first_level) for level in range(3)]
    if kind == "RetinaNet":
        anchors = {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1, "ratios": [1.0]}
        head |= {"type": "RetinaHead", "anchor_generator": {**anchors, "strides": strides}}
    else:
        ranges = tuple(pairwise([-1, *strides[1:], 1e8]))
        head |= {"type": "FCOSHead", "strides": strides, "regress_ranges": ranges, "norm_cfg": {"type": "BN"}}
    return {
        "type": kind,
        "data_preprocessor": {
            "type": "DetDataPreprocessor", "mean": [mean] * 3, "std": [50.0] * 3, "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "ResNet", "depth": 18, "base_channels": 8, "num_stages": 4, "out_indices": (0, 1, 2, 3),
            "norm_eval": False, "init_cfg": None,
        },
        "neck": {
            "type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": channels, "num_outs": 3,
            "start_level": first_level, "end_level": first_level + 2,
        },
        "bbox_head": head,
        "train_cfg": {"assigner": assigner, "allowed_border": -1, "pos_weight": -1},
        "test_cfg": {"nms_pre": 50, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 5},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def mmdet_scope() -> Any:
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def images() -> dict[str, Any]:
    """Two images of different size with boxes, as mmdet's pipelines pack them."""
    from mmdet.structures import DetDataSample

    samples, inputs = [], []
    for number, (height, width) in enumerate(((64, 64), (48, 60))):
        boxes = torch.tensor([[4.0, 4.0, 30.0, 28.0], [20.0, 10.0, 44.0, 40.0]])
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])))
        shape = (height, width)
        sample.set_metainfo({"img_id": number, "img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
        samples.append(sample)
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
    return {"inputs": inputs, "data_samples": samples}


def make_model(student: dict[str, Any], teacher: dict[str, Any], **kwargs: Any) -> DistillModel:
    options = {"config": teacher, "allow_random": True, **kwargs.pop("options", {})}
    return MODELS.build(
        {
            "type": "perceptkd.DistillModel",
            "student": student,
            "teachers": {"teacher": options},
            "distillers": [{"type": "perceptkd.PyramidDistiller", **kwargs.pop("distiller", {})}],
            **kwargs,
        }
    )


def test_contract_06_a_narrow_retinanet_learns_from_a_wide_fcos_with_inferred_adapters(images: dict) -> None:
    before = [image.clone() for image in images["inputs"]]
    model = make_model(
        detector(8, mean=100.0), detector(16, kind="FCOS", first_level=1), dry_batch={"image_size": (64, 64)}
    )
    adapter = model.distillers["pyramiddistiller"].adapters["pyramid"]
    assert [(layer.in_channels, layer.out_channels) for layer in adapter.layers] == [(8, 16)] * 2  # strides 8 and 16
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    logs = [model.train_step(images, optimizer) for _ in range(2)][-1]
    total = logs["loss_cls"] + logs["loss_bbox"] + logs["loss_kd/pyramiddistiller/pyramid"]
    assert torch.allclose(logs["loss"], total)
    assert all(torch.equal(a, b) for a, b in zip(images["inputs"], before))
    assert not hasattr(images["data_samples"][0], "pred_instances")  # the teacher predicts on its own copy
    assert "batch_input_shape" not in images["data_samples"][0].metainfo


def test_predictions_are_the_students(images: dict) -> None:
    model = make_model(detector(8), detector(8)).eval()
    (first, second) = model.test_step(images)
    alone = model.student.test_step(images)
    assert torch.equal(first.pred_instances.scores, alone[0].pred_instances.scores)
    assert len(second.pred_instances) == 5


@pytest.mark.parametrize(("mode", "fires"), [("predict", True), ("loss", True), ("tensor", False)])
def test_contract_02_taps_on_heads_fire_in_predict_and_loss_but_not_in_tensor_mode(
    images: dict, mode: str, fires: bool
) -> None:
    model = make_model(
        detector(8),
        detector(8),
        options={"forward_mode": mode},
        distiller={"teacher_taps": {"head": "bbox_head[0]", "cls": "bbox_head.retina_cls"}},
    )
    teacher = model.distillers.teachers["teacher"]
    if not fires:
        with pytest.raises(TapError, match=r"bbox_head\[0\]\. The module was not called, or only its \.forward was"):
            teacher.collect(images)
        return
    for _ in range(2):
        taps = teacher.collect(images)
        assert len(taps["pyramiddistiller/head"].value) == len(taps["pyramiddistiller/cls"].calls) == 3


def test_contract_13_a_teacher_comes_from_a_config_file_with_its_checkpoint_and_scope(
    images: dict, tmp_path: Path
) -> None:
    from mmengine.config import Config
    from mmengine.runner import save_checkpoint

    config, path = tmp_path / "wide.py", tmp_path / "wide.pth"
    Config({"model": detector(8), "default_scope": "mmdet"}).dump(config)
    trained = MODELS.build(detector(8))
    save_checkpoint({"state_dict": trained.state_dict(), "meta": {"dataset_meta": {"classes": ("a",)}}}, str(path))
    with DefaultScope.overwrite_default_scope("mmengine"):  # the teacher's family is its own
        model = DistillModel(
            MODELS.build({"_scope_": "mmdet", **detector(8)}),
            teachers={"teacher": {"config": str(config), "checkpoint": str(path)}},
            distillers=[{"type": "perceptkd.PyramidDistiller"}],
        )
    loaded = model.distillers.teachers["teacher"].model
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in trained.state_dict().items())
    assert model(RawBatch(images, True), mode="loss")["kd/pyramiddistiller/pyramid"] > 0


def test_contract_11_a_real_detectors_gradients_are_untouched_by_a_measuring_teacher(images: dict) -> None:
    gradients = []
    for distill in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        model = make_model(detector(8), detector(8), distill=distill, distiller={"weights": {"pyramid": 0.0}})
        model.init_weights()
        losses = model(RawBatch(images, True), mode="loss")
        model.parse_losses(losses)[0].backward()
        gradients.append([p.grad for p in model.student.parameters()])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for first, second in zip(*gradients):
        assert (first is None) is (second is None)
        assert first is None or torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
@pytest.mark.parametrize(
    ("reentrant", "tap"),
    [(True, "backbone.layer2.1"), (False, "backbone.layer2.1"), (False, "backbone.layer2.1.conv2")],
    ids=["with_cp", "block", "inside of the block"],
)
def test_contract_04_a_student_with_checkpointed_activations_learns_the_same(
    images: dict, reentrant: bool, tap: str
) -> None:
    """mmdet's with_cp is reentrant: a tap on a block holds. Without reentrance, taps inside of one do as well."""
    runs, calls = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        student = detector(8)
        student["backbone"]["with_cp"] = checkpointed and reentrant
        taps = {"student_taps": {"pyramid": tap}, "teacher_taps": {"pyramid": tap}}
        model = make_model(student, detector(8), distiller={**taps, "weights": {"pyramid": 10.0}}).train()
        block = model.student.backbone.layer2[1]
        if checkpointed and not reentrant:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        block.conv2.register_forward_hook(lambda *_, run=checkpointed: calls.append(run))
        losses = model(RawBatch(images, True), mode="loss")
        model.parse_losses(losses)[0].backward()
        reached = {name: p.grad for name, p in model.student.named_parameters() if p.grad is not None}
        runs.append((losses, reached))
    assert (calls.count(False), calls.count(True)) == (1, 2)  # it was recomputed
    (plain, expected), (saving, found) = runs
    assert plain["loss_kd/pyramiddistiller/pyramid"] > 0
    for name, value in plain.items():
        torch.testing.assert_close(saving[name], value)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        rounding = 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=rounding, msg=name)
