"""SemanticKITTI: the learned classes are the official ones, and mmdet3d's dataset reads the info files."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmdet3d.registry import DATASETS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from perceptkd.core.errors import InputError
from perceptkd.datasets.semantickitti import (
    CLASSES,
    IGNORED,
    LEARNING_MAP,
    MOVING,
    OFFICIAL_SPLITS,
    create_semantickitti_infos,
    info_path,
    pack_labels,
)

CONFIG = "mmdet3d::cylinder3d/cylinder3d_4xb4-3x_semantickitti.py"


@pytest.fixture
def copy(tiny_semantickitti, tmp_path) -> Path:
    """A data root that a test may damage, without info files."""
    return shutil.copytree(tiny_semantickitti, tmp_path / "s", ignore=shutil.ignore_patterns("*.pkl"))


def test_labels_are_learned_as_mmdet3d_learns_them():
    metainfo = get_config(CONFIG).train_dataloader.dataset.metainfo
    assert dict(metainfo.seg_label_mapping) == LEARNING_MAP
    assert metainfo.max_label == max(LEARNING_MAP)
    renamed = {"trunck": "trunk", "terrian": "terrain", "bus": "other-vehicle"}
    assert tuple(renamed.get(name, name) for name in metainfo.classes) == CLASSES
    assert len(CLASSES) == IGNORED == 19


def test_what_moves_is_learned_as_what_stands():
    assert all(LEARNING_MAP[still] == LEARNING_MAP[moving] for still, moving in MOVING.items())


def test_labels_and_numbers_are_packed_into_halves():
    packed = pack_labels(np.array([252, 40, 0]), np.array([40_000, 0, 65_535]))
    assert packed.dtype == np.uint32
    assert (packed & 0xFFFF).tolist() == [252, 40, 0]
    assert (packed >> 16).tolist() == [40_000, 0, 65_535]


def test_mmdet3d_s_dataset_loads_points_and_classes(tiny_semantickitti):
    init_default_scope("mmdet3d")
    config = get_config(CONFIG).test_dataloader.dataset
    config.update(data_root=str(tiny_semantickitti), ann_file=info_path(tiny_semantickitti, "val").name)
    dataset = DATASETS.build(config)
    assert len(dataset) == 2
    example = dataset[1]
    classes = example["data_samples"].gt_pts_seg.pts_semantic_mask
    file = tiny_semantickitti / "sequences/01/labels/000001.label"
    raw = np.fromfile(file, np.uint32) & 0xFFFF
    assert len(example["inputs"]["points"]) == len(raw) > 90_000
    assert classes.tolist() == [LEARNING_MAP[label] for label in raw.tolist()]


def test_the_official_splits_are_all_sequences_once():
    sequences = [sequence for split in OFFICIAL_SPLITS.values() for sequence in split]
    assert sorted(sequences) == [f"{number:02d}" for number in range(22)]


def test_splits_can_be_chosen_and_a_test_split_may_lack_labels(copy):
    shutil.rmtree(copy / "sequences/01/labels")
    paths = create_semantickitti_infos(copy, splits={"train": ["00"], "test": ["01"]})
    (train, test) = (pickle.loads(path.read_bytes())["data_list"] for path in paths.values())
    assert [record["sample_idx"] for record in train] == ["00000000", "00000001"]
    assert train[0]["pts_semantic_mask_path"] == "sequences/00/labels/000000.label"
    assert test[1]["lidar_points"] == {"lidar_path": "sequences/01/velodyne/000001.bin", "num_pts_feats": 4}
    assert "pts_semantic_mask_path" not in test[0]


def test_wrong_folders_are_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"sequences/00/velodyne has no clouds: unpack .*--format semantickitti"
    ):
        create_semantickitti_infos(tmp_path)


def test_missing_labels_are_told(copy):
    (copy / "sequences/01/labels/000001.label").unlink()
    with pytest.raises(FileNotFoundError, match=r"01/labels/000001.label is missing"):
        create_semantickitti_infos(copy)
    assert not list(copy.glob("*.pkl"))


def test_labels_of_another_cloud_are_told(copy):
    path = copy / "sequences/00/labels/000000.label"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"000000.label does not have one label for every point of .*000000.bin"):
        create_semantickitti_infos(copy)
