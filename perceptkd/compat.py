"""Makes mmdet3d 1.4 work on the maintained forks of mmengine, mmcv and mmdet, and on current numpy and torch.

``import perceptkd.compat`` has the effect; nothing else needs to be called, and importing it again changes nothing. It
imports neither mmcv nor mmdet3d: a patch of an upstream module is applied when that module is imported, by anyone. A
patch of a package that is not installed never runs.

Each patch is one function, whose docstring says what breaks without it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np

from perceptkd.ops import mmcv_ext

#: Newest releases that mmdet3d 1.4.0 accepts, shown to it in place of the forks' own versions.
ACCEPTED_MMCV_VERSION = "2.1.0"
ACCEPTED_MMDET_VERSION = "3.3.0"

Patch = Callable[[ModuleType], AbstractContextManager[None]]


@contextmanager
def relax_version_assertions(mmdet3d: ModuleType) -> Iterator[None]:
    """Without it: ``import mmdet3d`` ends in ``AssertionError: MMCV==2.3.6 is used but incompatible``.

    mmdet3d 1.4.0 asserts mmcv < 2.2 and mmdet < 3.4 in its ``__init__``. The versions it reads are replaced while that
    file runs, and only then.
    """
    import mmcv
    import mmdet

    versions = mmcv.__version__, mmdet.__version__
    mmcv.__version__, mmdet.__version__ = ACCEPTED_MMCV_VERSION, ACCEPTED_MMDET_VERSION
    try:
        yield
    finally:
        mmcv.__version__, mmdet.__version__ = versions


@contextmanager
def register_sparse_convolution(spconv_layers: ModuleType) -> Iterator[None]:
    """Without it: SECOND and CenterPoint (voxel) run on spconv, whose CPU wheel has no working backward, or not at all.

    Runs right after mmdet3d has registered spconv's classes (or mmcv's, without spconv), and before any module that
    takes a class from there.
    """
    yield
    from perceptkd.ops import sparse

    sparse.register_in_mmdet3d()


@contextmanager
def restore_numpy_long(_dbsampler: ModuleType) -> Iterator[None]:
    """Without it: ground-truth sampling ends in ``AttributeError: module 'numpy' has no attribute 'long'``.

    ``DataBaseSampler.sample_all`` makes labels of dtype ``np.long``; numpy 1.24 removed it, numpy 2 defines it again.
    """
    if "long" not in vars(np):  # hasattr would ask numpy 1's __getattr__, which warns
        np.long = np.int_  # type: ignore[attr-defined]
    yield


@contextmanager
def sample_points_on_any_device(wrapper: ModuleType) -> Iterator[None]:
    """Without it: furthest point sampling ends in ``UnboundLocalError: ... 'output'`` on a machine without CUDA.

    mmcv's wrapper allocates its output on the current CUDA device, wherever the points lie, and nowhere without one.
    """
    import torch

    yield

    def forward(ctx: Any, points_xyz: torch.Tensor, num_points: int) -> torch.Tensor:
        batch, count = points_xyz.shape[:2]
        output = points_xyz.new_zeros((batch, num_points), dtype=torch.int32)
        scratch = points_xyz.new_full((batch, count), 1e10, dtype=torch.float32)
        wrapper.ext_module.furthest_point_sampling_forward(points_xyz, scratch, output, b=batch, n=count, m=num_points)
        ctx.mark_non_differentiable(output)
        return output

    wrapper.FurthestPointSampling.forward = staticmethod(forward)


@contextmanager
def voxelize_for_minkunet_on_any_device(data_preprocessor: ModuleType) -> Iterator[None]:
    """Without it: MinkUNet ends in ``AssertionError: Torch not compiled with CUDA enabled`` on a machine without CUDA.

    mmdet3d sends the voxels' indices to the current CUDA device, wherever the points lie. Its ``point2voxel_map`` also
    goes wrong where ``max_voxels`` drops voxels in training; here it is right, and -1 for their points.
    """
    import torch
    from torch.nn.functional import pad

    yield
    preprocessor = data_preprocessor.Det3DDataPreprocessor
    voxelize = preprocessor.voxelize

    def voxelize_anywhere(self: Any, points: list[torch.Tensor], data_samples: list[Any]) -> dict[str, torch.Tensor]:
        if self.voxel_type != "minkunet":
            return voxelize(self, points, data_samples)
        voxels, cells = [], []
        for index, (rows, sample) in enumerate(zip(points, data_samples, strict=True)):
            cell = torch.round(rows[:, :3] / rows.new_tensor(self.voxel_layer.voxel_size)).int()
            cell -= cell.amin(0)
            chosen, voxel_of_point = self.sparse_quantize(cell.cpu().numpy(), return_index=True, return_inverse=True)
            if self.training and self.max_voxels is not None and len(chosen) > self.max_voxels:
                chosen = np.random.choice(chosen, self.max_voxels, replace=False)  # noqa: NPY002 (upstream's draw)
            picked = torch.from_numpy(chosen).to(rows.device)
            labels = sample.gt_pts_seg
            if hasattr(labels, "pts_semantic_mask"):
                labels.voxel_semantic_mask = labels.pts_semantic_mask[picked]
            place = (1, 0) if self.batch_first else (0, 1)
            batch_cell = pad(cell[picked], place, value=index)
            sample.batch_idx = batch_cell[:, 0 if self.batch_first else -1]
            row_of_voxel = np.full(voxel_of_point.max() + 1, -1)
            row_of_voxel[voxel_of_point[chosen]] = np.arange(len(chosen))
            sample.point2voxel_map = torch.from_numpy(row_of_voxel[voxel_of_point]).to(rows.device)
            voxels.append(rows[picked])
            cells.append(batch_cell)
        return {"voxels": torch.cat(voxels), "coors": torch.cat(cells)}

    preprocessor.voxelize = torch.no_grad()(voxelize_anywhere)


@contextmanager
def count_samples_by_their_clouds(detectors: ModuleType) -> Iterator[None]:
    """Without it: a batch whose last cloud has no voxel ends in ``IndexError`` or ``size of tensor a must match``.

    mmdet3d reads the number of samples from the last voxel. Here VoxelNet (PointPillars, SECOND), its dynamic form and
    MVXTwoStageDetector (CenterPoint) count the clouds, and one without voxels is an empty map; the other detectors
    refuse such a batch, and all of them one without any voxel.
    """
    from functools import wraps

    yield

    def encode(self: Any, batch_inputs_dict: dict[str, Any]) -> Any:
        voxels = batch_inputs_dict["voxels"]
        _check_voxels(voxels["coors"], batch_inputs_dict["points"])
        if "num_points" in voxels:
            features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
            cells = voxels["coors"]
        else:
            features, cells = self.voxel_encoder(voxels["voxels"], voxels["coors"])
        maps = self.backbone(self.middle_encoder(features, cells, len(batch_inputs_dict["points"])))
        return self.neck(maps) if self.with_neck else maps

    def encode_points(
        self: Any, voxel_dict: dict[str, Any], points: Any = None, img_feats: Any = None, batch_input_metas: Any = None
    ) -> Any:
        if not self.with_pts_bbox:
            return None
        cells = voxel_dict["coors"]
        _check_voxels(cells, points)
        features = self.pts_voxel_encoder(
            voxel_dict["voxels"], voxel_dict["num_points"], cells, img_feats, batch_input_metas
        )
        maps = self.pts_backbone(self.pts_middle_encoder(features, cells, len(points)))
        return self.pts_neck(maps) if self.with_pts_neck else maps

    def checked(extract: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(extract)
        def extract_checked(self: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            voxels = inputs if "coors" in inputs else inputs["voxels"]  # extract_pts_feat gets the voxels themselves
            _check_voxels(voxels["coors"], inputs.get("points", kwargs.get("points")), of_last=type(self).__name__)
            return extract(self, inputs, *args, **kwargs)

        return extract_checked

    detectors.VoxelNet.extract_feat = detectors.DynamicVoxelNet.extract_feat = encode
    detectors.MVXTwoStageDetector.extract_pts_feat = encode_points
    for detector in (detectors.PartA2, detectors.SASSD, detectors.PointVoxelRCNN):
        detector.extract_feat = checked(detector.extract_feat)
    dynamic = detectors.DynamicMVXFasterRCNN
    dynamic.extract_pts_feat = checked(dynamic.extract_pts_feat)


def _check_voxels(cells: Any, points: Sequence[Any], *, of_last: str = "") -> None:
    """Raises InputError unless there is a voxel, and, for a detector ``of_last``, one of the last cloud."""
    from perceptkd.core.errors import InputError

    advice = "check the files, the unit (metres) and the range of the config, or drop such samples"
    if not len(cells):
        raise InputError(
            f"none of the {len(points)} clouds of the batch has a point inside point_cloud_range: {advice}"
        )
    if of_last and int(cells[-1, 0]) + 1 != len(points):
        raise InputError(
            f"the last of the {len(points)} clouds of the batch has no point inside point_cloud_range, which "
            f"{of_last} cannot do without: {advice}"
        )


@contextmanager
def mend_minkunet(minkunet_backbone: ModuleType) -> Iterator[None]:
    """Without it: the second MinkUNet of one config, or of default channels, ends in ``AssertionError``, and a cloud of
    less than 16 voxels along an axis in ``ValueError``.

    Its constructor inserts a level into the lists it is given, and into its own defaults. Its grid ends at the last
    voxel of the batch, so that halving it loses the last voxels of odd grids, and a flat one altogether; with
    TorchSparse, of which the published weights are, there is no border. Here the border is a multiple of 2^5 cells.
    """
    from functools import wraps

    yield
    backbone, sparse_tensor = minkunet_backbone.MinkUNetBackbone, minkunet_backbone.SparseConvTensor
    build = backbone.__init__

    @wraps(build)
    def build_from_copies(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature(build).bind(self, *args, **kwargs)
        bound.apply_defaults()
        build(**{name: list(value) if isinstance(value, list) else value for name, value in bound.arguments.items()})

    def with_far_border(features: Any, cells: Any, shape: Any, batch_size: int) -> Any:
        return sparse_tensor(features, cells, shape + -shape % 32, batch_size)

    backbone.__init__ = build_from_copies
    minkunet_backbone.SparseConvTensor = with_far_border


@contextmanager
def encode_pillars_by_rows(encoder_utils: ModuleType) -> Iterator[None]:
    """Without it: a third of a PointPillars training step on the CPU is the batch norm of the points in pillars.

    mmdet3d normalizes [V, C, P], whose gradient arrives in another layout, for which torch has a slow path only. The
    rows [V P, C] have the same statistics and need no transposition, there or back. And the linear layer gets full
    thousands of pillars: for every other number of them oneDNN makes and keeps a kernel of its own, and the memory
    between these kernels, which falls to pieces, has grown to 7 GB after 2880 steps.
    """
    import torch
    from torch.nn.functional import pad

    yield

    def forward(self: Any, inputs: Any, num_voxels: Any = None, aligned_distance: Any = None) -> Any:
        points = self.linear(pad(inputs, (0, 0, 0, 0, 0, -len(inputs) % 1024)))[: len(inputs)]
        points = self.norm(points.flatten(0, 1)).view_as(points).relu()
        if aligned_distance is not None:
            points = points * aligned_distance[..., None]
        if self.mode == "max":
            pillars = points.max(dim=1, keepdim=True).values
        else:
            pillars = points.sum(dim=1, keepdim=True) / num_voxels.type_as(inputs).view(-1, 1, 1)
        return pillars if self.last_vfe else torch.cat((points, pillars.expand_as(points)), dim=2)

    encoder_utils.PFNLayer.forward = forward


@contextmanager
def name_unknown_labels(dense_heads: ModuleType) -> Iterator[None]:
    """Without it: labels that a head does not know are lost, or end in ``Class values must be non-negative``.

    -1 is no class: centre heads leave such boxes out, anchor heads cannot.
    """
    from functools import wraps

    yield

    def checked(loss_by_feat: Callable[..., Any], *, place: int, lowest: int) -> Callable[..., Any]:
        @wraps(loss_by_feat)
        def loss_by_feat_checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            instances = args[place] if len(args) > place else kwargs["batch_gt_instances_3d"]
            classes = sum(self.num_classes) if isinstance(self.num_classes, list) else self.num_classes
            for each in instances:
                _check_labels(each.labels_3d, lowest=lowest, classes=classes)
            return loss_by_feat(self, *args, **kwargs)

        return loss_by_feat_checked

    for head, place, lowest in ((dense_heads.Anchor3DHead, 3, 0), (dense_heads.CenterHead, 1, -1)):
        head.loss_by_feat = checked(head.loss_by_feat, place=place, lowest=lowest)


def _check_labels(labels: Any, *, lowest: int, classes: int) -> None:
    """Raises InputError unless all labels are between ``lowest`` and the number of classes."""
    if len(labels) and (int(labels.min()) < lowest or int(labels.max()) >= classes):
        from perceptkd.core.errors import InputError

        unknown = sorted({label for label in labels.tolist() if not lowest <= label < classes})
        raise InputError(
            f"boxes have the labels {unknown}, the head knows 0 to {classes - 1}: the classes of data set and head "
            "differ; choose them alike (metainfo=dict(classes=...)), or drop others in the pipeline (ObjectNameFilter)"
        )


PATCHES: dict[str, Patch] = {
    "mmcv.ops.furthest_point_sample": sample_points_on_any_device,
    "mmdet3d": relax_version_assertions,
    "mmdet3d.models.layers.spconv": register_sparse_convolution,
    "mmdet3d.datasets.transforms.dbsampler": restore_numpy_long,
    "mmdet3d.models.dense_heads": name_unknown_labels,
    "mmdet3d.models.detectors": count_samples_by_their_clouds,
    "mmdet3d.models.voxel_encoders.utils": encode_pillars_by_rows,
    "mmdet3d.models.backbones.minkunet_backbone": mend_minkunet,
    "mmdet3d.models.data_preprocessors.data_preprocessor": voxelize_for_minkunet_on_any_device,
}


class _PatchingFinder(MetaPathFinder):
    """Runs a module's patch around its execution, however the module comes to be imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patch = PATCHES.get(fullname)
        if patch is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_patched(module: ModuleType) -> None:
            with patch(module):
                execute(module)

        spec.loader.exec_module = execute_patched  # type: ignore[method-assign]
        return spec


def apply() -> None:
    """Installs our ops and all patches; those of modules that are already imported run at once."""
    mmcv_ext.install()
    if any(isinstance(finder, _PatchingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _PatchingFinder())
    for name, patch in PATCHES.items():
        module = sys.modules.get(name)
        if module is not None:
            with patch(module):
                pass


apply()
