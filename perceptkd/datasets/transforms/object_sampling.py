"""Objects of other frames, pasted into a cloud."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch import Tensor

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_clouds import database_path, read_points
from perceptkd.datasets.kitti_files import IGNORED
from perceptkd.ops.box_iou_rotated import rotated_intersection
from perceptkd.ops.points_in_boxes import points_in_boxes
from perceptkd.registry import TRANSFORMS

SEEN_FROM_ABOVE = [0, 1, 3, 4, 6]  # x, y, length, width and yaw of a box


@TRANSFORMS.register_module()
class SampleObjects(BaseTransform):
    """Fills a cloud with annotated objects of other frames (ground-truth sampling of SECOND, Yan et al. 2018).

    As mmdet3d's ``ObjectSample`` on KITTI, except that

    * the draws of a frame are its own, so that they depend on its seed alone (:class:`SeededDataset`); upstream deals
      from a pack of its own that every worker goes on with from frame to frame;
    * objects stand on the ground of the frame where its record has a plane, without an option that has to know;
    * a class of which there is no object is left out.

    Objects keep their place and turn, and overlap no other box, seen from above. The points of the cloud in their boxes
    are removed.

    Args:
        data_root: KITTI folder with its ground-truth database (``tools/create_data.py``).
        classes: Names in the order of the labels.
        fill_up_to: Class -> how many objects of it a cloud has at most, its own included.
        min_points: Objects with fewer points are not taken, nor those that are none of easy, moderate and hard.
    """

    def __init__(
        self, *, data_root: str, classes: Sequence[str], fill_up_to: Mapping[str, int], min_points: int = 5
    ) -> None:
        self.root = Path(data_root)
        path = database_path(self.root)
        if not path.is_file():
            raise FileNotFoundError(f"ground-truth database {path} is missing: make it with tools/create_data.py")
        if not set(fill_up_to) <= set(classes):
            raise InputError(f"fill_up_to names {sorted(fill_up_to)}, the classes are {list(classes)}")
        with path.open("rb") as file:
            database = pickle.load(file)
        self.groups = [
            (
                list(classes).index(name),
                count,
                [entry for entry in database.get(name, ()) if _is_good(entry, min_points)],
            )
            for name, count in fill_up_to.items()
        ]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds to ``points``, ``gt_bboxes_3d`` [N, 7] and ``gt_labels_3d`` [N]."""
        boxes, labels = results["gt_bboxes_3d"], results["gt_labels_3d"]
        drawn = self._draw(labels)
        places = torch.from_numpy(np.array([entry["box3d_lidar"] for _, entry in drawn], np.float32).reshape(-1, 7))
        chosen = _without_overlap(boxes.tensor, places)
        if not chosen:
            return results
        drawn, places = [drawn[i] for i in chosen], places[chosen]
        if results.get("plane") is not None:
            plane = torch.as_tensor(results["plane"], dtype=torch.float32)
            places[:, 2] -= places[:, :3] @ plane[:3] + plane[3]
        own = results["points"]
        kept = own.tensor[~points_in_boxes(own.tensor, places).any(dim=1)]
        results["points"] = own.new_point(torch.cat([*self._points(drawn, places), kept]))
        results["gt_bboxes_3d"] = boxes.new_box(torch.cat([boxes.tensor, places]))
        results["gt_labels_3d"] = np.append(labels, [label for label, _ in drawn]).astype(np.int64)
        return results

    def _draw(self, labels: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
        """Candidates with their labels: as many as a cloud with these labels lacks."""
        drawn = []
        for label, count, entries in self.groups:
            missing = min(max(count - int((labels == label).sum()), 0), len(entries))
            picked = np.random.choice(len(entries), missing, replace=False) if missing else ()  # noqa: NPY002
            drawn += [(label, entries[i]) for i in picked]
        return drawn

    def _points(self, drawn: Sequence[tuple[int, Mapping[str, Any]]], places: Tensor) -> list[Tensor]:
        """The points [P, 4] of each object, in its place."""
        clouds = [torch.from_numpy(read_points(self.root / entry["path"])) for _, entry in drawn]
        for cloud, place in zip(clouds, places, strict=True):
            cloud[:, :3] += place[:3]
        return clouds


def _is_good(entry: Mapping[str, Any], min_points: int) -> bool:
    return entry["num_points_in_gt"] >= min_points and entry["difficulty"] != IGNORED


def _without_overlap(boxes: Tensor, candidates: Tensor) -> list[int]:
    """Which of the candidates [M, 7] can be taken one after the other beside boxes [N, 7], seen from above."""
    taken = torch.cat([boxes, candidates])[:, SEEN_FROM_ABOVE]
    meets = rotated_intersection(taken, taken) > 0
    stands = torch.ones(len(taken), dtype=torch.bool)
    for i in range(len(boxes), len(taken)):
        stands[i] = not (meets[i, :i] & stands[:i]).any()
    return (stands[len(boxes) :].nonzero()[:, 0]).tolist()
