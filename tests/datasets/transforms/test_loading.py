"""Loading: what comes out, and that every bad file is named with its sample."""

from pathlib import Path

import numpy as np
import pytest

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes import NuScenesDataset
from perceptkd.datasets.transforms.loading import (
    LoadMultiViewImages,
    LoadPoints,
    load_calibration,
    load_image,
    load_points,
)

INFO_FILE = "nuscenes_infos_mini_train.pkl"


@pytest.fixture
def frame(tiny_world: Path) -> dict:
    """The last frame of the scene, which has four sweeps before it."""
    return NuScenesDataset(str(tiny_world), INFO_FILE, filter_empty_gt=False)[2]


def write_points(path: Path, count: int = 10) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    points.tofile(path)
    return points


def test_points_of_the_key_frame(frame):
    stored = load_points(frame["lidar_points"]["lidar_path"], 5, sample="x")
    points = LoadPoints()(frame)["points"].tensor.numpy()
    assert points.dtype == np.float32
    assert np.array_equal(points[:, :4], stored[:, :4])
    assert (points[:, 4] == 0).all()


def test_points_without_an_age(frame):
    assert np.array_equal(
        LoadPoints(with_age=False)(frame)["points"].tensor, LoadPoints()(frame)["points"].tensor[:, :4]
    )
    with pytest.raises(InputError, match="to tell 2 sweeps apart: with_age=True"):
        LoadPoints(sweeps=2, with_age=False)


def test_sweeps_add_older_points_in_the_key_frame_s_lidar_frame(frame):
    single = len(LoadPoints()(frame)["points"])
    points = LoadPoints(sweeps=2)(frame)["points"].tensor.numpy()
    assert len(points) > 2 * single
    assert sorted(set(points[:, 4].round(3))) == [0.0, 0.25, 0.5]


def test_sweeps_of_a_moving_car_fall_on_the_same_ground_and_walls(frame):
    """Moved by the ego poses, the sweep's far walls lie on those of the key frame; unmoved they do not."""
    from scipy.spatial import cKDTree

    points = LoadPoints(sweeps=4)(frame)["points"].tensor.numpy()
    key, old = points[points[:, 4] == 0], points[points[:, 4] > 0.7]
    walls, old_walls = key[key[:, 2] > 0.5, :3], old[old[:, 2] > 0.5, :3]
    moved = np.median(cKDTree(walls).query(old_walls)[0])
    sweep = frame["lidar_sweeps"][3]
    raw = load_points(sweep["lidar_points"]["lidar_path"], 5, sample="x")
    unmoved = np.median(cKDTree(walls).query(raw[raw[:, 2] > 0.5, :3])[0])
    assert moved < 0.5 * unmoved


def test_points_on_the_car_are_dropped_from_sweeps_only(frame, tmp_path):
    path = tmp_path / "sweep.bin"
    points = np.array([[0.5, 0.5, 0, 1, 0], [0.5, 5, 0, 2, 0], [7, 5, 0, 3, 0]], np.float32)
    points.tofile(path)
    frame["lidar_points"]["lidar_path"] = frame["lidar_sweeps"][0]["lidar_points"]["lidar_path"] = str(path)
    loaded = LoadPoints(sweeps=1)(frame)["points"].tensor
    assert loaded[:, 3].tolist() == [1, 2, 3, 2, 3]


def test_first_frame_has_no_sweeps_and_loads(tiny_world):
    frame = NuScenesDataset(str(tiny_world), INFO_FILE, filter_empty_gt=False)[0]
    assert (LoadPoints(sweeps=9)(frame)["points"].tensor[:, 4] == 0).all()


def test_oldest_sweep_is_repeated_where_there_are_fewer(frame, tiny_world):
    oldest = LoadPoints(sweeps=4)(frame)["points"].tensor.numpy()
    oldest = oldest[oldest[:, 4] == oldest[:, 4].max()]
    points = LoadPoints(sweeps=6, repeat_oldest=True)(frame)["points"].tensor.numpy()
    assert np.array_equal(points[-len(oldest) :], oldest)
    assert (points[:, 4] == oldest[0, 4]).sum() == 3 * len(oldest)
    first = NuScenesDataset(str(tiny_world), INFO_FILE, filter_empty_gt=False)[0]
    single = LoadPoints()(first)["points"].tensor
    assert np.array_equal(LoadPoints(sweeps=2, repeat_oldest=True)(first)["points"].tensor, single.repeat(3, 1))


def test_info_without_sweeps_is_an_error_where_sweeps_are_asked_for(frame):
    del frame["lidar_sweeps"]
    with pytest.raises(InputError, match=f"sample {frame['token']}: its info file lists no sweeps"):
        LoadPoints(sweeps=1)(frame)


def test_images_and_calibration(frame):
    results = LoadMultiViewImages()(frame)
    assert len(results["img"]) == results["num_views"] == 6
    assert results["img"][0].shape == (112, 200, 3)
    assert results["img_shape"] == (112, 200)
    assert results["cam2img"].shape == results["lidar2cam"].shape == (6, 4, 4)
    assert np.allclose(results["cam2img"][0][:3, :3], frame["images"]["CAM_FRONT"]["cam2img"])
    assert np.allclose(results["lidar2cam"][5], frame["images"]["CAM_BACK_RIGHT"]["lidar2cam"], atol=1e-5)


def test_cameras_can_be_chosen(frame):
    results = LoadMultiViewImages(["CAM_BACK", "CAM_FRONT"])(frame)
    assert results["cam_names"] == ["CAM_BACK", "CAM_FRONT"]
    assert np.allclose(results["lidar2cam"][1], frame["images"]["CAM_FRONT"]["lidar2cam"], atol=1e-5)
    with pytest.raises(InputError, match="has no camera CAM_TOP; it has CAM_FRONT"):
        LoadMultiViewImages(["CAM_TOP"])(frame)


def test_missing_point_file():
    with pytest.raises(FileNotFoundError, match=r"sample abc: LiDAR file .*gone.bin is missing"):
        load_points("/nowhere/gone.bin", 5, sample="abc")


def test_truncated_point_file(tmp_path):
    path = tmp_path / "cut.bin"
    write_points(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"sample abc: LiDAR file .*cut.bin is truncated: 193 bytes"):
        load_points(path, 5, sample="abc")


def test_empty_point_file(tmp_path):
    (tmp_path / "empty.bin").touch()
    with pytest.raises(InputError, match=r"sample abc: LiDAR file .*empty.bin holds no point"):
        load_points(tmp_path / "empty.bin", 5, sample="abc")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite(tmp_path, value):
    path = tmp_path / "nan.bin"
    points = write_points(path)
    points[3, 1] = points[5, 0] = value
    points.tofile(path)
    with pytest.raises(InputError, match=r"sample abc: 2 of 10 points in .*nan.bin are NaN or infinite"):
        load_points(path, 5, sample="abc")


def test_missing_image():
    with pytest.raises(FileNotFoundError, match=r"sample abc: image /nowhere/gone.jpg is missing"):
        load_image("/nowhere/gone.jpg", sample="abc")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_truncated_image(frame, tmp_path, share):
    content = Path(frame["images"]["CAM_FRONT"]["img_path"]).read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"sample abc: image .*cut.jpg is truncated or unreadable"):
        load_image(path, sample="abc")


def test_images_of_different_sizes(frame, tmp_path):
    import cv2

    path = tmp_path / "small.jpg"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    frame["images"]["CAM_BACK"]["img_path"] = str(path)
    with pytest.raises(
        InputError, match=rf"sample {frame['token']}: its images differ in size: \[\(8, 8\), \(112, 200\)"
    ):
        LoadMultiViewImages()(frame)


@pytest.mark.parametrize("kind", ["cam2img", "lidar2cam"])
@pytest.mark.parametrize("broken", ["zero", "nan", "flat"])
def test_calibration_that_cannot_be_inverted(frame, kind, broken):
    matrix = np.array(frame["images"]["CAM_BACK"][kind], dtype=float)
    if broken == "nan":
        matrix[0, 1] = np.nan
    else:
        matrix[0] = 0 if broken == "zero" else matrix[1] * 1.5
    frame["images"]["CAM_BACK"][kind] = matrix.tolist()
    with pytest.raises(InputError, match=rf"sample {frame['token']}: {kind} of CAM_BACK is singular or not finite"):
        LoadMultiViewImages()(frame)


def test_singular_pose_of_a_sweep(frame):
    frame["lidar_sweeps"][0]["lidar_points"]["lidar2sensor"] = np.zeros((4, 4)).tolist()
    with pytest.raises(InputError, match="lidar2sensor of a sweep is singular"):
        LoadPoints(sweeps=1)(frame)


@pytest.mark.parametrize("pixels", [100, 20000])
def test_intrinsics_of_any_size_are_accepted(pixels):
    matrix = [[pixels, 0, pixels / 2], [0, pixels, pixels / 2], [0, 0, 1]]
    loaded = load_calibration(matrix, name="cam2img", sample="abc")
    assert np.array_equal(loaded[:3, :3], matrix)
    assert np.array_equal(loaded[3], [0, 0, 0, 1])


def test_real_key_frame(real_data):
    folder = real_data / "mmdet3d_demo/nuscenes"
    (info,) = folder.glob("*.pkl")
    results = NuScenesDataset(
        str(folder),
        info.name,
        data_prefix={"pts": "", "img": ""},
        pipeline=[LoadPoints(), LoadMultiViewImages()],
        filter_empty_gt=False,
    )[0]
    assert results["points"].tensor.shape == (34688, 5)
    assert results["img_shape"] == (900, 1600)
