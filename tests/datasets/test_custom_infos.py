"""From somebody's clouds and boxes to info files: values, splits, and what is refused."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceptkd.core.errors import InputError
from perceptkd.datasets.box_table import Box, read_boxes
from perceptkd.datasets.custom_infos import create_custom_infos, find_clouds, read_splits, split_frames

SPLITS = {"train": ["drive/000", "drive/001", "drive/002", "drive/003"], "val": ["drive/004", "drive/005"]}


def create(own_data: tuple[Path, Path], root: Path, **options):
    folder, boxes = own_data
    return create_custom_infos(find_clouds(folder), read_boxes([boxes]), SPLITS, root, **options)


def content(path: Path) -> dict:
    return pickle.loads(path.read_bytes())


def test_clouds_boxes_and_counts(own_data, tmp_path):
    summary = create(own_data, tmp_path / "out")
    assert summary.frames == {"train": 4, "val": 2}
    infos = content(tmp_path / "out/custom_infos_train.pkl")
    assert infos["metainfo"]["categories"] == {"car": 0, "person": 1, "van": 2}
    record = infos["data_list"][1]
    assert (record["sample_idx"], record["token"]) == (1, "drive/001")
    stored = np.fromfile(tmp_path / "out" / record["lidar_points"]["lidar_path"], np.float32).reshape(-1, 4)
    assert np.array_equal(stored, np.load(own_data[0] / "drive/001.npy"))
    car, van, person = record["instances"]
    assert car["bbox_3d"] == pytest.approx([6.0, 3.0, -0.8, 4.5, 1.8, 1.6, math.pi / 2])
    assert [car["bbox_label_3d"], van["bbox_label_3d"], person["bbox_label_3d"]] == [0, 2, 1]
    assert all(80 <= each["num_lidar_pts"] < 110 for each in record["instances"])  # their own, and some ground
    assert summary.empty == {"car": 0, "van": 0, "person": 0}
    assert content(summary.paths["val"])["data_list"][1]["instances"] == []


def test_swapped_sides_or_a_turned_yaw_would_empty_the_boxes(own_data, tmp_path):
    """The count of points is what tells a wrong convention."""
    right = content(create(own_data, tmp_path / "a").paths["train"])["data_list"][0]["instances"][0]
    lines = own_data[1].read_text().replace(repr(math.pi / 2), "0.0")
    own_data[1].write_text(lines)
    turned = content(create(own_data, tmp_path / "b").paths["train"])["data_list"][0]["instances"][0]
    assert turned["num_lidar_pts"] < 0.6 * right["num_lidar_pts"]


def test_classes_give_the_order_of_labels(own_data, tmp_path):
    path = create(own_data, tmp_path / "out", classes=["van", "tram", "car", "person"]).paths["train"]
    assert content(path)["metainfo"]["categories"] == {"van": 0, "tram": 1, "car": 2, "person": 3}
    assert [each["bbox_label_3d"] for each in content(path)["data_list"][0]["instances"]] == [2, 0]


def test_an_origin_moves_clouds_and_boxes_alike(own_data, tmp_path):
    plain = content(create(own_data, tmp_path / "a").paths["train"])
    far = np.array([690_000.0, 5_335_000.0, 500.0])
    for path in own_data[0].rglob("*.npy"):
        points = np.load(path).astype(np.float64)
        points[:, :3] += far
        np.save(path, points)
    boxes = [Box(b.frame, b.name, (*(np.array(b.values[:3]) + far), *b.values[3:])) for b in read_boxes([own_data[1]])]
    clouds = find_clouds(own_data[0])
    with pytest.raises(
        InputError, match=r"m from the origin, where float32 is exact to 0.5 m only.*--origin 69\d{4} 533"
    ):
        create_custom_infos(clouds, boxes, SPLITS, tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.pkl"))
    moved = content(create_custom_infos(clouds, boxes, SPLITS, tmp_path / "b", origin=far).paths["train"])
    for before, after in zip(plain["data_list"], moved["data_list"], strict=True):
        assert [each["num_lidar_pts"] for each in before["instances"]] == [
            each["num_lidar_pts"] for each in after["instances"]
        ]
        assert np.allclose(before["instances"][0]["bbox_3d"], after["instances"][0]["bbox_3d"], atol=1e-6)


def test_points_that_are_nan_are_dropped_and_counted(own_data, tmp_path):
    points = np.load(own_data[0] / "drive/000.npy")
    points[[3, 7, 9], [0, 2, 3]] = [np.nan, np.inf, np.nan]
    np.save(own_data[0] / "drive/000.npy", points)
    assert create(own_data, tmp_path / "out").dropped == 3
    stored = np.fromfile(tmp_path / "out/points/drive/000.bin", np.float32).reshape(-1, 4)
    assert np.array_equal(stored, np.delete(points, [3, 7, 9], axis=0))


@pytest.mark.parametrize("value", [None, np.nan])
def test_a_cloud_without_points(own_data, tmp_path, value):
    empty = np.zeros((0, 4)) if value is None else np.full((5, 4), value)
    np.save(own_data[0] / "drive/002.npy", empty.astype(np.float32))
    with pytest.raises(InputError, match=r"002.npy holds no point.*: leave this frame out"):
        create(own_data, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.pkl"))


def test_boxes_of_another_frame_of_reference(own_data, tmp_path):
    boxes = [Box(b.frame, b.name, (b.values[0] + 500.0, *b.values[1:])) for b in read_boxes([own_data[1]])]
    with pytest.raises(InputError, match=r"no box holds a point of its cloud: .* in one frame"):
        create_custom_infos(find_clouds(own_data[0]), boxes, SPLITS, tmp_path / "out")


@pytest.mark.parametrize(
    ("frame", "message"),
    [("drive/000.npy", "frames have no suffix: drive/000"), ("000", "the first one is 'drive/000'")],
)
def test_boxes_of_an_unknown_cloud(own_data, tmp_path, frame, message):
    boxes = [Box(frame, "car", (1.0,) * 7)]
    with pytest.raises(InputError, match=f"there is no cloud of the frame '{frame}'; {message}"):
        create_custom_infos(find_clouds(own_data[0]), boxes, SPLITS, tmp_path / "out")


@pytest.mark.parametrize("root", [".", "drive/.."])
def test_clouds_are_never_written_over_nor_found_again(own_data, root):
    """Nor may a second run take what the first one wrote for frames without boxes."""
    folder, _ = own_data
    create(own_data, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="where the clouds are written to: write to another folder"):
        create(own_data, folder / root)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_no_boxes(own_data, tmp_path):
    clouds = find_clouds(own_data[0])
    with pytest.raises(InputError, match="there is no box: the box files hold a header alone"):
        create_custom_infos(clouds, [], SPLITS, tmp_path / "out")
    with pytest.raises(InputError, match="the frames of the splits have no box"):
        create_custom_infos(clouds, read_boxes([own_data[1]]), {"val": ["drive/005"]}, tmp_path / "out")


def test_folders_of_clouds(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_clouds(tmp_path / "gone")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(InputError, match=r"holds no cloud: no file ends in .pcd"):
        find_clouds(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("a/1.5.npy", "2.PCD"):
        (tmp_path / name).touch()
    assert list(find_clouds(tmp_path)) == ["2", "a/1.5"]
    (tmp_path / "2.npy").touch()
    with pytest.raises(InputError, match="the frame 2 has two clouds"):
        find_clouds(tmp_path)


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_random_split_has_every_frame_once_and_repeats(count, share, seed):
    frames = [f"{index:03d}" for index in range(count)]
    if not 0 < round(share * count) < count:
        with pytest.raises(InputError, match="leaves a split without any frame"):
            split_frames(frames, val_fraction=share, seed=seed)
        return
    splits = split_frames(frames, val_fraction=share, seed=seed)
    assert sorted(splits["train"] + splits["val"]) == frames
    assert len(splits["val"]) == round(share * count)
    assert splits == split_frames(frames[::-1], val_fraction=share, seed=seed)


def test_split_files(tmp_path):
    (tmp_path / "train.txt").write_text("a\n\nb\n")
    (tmp_path / "val.txt").write_text("c\n")
    files = {"train": tmp_path / "train.txt", "val": tmp_path / "val.txt"}
    assert read_splits(files, "abcd") == {"train": ["a", "b"], "val": ["c"]}
    for text, message in (
        ("c\nz\n", r"val.txt, line 2: there is no cloud of the frame 'z'; the first one is 'a'"),
        ("c.npy\n", r"val.txt, line 1: .* frames have no suffix: c"),
        ("c\na\n", r"val.txt, line 2: the frame 'a' stands in .*train.txt, line 1 as well"),
        ("\n", r"val.txt names no frame"),
    ):
        (tmp_path / "val.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_splits(files, "abcd")
    with pytest.raises(FileNotFoundError, match="there is no split file"):
        read_splits({"val": tmp_path / "gone.txt"}, "abcd")
