"""PAConv's assembly of neighbour features against a loop, its gradients, and mmcv and mmdet3d on top."""

import pytest
import torch
from torch import Tensor

from perceptkd.ops.assign_score_withk import assign_score_withk

BATCH, CENTRES, NEIGHBOURS, MATRICES, POINTS, CHANNELS = 2, 4, 3, 5, 6, 7


def random_case(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, points, centres and neighbours, of which some lie outside."""
    neighbours = torch.randint(0, POINTS, (BATCH, CENTRES, NEIGHBOURS))
    neighbours[0, 1, 2], neighbours[1, 0, 1] = -1, POINTS
    scores = torch.rand(BATCH, CENTRES, NEIGHBOURS, MATRICES, dtype=dtype, device=device)
    points, centres = torch.rand(2, BATCH, POINTS, MATRICES, CHANNELS, dtype=dtype, device=device)
    return scores, points, centres, neighbours.to(device)


def test_equals_a_loop(device: str) -> None:
    scores, points, centres, neighbours = (part.cpu() for part in random_case(torch.float64, device))
    expected = torch.zeros(BATCH, CHANNELS, CENTRES, NEIGHBOURS, dtype=torch.float64)
    for b in range(BATCH):
        for n in range(CENTRES):
            for k in range(NEIGHBOURS):
                centre, neighbour = int(neighbours[b, n, 0]), int(neighbours[b, n, k])
                if not 0 <= neighbour < POINTS:
                    continue
                for m in range(MATRICES):
                    difference = points[b, neighbour, m] - centres[b, centre, m]
                    expected[b, :, n, k] += scores[b, n, k, m] * difference
    moved = (part.to(device) for part in (scores, points, centres, neighbours))
    torch.testing.assert_close(assign_score_withk(*moved).cpu(), expected)


def test_neighbours_of_a_centre_outside_give_nothing() -> None:
    scores, points, centres, neighbours = random_case(torch.float64, "cpu")
    neighbours[0, 0, 0] = POINTS
    found = assign_score_withk(scores, points, centres, neighbours)
    assert not found[0, :, 0].any()
    assert found[0, :, 2].all()


def test_gradcheck(device: str) -> None:
    *inputs, neighbours = random_case(torch.float64, device)
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(lambda *values: assign_score_withk(*values, neighbours), leaves)


def test_without_points_every_neighbour_lies_outside(device: str) -> None:
    scores, points, centres, neighbours = random_case(torch.float64, device)
    leaves = [part.clone().requires_grad_() for part in (scores, points[:, :0], centres[:, :0])]
    found = assign_score_withk(*leaves, neighbours)
    assert found.shape == (BATCH, CHANNELS, CENTRES, NEIGHBOURS)
    assert not found.any()
    gradients = torch.autograd.grad(found.sum(), leaves)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in leaves]
    assert not gradients[0].any()


def test_mmcv_function_and_its_backward(device: str) -> None:
    from mmcv.ops import assign_score_withk as mmcv_assign

    *inputs, neighbours = random_case(torch.float32, device)
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    theirs, ours = mmcv_assign(*leaves, neighbours, "sum"), assign_score_withk(*leaves, neighbours)
    assert torch.equal(theirs, ours)
    weight = torch.rand_like(ours)
    gradients = torch.autograd.grad((theirs * weight).sum(), leaves)
    for gradient, expected in zip(gradients, torch.autograd.grad((ours * weight).sum(), leaves)):
        torch.testing.assert_close(gradient, expected)
    with pytest.raises(ValueError, match=r"aggregate must be 'sum' \(0\), got 2"):
        mmcv_assign(*leaves, neighbours, "max")


def test_equals_mmdet3ds_form_without_the_op(device: str) -> None:
    """assign_score multiplies the gathered features of each neighbour, less those of its centre, by their scores."""
    from mmdet3d.models.layers.paconv.utils import assign_score

    scores, points, centres, neighbours = random_case(torch.float32, device)
    neighbours = neighbours.clamp(0, POINTS - 1)
    clouds = torch.arange(BATCH, device=device)[:, None, None]
    gathered = points[clouds, neighbours] - centres[clouds, neighbours[..., :1]]
    expected = assign_score(scores, gathered).permute(0, 3, 1, 2)
    torch.testing.assert_close(assign_score_withk(scores, points, centres, neighbours), expected)


def test_half_types_empty_input_and_wrong_arguments() -> None:
    scores, points, centres, neighbours = random_case(torch.float32, "cpu")
    found = assign_score_withk(scores.half(), points.half(), centres.half(), neighbours)
    assert found.dtype == torch.float16
    expected = assign_score_withk(scores.half().float(), points.half().float(), centres.half().float(), neighbours)
    assert torch.equal(found, expected.half())
    assert assign_score_withk(scores[:, :0], points, centres, neighbours[:, :0]).shape == (
        BATCH,
        CHANNELS,
        0,
        NEIGHBOURS,
    )
    assert assign_score_withk(scores[:0], points[:0], centres[:0], neighbours[:0]).shape[0] == 0
    with pytest.raises(
        ValueError, match=r"points must be .* \[2, P, 5, O\], got shape \(2, 6, 4, 7\) and dtype float32"
    ):
        assign_score_withk(scores, points[:, :, :4], centres, neighbours)
    with pytest.raises(ValueError, match=r"neighbours must be an integer tensor \[2, 4, 3\], got shape \(2, 4, 2\)"):
        assign_score_withk(scores, points, centres, neighbours[..., :2])
