"""mmdet3d's nuScenes dataset with the usual folders as defaults, and errors that say what to do."""

import perceptkd.compat  # noqa: F401  (mmdet3d is importable after it)

# isort: split
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet3d.datasets import NuScenesDataset as UpstreamNuScenesDataset

from perceptkd.core.errors import InputError
from perceptkd.datasets.nuscenes_infos import CAMERAS, CLASSES, LIDAR
from perceptkd.registry import DATASETS

HOW_TO_MAKE_INFOS = (
    "make it with `python tools/create_data.py simworld --out data/simworld` (simulated) or "
    "`python tools/create_data.py nuscenes --root data/nuscenes --version v1.0-trainval` (real)"
)
DATA_PREFIX = {
    "pts": f"samples/{LIDAR}",
    "sweeps": f"sweeps/{LIDAR}",
    **{camera: f"samples/{camera}" for camera in CAMERAS},
}


@DATASETS.register_module()
class NuScenesDataset(UpstreamNuScenesDataset):
    """The ten nuScenes classes from info files; everything not named here is mmdet3d's ``NuScenesDataset``.

    Boxes of other categories (label -1) are dropped, and, as upstream, boxes without LiDAR points, or, with
    ``use_valid_flag=True``, boxes without LiDAR and radar points.

    Args:
        data_root: nuScenes folder, with ``samples/`` and ``sweeps/``.
        ann_file: Info file, relative to ``data_root``.
        data_prefix: Folders of the sensors; ``samples/<channel>`` and ``sweeps/<channel>`` by default.
        metainfo: ``dict(classes=...)`` selects classes, in nuScenes' order.
        modality: Both sensors by default.
        kwargs: Those of mmdet3d's dataset.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        *,
        data_prefix: Mapping[str, str] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        modality: Mapping[str, bool] | None = None,
        **kwargs: Any,
    ) -> None:
        if metainfo is not None and "classes" in metainfo:
            check_classes(metainfo["classes"])
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            data_prefix=dict(DATA_PREFIX if data_prefix is None else data_prefix),
            metainfo=metainfo,
            modality={"use_lidar": True, "use_camera": True} if modality is None else dict(modality),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Reads the info file, or says how to make one."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(f"info file {path} is missing: {HOW_TO_MAKE_INFOS}")
        try:
            records = super().load_data_list()
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"info file {path} is truncated or no pickle ({error}): {HOW_TO_MAKE_INFOS}") from error
        except KeyError as error:
            raise InputError(f"info file {path} has a record without {error}: {HOW_TO_MAKE_INFOS}") from error
        check_categories(self.metainfo, path)
        return records

    def _filter_with_mask(self, ann_info: dict) -> dict:
        kept = super()._filter_with_mask(ann_info)
        mask = kept["gt_labels_3d"] >= 0
        return {key: value if key == "instances" else value[mask] for key, value in kept.items()}

    def parse_ann_info(self, info: dict) -> dict:
        """Boxes [N, 9] and labels [N] of a record; a NaN or infinite box is an error."""
        annotations = super().parse_ann_info(info)
        if not np.isfinite(annotations["gt_bboxes_3d"].tensor.numpy()).all():
            raise InputError(f"sample {info['token']}: a ground truth box is not finite; {HOW_TO_MAKE_INFOS}")
        return annotations


def check_classes(classes: Sequence[str]) -> None:
    """Raises unless ``classes`` are nuScenes classes in nuScenes' order, the order that heads and metrics count on.

    >>> check_classes(["car", "pedestrian"])
    """
    known = [name for name in CLASSES if name in classes]
    if list(classes) != known:
        raise InputError(
            f"classes {list(classes)} are not nuScenes classes in their order; that order is {list(CLASSES)}, "
            f"so these would be {known}"
        )


def check_categories(metainfo: Mapping[str, Any], path: Path) -> None:
    """Raises unless the labels in an info file mean the classes that this dataset takes them for."""
    categories = metainfo.get("categories")
    if not isinstance(categories, Mapping):
        raise InputError(f"info file {path} does not name its categories: {HOW_TO_MAKE_INFOS}")
    found = sorted((label, name) for name, label in categories.items() if label >= 0)
    if found != list(enumerate(CLASSES)):
        raise InputError(
            f"info file {path} numbers its classes {[name for _, name in found]}, this dataset {list(CLASSES)}; "
            f"with another order every label would be wrong: {HOW_TO_MAKE_INFOS}"
        )
