"""Kernel maps against their definition by exhaustive search, and their reuse."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceptkd.ops.sparse import (
    SparseAvgPool3d,
    SparseConv3d,
    SparseInverseConv3d,
    SparseMaxPool3d,
    SparseTensor,
    SubMConv3d,
    gather_plan,
    map_search,
)
from perceptkd.ops.sparse import kernel_map as kernel_map_module
from perceptkd.ops.sparse.geometry import Geometry
from perceptkd.ops.sparse.kernel_map import KernelMap, build_kernel_map
from perceptkd.ops.sparse.sites import Sites

ONES, ZEROS = (1, 1, 1), (0, 0, 0)


def expected_pairs(sites: Sites, target: Sites, geometry: Geometry) -> list[set[tuple[tuple, tuple]]]:
    """(input cell, output cell) per kernel cell, by trying every pair."""
    sources, targets = sites.coordinates.tolist(), target.coordinates.tolist()
    result = []
    for cell in itertools.product(*(range(size) for size in geometry.kernel_size)):
        found = set()
        for source, out in itertools.product(sources, targets):
            if source[0] != out[0]:
                continue
            matches = []
            for axis, k in enumerate(cell):
                i, o = source[axis + 1], out[axis + 1]
                dilation, stride, padding = geometry.dilation[axis], geometry.stride[axis], geometry.padding[axis]
                if geometry.kind == "submanifold":
                    matches.append(i == o + (k - geometry.kernel_size[axis] // 2) * dilation)
                elif geometry.kind == "strided":
                    matches.append(i == o * stride - padding + k * dilation)
                else:
                    matches.append(o == i * stride - padding + k * dilation)
            if all(matches):
                found.add((tuple(source), tuple(out)))
        result.append(found)
    return result


def actual_pairs(sites: Sites, target: Sites, kernel_map) -> list[set[tuple[tuple, tuple]]]:
    sources, targets = sites.sorted_coordinates.tolist(), target.sorted_coordinates.tolist()
    return [
        {(tuple(sources[i]), tuple(targets[o])) for i, o in zip(rows.tolist(), outs.tolist())}
        for rows, outs in kernel_map.pairs
    ]


geometries = st.builds(
    Geometry,
    kind=st.sampled_from(["submanifold", "strided", "transposed"]),
    kernel_size=st.tuples(*[st.sampled_from([1, 3])] * 3) | st.just((1, 3, 5)),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 1)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    output_padding=st.just(ZEROS),
)


@settings(max_examples=60, deadline=None)
@given(geometries, st.integers(0, 10**6))
def test_maps_follow_their_definition(geometry, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(2, 5, 4, 6, generator=generator) < 0.08).nonzero().int()
    sites = Sites(cells[torch.randperm(len(cells), generator=generator)], (5, 4, 6), 2)
    try:
        kernel_map, target = build_kernel_map(sites, geometry)
    except ValueError as error:
        assert "has no cells" in str(error)  # noqa: PT017  (kernels larger than the grid)
        return
    assert actual_pairs(sites, target, kernel_map) == expected_pairs(sites, target, geometry)
    for _, rows in kernel_map.pairs:
        assert bool((rows[1:] > rows[:-1]).all())


@settings(max_examples=60, deadline=None)
@given(geometries, st.integers(0, 10**6), st.sampled_from([3, 7, 1000]))
@example(Geometry("strided", (1, 1, 1), (2, 1, 2), (1, 0, 0), ONES, ZEROS), 30695, 3)  # reaches no cell
def test_torch_searches_find_the_same_pairs_in_the_same_order(geometry, seed, chunk_rows) -> None:
    """The form for CUDA, run on CPU: maps and plans of it against those of numba."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(2, 5, 4, 6, generator=generator) < 0.1).nonzero().int()

    def built() -> tuple[KernelMap, Sites]:
        return build_kernel_map(Sites(cells, (5, 4, 6), 2), geometry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gather_plan.CHUNK_ROWS, "cpu", chunk_rows)
        try:
            kernel_map, target = built()
        except ValueError:
            return
        plan = kernel_map.plan
        patch.setattr(kernel_map_module, "neighbour_pairs", map_search._neighbour_pairs_torch)
        patch.setattr(kernel_map_module, "reached_keys", map_search._reached_keys_torch)
        patch.setattr(gather_plan, "_arrange_numba", gather_plan._arrange_torch)
        other, other_target = built()
        other_plan = other.plan
    assert torch.equal(target.coordinates, other_target.coordinates)
    assert all(torch.equal(*rows) for pairs in zip(kernel_map.pairs, other.pairs) for rows in zip(*pairs))
    assert len(plan.chunks) == len(other_plan.chunks)
    for chunk, twin in zip(plan.chunks, other_plan.chunks):
        assert chunk.segments == twin.segments
        for name in ("sources", "targets", "slots", "offsets"):
            assert torch.equal(getattr(chunk, name), getattr(twin, name)), name


def test_only_cells_that_an_input_reaches_are_output() -> None:
    sites = Sites(torch.tensor([[0, 0, 0, 0], [0, 3, 3, 3]]).int(), (4, 4, 4), 1)
    _, target = build_kernel_map(sites, Geometry("strided", (1, 1, 1), (2, 2, 2), ZEROS, ONES, ZEROS))
    assert target.coordinates.tolist() == [[0, 0, 0, 0]]


def test_plans_do_not_depend_on_the_chunk(monkeypatch, make_tensor) -> None:
    tensor = make_tensor((9, 9, 9), requires_grad=True)
    layer = SparseConv3d(3, 4, 3, 2, 1).double()
    results = []
    for rows in (7, 16384):
        monkeypatch.setitem(gather_plan.CHUNK_ROWS, "cpu", rows)
        tensor.sites.maps.clear()
        output = layer(tensor).features
        results.append([output, *torch.autograd.grad(output.square().sum(), [tensor.features, layer.weight])])
    for left, right in zip(*results):
        torch.testing.assert_close(left, right)


def test_layers_on_the_same_sites_share_one_map(make_tensor) -> None:
    tensor = make_tensor()
    first, second = SubMConv3d(3, 3, 3).double(), SubMConv3d(3, 3, 3, indice_key="named").double()
    second(first(tensor))
    assert len(tensor.sites.maps) == 1


def test_an_indice_key_carries_the_map_to_the_inverse(make_tensor) -> None:
    tensor = make_tensor()
    down = SparseConv3d(3, 3, 3, 2, 1, indice_key="down").double()
    fine = SparseInverseConv3d(3, 3, 3, "down").double()(down(tensor))
    assert fine.sites is tensor.sites
    assert tensor.maps == {}, "a layer must not write into its input"
    assert fine.maps["down"].source is tensor.sites


def test_a_pool_can_be_inverted_too(make_tensor) -> None:
    tensor = make_tensor()
    pooled = SparseMaxPool3d(2, indice_key="pool")(tensor)
    assert SparseInverseConv3d(3, 3, 2, "pool").double()(pooled).sites is tensor.sites


def test_wrong_use_of_a_key_is_named(make_tensor) -> None:
    tensor = make_tensor()
    subm = SubMConv3d(3, 3, 3, indice_key="a").double()(tensor)
    down = SparseConv3d(3, 3, 3, 2, 1, indice_key="b").double()(subm)
    with pytest.raises(ValueError, match="no layer before this one recorded indice_key 'c'; recorded: a, b"):
        SparseInverseConv3d(3, 3, 3, "c").double()(down)
    with pytest.raises(ValueError, match="submanifold layer, which has no inverse"):
        SparseInverseConv3d(3, 3, 3, "a").double()(down)
    with pytest.raises(ValueError, match="must equal the inverted layer's"):
        SparseInverseConv3d(3, 3, 2, "b").double()(down)
    other = SparseConv3d(3, 3, 3, 2, 1).double()(down)
    with pytest.raises(ValueError, match="does not lie on the output sites"):
        SparseInverseConv3d(3, 3, 3, "b").double()(other)
    with pytest.raises(ValueError, match="'a' is taken by a layer on other sites"):
        SubMConv3d(3, 3, 3, indice_key="a").double()(down)
    with pytest.raises(ValueError, match="'a' is taken by a layer on Geometry"):
        SubMConv3d(3, 3, 5, indice_key="a").double()(subm)


@pytest.mark.parametrize(
    "build", [lambda: SubMConv3d(3, 4, 3), lambda: SparseConv3d(3, 4, 3, 2), lambda: SparseAvgPool3d(2)]
)
def test_maps_made_in_a_prediction_serve_a_training(make_tensor, build) -> None:
    layer, tensor = build(), make_tensor(dtype=torch.float32, requires_grad=True)
    with torch.inference_mode():
        predicted = layer(tensor).features
    trained = layer(tensor).features
    torch.testing.assert_close(trained, predicted.clone())
    trained.sum().backward()
    assert tensor.features.grad.any()


def test_far_coordinates_cost_no_table(monkeypatch) -> None:
    """Two voxels twenty million cells apart; a table of positions would take gigabytes."""
    monkeypatch.setattr(map_search, "_position_table", None)
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 20_000_000]]).int()
    tensor = SparseTensor(torch.ones(2, 1), coordinates, (2, 2, 20_000_002), 1)
    result = SparseConv3d(1, 1, 2, 2)(tensor)
    assert result.coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 0, 10_000_000]]
