"""Every config parses; the `sim` detectors train and predict on a synthetic batch; the `full` ones have their sizes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from perceptkd.cli.compare import settled
from perceptkd.core.source import read_model_source
from perceptkd.models.bev.geometry import BEVGrid
from perceptkd.registry import DATASETS, HOOKS, MODELS, TRANSFORMS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py"))
LEAVES = [name for name in ALL if not name.startswith("_base_")]
#: All but segmentors, and detectors of KITTI with their students of a 4th or 16th of the parameters (`_4x_sim.py`).
BEV = [name for name in LEAVES if not name.startswith(("seg/", "pvd/", "kitti/")) and not name.endswith("x_sim.py")]
COMPARED = [name for name in LEAVES if "_sim" in name and not name.startswith("bev/")]
SIM = [name for name in LEAVES if name.startswith("bev/") and name.endswith("_sim.py")]
FULL = [name for name in LEAVES if name.startswith("bev/") and name.endswith("_full.py")]


def load(name: str) -> Config:
    config = Config.fromfile(CONFIGS / name)
    init_default_scope(config.get("default_scope", "mmdet3d"))
    return config


def find(config: dict, kind: str) -> dict:
    """The step of the training pipeline of a type, wherever the dataset is wrapped."""
    dataset = config["train_dataloader"]["dataset"]
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return next(step for step in dataset["pipeline"] if step["type"] == kind)


def test_there_is_a_config_of_every_modality_in_both_sizes() -> None:
    modalities = ("camera", "fusion", "lidar_pillar", "lidar_voxel")
    assert [f"bev/{modality}_sim.py" for modality in modalities] == SIM
    assert [f"bev/{modality}_full.py" for modality in modalities] == FULL


@pytest.mark.parametrize("name", ALL)
def test_parses(name: str) -> None:
    assert len(load(name)) > 0


@pytest.mark.parametrize("name", LEAVES)
def test_is_short(name: str) -> None:
    assert len((CONFIGS / name).read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", LEAVES)
def test_the_best_checkpoint_is_chosen_by_a_named_metric(name: str) -> None:
    hook = HOOKS.build(load(name).default_hooks.checkpoint)
    assert hook.rules in (["greater"], ["less"])  # 'auto' finds out at the end of the first epoch, or fails there


@pytest.mark.parametrize("name", COMPARED)
def test_a_validation_before_the_last_fifth_tells_whether_a_run_has_settled(name: str) -> None:
    loop = load(name).train_cfg
    last = loop.get("max_epochs") or loop.max_iters
    made = [step for step in range(loop.val_begin, last + 1) if step % loop.val_interval == 0 or step == last]
    assert settled([{"mAP": 0.3, "step": step} for step in made], "mAP")


@pytest.mark.parametrize("name", BEV)
def test_pictures_can_load_every_sensor(name: str) -> None:
    kinds = {step["type"] for step in load(name).test_pipeline}
    assert kinds >= {"perceptkd.LoadPoints", "perceptkd.LoadMultiViewImages", "perceptkd.PackBEVInputs"}


@pytest.mark.parametrize("name", BEV)
def test_pipeline_and_model_agree(name: str) -> None:
    """The detector, or the student; a teacher's own config is another row."""
    config = load(name)
    model = ConfigDict(read_model_source(config).model)
    assert list(model.point_cloud_range) == list(find(config, "perceptkd.FilterRange")["point_cloud_range"])
    assert list(model.point_cloud_range) == list(model.train_cfg.point_cloud_range)
    if "camera_encoder" in model:
        transform = model.camera_encoder.view_transform
        assert list(transform.point_cloud_range) == list(model.point_cloud_range)
        assert transform.cell_size_m == model.cell_size_m
        assert tuple(transform.image_size) == tuple(find(config, "perceptkd.AugmentImages")["image_size"])
        assert any(step["type"] == "perceptkd.LoadMultiViewImages" for step in config.test_dataloader.dataset.pipeline)
    if "lidar_encoder" in model:
        assert any(step["type"] == "perceptkd.LoadPoints" for step in config.test_dataloader.dataset.pipeline)
    rows, columns = BEVGrid(tuple(model.point_cloud_range), model.cell_size_m).shape
    assert list(model.train_cfg.grid_size) == [columns, rows, 1]


@pytest.mark.parametrize("name", SIM + FULL)
def test_every_step_of_the_pipelines_exists(name: str) -> None:
    config = load(name)
    for step in config.val_dataloader.dataset.pipeline:
        TRANSFORMS.build(step)
    for kind in ("perceptkd.FilterRange", "perceptkd.AugmentBEV", "perceptkd.PackBEVInputs"):
        TRANSFORMS.build(find(config, kind))
    assert DATASETS.get(config.val_dataloader.dataset.type) is not None


@pytest.mark.parametrize("name", SIM)
def test_sim_detector_trains_and_predicts(name: str, make_batch) -> None:
    model = MODELS.build(load(name).model)
    model.init_weights()
    batch = make_batch(2, size=(128, 352))
    losses = model.train()(**model.data_preprocessor(batch, True), mode="loss")
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert len(model.eval().test_step(batch)) == 2


@pytest.mark.parametrize("name", [name for name in SIM if not name.endswith("fusion_sim.py")])
def test_sim_detector_learns_one_batch(name: str, make_batch) -> None:
    """Twelve steps on one batch bring the loss down: gradients point where they should."""
    model = MODELS.build(load(name).model)
    model.init_weights()
    batch = make_batch(1, size=(128, 352), boxes=5)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    totals = []
    for _ in range(12):
        total = sum(model(**model.data_preprocessor(batch, True), mode="loss").values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.5 * totals[0]


@pytest.mark.parametrize("name", FULL)
def test_full_detector_trains_on_the_published_boxes(name: str) -> None:
    """Boxes with LiDAR or radar points, not those with LiDAR points alone."""
    assert load(name).train_dataloader.dataset.dataset.dataset.use_valid_flag


@pytest.mark.parametrize("name", FULL)
def test_full_detector_builds(name: str) -> None:
    config = load(name)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert model.grid.shape == (180, 180)
    assert sum(parameter.numel() for parameter in model.parameters()) > 4e6


def low_level_map(name: str, batch: dict) -> torch.Tensor:
    """The map at the tap `fuser`, without the BEV encoder behind it."""
    model = MODELS.build(load(name).model).eval()
    data = model.data_preprocessor(batch)
    maps = []
    model.fuser.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    model.backbone = torch.nn.Identity()
    model.neck = torch.nn.Identity()
    with torch.no_grad():
        model.extract_feat(data["inputs"], data["data_samples"])
    return maps[0]


@pytest.mark.parametrize("name", ["bev/lidar_voxel_full.py", "bev/lidar_pillar_full.py"])
def test_full_lidar_map_has_the_published_size(name: str, make_batch) -> None:
    assert low_level_map(name, make_batch(1)).shape == (1, 256, 180, 180)


def test_full_voxel_encoder_ends_with_the_published_grid(make_batch) -> None:
    """F11 of UniDistill: 5 x 180 x 180 sites of 128 channels before the last convolution squeezes the height."""
    model = MODELS.build(load("bev/lidar_voxel_full.py").model).eval()
    seen = []
    model.lidar_encoder.middle_encoder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = model.data_preprocessor(make_batch(1))
    with torch.no_grad():
        model.lidar_encoder(data["inputs"]["voxels"], 1)
    (sparse,) = seen
    assert (list(sparse.spatial_shape), sparse.features.shape[1]) == ([5, 180, 180], 128)


def test_full_camera_lifts_the_published_frustum() -> None:
    """F11 of UniDistill: 112 depth bins of 16 x 44 pixels, in six cameras 473,088 points."""
    frustum = MODELS.build(load("bev/camera_full.py").model.camera_encoder.view_transform).frustum
    assert tuple(frustum.shape) == (112, 16, 44, 3)
    assert 6 * frustum[..., 0].numel() == 473_088


def test_full_camera_map_has_the_published_size(make_batch) -> None:
    batch = make_batch(1, size=(256, 704))
    batch["inputs"]["img"][0] = batch["inputs"]["img"][0][:1]
    sample = batch["data_samples"][0]
    sample.set_metainfo({key: sample.metainfo[key][:1] for key in ("cam2img", "lidar2cam", "img_aug_matrix")})
    assert low_level_map("bev/camera_full.py", batch).shape == (1, 256, 180, 180)


def test_full_fusion_map_has_the_published_size() -> None:
    """Of maps like those of the detectors with one sensor, whose encoders it has."""
    model = load("bev/fusion_full.py").model
    assert model.lidar_encoder == load("bev/lidar_voxel_full.py").model.lidar_encoder
    assert model.camera_encoder == load("bev/camera_full.py").model.camera_encoder
    with torch.device("meta"):
        fuser = MODELS.build(model.fuser)
        assert fuser([torch.empty(1, 256, 180, 180)] * 2).shape == (1, 256, 180, 180)


def test_full_high_level_map_has_the_published_channels() -> None:
    model = load("bev/camera_full.py").model
    backbone, neck = MODELS.build(model.backbone).eval(), MODELS.build(model.neck).eval()
    with torch.no_grad():
        assert neck(backbone(torch.zeros(1, 256, 20, 20)))[0].shape == (1, 512, 20, 20)
