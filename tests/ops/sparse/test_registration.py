"""mmdet3d's sparse models on our layers, through its own registry, against the same models on spconv."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from perceptkd.ops import sparse
from perceptkd.ops.sparse import registration

CENTERPOINT = {
    "type": "SparseEncoder",
    "in_channels": 5,
    "sparse_shape": [41, 64, 64],
    "base_channels": 8,
    "output_channels": 32,
    "order": ("conv", "norm", "act"),
    "encoder_channels": ((8, 8, 16), (16, 16, 32), (32, 32, 32), (32, 32)),
    "encoder_paddings": ((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
    "block_type": "basicblock",
}
SECOND = {"type": "SparseEncoder", "in_channels": 5, "sparse_shape": [41, 64, 64], "order": ("conv", "norm", "act")}
REFERENCE = """
import sys, torch
import mmcv, mmdet
mmcv.__version__, mmdet.__version__ = "2.1.0", "3.3.0"
from perceptkd.ops import mmcv_ext
mmcv_ext.install()
import spconv.pytorch.ops
spconv.pytorch.ops.get_current_stream = lambda: 0
import mmdet3d.models
from mmdet3d.registry import MODELS
results = []
for case in torch.load(sys.argv[1]):
    encoder = MODELS.build(case["config"])
    assert type(encoder.conv_input[0]).__module__.startswith("spconv."), type(encoder.conv_input[0])
    encoder.load_state_dict(case["weights"])
    features = case["features"].requires_grad_()
    output = encoder(features, case["coordinates"], 2)
    (output * case["cotangent"]).sum().backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    results.append({"output": output.detach(), "features": features.grad, "gradients": gradients})
torch.save(results, sys.argv[1])
"""


@pytest.fixture
def models():
    """mmdet3d's registry, imported the way every user of the package does."""
    import perceptkd.compat  # noqa: F401

    pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
    import mmdet3d.models  # noqa: F401
    from mmdet3d.registry import MODELS

    return MODELS


def voxels(shape, batch_size=2, channels=5, density=0.01):
    coordinates = (torch.rand(batch_size, *shape) < density).nonzero()
    coordinates = coordinates[torch.randperm(len(coordinates))]
    return torch.randn(len(coordinates), channels), coordinates


def sparse_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if "Conv" in type(module).__name__]


def run_encoder(models, config: dict) -> tuple[dict, dict]:
    """What the reference needs to do the same, and our results."""
    encoder = models.build(config)
    features, coordinates = voxels(config["sparse_shape"])
    case = {"config": config, "weights": copy.deepcopy(encoder.state_dict()), "features": features.clone()}
    output = encoder(features.requires_grad_(), coordinates, 2)
    cotangent = torch.randn_like(output)
    (output * cotangent).sum().backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    result = {"output": output.detach(), "features": features.grad, "gradients": gradients}
    return {**case, "coordinates": coordinates, "cotangent": cotangent}, result


def test_encoders_equal_the_same_on_spconv(models, tmp_path) -> None:
    """A process of its own builds the encoders on spconv, since here the names are taken by ours."""
    pytest.importorskip("spconv.pytorch", reason="spconv, the reference, is not installed")
    cases, results = zip(*(run_encoder(models, config) for config in (CENTERPOINT, SECOND)))
    path = tmp_path / "cases.pt"
    torch.save(list(cases), path)
    run = subprocess.run([sys.executable, "-c", REFERENCE, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for ours, reference in zip(results, torch.load(path)):
        torch.testing.assert_close(ours["output"], reference["output"], rtol=1e-3, atol=1e-4)
        gradients = {"features": ours["features"], **ours["gradients"]}
        for name, value in {"features": reference["features"], **reference["gradients"]}.items():
            error = (gradients[name] - value).norm() / value.norm()
            assert error < 1e-2, (name, float(error))  # float32 against float64 gives 3e-3: ReLUs near zero flip


def test_all_layers_of_the_encoder_are_ours(models) -> None:
    layers = sparse_layers(models.build(CENTERPOINT))
    assert len(layers) > 15
    assert all(type(layer).__module__ == sparse.SubMConv3d.__module__ for layer in layers)


def test_sparse_unet_runs(models) -> None:
    model = models.build({"type": "SparseUNet", "in_channels": 4, "sparse_shape": [41, 64, 64]})
    features, coordinates = voxels((41, 64, 64), channels=4)
    output = model(features, coordinates, 2)
    assert output["spatial_features"].shape == (2, 256, 8, 8)
    assert output["seg_features"].shape == (len(features), 16)
    sum(value.sum() for value in output.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_minkunet_runs(models) -> None:
    """The shape comes as a tensor there, and its pointwise residuals follow a widened tensor."""
    config = {
        "type": "MinkUNetBackbone",
        "in_channels": 4,
        "sparseconv_backend": "spconv",
        "base_channels": 8,
        "encoder_channels": [8, 16, 16, 32],
        "decoder_channels": [32, 16, 16, 8],
        "encoder_blocks": [1] * 4,
        "decoder_blocks": [1] * 4,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registration.silence_fallback_warning()  # pytest forgets the filters of the import
        model = models.build(config)
    features, coordinates = voxels((33, 40, 40), channels=4)
    coordinates = coordinates[coordinates[:, 0].argsort(stable=True)].int()
    output = model(features, coordinates)
    assert output.shape[0] == len(features)
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_registering_twice_changes_nothing(models) -> None:
    before = models.get("SubMConv3d")
    sparse.register_in_mmdet3d()
    assert models.get("SubMConv3d") is before is sparse.SubMConv3d


def test_registering_too_late_is_refused(models, monkeypatch) -> None:
    """A model class that took another library's tensor at import cannot be changed afterwards."""
    import mmcv.ops

    monkeypatch.setattr(mmcv.ops, "SparseConvTensor", object)
    with pytest.raises(RuntimeError, match="could offer its own"):
        sparse.register_in_mmdet3d()


def test_spconv_itself_stays_untouched(models, spconv) -> None:
    assert spconv.SparseConvTensor is not sparse.SparseTensor
    assert spconv.SubMConv3d.__module__.startswith("spconv.")
