"""Info files: the same keys and conventions as mmdet3d's own."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmdet3d.datasets import NuScenesDataset as UpstreamNuScenesDataset
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes import DATA_PREFIX
from perceptkd.datasets.nuscenes_infos import CLASSES, create_nuscenes_infos, info_path

DEMO = "mmdet3d_demo/nuscenes/n015-2018-07-24-11-22-45+0800.pkl"
NOT_MADE = {"cam_instances"}  # boxes per camera, which only monocular detectors read


def load(path: Path) -> dict:
    with open(path, "rb") as file:
        return pickle.load(file)


@pytest.fixture(scope="module")
def infos(tiny_world: Path) -> dict:
    return load(info_path(tiny_world, "mini_train"))


def count_inside(record: dict, points: np.ndarray) -> list[int]:
    """Points in each box of a record, its numbers read as gravity centre, length, width, height and yaw."""
    counts = []
    for instance in record["instances"]:
        x, y, z, length, width, height, yaw = instance["bbox_3d"]
        box = Box([x, y, z], [width, length, height], Quaternion(axis=[0, 0, 1], radians=yaw))
        counts.append(int(points_in_box(box, points[:3]).sum()))
    return counts


def test_one_file_per_split_and_version_in_the_metainfo(tiny_world, infos):
    assert info_path(tiny_world, "mini_val").is_file()
    assert infos["metainfo"]["categories"] == {name: i for i, name in enumerate(CLASSES)}
    assert infos["metainfo"]["version"] == "v1.0-mini"
    assert infos["metainfo"]["split"] == "mini_train"
    assert [record["sample_idx"] for record in infos["data_list"]] == [0, 1, 2]


def test_boxes_hold_the_points_they_are_said_to(tiny_world, infos):
    """The box is turned about the z axis of the tilted LiDAR frame, so single points at its edges may differ."""
    for record in infos["data_list"]:
        path = tiny_world / "samples/LIDAR_TOP" / record["lidar_points"]["lidar_path"]
        counts = np.array(count_inside(record, LidarPointCloud.from_file(str(path)).points))
        stored = np.array([instance["num_lidar_pts"] for instance in record["instances"]])
        assert stored.sum() > 100
        assert np.abs(counts - stored).sum() < 0.15 * stored.sum()


def test_velocities_are_the_devkit_s_in_the_lidar_frame(tiny_world, infos):
    tables = NuScenes("v1.0-mini", str(tiny_world), verbose=False)
    moving = 0
    for record in infos["data_list"]:
        rotation = (np.array(record["ego2global"]) @ np.array(record["lidar_points"]["lidar2ego"]))[:3, :3]
        annotations = tables.get("sample", record["token"])["anns"]
        assert len(annotations) == len(record["instances"])
        for token, instance in zip(annotations, record["instances"]):
            expected = tables.box_velocity(token)[:2]
            found = (rotation @ [*instance["velocity"], 0.0])[:2]
            assert np.allclose(found, expected, atol=0.01 * max(1.0, np.linalg.norm(expected)), equal_nan=True)
            moving += np.linalg.norm(expected) > 1.0
    assert moving > 3


def test_lidar2cam_follows_the_ego_between_the_exposures(tiny_world, infos):
    tables = NuScenes("v1.0-mini", str(tiny_world), verbose=False)
    shifts = []
    for record in infos["data_list"]:
        lidar2ego = np.array(record["lidar_points"]["lidar2ego"])
        for image in record["images"].values():
            static = np.linalg.inv(np.array(image["cam2ego"])) @ lidar2ego
            shifts.append(np.linalg.norm(static[:3, 3] - np.array(image["lidar2cam"])[:3, 3]))
            pose = tables.get("ego_pose", image["sample_data_token"])
            ego2global = np.eye(4)
            ego2global[:3, :3] = Quaternion(pose["rotation"]).rotation_matrix
            ego2global[:3, 3] = pose["translation"]
            chain = np.linalg.inv(ego2global @ image["cam2ego"]) @ record["ego2global"] @ lidar2ego
            assert np.allclose(chain, image["lidar2cam"], atol=1e-6)
    assert max(shifts) > 0.02  # a car at 5 m/s moves 0.2 m in 43 ms


def test_sweeps_are_listed_newest_first_and_map_to_the_key_frame(infos):
    last = infos["data_list"][-1]
    sweeps = last["lidar_sweeps"]
    assert [round(last["timestamp"] - sweep["timestamp"], 3) for sweep in sweeps] == [0.25, 0.5, 0.75, 1.0]
    assert infos["data_list"][0]["lidar_sweeps"] == []
    key = np.array(last["ego2global"]) @ last["lidar_points"]["lidar2ego"]
    for sweep in sweeps:
        other = np.array(sweep["ego2global"]) @ sweep["lidar_points"]["lidar2ego"]
        assert np.allclose(other @ sweep["lidar_points"]["lidar2sensor"], key, atol=1e-6)
    assert {Path(sweep["lidar_points"]["lidar_path"]).parts[0] for sweep in sweeps} == {"samples", "sweeps"}


def test_number_of_sweeps_can_be_limited(tiny_world, tmp_path):
    root = shutil.copytree(tiny_world, tmp_path / "nuscenes")
    path = create_nuscenes_infos(root, "v1.0-mini", splits=["mini_val"], max_sweeps=2)["mini_val"]
    assert [len(record["lidar_sweeps"]) for record in load(path)["data_list"]] == [0, 2, 2]


def test_mmdet3d_s_own_dataset_reads_them(tiny_world):
    dataset = UpstreamNuScenesDataset(
        str(tiny_world),
        "nuscenes_infos_mini_train.pkl",
        data_prefix=dict(DATA_PREFIX),
        modality={"use_camera": True, "use_lidar": True},
        box_type_3d="LiDAR",
    )
    info = dataset.get_data_info(1)
    assert Path(info["lidar_points"]["lidar_path"]).is_file()
    assert all(Path(image["img_path"]).is_file() for image in info["images"].values())
    assert all(Path(sweep["lidar_points"]["lidar_path"]).is_file() for sweep in info["lidar_sweeps"])
    assert info["ann_info"]["gt_bboxes_3d"].tensor.shape[1] == 9


def test_keys_are_those_of_mmdet3d_s_demo_file(real_data, infos):
    def keys(value, path=""):
        if isinstance(value, dict):
            return {f"{path}/{k}" for k in value}.union(*(keys(v, f"{path}/{k}") for k, v in value.items()))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return keys(value[0], f"{path}[]")
        return set()

    demo = load(real_data / DEMO)
    theirs, ours = demo["data_list"][0], infos["data_list"][-1]
    assert {key for key in keys(theirs) if key.split("/")[1] not in NOT_MADE} <= keys(ours)
    assert {k: v for k, v in infos["metainfo"].items() if k != "split"} == demo["metainfo"]
    for name in ("ego2global",):
        assert np.shape(ours[name]) == np.shape(theirs[name])
    for name in ("cam2img", "cam2ego", "lidar2cam"):
        assert np.shape(ours["images"]["CAM_FRONT"][name]) == np.shape(theirs["images"]["CAM_FRONT"][name])
    assert list(ours["images"]) == list(theirs["images"])


def test_box_convention_is_that_of_the_demo_file(real_data):
    record = load(real_data / DEMO)["data_list"][0]
    path = (real_data / DEMO).with_name(record["lidar_points"]["lidar_path"])
    counts = np.array(count_inside(record, LidarPointCloud.from_file(str(path)).points))
    stored = np.array([instance["num_lidar_pts"] for instance in record["instances"]])
    assert np.abs(counts - stored).sum() < 0.15 * stored.sum()


def test_missing_tables_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no nuScenes tables in .*v1.0-mini: unpack .*create_data.py simworld"):
        create_nuscenes_infos(tmp_path, "v1.0-mini")


def test_a_table_that_is_cut_names_its_folder(tiny_world, tmp_path):
    tables = shutil.copytree(tiny_world / "v1.0-mini", tmp_path / "v1.0-mini")
    path = tables / "sample_data.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(InputError, match=r"a table in .*v1.0-mini is truncated or no JSON .*unpack v1.0-mini again"):
        create_nuscenes_infos(tmp_path, "v1.0-mini")


def test_missing_file_is_named_and_nothing_is_written(tiny_world, tmp_path):
    root = shutil.copytree(tiny_world, tmp_path / "nuscenes")
    for path in root.glob("*.pkl"):
        path.unlink()
    gone = sorted((root / "samples/CAM_BACK").iterdir())[0]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 42 key frame files are missing.*{gone.name}"):
        create_nuscenes_infos(root, "v1.0-mini")
    assert not list(root.glob("*.pkl*"))


def test_a_split_without_samples_is_an_error(tiny_world):
    with pytest.raises(InputError, match="split 'test' has no sample"):
        create_nuscenes_infos(tiny_world, "v1.0-mini", splits=["test"])
