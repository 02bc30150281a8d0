"""SemanticKITTI scans through mmdet3d's dataset: classes of raw labels, subsets, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from perceptkd.core.errors import InputError
from perceptkd.datasets.semantickitti import CLASSES, IGNORED, LEARNING_MAP
from perceptkd.registry import DATASETS

INFO = "semantickitti_infos_train.pkl"
LOAD = {"type": "perceptkd.LoadLabelledPoints"}
PACK = {"type": "mmdet3d.Pack3DDetInputs", "keys": ["points", "pts_semantic_mask"]}
RAW = [10, 252, 40, 60, 70, 0, 99, 259, 30]
EXPECTED = ["car", "car", "road", "road", "vegetation", None, None, "other-vehicle", "person"]


def write_scan(root: Path, raw: list[int], *, name: str = "000000", points: np.ndarray | None = None) -> None:
    """A scan on the x axis, 10 m from point to point; objects are numbered in the upper bits."""
    if points is None:
        points = np.zeros((len(raw), 4), np.float32)
        points[:, 0] = 10 * np.arange(len(raw))
    folder = root / "sequences" / "00"
    for kind in ("velodyne", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    points.astype(np.float32).tofile(folder / "velodyne" / f"{name}.bin")
    (np.array(raw, np.uint32) | np.uint32(40000 << 16)).tofile(folder / "labels" / f"{name}.label")


def write_infos(root: Path, *, labels: bool = True) -> None:
    record = {
        "sample_idx": "00000000",
        "lidar_points": {"lidar_path": "sequences/00/velodyne/000000.bin", "num_pts_feats": 4},
    }
    if labels:
        record["pts_semantic_mask_path"] = "sequences/00/labels/000000.label"
    (root / INFO).write_bytes(pickle.dumps({"metainfo": {"dataset": "SemanticKITTI"}, "data_list": [record]}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one scan."""
    init_default_scope("mmdet3d")
    write_scan(tmp_path, RAW)
    write_infos(tmp_path)
    return tmp_path


def build(root: Path, *, load: dict = LOAD, **options):
    pipeline = [load, PACK]
    return DATASETS.build(
        {"type": "perceptkd.SemanticKittiDataset", "data_root": str(root), "ann_file": INFO, "pipeline": pipeline,
         **options}
    )  # fmt: skip


def test_every_point_gets_the_class_of_its_raw_label(root):
    sample = build(root)[0]
    labels = sample["data_samples"].gt_pts_seg.pts_semantic_mask.tolist()
    assert labels == [IGNORED if name is None else CLASSES.index(name) for name in EXPECTED]
    assert sample["inputs"]["points"].shape == (len(RAW), 4)


def test_metainfo_is_what_metrics_need(root):
    metainfo = build(root).metainfo
    assert (tuple(metainfo["classes"]), metainfo["ignore_index"]) == (CLASSES, IGNORED)
    assert len(metainfo["palette"]) == len(CLASSES)


def test_the_learning_map_is_mmdet3ds(root):
    """mmdet3d's published config, label by label; its names of three classes differ."""
    import mmdet3d
    from mmengine.config import Config

    configs = Path(mmdet3d.__file__).parent / ".mim" / "configs" / "_base_" / "datasets"
    upstream = Config.fromfile(configs / "semantickitti.py")
    assert dict(upstream.labels_map) == LEARNING_MAP
    pairs = zip(upstream.class_names, CLASSES, strict=True)
    assert {pair for pair in pairs if pair[0] != pair[1]} == {
        ("bus", "other-vehicle"),
        ("trunck", "trunk"),
        ("terrian", "terrain"),
    }


def test_a_subset_of_classes_ignores_the_others(root):
    dataset = build(root, classes=["person", "car"])
    labels = dataset[0]["data_samples"].gt_pts_seg.pts_semantic_mask.tolist()
    assert labels == [1, 1, 2, 2, 2, 2, 2, 2, 0]
    assert dataset.metainfo["ignore_index"] == 2
    assert dataset.metainfo["palette"] == [build(root).metainfo["palette"][i] for i in (5, 0)]


@pytest.mark.parametrize("classes", [["car", "cat"], ["car", "car"], []])
def test_other_classes_are_refused(root, classes):
    with pytest.raises(InputError, match="different names"):
        build(root, classes=classes)


def test_evaluation_gets_the_labels(root):
    sample = build(root, test_mode=True)[0]["data_samples"]
    assert sample.eval_ann_info["pts_semantic_mask"].tolist() == sample.gt_pts_seg.pts_semantic_mask.tolist()


def test_points_beyond_the_range_are_left_out_with_their_labels(root):
    sample = build(root, load={**LOAD, "max_range_m": 25.0}, test_mode=True)[0]
    assert sample["inputs"]["points"][:, 0].tolist() == [0, 10, 20]
    labels = [CLASSES.index(name) for name in EXPECTED[:3]]
    assert sample["data_samples"].gt_pts_seg.pts_semantic_mask.tolist() == labels
    assert sample["data_samples"].eval_ann_info["pts_semantic_mask"].tolist() == labels


@pytest.mark.parametrize("raw", [2, 260, 65535])
def test_labels_that_do_not_exist_are_refused(root, raw):
    write_scan(root, [10, raw])
    with pytest.raises(InputError, match=rf"\[{raw}\], which SemanticKITTI does not define"):
        build(root)[0]


def test_a_cut_label_file_is_refused(root):
    path = root / "sequences/00/labels/000000.label"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"32 bytes, and the scan's 9 points need 36"):
        build(root)[0]


def test_a_missing_label_file_is_named(root):
    (root / "sequences/00/labels/000000.label").unlink()
    with pytest.raises(FileNotFoundError, match=r"000000\.label is missing"):
        build(root)[0]


def test_points_that_are_not_finite_are_refused(root):
    write_scan(root, [10], points=np.array([[0, np.nan, 0, 0]]))
    with pytest.raises(InputError, match="NaN"):
        build(root)[0]


def test_a_scan_without_a_point_in_range_is_refused(root):
    write_scan(root, [10], points=np.full((1, 4), 90.0))
    with pytest.raises(InputError, match="no point within 25 m"):
        build(root, load={**LOAD, "max_range_m": 25.0})[0]


def test_a_split_without_labels_says_so(root):
    write_infos(root, labels=False)
    with pytest.raises(InputError, match="has no labels"):
        build(root)[0]


def test_a_missing_info_file_says_how_to_make_it(root):
    with pytest.raises(FileNotFoundError, match="--format semantickitti"):
        build(root, ann_file="semantickitti_infos_val.pkl")


def test_a_cut_info_file_is_refused(root):
    (root / INFO).write_bytes((root / INFO).read_bytes()[:20])
    with pytest.raises(InputError, match="truncated"):
        build(root)
