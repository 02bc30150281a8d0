"""Puts these layers in the place of spconv's and mmcv's inside mmdet3d.

mmdet3d takes the layers from MMEngine's registry by name, and the tensor and the containers from ``spconv.pytorch`` or
``mmcv.ops``, whichever its flag ``IS_SPCONV2_AVAILABLE`` says. Turning the flag off and offering ours in ``mmcv.ops``
covers every import, leaves an installed spconv untouched, and replaces only classes of mmcv that need its CUDA build.
"""

import sys
import warnings
from types import ModuleType
from typing import Any

from perceptkd.ops.sparse import conv, modules, pool, tensor

FLAG_MODULE = "mmdet3d.models.layers.spconv"
#: Modules of mmdet3d that bind the names at import; they must come after the registration.
CONSUMERS = (
    "mmdet3d.models.layers.sparse_block",
    "mmdet3d.models.middle_encoders.sparse_encoder",
    "mmdet3d.models.middle_encoders.sparse_unet",
    "mmdet3d.models.backbones.minkunet_backbone",
    "mmdet3d.models.backbones.cylinder3d",
    "mmdet3d.models.decode_heads.cylinder3d_head",
    "mmdet3d.models.roi_heads.bbox_heads.parta2_bbox_head",
)
LAYERS: dict[str, type] = {
    name: getattr(conv, name)
    for name in (
        "SubMConv2d",
        "SubMConv3d",
        "SparseConv2d",
        "SparseConv3d",
        "SparseConvTranspose2d",
        "SparseConvTranspose3d",
        "SparseInverseConv2d",
        "SparseInverseConv3d",
    )
}
CLASSES: dict[str, type] = {
    **LAYERS,
    "SubMConv3d": conv.KeyedSubMConv3d,
    "SparseConvTensor": tensor.SparseTensor,
    "SparseModule": modules.SparseModule,
    "SparseSequential": modules.SparseSequential,
    "SparseMaxPool2d": pool.SparseMaxPool2d,
    "SparseMaxPool3d": pool.SparseMaxPool3d,
}


def register_in_mmdet3d() -> None:
    """Makes mmdet3d's sparse models build on and run with the layers of this package, with or without spconv.

    Call it when ``mmdet3d.models.layers.spconv`` is imported and nothing that reads it is; ``perceptkd.compat`` does.
    """
    import mmcv.ops
    from mmengine.registry import MODELS

    flags: Any = sys.modules.get(FLAG_MODULE)
    if flags is None:
        raise RuntimeError(f"{FLAG_MODULE} is not imported yet; import perceptkd.compat, which registers in time")
    if getattr(mmcv.ops, "SparseConvTensor", None) is tensor.SparseTensor:
        return
    _refuse_bound_consumers()
    flags.IS_SPCONV2_AVAILABLE = False
    _offer_in(mmcv.ops)
    for name, layer in LAYERS.items():
        MODELS.register_module(name=name, force=True, module=layer)
    silence_fallback_warning()


def silence_fallback_warning() -> None:
    """MinkUNet warns that it falls back on mmcv's classes when the flag is off, which are ours."""
    warnings.filterwarnings("ignore", message="Spconv 2.x is not available")


def _offer_in(module: ModuleType) -> None:
    for name, cls in CLASSES.items():
        setattr(module, name, cls)


def _refuse_bound_consumers() -> None:
    bound = [name for name in CONSUMERS if hasattr(sys.modules.get(name), "SparseConvTensor")]
    if bound:
        raise RuntimeError(
            f"{', '.join(bound)} took the sparse classes of another library before perceptkd could offer its own; "
            "import perceptkd.compat before mmdet3d"
        )
