"""KITTI's info files and ground-truth database: mmdet3d reads them, and a real frame gives those of its own tools."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.datasets import KittiDataset
from mmdet3d.registry import DATASETS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import cut_to_image, database_path, read_points
from perceptkd.datasets.kitti_files import (
    CLASSES,
    DONT_CARE,
    Calibration,
    ObjectLabel,
    dont_care,
    format_calibration,
    format_label,
    read_calibration,
    read_labels,
)
from perceptkd.datasets.kitti_infos import create_kitti_infos, difficulty, image_set_path, info_path

DEMO = "mmdet3d_demo/kitti"


def load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


@pytest.fixture
def copy(tiny_kitti, tmp_path) -> Path:
    """A data root that a test may damage, without what is made from its frames."""
    ignored = shutil.ignore_patterns("*.pkl", "gt_database", "velodyne_reduced", "world.json")
    return shutil.copytree(tiny_kitti, tmp_path / "kitti", ignore=ignored)


def build_dataset(root: Path, split: str, folder: str = "training", **options: Any) -> KittiDataset:
    return KittiDataset(
        str(root), info_path(root, split).name, data_prefix={"pts": f"{folder}/velodyne_reduced"}, **options
    )


def test_classes_are_mmdet3d_s():
    assert KittiDataset.METAINFO["classes"] == CLASSES


def test_there_is_a_record_for_every_frame(tiny_kitti):
    frames = {"train": [0, 1], "val": [2, 3], "trainval": [0, 1, 2, 3], "test": [4, 5]}
    for split, numbers in frames.items():
        content = load(info_path(tiny_kitti, split))
        assert [record["sample_idx"] for record in content["data_list"]] == numbers
        assert content["metainfo"]["categories"] == {name: i for i, name in enumerate(CLASSES)} | {DONT_CARE: -1}
        assert content["metainfo"]["dataset"] == "kitti"


@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "training"), ("test", "testing")])
def test_mmdet3d_s_dataset_gives_the_boxes_of_the_label_files(tiny_kitti, split, folder):
    dataset = build_dataset(tiny_kitti, split, folder)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        number = Path(info["lidar_path"]).stem
        assert Path(info["lidar_path"]).is_file()
        labels = read_labels(tiny_kitti / folder / "label_2" / f"{number}.txt")
        calibration = read_calibration(tiny_kitti / folder / "calib" / f"{number}.txt")
        objects = [label for label in labels if label.type != DONT_CARE]
        boxes = info["ann_info"]["gt_bboxes_3d"]
        assert [CLASSES[i] for i in info["ann_info"]["gt_labels_3d"]] == [label.type for label in objects]
        places = np.array([label.location for label in objects]) @ calibration.lidar2cam[:3, :3]
        shift = calibration.lidar2cam[:3, 3] @ calibration.lidar2cam[:3, :3]
        np.testing.assert_allclose(boxes.bottom_center, places - shift, atol=1e-4)
        sizes = np.array([label.size_hwl for label in objects])[:, [2, 1, 0]]
        np.testing.assert_allclose(boxes.dims, sizes, atol=1e-6)


def test_reduced_clouds_are_what_the_image_shows(tiny_kitti):
    for number in ("000000", "000003"):
        folder = tiny_kitti / "training"
        points = read_points(folder / "velodyne" / f"{number}.bin")
        reduced = read_points(folder / "velodyne_reduced" / f"{number}.bin")
        calibration = read_calibration(folder / "calib" / f"{number}.txt")
        assert (cut_to_image(points, calibration, (414, 125)) == reduced).all()
        assert 0.05 * len(points) < len(reduced) < 0.3 * len(points)


def test_objects_stand_on_the_plane(tiny_kitti):
    """As mmdet3d's dataset turns it into the LiDAR frame, for ground-truth sampling."""
    dataset = build_dataset(tiny_kitti, "trainval")
    heights = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert info["plane"][2] > 0.99
        boxes = info["ann_info"]["gt_bboxes_3d"].bottom_center.numpy()
        near = boxes[np.linalg.norm(boxes[:, :2], axis=1) < 30]
        heights += (near @ info["plane"][:3] + info["plane"][3]).tolist()
    assert len(heights) >= 8
    assert np.abs(heights).max() < 0.6  # a street is no plane
    assert np.abs(np.median(heights)) < 0.15


def test_points_are_counted_in_mmdet3d_s_boxes(tiny_kitti):
    dataset = build_dataset(tiny_kitti, "train")
    info = dataset.get_data_info(0)
    points = torch.from_numpy(read_points(Path(info["lidar_path"])))
    inside = info["ann_info"]["gt_bboxes_3d"].points_in_boxes_all(points[:, :3])
    assert inside.sum(0).tolist() == info["ann_info"]["num_lidar_pts"].tolist()
    assert inside.sum() > 100


def test_the_database_has_every_object_with_its_points(tiny_kitti):
    records = {record["sample_idx"]: record for record in load(info_path(tiny_kitti, "train"))["data_list"]}
    database = load(database_path(tiny_kitti))
    entries = [entry for name in database for entry in database[name]]
    assert {entry["name"] for entry in entries} == set(database)
    assert sorted(entry["group_id"] for entry in entries) == list(range(len(entries)))
    wanted = [i for record in records.values() for i in record["instances"] if i["bbox_label"] >= 0]
    assert len(entries) == len(wanted)
    for entry in entries:
        objects = [i for i in records[entry["image_idx"]]["instances"] if i["bbox_label"] >= 0]
        instance = objects[entry["gt_idx"]]
        points = read_points(tiny_kitti / entry["path"])
        assert len(points) == entry["num_points_in_gt"] == instance["num_lidar_pts"]
        assert entry["difficulty"] == instance["difficulty"]
        assert CLASSES[instance["bbox_label"]] == entry["name"]
        reach = np.linalg.norm(entry["box3d_lidar"][3:6])
        assert (np.linalg.norm(points[:, :3], axis=1) <= reach).all()  # from the centre of the box's bottom


def test_the_train_pipeline_of_pointpillars_samples_objects(tiny_kitti):
    init_default_scope("mmdet3d")
    config = get_config("mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py")
    dataset_config = config.train_dataloader.dataset.dataset
    dataset_config.update(data_root=str(tiny_kitti), filter_empty_gt=False)
    (sample,) = [step for step in dataset_config.pipeline if step["type"] == "ObjectSample"]
    sampler = sample.db_sampler
    sampler.data_root, sampler.info_path = str(tiny_kitti), str(database_path(tiny_kitti))
    sampler.sample_groups, sampler.prepare = {"Pedestrian": 30}, {"filter_by_min_points": {"Pedestrian": 5}}
    (keep_range,) = [step for step in dataset_config.pipeline if step["type"] == "ObjectRangeFilter"]
    keep_range.point_cloud_range = [-200, -200, -20, 200, 200, 20]
    dataset = DATASETS.build(dataset_config)
    own = (dataset.get_data_info(0)["ann_info"]["gt_labels_3d"] >= 0).sum()
    example = dataset[0]
    boxes = example["data_samples"].gt_instances_3d
    assert len(boxes.bboxes_3d) > own
    assert set(boxes.labels_3d.tolist()) <= {0, 1, 2}
    points = example["inputs"]["points"]
    inside = boxes.bboxes_3d.points_in_boxes_all(points[:, :3])
    assert (inside.sum(0) >= 3).sum() > own // 2


@pytest.mark.parametrize(
    ("height", "occluded", "truncated", "level"),
    [(41, 0, 0.15, 0), (40, 0, 0.0, 1), (41, 1, 0.15, 1), (26, 0, 0.31, 2), (25, 0, 0.0, -1), (41, 3, 0.0, -1),
     (41, 0, 0.51, -1), (41, 2, 0.5, 2)],
)  # fmt: skip
def test_difficulty(height, occluded, truncated, level):
    label = ObjectLabel("Car", truncated, occluded, 0.0, (0.0, 10.0, 9.0, 10.0 + height), (1,) * 3, (0, 1, 9), 0.0)
    assert difficulty(label) == level
    assert difficulty(dont_care((0.0, 0.0, 100.0, 100.0))) == -1


@pytest.fixture
def real_root(real_data, tmp_path) -> Path:
    """Frame 000008 as KITTI's archives have it, with files made from mmdet3d's record of it."""
    demo, training = real_data / DEMO, tmp_path / "training"
    record = load(demo / "000008.pkl")["data_list"][0]
    matrices = [np.array(record["images"][f"CAM{camera}"]["cam2img"])[:3] for camera in range(4)]
    calibration = Calibration(
        np.stack(matrices),
        np.array(record["images"]["R0_rect"])[:3, :3],
        np.array(record["lidar_points"]["Tr_velo_to_cam"])[:3],
        np.array(record["lidar_points"]["Tr_imu_to_velo"])[:3],
    )
    for name in ("velodyne", "image_2", "calib", "label_2"):
        (training / name).mkdir(parents=True)
    shutil.copy(demo / "000008.bin", training / "velodyne")
    shutil.copy(demo / "000008.png", training / "image_2")
    (training / "calib/000008.txt").write_text(format_calibration(calibration))
    lines = [format_label(as_label(instance)) + "\n" for instance in record["instances"]]
    (training / "label_2/000008.txt").write_text("".join(lines))
    (tmp_path / "ImageSets").mkdir()
    image_set_path(tmp_path, "train").write_text("000008\n")
    return tmp_path


def as_label(instance: dict) -> ObjectLabel:
    x, y, z, length, height, width, rotation_y = instance["bbox_3d"]
    name = CLASSES[instance["bbox_label"]] if instance["bbox_label"] >= 0 else DONT_CARE
    rest = instance["alpha"], tuple(instance["bbox"]), (height, width, length), (x, y, z), rotation_y
    return ObjectLabel(name, instance["truncated"], instance["occluded"], *rest)


def test_a_real_frame_gives_mmdet3d_s_record(real_root, real_data):
    """Boxes, counts of points, difficulties, centres and matrices, to the last key."""
    create_kitti_infos(real_root)
    (ours,) = load(info_path(real_root, "train"))["data_list"]
    (theirs,) = load(real_data / DEMO / "000008.pkl")["data_list"]
    assert theirs.pop("sample_id") == ours["sample_idx"]
    check_equal(ours, theirs)
    assert [i["num_lidar_pts"] for i in ours["instances"][:6]] == [1325, 1900, 881, 659, 55, 162]
    cloud = read_points(real_data / DEMO / "000008.bin")  # cut to the image already, by mmdet3d
    assert (read_points(real_root / "training/velodyne_reduced/000008.bin") == cloud).all()


def check_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        for key in theirs:
            check_equal(ours[key], theirs[key])
    elif isinstance(theirs, list) and isinstance(theirs[0], dict):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            check_equal(one, other)
    elif isinstance(theirs, str):
        assert ours == theirs
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_existing_frames_give_the_same_files_again(tiny_kitti, copy):
    create_kitti_infos(copy)
    for pattern in ("*.pkl", "*/velodyne_reduced/*", "gt_database/*"):
        made = sorted(copy.glob(pattern))
        assert made
        for path in made:
            assert path.read_bytes() == (tiny_kitti / path.relative_to(copy)).read_bytes()


def test_a_test_split_without_labels_has_no_instances(copy):
    shutil.rmtree(copy / "testing/label_2")
    create_kitti_infos(copy, splits=["test"])
    assert [record["instances"] for record in load(info_path(copy, "test"))["data_list"]] == [[], []]
    assert not database_path(copy).exists()
    dataset = build_dataset(copy, "test", "testing", test_mode=True, load_eval_anns=False)
    assert len(dataset) == 2


def test_planes_are_no_part_of_kitti(copy):
    shutil.rmtree(copy / "training/planes")
    create_kitti_infos(copy, splits=["train"])
    assert "plane" not in load(info_path(copy, "train"))["data_list"][0]
    assert build_dataset(copy, "train").get_data_info(0)["plane"] is None


def test_a_frame_without_objects(copy):
    (copy / "training/label_2/000000.txt").write_text("")
    create_kitti_infos(copy, splits=["train"])
    assert load(info_path(copy, "train"))["data_list"][0]["instances"] == []
    assert len(build_dataset(copy, "train").get_data_info(0)["ann_info"]["gt_bboxes_3d"]) == 0


def test_wrong_folders_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no KITTI in .*unpack data_object_velodyne.*--format kitti"):
        create_kitti_infos(tmp_path)


def test_the_test_split_alone_needs_no_training_data(copy):
    shutil.rmtree(copy / "training")
    assert list(create_kitti_infos(copy, splits=["test"])) == ["test"]


def test_missing_splits_are_told(copy):
    with pytest.raises(InputError, match="KITTI has no split tune: choose of train, val, trainval, test"):
        create_kitti_infos(copy, splits=["tune"])
    image_set_path(copy, "val").unlink()
    with pytest.raises(FileNotFoundError, match=r"val.txt is missing: KITTI comes without splits"):
        create_kitti_infos(copy, splits=["train", "val"])
    shutil.rmtree(copy / "ImageSets")
    with pytest.raises(FileNotFoundError, match=r"train.txt is missing: KITTI comes without splits"):
        create_kitti_infos(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "got 'nothing'"), ("8\n", "one number such as 000008 in each line, got '8'"), ("000000\n000000\n", "twice")],
)
def test_broken_splits_are_told(copy, content, message):
    image_set_path(copy, "train").write_text(content)
    with pytest.raises(InputError, match=message):
        create_kitti_infos(copy)


@pytest.mark.parametrize(
    "name", ["velodyne/000001.bin", "calib/000001.txt", "image_2/000001.png", "label_2/000001.txt"]
)
def test_a_missing_file_is_named_before_anything_is_written(copy, name):
    (copy / "training" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of \d+ files that ImageSets names are missing, first .*{name}"):
        create_kitti_infos(copy)
    assert not list(copy.glob("*.pkl"))
    assert not (copy / "gt_database").exists()
