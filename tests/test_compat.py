"""perceptkd.compat: what upstream needs in order to import and run, and nothing else."""

import importlib.metadata
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perceptkd import compat


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter, since patches act at import."""
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def succeeds(code: str, **environment: str) -> str:
    result = run_python(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_upstream_fails_without_compat() -> None:
    result = run_python("import mmdet3d")
    assert result.returncode != 0
    assert "AssertionError: MMCV==" in result.stderr


def test_upstream_imports_with_compat() -> None:
    code = """
        import perceptkd.compat
        import mmcv.ops, mmdet.models, mmdet3d, mmdet3d.models, mmdet3d.datasets, mmdet3d.evaluation
        import mmcv, mmdet
        print('versions', mmcv.__version__, mmdet.__version__)
    """.replace("\n        ", "\n")
    versions = [importlib.metadata.version(name) for name in ("onedl-mmcv", "onedl-mmdetection")]
    assert f"versions {' '.join(versions)}" in succeeds(code)


def test_importing_compat_loads_nothing_heavy() -> None:
    loaded = "[n for n in ('torch', 'mmcv', 'mmdet', 'mmdet3d', 'spconv', 'numba') if n in sys.modules]"
    assert succeeds(f"import sys, perceptkd.compat; print({loaded})").strip() == "[]"


def test_transforms_import_on_their_own() -> None:
    """A script may import them before anything that would have made mmdet3d importable."""
    result = run_python("import perceptkd.datasets.transforms")
    assert result.returncode == 0, result.stderr


def test_applying_twice_changes_nothing() -> None:
    before = list(sys.meta_path)
    compat.apply()
    assert sys.meta_path == before


def test_missing_mmdet3d_is_no_error() -> None:
    code = """
        import sys
        sys.modules['mmdet3d'] = None
        import perceptkd.compat
        import mmcv.ops
        try:
            import mmdet3d
        except ModuleNotFoundError:
            print('missing, as without compat')
    """.replace("\n        ", "\n")
    assert "missing, as without compat" in succeeds(code)


def test_modules_imported_earlier_are_patched_too() -> None:
    code = """
        import sys, types, warnings
        warnings.filterwarnings('error', category=FutureWarning)
        sys.modules['mmdet3d.datasets.transforms.dbsampler'] = types.ModuleType('dbsampler')
        import perceptkd.compat, numpy
        print(numpy.dtype(numpy.long).kind)
    """.replace("\n        ", "\n")
    assert succeeds(code).strip() == "i"


@pytest.mark.parametrize("patch", compat.PATCHES.values(), ids=lambda patch: patch.__name__)
def test_every_patch_says_what_breaks_without_it(patch) -> None:
    assert patch.__doc__.startswith("Without it: ")


def test_sparse_layers_of_mmdet3d_are_ours() -> None:
    import mmdet3d.models
    from mmengine.registry import MODELS

    from perceptkd.ops import sparse

    assert MODELS.get("SubMConv3d") is sparse.SubMConv3d
    assert mmdet3d.models.middle_encoders.sparse_encoder.SparseSequential is sparse.SparseSequential


def test_ground_truth_sampling_works(tmp_path: Path) -> None:
    """mmdet3d's database sampler, which asks numpy for ``np.long``."""
    from mmdet3d.datasets.transforms.dbsampler import DataBaseSampler
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    np.ones((7, 4), np.float32).tofile(tmp_path / "car.bin")
    box = np.array([5, 5, 0, 4, 2, 1.5, 0.3], np.float32)
    info = {"name": "Car", "path": "car.bin", "box3d_lidar": box, "num_points_in_gt": 7, "difficulty": 0}
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps({"Car": [info]}))
    sampler = DataBaseSampler(
        info_path=str(tmp_path / "infos.pkl"),
        data_root=str(tmp_path),
        rate=1.0,
        prepare={"filter_by_difficulty": [-1]},
        sample_groups={"Car": 1},
        classes=["Car"],
        points_loader={"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4},
    )
    sampled = sampler.sample_all(np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    assert sampled["gt_labels_3d"].tolist() == [0]
    assert len(sampled["points"]) == 7


@pytest.mark.parametrize("batch_first", [True, False])
def test_voxels_of_minkunet_need_no_cuda(batch_first: bool) -> None:
    """The first point of each occupied cell, and for each point the voxel that stands for it."""
    import torch
    from mmdet3d.models.data_preprocessors import Det3DDataPreprocessor
    from mmdet3d.structures import Det3DDataSample, PointData
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    preprocessor = Det3DDataPreprocessor(
        voxel=True,
        voxel_type="minkunet",
        batch_first=batch_first,
        voxel_layer={
            "max_num_points": -1,
            "point_cloud_range": [0, 0, 0, 9, 9, 9],
            "voxel_size": [0.5, 0.5, 0.5],
            "max_voxels": (-1, -1),
        },
    )
    points = [torch.tensor([[1.0, 1, 1, 7], [1.1, 1, 1, 8], [3, 1, 1, 9]]), torch.tensor([[4.0, 4, 4, 5]])]
    samples = [Det3DDataSample(gt_pts_seg=PointData()) for _ in points]
    samples[0].gt_pts_seg.pts_semantic_mask = torch.tensor([2, 3, 4])
    samples[1].gt_pts_seg.pts_semantic_mask = torch.tensor([1])
    found = preprocessor.voxelize(points, samples)
    assert found["voxels"].tolist() == [[1, 1, 1, 7], [3, 1, 1, 9], [4, 4, 4, 5]]
    cells = [[0, 0, 0], [4, 0, 0], [0, 0, 0]]
    batch = [0, 0, 1]
    assert found["coors"].tolist() == [[b, *c] if batch_first else [*c, b] for b, c in zip(batch, cells)]
    assert samples[0].point2voxel_map.tolist() == [0, 0, 1]
    assert samples[0].gt_pts_seg.voxel_semantic_mask.tolist() == [2, 4]
    assert samples[1].batch_idx.tolist() == [1]
    preprocessor.max_voxels = 1
    np.random.seed(0)  # noqa: NPY002 (upstream's draw)
    chosen = preprocessor.voxelize(points[:1], samples[:1])["voxels"].tolist()
    np.random.seed(0)  # noqa: NPY002
    kept = np.random.choice([0, 2], 1, replace=False)[0]  # noqa: NPY002
    assert chosen == [points[0][kept].tolist()]
    assert samples[0].point2voxel_map.tolist() == ([0, 0, -1] if kept == 0 else [-1, -1, 0])
    assert len(preprocessor.eval().voxelize(points[:1], samples[:1])["voxels"]) == 2


def test_minkunet_leaves_its_channels_alone() -> None:
    """Twice the same model, from a config and of default channels: upstream's constructor changes both."""
    import mmdet3d.models.backbones.minkunet_backbone as module

    channels = {"encoder_channels": [8, 8], "decoder_channels": [8, 8], "encoder_blocks": [1, 1]}
    small = {**channels, "decoder_blocks": [1, 1], "num_stages": 2, "base_channels": 8}
    for options in (small, {}):
        first, second = (module.MinkUNetBackbone(sparseconv_backend="spconv", **options) for _ in range(2))
        assert [*map(str, first.state_dict())] == [*map(str, second.state_dict())]
    assert channels["encoder_channels"] == [8, 8]


def test_minkunet_has_no_border() -> None:
    """A flat cloud of odd extent gives the same alone and beside a larger one, whose grid is larger."""
    import mmdet3d.models.backbones.minkunet_backbone as module
    import torch

    model = module.MinkUNetBackbone(sparseconv_backend="spconv").eval()
    small = torch.cartesian_prod(torch.arange(1), torch.arange(7), torch.arange(5), torch.arange(3)).int()
    large = small + torch.tensor([1, 40, 30, 20], dtype=torch.int)
    features = torch.randn(len(small), 4)
    with torch.no_grad():
        alone = model(features, small)
        together = model(features.repeat(2, 1), torch.cat((small, large)))
    assert alone.abs().amin(dim=0).amax() > 0
    torch.testing.assert_close(together[: len(small)], alone)


@pytest.mark.parametrize(("mode", "last"), [("max", True), ("avg", False)])
def test_pillars_encoded_by_rows_are_those_of_upstream(mode: str, last: bool) -> None:
    """Features, gradients and running statistics, with a reference that normalizes [V, C, P] as mmdet3d does."""
    import torch
    from mmdet3d.models.voxel_encoders.utils import PFNLayer
    from torch.nn.functional import batch_norm, linear

    torch.manual_seed(0)
    layer = PFNLayer(5, 6, last_layer=last, mode=mode)
    points, counts, distance = torch.randn(7, 4, 5), torch.randint(1, 5, (7,)), torch.rand(7, 4)
    weight = layer.linear.weight.detach().clone().requires_grad_()
    mean, variance = torch.zeros(layer.units), torch.ones(layer.units)
    features = linear(points, weight).permute(0, 2, 1)
    normed = batch_norm(features, mean, variance, layer.norm.weight, layer.norm.bias, True, 0.01, 1e-3)
    normed = normed.permute(0, 2, 1).relu() * distance[:, :, None]
    pooled = normed.amax(1, keepdim=True) if mode == "max" else normed.sum(1, keepdim=True) / counts.view(-1, 1, 1)
    expected = pooled if last else torch.cat((normed, pooled.repeat(1, 4, 1)), dim=2)

    sizes = []
    layer.linear.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = layer(points, num_voxels=counts, aligned_distance=distance)
    assert sizes == [1024]  # any other number of pillars would cost a kernel of its own
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.linear.weight.grad, weight.grad)
    torch.testing.assert_close((layer.norm.running_mean, layer.norm.running_var), (mean, variance))
