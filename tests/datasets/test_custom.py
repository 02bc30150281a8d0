"""The data set of somebody's own: boxes, subsets and merged classes, bad info files, and a training on it."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from perceptkd.cli.create_data import main
from perceptkd.core.errors import InputError
from perceptkd.datasets.custom import CustomDataset
from perceptkd.registry import DATASETS

TRAIN = "custom_infos_train.pkl"


@pytest.fixture
def root(own_data: tuple[Path, Path], tmp_path: Path) -> Path:
    """The data set as the command writes it, frames 0 to 3 for training."""
    for name, frames in (("train", (0, 1, 2, 3)), ("val", (4, 5))):
        (tmp_path / f"{name}.txt").write_text("".join(f"drive/{number:03d}\n" for number in frames))
    splits = [f"{name}={tmp_path / name}.txt" for name in ("train", "val")]
    folder, boxes = own_data
    options = ["--points", str(folder), "--boxes", str(boxes), "--out", str(tmp_path / "root"), "--splits", *splits]
    assert main(["custom", *options]) == 0
    return tmp_path / "root"


def labels_of(dataset: CustomDataset, index: int) -> list[str]:
    return [dataset.metainfo["classes"][label] for label in dataset.get_data_info(index)["ann_info"]["gt_labels_3d"]]


def test_boxes_and_labels(root):
    dataset = DATASETS.build({"type": "CustomDataset", "data_root": str(root), "ann_file": TRAIN})
    assert dataset.metainfo["classes"] == ("car", "person", "van")
    assert len(dataset) == 4
    annotations = dataset.get_data_info(1)["ann_info"]
    boxes = annotations["gt_bboxes_3d"]
    assert torch.allclose(boxes.gravity_center[0], torch.tensor([6.0, 3.0, -0.8]))
    assert torch.allclose(boxes.tensor[0, 3:], torch.tensor([4.5, 1.8, 1.6, math.pi / 2]))
    low, high = boxes.corners[0].amin(dim=0), boxes.corners[0].amax(dim=0)  # along +y: 1.8 m wide, 4.5 m deep
    assert torch.allclose(high - low, torch.tensor([1.8, 4.5, 1.6]), atol=1e-5)
    assert labels_of(dataset, 1) == ["car", "van", "person"]
    assert (annotations["num_lidar_pts"] >= 80).all()


def test_a_frame_without_boxes_is_a_sample(root):
    dataset = CustomDataset(str(root), "custom_infos_val.pkl", test_mode=True)
    annotations = dataset.get_data_info(1)["eval_ann_info"]
    assert annotations["gt_bboxes_3d"].tensor.shape == (0, 7)
    assert annotations["gt_labels_3d"].shape == (0,)


def test_a_subset_of_the_classes(root):
    dataset = CustomDataset(str(root), TRAIN, metainfo={"classes": ["person", "car"]})
    assert labels_of(dataset, 1) == ["car", "person"]
    assert dataset.get_data_info(1)["ann_info"]["gt_labels_3d"].tolist() == [1, 0]
    assert labels_of(dataset, 0) == ["car"]


def test_merged_classes(root):
    options = {"metainfo": {"classes": ["vehicle"]}, "class_map": {"vehicle": ["car", "van"]}}
    dataset = CustomDataset(str(root), TRAIN, **options)
    assert labels_of(dataset, 1) == ["vehicle", "vehicle"]
    assert pickle.loads(pickle.dumps(dataset)).metainfo["classes"] == ("vehicle",)


def test_classes_that_it_does_not_have(root):
    with pytest.raises(InputError, match=r"the class 'bus' comes from \['bus'\], but the info file .* has the classes"):
        CustomDataset(str(root), TRAIN, metainfo={"classes": ["bus"]})


def test_info_files_that_cannot_be_used(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is missing: make it with `python tools/create_data.py custom"):
        CustomDataset(str(root), "gone.pkl")
    content = pickle.loads((root / TRAIN).read_bytes())

    def spoil(change: Any) -> None:
        spoiled = copy.deepcopy(content)
        spoiled = change(spoiled) or spoiled
        (tmp_path / "infos.pkl").write_bytes(pickle.dumps(spoiled))
        CustomDataset(str(tmp_path), "infos.pkl")

    with pytest.raises(InputError, match="holds no data_list"):
        spoil(lambda infos: infos["data_list"])
    with pytest.raises(InputError, match="does not number its categories from 0"):
        spoil(lambda infos: infos["metainfo"]["categories"].update(car=7))
    with pytest.raises(InputError, match=r"has boxes with the labels \[9\]"):
        spoil(lambda infos: infos["data_list"][0]["instances"][0].update(bbox_label_3d=9))
    with pytest.raises(InputError, match="sample drive/000: a box is not finite"):
        spoil(lambda infos: infos["data_list"][0]["instances"][0]["bbox_3d"].__setitem__(2, np.nan))
    (tmp_path / "infos.pkl").write_bytes((root / TRAIN).read_bytes()[:-20])
    with pytest.raises(InputError, match="is truncated or no pickle"):
        CustomDataset(str(tmp_path), "infos.pkl")


def test_a_detector_trains_and_is_evaluated_on_it(root, tmp_path, repository):
    """The config of docs/own_data.md, for two passes over four frames."""
    from perceptkd.cli.train import train

    text = (repository / "docs/own_data.md").read_text()
    example = text.split("```python\n# configs/own/lidar_pillar.py\n")[1].split("```")[0]
    example = example.replace("../_base_", str(repository / "configs/_base_")).replace("data/custom", str(root))
    (tmp_path / "lidar_pillar.py").write_text(example)
    options = {"train_cfg.max_epochs": 2, "train_cfg.val_interval": 2, "train_dataloader.batch_size": 2}
    workers = {f"{stage}_dataloader.{key}": value for stage in ("train", "val") for key, value in
               {"num_workers": 0, "persistent_workers": False}.items()}  # fmt: skip
    train(tmp_path / "lidar_pillar.py", work_dir=str(tmp_path / "run"), options={**options, **workers})
    assert list((tmp_path / "run").glob("epoch_2.pth"))
    logs = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json"))
    assert "distance/mAP_0.5m" in logs
    init_default_scope("mmdet3d")
    config = Config.fromfile(tmp_path / "lidar_pillar.py")
    assert set(config.val_dataloader.dataset.metainfo.classes) == {"car", "van", "person"}
