"""mmdet3d's SemanticKITTI dataset with the benchmark's labels as defaults, and errors that say what to do."""

import perceptkd.compat  # noqa: F401  (mmdet3d is importable after it)

# isort: split
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet3d.datasets import SemanticKittiDataset as UpstreamSemanticKittiDataset

from perceptkd.core.errors import InputError
from perceptkd.datasets.semantickitti import CLASSES, LEARNING_MAP
from perceptkd.registry import DATASETS

HOW_TO_MAKE_INFOS = (
    "make it with `python tools/create_data.py simworld --format semantickitti --out data/simworld` (simulated) or "
    "`python tools/create_data.py semantickitti --root data/semantickitti` (real)"
)
#: Class of a raw label that SemanticKITTI does not have.
UNKNOWN = -1


@DATASETS.register_module()
class SemanticKittiDataset(UpstreamSemanticKittiDataset):
    """Scans with a class per point, from info files; everything not named here is mmdet3d's ``SemanticKittiDataset``.

    The classes have SemanticKITTI's names, where mmdet3d has 'bus' for all other vehicles, 'trunck' and 'terrian'. A
    raw label that SemanticKITTI does not have gets :data:`UNKNOWN`, which :class:`LoadLabelledPoints` refuses;
    upstream takes it for a car.

    Args:
        data_root: SemanticKITTI folder, with ``sequences/``.
        ann_file: Info file, relative to ``data_root``.
        classes: Those to learn, in the order of their labels; points of all others are ignored. All 19 by default.
        kwargs: Those of mmdet3d's dataset.
    """

    METAINFO = {**UpstreamSemanticKittiDataset.METAINFO, "classes": CLASSES}

    def __init__(self, data_root: str, ann_file: str, *, classes: Sequence[str] = CLASSES, **kwargs: Any) -> None:
        unknown = [name for name in classes if name not in CLASSES]
        if unknown or len(set(classes)) != len(classes) or not classes:
            raise InputError(f"classes must be different names of {', '.join(CLASSES)}; got {list(classes)}")
        metainfo = {"classes": tuple(classes)}
        super().__init__(data_root, ann_file, metainfo=metainfo, ignore_index=len(classes), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Reads the info file, or says how to make one."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(f"info file {path} is missing: {HOW_TO_MAKE_INFOS}")
        try:
            return super().load_data_list()
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"info file {path} is truncated or no pickle ({error}): {HOW_TO_MAKE_INFOS}") from error
        except KeyError as error:
            raise InputError(f"info file {path} has a record without {error}: {HOW_TO_MAKE_INFOS}") from error

    def get_seg_label_mapping(self, metainfo: Mapping[str, Any]) -> np.ndarray:
        """Raw label -> index into ``classes``, or their number for what is ignored, or :data:`UNKNOWN`."""
        classes = list(metainfo["classes"])
        mapping = np.full(max(LEARNING_MAP) + 1, UNKNOWN, dtype=np.int64)
        for label, index in LEARNING_MAP.items():
            learned = index < len(CLASSES) and CLASSES[index] in classes
            mapping[label] = classes.index(CLASSES[index]) if learned else len(classes)
        return mapping
