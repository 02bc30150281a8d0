"""Every layer against dense torch convolution in float64: values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perceptkd.ops.sparse import (
    SparseConv2d,
    SparseConv3d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv2d,
    SubMConv3d,
)
from perceptkd.ops.sparse.conv import KeyedSubMConv3d

SHAPES = {2: (9, 8), 3: (6, 7, 8)}
DENSE = {2: F.conv2d, 3: F.conv3d}
DENSE_TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def dense_weight(layer: nn.Module) -> torch.Tensor:
    """[C_out, C_in, (kz,) ky, kx] as dense convolutions want it, connected to the layer's parameter."""
    weight = layer.weight
    if layer.is_pointwise:  # spconv's reading of the memory, see the module
        return weight.reshape(layer.in_channels, layer.out_channels).t().reshape(weight.movedim(-1, 1).shape)
    return weight.movedim(-1, 1)


def check_against_dense(layer, tensor, dense_output, mask) -> None:
    """Compares values at the output sites, the sites themselves, and the gradients of input, weight and bias."""
    output = layer(tensor)
    expected = dense_output * mask
    torch.testing.assert_close(output.to_dense(), expected)
    ones = output.replace_feature(torch.ones_like(output.features[:, :1])).to_dense()
    assert torch.equal(ones, mask.expand_as(ones))
    cotangent = torch.randn_like(expected)
    inputs = [tensor.features, *layer.parameters()]
    ours = torch.autograd.grad((output.to_dense() * cotangent).sum(), inputs)
    theirs = torch.autograd.grad((expected * cotangent).sum(), inputs)
    for mine, reference in zip(ours, theirs):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("layer_type", "ndim"), [(SubMConv2d, 2), (SubMConv3d, 3)])
def test_submanifold_equals_dense_at_the_sites(
    layer_type, ndim, kernel_size, dilation, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(SHAPES[ndim], requires_grad=True)
    layer = layer_type(3, 4, kernel_size, dilation=dilation).double()
    dense = DENSE[ndim](
        tensor.to_dense(), dense_weight(layer), layer.bias, padding=kernel_size // 2 * dilation, dilation=dilation
    )
    check_against_dense(layer, tensor, dense, occupied_cells(tensor))


def test_submanifold_kernel_may_differ_by_axis(make_tensor, occupied_cells) -> None:
    tensor = make_tensor(requires_grad=True)
    layer = SubMConv3d(3, 4, (1, 5, 3), dilation=(1, 1, 3)).double()
    dense = F.conv3d(tensor.to_dense(), dense_weight(layer), layer.bias, padding=(0, 2, 3), dilation=(1, 1, 3))
    check_against_dense(layer, tensor, dense, occupied_cells(tensor))


STRIDED = [(k, s, p, d) for k in (1, 2, 3, 4, 5) for s, p, d in ((1, 0, 1), (2, 0, 1), (2, 1, 1), (3, 1, 1))] + [
    (3, 1, 2, 2),
    (2, 1, 0, 3),
    (3, 2, 1, 2),
]


@pytest.mark.parametrize(("kernel_size", "stride", "padding", "dilation"), STRIDED)
@pytest.mark.parametrize(("layer_type", "ndim"), [(SparseConv2d, 2), (SparseConv3d, 3)])
def test_strided_equals_dense(
    layer_type, ndim, kernel_size, stride, padding, dilation, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(SHAPES[ndim], density=0.15, requires_grad=True)
    layer = layer_type(3, 4, kernel_size, stride, padding, dilation).double()
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    dense = DENSE[ndim](tensor.to_dense(), dense_weight(layer), layer.bias, **options)
    reach = DENSE[ndim](occupied_cells(tensor), torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64), **options)
    check_against_dense(layer, tensor, dense, (reach > 0).double())


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "output_padding"), [(2, 2, 0, 0), (3, 2, 1, 1), (3, 1, 1, 0), (4, 3, 0, 0)]
)
@pytest.mark.parametrize(("layer_type", "ndim"), [(SparseConvTranspose2d, 2), (SparseConvTranspose3d, 3)])
def test_transposed_equals_dense(
    layer_type, ndim, kernel_size, stride, padding, output_padding, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(SHAPES[ndim], density=0.1, requires_grad=True)
    layer = layer_type(3, 4, kernel_size, stride, padding, output_padding=output_padding).double()
    options = {"stride": stride, "padding": padding, "output_padding": output_padding}
    weight = layer.weight.movedim(-1, 0)  # [C_in, C_out, ...]
    dense = DENSE_TRANSPOSED[ndim](tensor.to_dense(), weight, layer.bias, **options)
    ones = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
    reach = DENSE_TRANSPOSED[ndim](occupied_cells(tensor), ones, **options)
    check_against_dense(layer, tensor, dense, (reach > 0).double())


@pytest.mark.parametrize(
    ("down_type", "up_type", "ndim"), [(SparseConv2d, SparseInverseConv2d, 2), (SparseConv3d, SparseInverseConv3d, 3)]
)
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 3, 0)])
def test_inverse_equals_dense_transposed_on_the_first_sites(
    down_type, up_type, ndim, kernel_size, stride, padding, make_tensor, occupied_cells
) -> None:
    tensor = make_tensor(SHAPES[ndim], requires_grad=True)
    down = down_type(3, 4, kernel_size, stride, padding, bias=False, indice_key="down").double()
    up = up_type(4, 2, kernel_size, indice_key="down").double()
    coarse = down(tensor)
    rest = [
        length - ((short - 1) * stride - 2 * padding + kernel_size)
        for length, short in zip(tensor.spatial_shape, coarse.spatial_shape)
    ]
    dense = DENSE_TRANSPOSED[ndim](
        coarse.to_dense(), up.weight.movedim(-1, 0), up.bias, stride, padding, output_padding=rest
    )
    output = up(coarse)
    assert output.coordinates is tensor.coordinates
    check_against_dense(SparseSequential(down, up), tensor, dense, occupied_cells(tensor))


@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
def test_gradcheck(layer_type, make_tensor) -> None:
    tensor = make_tensor((3, 4, 3), 1, 2, density=0.3, requires_grad=True)
    layer = layer_type(2, 3, 3, padding=1).double()

    def run(features, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (tensor.replace_feature(features),)).features

    assert torch.autograd.gradcheck(run, (tensor.features, layer.weight.detach().clone().requires_grad_()))


@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
def test_permuted_rows_give_the_same_cells_bit_for_bit(layer_type, make_tensor) -> None:
    tensor = make_tensor(dtype=torch.float32)
    layer = layer_type(3, 4, 3, padding=1)
    permutation = torch.randperm(len(tensor))
    other = SparseTensor(tensor.features[permutation], tensor.coordinates[permutation], (5, 6, 7), 2)
    assert torch.equal(layer(tensor).to_dense(), layer(other).to_dense())


def test_submanifold_keeps_the_order_of_rows(make_tensor) -> None:
    tensor = make_tensor()
    assert torch.equal(SubMConv3d(3, 4, 3).double()(tensor).coordinates, tensor.coordinates)


@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
def test_two_runs_agree_bit_for_bit(layer_type, make_tensor) -> None:
    first = make_tensor((12, 12, 12), channels=16, dtype=torch.float32, requires_grad=True)
    layer = layer_type(16, 16, 3, padding=1)
    runs = []
    for _ in range(2):
        tensor = SparseTensor(first.features, first.coordinates, (12, 12, 12), 2)
        output = layer(tensor).features
        runs.append([output, *torch.autograd.grad((output * output).sum(), [first.features, layer.weight])])
    for left, right in zip(*runs):
        assert torch.equal(left, right)


@pytest.mark.parametrize("empty", [[1], [2], [0, 1, 2], [0]])
def test_samples_may_be_empty(empty, make_tensor) -> None:
    tensor = make_tensor((6, 7, 8), 3, 3, empty=empty, requires_grad=True)
    layers = SparseSequential(
        SubMConv3d(3, 4, 3), SparseConv3d(4, 4, 3, 2, 1, indice_key="down"), SparseInverseConv3d(4, 2, 3, "down")
    ).double()
    dense = layers(tensor).to_dense()
    assert dense.shape == (3, 2, 6, 7, 8)
    assert bool((dense[empty] == 0).all())
    gradients = torch.autograd.grad(dense.sum(), [tensor.features, *layers.parameters()])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_one_voxel_meets_only_the_centre_of_the_kernel() -> None:
    tensor = SparseTensor(torch.randn(1, 3), torch.tensor([[0, 0, 0, 0]]).int(), (1, 1, 1), 1)
    layer = SubMConv3d(3, 4, 3, bias=False)
    torch.testing.assert_close(layer(tensor).features, tensor.features @ layer.weight[:, 1, 1, 1].t())


def test_neighbours_do_not_wrap_round_the_border() -> None:
    """Cells that are neighbours in memory but lie at opposite borders must not see each other."""
    coordinates = torch.tensor([[0, 0, 0, 3], [0, 0, 1, 0], [0, 3, 3, 3], [1, 0, 0, 0]]).int()
    tensor = SparseTensor(torch.randn(4, 2), coordinates, (4, 4, 4), 2)
    layer = SubMConv3d(2, 2, 3, bias=False)
    torch.testing.assert_close(layer(tensor).features, tensor.features @ layer.weight[:, 1, 1, 1].t())


@pytest.mark.parametrize("layer_type", [SubMConv3d, SparseConv3d])
def test_bfloat16_is_close_to_float32(layer_type, make_tensor) -> None:
    """Products are rounded to 8 bits and summed in float32, so the error is that of a few roundings of the result."""
    tensor = make_tensor((12, 12, 12), channels=32, dtype=torch.float32, requires_grad=True)
    layer = layer_type(32, 32, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = layer(tensor)
    wide = layer(tensor)
    assert narrow.features.dtype == torch.bfloat16
    scale = wide.features.abs().max()
    assert (narrow.features.float() - wide.features).abs().max() < 0.02 * scale
    cotangent = torch.randn_like(wide.features)
    inputs = [tensor.features, layer.weight]
    low = torch.autograd.grad((narrow.features.float() * cotangent).sum(), inputs)
    high = torch.autograd.grad((wide.features * cotangent).sum(), inputs)
    for left, right in zip(low, high):
        assert left.dtype == torch.float32
        assert (left - right).abs().max() < 0.02 * right.abs().max()


def test_products_in_bfloat16_are_summed_in_float32() -> None:
    """A sum of ones in bfloat16 stops at 256, since 257 rounds to 256; over 360 occupied cells it must go on."""
    coordinates = torch.ones(1, 40, 1, 40).nonzero().int()
    tensor = SparseTensor(torch.ones(1600, 1, dtype=torch.bfloat16), coordinates, (40, 1, 40), 1)
    layer = SubMConv3d(1, 1, (19, 1, 19), bias=False).to(torch.bfloat16)
    nn.init.ones_(layer.weight)
    layer.weight.data[0, 0, 0, 0] = 0
    centre = (coordinates[:, 1] == 20) & (coordinates[:, 3] == 20)
    assert layer(tensor).features[centre].item() == 360


def test_mixed_types_outside_autocast_are_refused(make_tensor) -> None:
    with pytest.raises(TypeError, match="or run under"):
        SubMConv3d(3, 4, 3)(make_tensor(dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SubMConv3d(4, 4, 3, groups=2), "no groups"),
        (lambda: SubMConv3d(4, 4, 2), "centre cell"),
        (lambda: SubMConv3d(4, 4, 3, stride=2), "keeps its sites"),
        (lambda: SparseConv3d(4, 4, (3, 3)), "kernel_size must be one integer or 3"),
        (lambda: SparseConv3d(4, 4, 3, stride=0), "stride must be"),
        (lambda: SparseInverseConv3d(4, 4, 3), "needs the indice_key"),
    ],
)
def test_wrong_arguments_are_named(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_inputs_are_named(make_tensor) -> None:
    with pytest.raises(ValueError, match="expected 5 input channels, got 3"):
        SubMConv3d(5, 4, 3).double()(make_tensor())
    with pytest.raises(ValueError, match="grids of 2 axes"):
        SubMConv2d(3, 4, 3).double()(make_tensor())
    with pytest.raises(TypeError, match="takes a SparseTensor, got Tensor"):
        SubMConv3d(3, 4, 3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="has no cells"):
        SparseConv3d(3, 4, 9).double()(make_tensor())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)],
)
@pytest.mark.parametrize(
    "build",
    [
        lambda: SubMConv3d(16, 72, 3),
        lambda: SparseConv3d(16, 8, 3, padding=1),
        lambda: SparseConvTranspose3d(16, 8, 2, 2),
        lambda: SparseSequential(
            SparseConv3d(16, 8, 3, 2, 1, indice_key="down"), SparseInverseConv3d(8, 8, 3, indice_key="down")
        ),
        lambda: SparseSequential(SubMConv3d(16, 8, 3), torch.nn.BatchNorm1d(8), torch.nn.ReLU()).eval(),
    ],
    ids=["submanifold", "strided", "transposed", "down and up", "folded"],
)
def test_cuda_equals_cpu(build, dtype: torch.dtype, tolerance: float, make_tensor) -> None:
    """In the same type, by the backend that each device chooses; the reference in float64."""
    tensor, layer = make_tensor((12, 12, 12), channels=16, requires_grad=True), build().double()

    def outcome(tensor, layer) -> list[torch.Tensor]:
        dense = layer(tensor).to_dense()
        return [dense, *torch.autograd.grad(dense.square().sum(), [tensor.features, *layer.parameters()])]

    expected = outcome(tensor, layer)
    moved = tensor.to("cuda").replace_feature(tensor.features.detach().to("cuda", dtype).requires_grad_())
    for mine, reference in zip(outcome(moved, layer.to("cuda", dtype)), expected, strict=True):
        scale = float(reference.detach().abs().max()) + 1e-9
        torch.testing.assert_close(mine.cpu().double() / scale, reference / scale, rtol=0, atol=tolerance)


def test_a_keyed_layer_reads_the_cells_of_the_first_layer_with_its_key(make_tensor) -> None:
    tensor = make_tensor(SHAPES[3])
    flat = KeyedSubMConv3d(3, 3, (1, 3, 3), indice_key="k").double()
    upright = KeyedSubMConv3d(3, 4, (3, 1, 3), indice_key="k").double()
    meant = SubMConv3d(3, 4, (1, 3, 3)).double()
    meant.load_state_dict({"weight": upright.weight.reshape(meant.weight.shape), "bias": upright.bias})
    middle = flat(tensor)
    torch.testing.assert_close(upright(middle).features, meant(middle).features)
    alone = SubMConv3d(3, 4, (3, 1, 3), indice_key="k").double()
    with pytest.raises(ValueError, match="indice_key 'k' is taken by a layer on"):
        alone(middle)
    larger = KeyedSubMConv3d(3, 4, (3, 3, 3), indice_key="k").double()
    meant.load_state_dict({"weight": larger.weight[:, :1], "bias": larger.bias})
    torch.testing.assert_close(larger(middle).features, meant(middle).features)
    smaller = KeyedSubMConv3d(3, 4, (1, 1, 3), indice_key="k").double()
    with pytest.raises(ValueError, match="indice_key 'k' is taken by a layer on"):
        smaller(middle)
