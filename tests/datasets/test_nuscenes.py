"""The dataset: good data comes as boxes, bad data as a sentence."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes import NuScenesDataset
from perceptkd.datasets.nuscenes_infos import CLASSES
from perceptkd.registry import DATASETS

INFO_FILE = "nuscenes_infos_mini_train.pkl"


@pytest.fixture(scope="module")
def infos(tiny_world: Path) -> dict:
    with open(tiny_world / INFO_FILE, "rb") as file:
        return pickle.load(file)


def dataset_of(infos: dict, folder: Path, **kwargs) -> NuScenesDataset:
    path = folder / "infos.pkl"
    path.write_bytes(pickle.dumps(infos))
    return NuScenesDataset(str(folder), "infos.pkl", **kwargs)


def test_loads_boxes_of_the_ten_classes(tiny_world):
    dataset = DATASETS.build({"type": "NuScenesDataset", "data_root": str(tiny_world), "ann_file": INFO_FILE})
    assert len(dataset) == 3
    assert dataset.metainfo["classes"] == CLASSES
    annotations = dataset.get_data_info(1)["ann_info"]
    assert annotations["gt_bboxes_3d"].tensor.shape == (len(annotations["gt_labels_3d"]), 9)
    assert set(annotations["gt_labels_3d"]) <= set(range(10))


def test_is_found_from_another_default_scope(tiny_world):
    from mmengine.registry import DATASETS as ROOT
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet3d"):
        dataset = ROOT.build({"type": "perceptkd.NuScenesDataset", "data_root": str(tiny_world), "ann_file": INFO_FILE})
    assert isinstance(dataset, NuScenesDataset)


def test_boxes_stand_on_their_bottom(tiny_world, infos):
    dataset = NuScenesDataset(str(tiny_world), INFO_FILE)
    boxes = dataset.get_data_info(0)["ann_info"]["gt_bboxes_3d"]
    stored = np.array([i["bbox_3d"] for i in infos["data_list"][0]["instances"] if i["num_lidar_pts"]])
    assert np.allclose(boxes.gravity_center.numpy(), stored[:, :3], atol=1e-4)
    assert np.allclose(boxes.tensor[:, 2].numpy(), stored[:, 2] - stored[:, 5] / 2, atol=1e-4)


def test_other_categories_are_dropped(infos, tmp_path):
    infos = copy.deepcopy(infos)
    instances = infos["data_list"][0]["instances"]
    infos["metainfo"]["categories"]["animal"] = -1
    before = len(dataset_of(infos, tmp_path).get_data_info(0)["ann_info"]["gt_labels_3d"])
    seen = next(instance for instance in instances if instance["num_lidar_pts"])
    seen["bbox_label"] = seen["bbox_label_3d"] = -1
    assert len(dataset_of(infos, tmp_path).get_data_info(0)["ann_info"]["gt_labels_3d"]) == before - 1


@pytest.mark.parametrize("use_valid_flag", [False, True])
def test_boxes_with_radar_points_alone_count_with_the_valid_flag(infos, tmp_path, use_valid_flag):
    infos = copy.deepcopy(infos)
    instances = infos["data_list"][0]["instances"]
    seen = [instance for instance in instances if instance["num_lidar_pts"]]
    seen[0].update(num_lidar_pts=0, num_radar_pts=2)
    seen[1].update(num_lidar_pts=0, bbox_3d_isvalid=False)
    dataset = dataset_of(infos, tmp_path, use_valid_flag=use_valid_flag)
    assert len(dataset.get_data_info(0)["ann_info"]["gt_labels_3d"]) == len(seen) - (1 if use_valid_flag else 2)


def test_a_frame_without_boxes_is_fine(infos, tmp_path):
    infos = copy.deepcopy(infos)
    infos["data_list"][0]["instances"] = []
    dataset = dataset_of(infos, tmp_path, filter_empty_gt=False)
    assert dataset[0]["ann_info"]["gt_bboxes_3d"].tensor.shape == (0, 9)
    assert len(dataset[1]["ann_info"]["gt_labels_3d"]) > 0


def test_missing_velocity_becomes_zero(infos, tmp_path):
    infos = copy.deepcopy(infos)
    for instance in infos["data_list"][0]["instances"]:
        instance["velocity"] = [float("nan")] * 2
    boxes = dataset_of(infos, tmp_path).get_data_info(0)["ann_info"]["gt_bboxes_3d"].tensor
    assert (boxes[:, 7:] == 0).all()


def test_a_subset_of_the_classes_in_their_order(tiny_world):
    dataset = NuScenesDataset(str(tiny_world), INFO_FILE, metainfo={"classes": ["car", "pedestrian"]})
    labels = np.concatenate([dataset.get_data_info(i)["ann_info"]["gt_labels_3d"] for i in range(3)])
    assert set(labels) == {0, 1}


@pytest.mark.parametrize("classes", [["pedestrian", "car"], ["car", "tram"], ["car", "car"]])
def test_wrong_class_list_names_both(tiny_world, classes):
    with pytest.raises(
        InputError, match=rf"classes \['{classes[0]}', '{classes[1]}'\].*that order is \['car', 'truck'"
    ):
        NuScenesDataset(str(tiny_world), INFO_FILE, metainfo={"classes": classes})


def test_info_file_of_another_class_order_names_both(infos, tmp_path):
    infos = copy.deepcopy(infos)
    infos["metainfo"]["categories"].update(car=1, truck=0)
    with pytest.raises(InputError, match=r"numbers its classes \['truck', 'car'.*this dataset \['car', 'truck'"):
        dataset_of(infos, tmp_path)


def test_info_file_without_categories(infos, tmp_path):
    infos = copy.deepcopy(infos)
    del infos["metainfo"]["categories"]
    with pytest.raises(InputError, match=r"does not name its categories.*create_data.py"):
        dataset_of(infos, tmp_path)


def test_missing_info_file_names_the_command(tiny_world):
    with pytest.raises(FileNotFoundError, match=r"no_such.pkl is missing: make it with `python tools/create_data.py"):
        NuScenesDataset(str(tiny_world), "no_such.pkl")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_info_file(tiny_world, tmp_path, share):
    content = (tiny_world / INFO_FILE).read_bytes()
    (tmp_path / "infos.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"infos.pkl is truncated or no pickle.*create_data.py"):
        NuScenesDataset(str(tmp_path), "infos.pkl")


def test_record_without_a_needed_field(infos, tmp_path):
    infos = copy.deepcopy(infos)
    del infos["data_list"][1]["lidar_points"]
    with pytest.raises(InputError, match="record without 'lidar_points'"):
        dataset_of(infos, tmp_path)


def test_box_that_is_not_finite(infos, tmp_path):
    infos = copy.deepcopy(infos)
    record = infos["data_list"][1]
    next(i for i in record["instances"] if i["num_lidar_pts"])["bbox_3d"][0] = float("nan")
    with pytest.raises(InputError, match=f"sample {record['token']}: a ground truth box is not finite"):
        dataset_of(infos, tmp_path)
