"""The metric on predictions whose score is known, and on a real frame."""

import copy
import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from perceptkd.datasets.kitti_files import CLASSES, camera_boxes_to_lidar
from perceptkd.evaluation.kitti import LIMITS
from perceptkd.evaluation.kitti_boxes import read_truth
from perceptkd.evaluation.kitti_camera import boxes_to_camera, project_boxes
from perceptkd.evaluation.kitti_metric import KittiMetric
from perceptkd.registry import METRICS

NUM_FRAMES = 6
CAM2IMG = np.array([[720.0, 0, 610, 45], [0, 720, 173, 0.2], [0, 0, 1, 0.003], [0, 0, 0, 1]])
LIDAR2CAM = np.array([[0, -1.0, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3], [0, 0, 0, 1]])
SIZE = (1242, 375)
SIZES_M = {"Car": (3.9, 1.5, 1.6), "Pedestrian": (0.8, 1.8, 0.7), "Cyclist": (1.8, 1.7, 0.6)}
#: On a grid, so that none overlaps another: 8 of each class in each of 6 frames.
PLACES = [(x, z) for z in (11.0, 16.0, 21.0, 26.0) for x in (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0)]

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]


def instance(name: str, box: np.ndarray) -> dict[str, Any]:
    bbox, _ = project_boxes(box[None], CAM2IMG[None], np.array([SIZE]))
    x, y, _ = camera_boxes_to_lidar(box[None], LIDAR2CAM)[0, :3]
    label = CLASSES.index(name)
    values = {"alpha": box[6] - np.arctan2(-y, x), "truncated": 0.0, "occluded": 0}
    return {"bbox": bbox[0].tolist(), "bbox_3d": box.tolist(), "bbox_label": label, **values}


def make_infos() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    records = []
    for frame in range(NUM_FRAMES):
        instances = []
        for i, (x, z) in enumerate(PLACES):
            name = list(SIZES_M)[i % 3]
            box = np.array([x, 1.6, z, *SIZES_M[name], rng.uniform(-3, 3)])
            instances.append(instance(name, box))
        region = {"bbox": [0.0, 0, 1, 1], "bbox_3d": [*[-1000.0] * 3, *[-1.0] * 3, -10.0], "bbox_label": -1}
        instances.append({**region, "alpha": -10.0, "truncated": -1.0, "occluded": -1})
        view = {"lidar2cam": LIDAR2CAM.tolist(), "cam2img": CAM2IMG.tolist(), "width": SIZE[0], "height": SIZE[1]}
        number = 100 + frame
        records.append(
            {
                "sample_idx": number,
                "images": {"CAM2": view},
                "lidar_points": {"lidar_path": f"{number:06d}.bin"},
                "instances": instances,
            }
        )
    categories = {name: label for label, name in enumerate(CLASSES)} | {"DontCare": -1}
    return {"metainfo": {"categories": categories, "dataset": "kitti", "info_version": "1.1"}, "data_list": records}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, make_infos())
    return tmp_path


def write(root: Path, infos: dict[str, Any]) -> None:
    (root / "infos.pkl").write_bytes(pickle.dumps(infos))


def load(root: Path) -> list[dict[str, Any]]:
    return pickle.loads((root / "infos.pkl").read_bytes())["data_list"]


def truth_of(info: dict[str, Any], lidar2cam: Any = LIDAR2CAM) -> Boxes:
    """LiDAR boxes, falling scores and labels of a frame's objects."""
    found = [one for one in info["instances"] if one["bbox_label"] >= 0]
    boxes = camera_boxes_to_lidar(np.array([one["bbox_3d"] for one in found]).reshape(-1, 7), np.array(lidar2cam))
    return boxes, np.linspace(0.9, 0.5, len(found)), np.array([one["bbox_label"] for one in found], int)


def sample_of(boxes: Boxes, index: int, **meta: Any) -> dict[str, Any]:
    """A data sample as ``BaseMetric`` gets it."""
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes[0], dtype=torch.float32)),
        scores_3d=torch.tensor(boxes[1], dtype=torch.float32),
        labels_3d=torch.tensor(boxes[2], dtype=torch.long),
    )
    return {"pred_instances_3d": found, "sample_idx": index, **meta}


def evaluate(root: Path, change: Callable[[Boxes], Boxes] = lambda boxes: boxes, **options: Any) -> dict[str, float]:
    metric = KittiMetric(str(root), "infos.pkl", **options)
    metric.dataset_meta = {"classes": CLASSES}
    infos = load(root)
    for index, info in enumerate(infos):
        metric.process({}, [sample_of(change(truth_of(info)), index)])
    return metric.evaluate(size=len(infos))


def test_perfect_predictions(root):
    metrics = evaluate(root)
    assert len(metrics) == 4 * 3 * 2 * (4 + 2)
    assert metrics["kitti/moderate_3d_AP40"] == 100.0
    assert min(metrics.values()) == pytest.approx(100.0, abs=1e-6)


def test_names(root):
    metrics = evaluate(root)
    for name in ("moderate_3d_AP40", "easy_bbox_AP11", "hard_aos_AP40", "moderate_bev_AP40_loose"):
        assert isinstance(metrics[f"kitti/{name}"], float)
        assert isinstance(metrics[f"kitti/Pedestrian_{name}"], float)


def test_headline_is_the_mean_over_the_classes(root):
    """Cyclists are called pedestrians: theirs is 0, and half of what is called pedestrian is wrong."""

    def change(boxes: Boxes) -> Boxes:
        cyclist, pedestrian = CLASSES.index("Cyclist"), CLASSES.index("Pedestrian")
        return boxes[0], boxes[1], np.where(boxes[2] == cyclist, pedestrian, boxes[2])

    metrics = evaluate(root, change)
    by_class = [metrics[f"kitti/{name}_moderate_3d_AP40"] for name in ("Car", "Pedestrian", "Cyclist")]
    assert by_class[0] == 100.0
    assert 40 < by_class[1] < 70
    assert by_class[2] == 0.0
    assert metrics["kitti/moderate_3d_AP40"] == pytest.approx(np.mean(by_class))


def test_turned_round_predictions_cost_orientation_only(root):
    metrics = evaluate(root, lambda boxes: (boxes[0] + [0, 0, 0, 0, 0, 0, np.pi], *boxes[1:]))
    assert metrics["kitti/moderate_3d_AP40"] == 100.0
    assert metrics["kitti/moderate_aos_AP40"] < 1e-3


def test_raised_predictions_cost_nothing_on_the_ground(root):
    metrics = evaluate(root, lambda boxes: (boxes[0] + [0, 0, 0.6, 0, 0, 0, 0], *boxes[1:]))
    assert metrics["kitti/Car_moderate_bev_AP40"] == 100.0
    assert metrics["kitti/Car_moderate_3d_AP40"] == 0.0
    assert metrics["kitti/Pedestrian_moderate_3d_AP40"] == 0.0
    assert metrics["kitti/Pedestrian_moderate_3d_AP40_loose"] == 100.0


def test_equals_the_rules_written_out(root, tmp_path, kitti_reference):
    """Noisy boxes, and the written files, on which the slow evaluation gives the same figures."""
    rng = np.random.default_rng(0)

    def noisy(boxes: Boxes) -> Boxes:
        boxes, scores, labels = (np.concatenate([part, part]) for part in boxes)
        boxes = boxes + rng.normal(size=boxes.shape) * [0.2, 0.1, 0.05, 0.1, 0.05, 0.05, 0.1]
        return boxes, rng.random(len(scores)), np.where(rng.random(len(labels)) < 0.1, 1, labels)

    metrics = evaluate(root, noisy, out_dir=str(tmp_path / "results"))
    frames = []
    for info in load(root):
        lines = []
        for one in info["instances"]:
            name = "DontCare" if one["bbox_label"] < 0 else CLASSES[one["bbox_label"]]
            x, y, z, length, height, width, turn = one["bbox_3d"]
            numbers = [one["alpha"], *one["bbox"], height, width, length, x, y, z, turn]
            lines.append(" ".join(map(str, [name, one["truncated"], one["occluded"], *numbers])))
        result = (tmp_path / "results" / f"{info['sample_idx']:06d}.txt").read_text()
        frames.append((kitti_reference.parse("\n".join(lines)), kitti_reference.parse(result)))
    partial = 0
    for name, kind in product(SIZES_M, ("bbox", "bev", "3d")):
        limit = LIMITS["strict"][kind][name]
        precision, similarity, _ = kitti_reference.evaluate(frames, name, "moderate", kind, limit)
        figure = f"kitti/{name}_moderate_{kind}"
        assert metrics[f"{figure}_AP40"] == pytest.approx(sum(precision[1:]) * 100 / 40, abs=1e-6)
        assert metrics[f"{figure}_AP11"] == pytest.approx(sum(precision[::4]) * 100 / 11, abs=1e-6)
        partial += 0 < metrics[f"{figure}_AP40"] < 100
        if kind == "bbox":  # a file has four digits of alpha
            expected = pytest.approx(sum(similarity[1:]) * 100 / 40, abs=1e-2)
            assert metrics[f"kitti/{name}_moderate_aos_AP40"] == expected
    assert partial == 9


def test_frames_in_any_order(root):
    infos = load(root)
    metric = KittiMetric(str(root), "infos.pkl")
    metric.dataset_meta = {"classes": CLASSES}
    for index in (3, 0, 5, 1, 4, 2):
        boxes, scores, labels = truth_of(infos[index])
        metric.process({}, [sample_of((boxes, scores - index / 100, labels), index)])
    assert metric.evaluate(size=NUM_FRAMES)["kitti/moderate_3d_AP40"] == 100.0


def test_no_predictions_at_all(root):
    metrics = evaluate(root, lambda boxes: tuple(part[:0] for part in boxes))
    assert set(metrics.values()) == {0.0}


def test_frames_without_predictions(root):
    kept = iter([0, 0, 0, None, None, None])

    def change(boxes: Boxes) -> Boxes:
        count = next(kept)
        return tuple(part[:count] for part in boxes)

    metrics = evaluate(root, change)
    assert 45 < metrics["kitti/moderate_3d_AP40"] < 55


def test_models_with_fewer_classes(root):
    """Only what the model knows is in the mean."""
    metric = KittiMetric(str(root), "infos.pkl")
    metric.dataset_meta = {"classes": ("Car",)}
    for index, info in enumerate(load(root)):
        boxes, scores, labels = truth_of(info)
        is_car = labels == CLASSES.index("Car")
        metric.process({}, [sample_of((boxes[is_car], scores[is_car], labels[is_car] * 0), index)])
    metrics = metric.evaluate(size=NUM_FRAMES)
    assert metrics["kitti/moderate_3d_AP40"] == metrics["kitti/Car_moderate_3d_AP40"] == 100.0
    assert not any("Pedestrian" in name for name in metrics)


def test_models_without_an_evaluated_class(root):
    metric = KittiMetric(str(root), "infos.pkl")
    metric.dataset_meta = {"classes": ("Van",)}
    for index in range(NUM_FRAMES):
        metric.process({}, [sample_of((np.empty((0, 7)), np.empty(0), np.empty(0)), index)])
    with pytest.raises(ValueError, match="KITTI evaluates Car, Pedestrian, Cyclist"):
        metric.evaluate(size=NUM_FRAMES)


def test_through_an_evaluator(root):
    """Built by its name, as a config does, with samples as a model returns them."""
    from mmdet3d.structures import Det3DDataSample

    evaluator = Evaluator([{"type": "perceptkd.KittiMetric", "data_root": str(root), "ann_file": "infos.pkl"}])
    evaluator.dataset_meta = {"classes": CLASSES}
    for index, info in enumerate(load(root)):
        path = f"elsewhere/{info['lidar_points']['lidar_path']}"
        sample = Det3DDataSample(metainfo={"sample_idx": index, "lidar_path": path})
        sample.pred_instances_3d = sample_of(truth_of(info), index)["pred_instances_3d"]
        evaluator.process([sample])
    assert evaluator.evaluate(NUM_FRAMES)["kitti/moderate_3d_AP40"] == 100.0


def test_result_files(root, tmp_path):
    out = tmp_path / "results"
    assert evaluate(root, out_dir=str(out))
    assert sorted(path.name for path in out.iterdir()) == [f"{number:06d}.txt" for number in range(100, 106)]
    lines = (out / "000100.txt").read_text().splitlines()
    assert len(lines) == len(PLACES)
    assert {len(line.split()) for line in lines} == {16}
    x, y, z = (float(number) for number in lines[0].split()[11:14])
    assert (x, y, z) == pytest.approx((*PLACES[0][:1], 1.6, PLACES[0][1]), abs=1e-3)


def test_format_only_needs_no_annotations(root, tmp_path):
    infos = make_infos()
    predictions = [truth_of(info) for info in infos["data_list"]]
    for info in infos["data_list"]:
        info["instances"] = []
    write(root, infos)
    calls = iter(predictions)
    assert evaluate(root, lambda _: next(calls), out_dir=str(tmp_path / "out"), format_only=True) == {}
    assert len(list((tmp_path / "out").iterdir())) == NUM_FRAMES
    calls = iter(predictions)
    with pytest.raises(ValueError, match=r"no annotated Car or Pedestrian or Cyclist .* counts.*format_only=True"):
        evaluate(root, lambda _: next(calls))
    with pytest.raises(ValueError, match="set out_dir"):
        KittiMetric(str(root), "infos.pkl", format_only=True)


def test_few_objects_are_warned_of(root, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, message: said.append(message))
    evaluate(root)
    assert said == []
    infos = make_infos()
    for record in infos["data_list"]:
        for one in record["instances"][::3]:
            one["occluded"] = 1
    write(root, infos)
    evaluate(root)
    assert len(said) == 1
    assert "(Car easy 0)" in said[0]


def test_partial_predictions_are_an_error(root):
    metric = KittiMetric(str(root), "infos.pkl")
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, [sample_of(truth_of(load(root)[0]), 0)])
    with pytest.raises(ValueError, match=r"1 of 6 frames of .*infos.pkl were predicted"):
        metric.evaluate(size=1)


@pytest.mark.parametrize(
    ("index", "meta", "reason"),
    [
        (0, {}, "sample 100 was predicted twice"),
        (6, {}, r"frame 6 \(None\) was predicted but is not at that place"),
        (1, {"lidar_path": "velodyne/000109.bin"}, r"frame 1 \(velodyne/000109.bin\) was predicted but is not at"),
    ],
)
def test_foreign_and_repeated_frames_are_errors(root, index, meta, reason):
    metric = KittiMetric(str(root), "infos.pkl")
    metric.dataset_meta = {"classes": CLASSES}
    boxes = truth_of(load(root)[0])
    metric.process({}, [sample_of(boxes, 0), sample_of(boxes, index, **meta)])
    with pytest.raises(ValueError, match=reason):
        metric.evaluate(size=2)


def test_missing_info_file(tmp_path):
    metric = METRICS.build({"type": "KittiMetric", "data_root": str(tmp_path), "ann_file": "gone.pkl"})
    metric.results = [{}]
    with pytest.raises(FileNotFoundError, match=r"gone.pkl is missing: make it with tools/create_data.py"):
        metric.evaluate(size=1)


@pytest.mark.parametrize("lacks", ["categories", "frames", "sample_idx"])
def test_info_files_of_another_format(root, lacks):
    infos = make_infos()
    if lacks == "categories":
        del infos["metainfo"]["categories"]
    elif lacks == "frames":
        infos["data_list"] = []
    else:
        del infos["data_list"][0]["sample_idx"]
    write(root, infos)
    metric = KittiMetric(str(root), "infos.pkl")
    metric.results = [{}]
    with pytest.raises(ValueError, match="has no frames, no categories or no sample_idx"):
        metric.evaluate(size=1)


def test_boxes_of_another_frame(root):
    sample = sample_of(truth_of(load(root)[0]), 0)
    sample["pred_instances_3d"].bboxes_3d = CameraInstance3DBoxes(sample["pred_instances_3d"].bboxes_3d.tensor)
    with pytest.raises(ValueError, match="must be LiDARInstance3DBoxes, these are CameraInstance3DBoxes"):
        KittiMetric(str(root), "infos.pkl").process({}, [sample])


def test_diverged_predictions_name_their_frame(root):
    with pytest.raises(ValueError, match="sample 100: a predicted box or score is NaN or infinite"):
        evaluate(root, lambda boxes: (boxes[0] * np.nan, *boxes[1:]))


def test_inputs_are_left_as_they_are(root):
    sample = sample_of(truth_of(load(root)[0]), 0)
    before = copy.deepcopy(sample["pred_instances_3d"].bboxes_3d.tensor)
    KittiMetric(str(root), "infos.pkl").process({}, [sample])
    assert torch.equal(sample["pred_instances_3d"].bboxes_3d.tensor, before)


@pytest.fixture
def real_root(real_data: Path, tmp_path: Path) -> Path:
    """KITTI's frame 000008, 41 times over, since no detector reaches 100 with fewer counted objects."""
    content = pickle.loads((real_data / "mmdet3d_demo/kitti/000008.pkl").read_bytes())
    (info,) = content["data_list"]
    categories = {name: label for label, name in enumerate(CLASSES)}
    write(
        tmp_path,
        {"metainfo": {"categories": categories}, "data_list": [{**info, "sample_idx": n} for n in range(41)]},
    )
    return tmp_path


def test_real_frame(real_root):
    """Six cars, one of which is easy, three more moderate, and the others too occluded for any difficulty."""
    infos = load(real_root)
    boxes = truth_of(infos[0], infos[0]["images"]["CAM2"]["lidar2cam"])
    metric = KittiMetric(str(real_root), "infos.pkl")
    metric.dataset_meta = {"classes": CLASSES}
    for index in range(len(infos)):
        metric.process({}, [sample_of(boxes, index)])
    metrics = metric.evaluate(size=len(infos))
    for difficulty, kind, average in product(("easy", "moderate", "hard"), ("bbox", "bev", "3d"), ("AP40", "AP11")):
        assert metrics[f"kitti/Car_{difficulty}_{kind}_{average}"] == 100.0
        assert metrics[f"kitti/Pedestrian_{difficulty}_{kind}_{average}"] == 0.0
    assert metrics["kitti/Car_hard_aos_AP40"] == pytest.approx(100, abs=0.01)


def test_real_boxes_have_the_labels_image_boxes_and_alpha(real_root):
    info = load(real_root)[0]
    boxes, scores, labels = truth_of(info, info["images"]["CAM2"]["lidar2cam"])
    found = boxes_to_camera(boxes, scores, labels, labels * 0, infos=[info], classes=CLASSES, camera="CAM2")
    truth = read_truth([info], {name: label for label, name in enumerate(CLASSES)})[: len(labels)]
    assert len(found) == len(truth) == 6
    np.testing.assert_allclose(found.bbox, truth.bbox, atol=2.5)
    np.testing.assert_allclose(found.alpha, truth.alpha, atol=0.01)  # labels have two digits
    np.testing.assert_allclose(found.box, truth.box, atol=1e-6)
