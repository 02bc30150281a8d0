"""Which families of upstream configs the zoo covers, with which config, and why some are left out."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("mmdet", "mmdet3d", "mmseg")

_DATA_ONLY = "another family's model on other data"
_TRACKER = "a tracker: its batches are videos"
_LANGUAGE = "needs a language model's weights"
_PARTS = "parts of other configs, no model"
_MMPRETRAIN = "its backbone comes from mmpretrain, which is not part of the stack"

#: Families that do not count, by library, each with its reason. All others do.
EXCLUDED: dict[str, dict[str, str]] = {
    "mmdet": {
        "_base_": _PARTS,
        "albu_example": _DATA_ONLY,
        "bytetrack": _TRACKER,
        "cityscapes": _DATA_ONLY,
        "clrnet": "a lane detector without a data pipeline or a test of its own upstream",
        "common": _PARTS,
        "convnext": _MMPRETRAIN,
        "deepfashion": _DATA_ONLY,
        "deepsort": _TRACKER,
        "dsdl": _DATA_ONLY,
        "glip": _LANGUAGE,
        "grounding_dino": _LANGUAGE,
        "instaboost": _DATA_ONLY,
        "lvis": _DATA_ONLY,
        "mask2former_vis": _TRACKER,
        "masktrack_rcnn": _TRACKER,
        "misc": "Detectron2's own models, which need Detectron2",
        "mm_grounding_dino": _LANGUAGE,
        "objects365": _DATA_ONLY,
        "ocsort": _TRACKER,
        "openimages": _DATA_ONLY,
        "pascal_voc": _DATA_ONLY,
        "qdtrack": _TRACKER,
        "reid": "re-identification, a part of trackers",
        "simple_copy_paste": _DATA_ONLY,
        "soft_teacher": "semi-supervised: Faster R-CNN with batches of several branches",
        "sort": _TRACKER,
        "strongsort": _TRACKER,
        "timm_example": _MMPRETRAIN,
        "v3det": _DATA_ONLY,
        "wider_face": _DATA_ONLY,
    },
    "mmdet3d": {
        "_base_": _PARTS,
        "benchmark": "other families' models with settings for timing",
        "fcaf3d": "needs MinkowskiEngine",
        "monoflex": "holds no config",
        "nuimages": "mmdet's models on nuImages",
        "spvcnn": "needs TorchSparse",
    },
    "mmseg": {
        "_base_": _PARTS,
        "convnext": _MMPRETRAIN,
        "dsdl": _DATA_ONLY,
        "poolformer": _MMPRETRAIN,
        "san": "needs CLIP's weights and tokenizer",
        "vpd": "needs Stable Diffusion's weights",
    },
}

#: Where the config of the shortest name is not the one to run.
CHOSEN: dict[str, dict[str, str]] = {
    "mmdet": {
        "cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
        "centernet": "centernet_r18_8xb16-crop512-140e_coco.py",
        "legacy_1.x": "faster-rcnn_r50_fpn_1x_coco_v1.py",
        "pisa": "faster-rcnn_r50_fpn_pisa_1x_coco.py",
        "retinanet": "retinanet_r50_fpn_1x_coco.py",
        "rtmdet": "rtmdet_tiny_8xb32-300e_coco.py",
        "yolox": "yolox_tiny_8xb8-300e_coco.py",
    },
    "mmdet3d": {
        "minkunet": "minkunet34_w32_spconv_8xb2-laser-polar-mix-3x_semantickitti.py",
        "pgd": "pgd_r101-caffe_fpn_head-gn_4xb3-4x_kitti-mono3d.py",
        "pointnet2": "pointnet2_ssg_2xb16-cosine-50e_s3dis-seg.py",
        "pointpillars": "pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py",
    },
    "mmseg": {
        "swin": "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
        "upernet": "upernet_r50_4xb4-80k_ade20k-512x512.py",
    },
}


#: Heights and widths of images where a model cannot do with the small default.
SIZES_2D: dict[str, dict[str, tuple[int, int]]] = {
    "mmdet": {"dino": (256, 256), "ssd": (320, 320)},
    "mmseg": {"beit": (640, 640), "mae": (512, 512), "mobilenet_v3": (512, 512)},
}


@dataclass(frozen=True)
class Batch3D:
    """What the batches of a mmdet3d family hold; see :func:`zoo_inputs.batch_3d`."""

    kind: str = "lidar"
    columns: int = 4
    images: int = 0
    samples: int = 2
    normalized_columns: int = 0  # of the columns, those that a sliding window adds itself when it predicts


BATCHES_3D: dict[str, Batch3D] = {
    "centerpoint": Batch3D(columns=5),
    "dgcnn": Batch3D("depth", columns=9, normalized_columns=3),
    "fcos3d": Batch3D("camera", columns=0, images=1),
    "groupfree3d": Batch3D("depth", columns=3),
    "h3dnet": Batch3D("depth", columns=4),
    "imvotenet": Batch3D("depth", columns=4, images=1),
    "imvoxelnet": Batch3D("lidar", columns=0, images=1),
    "mvfcos3d": Batch3D("lidar", columns=0, images=5, samples=1),
    "mvxnet": Batch3D(images=1),
    "paconv": Batch3D("depth", columns=9, normalized_columns=3),
    "pgd": Batch3D("camera", columns=0, images=1),
    "pointnet2": Batch3D("depth", columns=9, normalized_columns=3),
    "smoke": Batch3D("camera", columns=0, images=1),
    "votenet": Batch3D("depth", columns=4),
}


@dataclass(frozen=True)
class Case:
    """One family and the config that stands for it."""

    library: str
    family: str
    config: Path

    @property
    def name(self) -> str:
        return f"{self.library}/{self.family}"


def config_root(library: str) -> Path | None:
    """The folder of a library's configs; None where it is not installed."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / ".mim" / "configs"


def families(library: str) -> list[str]:
    """All folders of configs, those that are left out too."""
    root = config_root(library)
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root and root.is_dir() else []


def cases(library: str) -> list[Case]:
    """One case per family that counts: the chosen config, or that of the shortest name."""
    root = config_root(library)
    found = []
    for family in families(library):
        if root is None or family in EXCLUDED[library]:
            continue
        configs = sorted((root / family).glob("*.py"), key=lambda path: (len(path.name), path.name))
        chosen = CHOSEN[library].get(family)
        found.append(Case(library, family, root / family / chosen if chosen else configs[0]))
    return found
