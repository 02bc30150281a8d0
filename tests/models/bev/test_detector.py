"""BEVDetector on the `sim` configs with fewer channels: every modality, every mode, the tap points and the traps."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from perceptkd.core.errors import InputError
from perceptkd.models.bev.detector import BEVDetector
from perceptkd.models.bev.geometry import lift_frustum, stack_calibration
from perceptkd.registry import MODELS

MODALITIES = ("camera", "lidar_pillar", "lidar_voxel", "fusion")
SIZE = (64, 128)


def make_detector(repository: Path, modality: str, **changes) -> BEVDetector:
    """A `sim` model, on images of 64 x 128."""
    config = Config.fromfile(repository / f"configs/_base_/models/bev_{modality}_sim.py").model
    if "camera_encoder" in config:
        config.camera_encoder.view_transform.image_size = SIZE
    config.update(changes)
    return MODELS.build(config)


@pytest.fixture(scope="module")
def detectors(repository: Path) -> dict[str, BEVDetector]:
    return {modality: make_detector(repository, modality) for modality in MODALITIES}


@pytest.mark.parametrize("modality", MODALITIES)
def test_loss_reaches_every_parameter(detectors, make_batch, device: str, modality: str) -> None:
    model = copy.deepcopy(detectors[modality]).to(device).train()
    losses = model(**model.data_preprocessor(make_batch(2), True), mode="loss")
    assert len(losses) == 7 if model.camera_encoder else 6
    sum(losses.values()).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []


@pytest.mark.parametrize("modality", MODALITIES)
def test_taps_have_the_agreed_shapes(detectors, make_batch, modality: str) -> None:
    model = detectors[modality].eval()
    outputs = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name in ("fuser", "neck", "bbox_head")
    ]
    with torch.no_grad():
        result = model(**model.data_preprocessor(make_batch(2)), mode="tensor")
    for handle in handles:
        handle.remove()
    assert outputs["fuser"].shape == (2, 64, 48, 48)
    assert len(outputs["neck"]) == 1
    assert outputs["neck"][0].shape == (2, 128, 48, 48)
    assert outputs["bbox_head"] is result
    assert [sorted(task[0]) for task in result] == [["dim", "heatmap", "height", "reg", "rot", "vel"]] * 3
    assert sum(task[0]["heatmap"].shape[1] for task in result) == 10
    assert model.bev_geometry == {"layout": "yx", "extent": (-28.8, -28.8, 28.8, 28.8)}


@pytest.mark.parametrize("modality", MODALITIES)
def test_predictions_go_to_the_samples_not_to_the_batch(detectors, make_batch, device: str, modality: str) -> None:
    model, batch = copy.deepcopy(detectors[modality]).to(device).eval(), make_batch(2)
    samples = model.test_step(batch)
    for sample in samples:
        found = sample.pred_instances_3d
        assert found.bboxes_3d.tensor.shape[1] == 9
        assert len(found.scores_3d) == len(found.labels_3d) == len(found.bboxes_3d)
        assert ((found.labels_3d >= 0) & (found.labels_3d < 10)).all()
    assert all("pred_instances_3d" not in sample for sample in batch["data_samples"])


@pytest.mark.parametrize("modality", ["lidar_voxel", "lidar_pillar"])
def test_an_empty_cloud_in_the_batch(detectors, make_batch, modality: str) -> None:
    model, batch = detectors[modality].train(), make_batch(2)
    batch["inputs"]["points"][1] = torch.zeros(0, 5)
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        assert len(model.eval().test_step(batch)) == 2


def test_a_batch_without_boxes(detectors, make_batch) -> None:
    model = detectors["camera"].train()
    losses = model(**model.data_preprocessor(make_batch(2, boxes=0), True), mode="loss")
    assert all(value.isfinite() for value in losses.values())


def test_two_models_share_one_raw_batch(detectors, make_batch) -> None:
    batch = make_batch(1)
    before = copy.deepcopy(batch)
    for modality in ("lidar_pillar", "camera"):
        model = detectors[modality].train()
        model(**model.data_preprocessor(batch, True), mode="loss")
    for key in ("points", "img"):
        torch.testing.assert_close(batch["inputs"][key][0], before["inputs"][key][0])
    boxes = batch["data_samples"][0].gt_instances_3d.bboxes_3d.tensor
    torch.testing.assert_close(boxes, before["data_samples"][0].gt_instances_3d.bboxes_3d.tensor)


@pytest.mark.parametrize("modality", ["lidar_pillar", "lidar_voxel"])
def test_boxes_lie_where_lidar_and_cameras_put_them(detectors, make_batch, modality: str) -> None:
    """A point lights up the same cell in both sensors' maps: one layout, one frame.

    It lies in the first of the 4 x 4 voxels of its cell: of the others, strided convolutions pass some on to the next.
    """
    lidar, camera, batch = detectors[modality].eval(), detectors["camera"].eval(), make_batch(1)
    splat = camera.camera_encoder.view_transform
    calibration = stack_calibration(batch["data_samples"], "cpu")
    points = lift_frustum(splat.frustum, calibration)  # [1, V, D, H, W, 3]
    voxel = torch.floor((points[..., :2] - points.new_tensor(camera.grid.extent[:2])) / (camera.grid.cell_size_m / 4))
    candidates = (camera.grid.cell_index(points)[1] & (voxel % 4 == 0).all(-1)).nonzero()
    chosen = tuple(candidates[len(candidates) // 3].tolist())
    batch["inputs"]["points"][0] = torch.cat([points[chosen], torch.tensor([1.0, 0.0])])[None]
    seen = lidar.lidar_encoder(lidar.data_preprocessor(batch)["inputs"]["voxels"], 1)[0].abs().sum(0).nonzero()
    depth = torch.zeros(points.shape[1:-1])
    depth[chosen[1:]] = 1.0
    rows = torch.ones(depth[:, 0].numel(), splat.out_channels)
    lifted = splat._pool(depth, rows, calibration)[0].abs().sum(0).nonzero()
    assert seen.tolist() == lifted.tolist()
    assert len(seen) == 1
    row, column = seen[0].tolist()
    assert row != column  # else a swap of x and y would not show


def test_bf16_training_step(detectors, make_batch) -> None:
    model = detectors["camera"].train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(**model.data_preprocessor(make_batch(1), True), mode="loss")
    assert all(value.isfinite() for value in losses.values())


def test_channels_last_is_a_layout_and_nothing_else(repository: Path, make_batch) -> None:
    plain, last = (make_detector(repository, "camera", channels_last=value) for value in (False, True))
    last.load_state_dict(plain.state_dict())
    weights = [
        module.weight for module in last.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    ]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    batch = make_batch(1)
    with torch.no_grad():
        first, second = (
            model.eval()(**model.data_preprocessor(batch), mode="tensor")[0][0]["heatmap"] for model in (plain, last)
        )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_a_detector_needs_a_sensor(repository: Path) -> None:
    with pytest.raises(ValueError, match="lidar_encoder, a camera_encoder or both"):
        make_detector(repository, "camera", camera_encoder=None)


def test_a_grid_that_does_not_fit_the_encoder_is_named(repository: Path, make_batch) -> None:
    model = make_detector(repository, "lidar_pillar", cell_size_m=0.6)
    with pytest.raises(ValueError, match=r"lidar_encoder made a map of \(48, 48\)"):
        model(**model.data_preprocessor(make_batch(1)), mode="tensor")


def test_a_batch_without_the_sensor_is_named(detectors, make_batch) -> None:
    batch = make_batch(1)
    with pytest.raises(InputError, match="voxels"):
        detectors["lidar_pillar"](inputs={}, data_samples=batch["data_samples"], mode="tensor")
