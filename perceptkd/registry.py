"""Child registries of MMEngine's roots, scope ``perceptkd``.

MMEngine imports this module by itself when a config names a type with the prefix ``perceptkd.``, whatever the default
scope is, and then the locations of the registry in question. So no config needs ``custom_imports`` for our own types.
"""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

import perceptkd.compat  # noqa: F401  (mmdet3d and mmcv.ops must be importable before any of their types is built)

SCOPE = "perceptkd"
MODULE2PACKAGE[SCOPE] = "perceptkd"  # lets configs inherit from 'perceptkd::...'

MODELS = Registry("model", parent=MMENGINE_MODELS, scope=SCOPE, locations=["perceptkd.core", "perceptkd.models"])
DISTILLERS = Registry("distiller", scope=SCOPE, locations=["perceptkd.distillers"])
DATASETS = Registry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope=SCOPE,
    locations=[
        "perceptkd.datasets.custom",
        "perceptkd.datasets.nuscenes",
        "perceptkd.datasets.seeded",
        "perceptkd.datasets.semantickitti_dataset",
    ],
)
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope=SCOPE, locations=["perceptkd.datasets.transforms"])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope=SCOPE, locations=["perceptkd.evaluation"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope=SCOPE, locations=["perceptkd.engine"])
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope=SCOPE, locations=["perceptkd.engine"])
