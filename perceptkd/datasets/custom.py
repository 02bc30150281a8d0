"""A LiDAR data set of your own, as ``tools/create_data.py custom`` writes it."""

import perceptkd.compat  # noqa: F401  (mmdet3d is importable after it)

# isort: split
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet3d.datasets import Det3DDataset
from mmdet3d.structures import LiDARInstance3DBoxes

from perceptkd.core.class_map import ClassMap, match_classes
from perceptkd.core.errors import InputError
from perceptkd.registry import DATASETS

HOW_TO_MAKE_INFOS = "make it with `python tools/create_data.py custom --points CLOUDS --boxes BOXES.csv --out ROOT`"
BOX_CENTRE = (0.5, 0.5, 0.5)


@DATASETS.register_module()
class CustomDataset(Det3DDataset):
    """LiDAR clouds and boxes of any classes; everything not named here is mmdet3d's ``Det3DDataset``.

    Boxes of classes that are not chosen are left out. A frame without boxes is a sample like any other.

    Args:
        data_root: Folder with ``points/`` and the info files.
        ann_file: Info file, relative to ``data_root``.
        metainfo: ``dict(classes=[...])`` chooses classes and their order; by default all of the info file.
        class_map: Chosen class -> class or classes of the info file, where they have other names or are merged:
            ``dict(vehicle=['car', 'van'])``.
        filter_empty_gt: Whether to draw another sample in place of one without boxes.
        kwargs: Those of mmdet3d's dataset.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        *,
        metainfo: Mapping[str, Any] | None = None,
        class_map: ClassMap | None = None,
        filter_empty_gt: bool = False,
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        path = Path(data_root) / ann_file
        self.content = load_infos(path)
        stored = sorted(self.content["metainfo"]["categories"].items(), key=lambda item: item[1])
        source = [name for name, _ in stored]
        classes = list((metainfo or {}).get("classes", source))
        matched = match_classes(classes, source, class_map or {}, whose=f"the info file {path}")
        self.label_of = {index: label for label, indices in enumerate(matched) for index in indices}
        self.METAINFO = {"classes": tuple(classes)}
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            metainfo={**(metainfo or {}), "classes": tuple(classes)},
            filter_empty_gt=filter_empty_gt,
            data_prefix=dict(data_prefix or {"pts": "", "img": ""}),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """The records, with labels as this data set numbers them."""
        records = []
        for record in self.content["data_list"]:
            chosen = [each for each in record["instances"] if each["bbox_label_3d"] in self.label_of]
            labels = [self.label_of[each["bbox_label_3d"]] for each in chosen]
            instances = [{**each, "bbox_label": label, "bbox_label_3d": label} for each, label in zip(chosen, labels)]
            points = dict(record["lidar_points"])  # upstream writes the path into it
            records.append(self.parse_data_info({**record, "lidar_points": points, "instances": instances}))
        del self.content
        return records

    def parse_ann_info(self, info: dict) -> dict:
        """Boxes [N, 7], labels [N] and points in each box [N] of a record; a box that is not finite is an error."""
        annotations = super().parse_ann_info(info)
        if annotations is None:
            annotations = {
                "gt_bboxes_3d": np.zeros((0, 7), dtype=np.float32),
                "gt_labels_3d": np.zeros(0, dtype=np.int64),
                "num_lidar_pts": np.zeros(0, dtype=np.int64),
                "instances": [],
            }
        boxes = annotations["gt_bboxes_3d"]
        if not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any():
            raise InputError(f"sample {info['token']}: a box is not finite or has no size; {HOW_TO_MAKE_INFOS}")
        structure = LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[-1], origin=BOX_CENTRE)
        annotations["gt_bboxes_3d"] = structure.convert_to(self.box_mode_3d)
        return annotations


def load_infos(path: Path) -> Mapping[str, Any]:
    """The content of an info file, or an error that says how to make one."""
    if not path.is_file():
        raise FileNotFoundError(f"info file {path} is missing: {HOW_TO_MAKE_INFOS}")
    try:
        content = pickle.loads(path.read_bytes())
    except (pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"info file {path} is truncated or no pickle ({error}): {HOW_TO_MAKE_INFOS}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("data_list"), Sequence):
        raise InputError(f"info file {path} holds no data_list: {HOW_TO_MAKE_INFOS}")
    categories = content.get("metainfo", {}).get("categories")
    if not isinstance(categories, Mapping) or sorted(categories.values()) != list(range(len(categories))):
        raise InputError(f"info file {path} does not number its categories from 0: {HOW_TO_MAKE_INFOS}")
    labels = {each["bbox_label_3d"] for record in content["data_list"] for each in record["instances"]}
    unknown = sorted(labels - set(categories.values()))
    if unknown:
        raise InputError(f"info file {path} has boxes with the labels {unknown}, which are no category of it")
    return content
