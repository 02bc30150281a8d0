"""Annotations of info records as columns, and result files."""

import numpy as np
import pytest

from perceptkd.evaluation.kitti_boxes import TYPES, KittiTable, read_truth, to_lines

CATEGORIES = {"Pedestrian": 0, "Cyclist": 1, "Car": 2, "DontCare": -1}
INSTANCE = {
    "bbox": [1.0, 2.0, 30.0, 40.0],
    "bbox_3d": [-2.0, 1.7, 10.0, 3.9, 1.5, 1.6, 0.5],
    "bbox_label": 2,
    "alpha": 0.3,
    "truncated": 0.1,
    "occluded": 1,
}


def test_annotations_as_columns():
    region = {**INSTANCE, "bbox_label": -1, "truncated": -1.0, "occluded": -1, "alpha": -10.0}
    infos = [{"sample_idx": n, "instances": found} for n, found in ((7, [INSTANCE]), (8, []), (9, [region, INSTANCE]))]
    truth = read_truth(infos, CATEGORIES)
    assert truth.frame.tolist() == [0, 2, 2]
    assert [TYPES[label] for label in truth.label] == ["Car", "DontCare", "Car"]
    assert truth.box[0].tolist() == INSTANCE["bbox_3d"]
    assert truth.bbox[1].tolist() == INSTANCE["bbox"]
    assert truth.occlusion.tolist() == [1, -1, 1]
    assert truth.truncation.tolist() == [0.1, -1.0, 0.1]
    assert truth.alpha.tolist() == [0.3, -10.0, 0.3]


def test_no_annotations():
    truth = read_truth([{"sample_idx": 7, "instances": []}], CATEGORIES)
    assert (len(truth), truth.box.shape, truth.bbox.shape) == (0, (0, 7), (0, 4))


@pytest.mark.parametrize("field", sorted(INSTANCE))
def test_missing_fields(field):
    instance = {key: value for key, value in INSTANCE.items() if key != field}
    with pytest.raises(ValueError, match=rf"sample 7 has no annotation '{field}'.*tools/create_data.py"):
        read_truth([{"sample_idx": 7, "instances": [INSTANCE, instance]}], CATEGORIES)


def test_no_instances_at_all():
    with pytest.raises(ValueError, match="sample 7 has no annotation 'instances'"):
        read_truth([{"sample_idx": 7}], CATEGORIES)


def test_unknown_types_and_labels():
    with pytest.raises(ValueError, match="categories Bus are no KITTI types; those are Pedestrian"):
        read_truth([], {"Car": 0, "Bus": 1})
    with pytest.raises(ValueError, match=r"sample 7 has no annotation 5, or a label that .* do not name"):
        read_truth([{"sample_idx": 7, "instances": [{**INSTANCE, "bbox_label": 5}]}], CATEGORIES)


@pytest.mark.parametrize("field", ["bbox", "bbox_3d", "alpha", "truncated"])
def test_annotations_that_are_not_finite(field):
    values = np.array(INSTANCE[field]) * np.nan
    with pytest.raises(ValueError, match="sample 7: an annotated box is not finite"):
        read_truth(
            [{"sample_idx": 6, "instances": [INSTANCE]}, {"sample_idx": 7, "instances": [{**INSTANCE, field: values}]}],
            CATEGORIES,
        )


def test_result_lines():
    """KITTI's columns: type, -1, -1, alpha, image box, height, width, length, x, y, z, rotation_y, score."""
    boxes = KittiTable(
        frame=np.array([0]),
        label=np.array([TYPES.index("Cyclist")]),
        bbox=np.array([[1.0, 2.5, 30.0, 40.125]]),
        alpha=np.array([0.25]),
        box=np.array([[-2.0, 1.75, 10.0, 3.5, 1.5, 1.25, 0.5]]),
        truncation=np.array([-1.0]),
        occlusion=np.array([-1]),
        score=np.array([0.123456789012]),
    )
    image, space = "1.0000 2.5000 30.0000 40.1250", "1.5000 1.2500 3.5000 -2.0000 1.7500 10.0000 0.5000"
    expected = f"Cyclist -1 -1 0.2500 {image} {space} 0.123456789\n"
    assert to_lines(boxes) == expected
    assert to_lines(boxes[:0]) == ""
