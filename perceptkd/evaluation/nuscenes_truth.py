"""What nuScenes detections are judged against: the annotated boxes of a split, and which boxes count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.eval.common.loaders import get_samples_of_custom_split, load_gt, load_gt_of_sample_tokens
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import is_predefined_split
from pyquaternion import Quaternion

from perceptkd.datasets.nuscenes_infos import LIDAR
from perceptkd.evaluation.nuscenes_boxes import BoxTable

RACK = "static_object.bicycle_rack"
CYCLES = [DETECTION_NAMES.index(name) for name in ("bicycle", "motorcycle")]


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of a split.

    Attributes:
        tokens: Sample tokens of the F frames, in the order of the tables.
        is_predefined: Whether the split is one of the official ones, not of a splits.json.
        boxes: Boxes with at least one LiDAR or radar point, at any distance.
        ego: Where the car is at the time of the LiDAR [m], global frame, [F, 2].
        racks: Bicycle racks by frame index; bicycles and motorcycles in them do not count.
    """

    tokens: list[str]
    is_predefined: bool
    boxes: BoxTable
    ego: np.ndarray
    racks: Mapping[int, list[Box]]

    def in_submission_order(self, frames: Mapping[str, BoxTable]) -> BoxTable:
        """The predictions of all frames, by token, in the order in which the devkit walks them."""
        index = {token: frame for frame, token in enumerate(self.tokens)}
        order = frames if self.is_predefined else self.tokens  # it reads other splits frame by frame
        return BoxTable.join([(index[token], frames[token]) for token in order])

    def counted(self, boxes: BoxTable, max_range_m: Mapping[str, float]) -> BoxTable:
        """Those boxes, annotated or predicted, that are in range of their class and not in a bicycle rack."""
        offset = boxes.translation[:, :2] - self.ego[boxes.frame]
        reach = np.array([max_range_m[name] for name in DETECTION_NAMES], np.float64)
        boxes = boxes[np.sqrt((offset**2).sum(axis=1)) < reach[boxes.label]]
        cycles = np.flatnonzero(np.isin(boxes.label, CYCLES))
        is_parked = np.zeros(len(boxes), bool)
        for frame, racks in self.racks.items():
            rows = cycles[boxes.frame[cycles] == frame]
            for rack in racks:
                is_parked[rows] |= points_in_box(rack, boxes.translation[rows].T)
        return boxes[~is_parked]


def load_ground_truth(tables: NuScenes, split: str) -> GroundTruth:
    """Reads the annotations of an official split, or of one in a splits.json, with the devkit's loaders."""
    is_predefined = is_predefined_split(split_name=split)
    if is_predefined:
        loaded = load_gt(tables, split, DetectionBox)
    else:
        loaded = load_gt_of_sample_tokens(tables, get_samples_of_custom_split(split, tables), DetectionBox)
    tokens = list(loaded.sample_tokens)
    boxes = [(frame, box) for frame, token in enumerate(tokens) for box in loaded[token] if box.num_pts != 0]
    return GroundTruth(
        tokens=tokens,
        is_predefined=is_predefined,
        boxes=_to_table(boxes),
        ego=np.array([_ego(tables, token) for token in tokens], np.float64).reshape(-1, 2),
        racks={frame: racks for frame, token in enumerate(tokens) if (racks := _racks(tables, token))},
    )


def _to_table(boxes: Sequence[tuple[int, DetectionBox]]) -> BoxTable:
    """The devkit's boxes, each with the index of its frame, as columns."""

    def column(name: str, width: int) -> np.ndarray:
        return np.array([getattr(box, name) for _, box in boxes], np.float64).reshape(-1, width)

    def index(name: str, names: Sequence[str]) -> np.ndarray:
        position = {"": -1} | {name: i for i, name in enumerate(names)}
        return np.array([position[getattr(box, name)] for _, box in boxes], np.int64)

    return BoxTable(
        frame=np.array([frame for frame, _ in boxes], np.int64),
        label=index("detection_name", DETECTION_NAMES),
        translation=column("translation", 3),
        size=column("size", 3),
        rotation=column("rotation", 4),
        velocity=column("velocity", 2),
        attribute=index("attribute_name", ATTRIBUTE_NAMES),
        score=column("detection_score", 1)[:, 0],
    )


def _ego(tables: NuScenes, token: str) -> list[float]:
    lidar = tables.get("sample_data", tables.get("sample", token)["data"][LIDAR])
    return tables.get("ego_pose", lidar["ego_pose_token"])["translation"][:2]


def _racks(tables: NuScenes, token: str) -> list[Box]:
    annotations = [tables.get("sample_annotation", one) for one in tables.get("sample", token)["anns"]]
    return [
        Box(one["translation"], one["size"], Quaternion(one["rotation"]))
        for one in annotations
        if one["category_name"] == RACK
    ]
