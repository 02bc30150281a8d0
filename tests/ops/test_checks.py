"""The shared argument checks: what they let pass and what their errors say."""

import pytest
import torch

from perceptkd.ops.checks import check_rows, check_same_device, check_tensor, check_vector


def test_rows() -> None:
    check_rows("points", torch.zeros(0, 4), at_least=3)
    check_rows("boxes", torch.zeros(2, 7, dtype=torch.bfloat16), 7)
    with pytest.raises(
        ValueError, match=r"boxes must be a floating point tensor \[N, 7\], got shape \(2, 8\) and dtype f"
    ):
        check_rows("boxes", torch.zeros(2, 8), 7)
    with pytest.raises(ValueError, match=r"points must be .* \[N, >=3\], got shape \(2, 4\) and dtype int64"):
        check_rows("points", torch.zeros(2, 4, dtype=torch.int64), at_least=3)
    with pytest.raises(ValueError, match=r"got shape \(2, 2, 7\)"):
        check_rows("boxes", torch.zeros(2, 2, 7), 7)


def test_vector() -> None:
    check_vector("scores", torch.zeros(3), 3)
    with pytest.raises(ValueError, match=r"scores must be a vector of 3 elements, got shape \(3, 1\)"):
        check_vector("scores", torch.zeros(3, 1), 3)


def test_tensor() -> None:
    check_tensor("points", torch.zeros(2, 0, 3), ("B", "N", 3))
    check_tensor("distances", torch.zeros(2, 4, 4), ("B", "N", "N"))
    check_tensor("counts", torch.zeros(4, dtype=torch.int32), (4,), kind="integer")
    with pytest.raises(
        ValueError, match=r"points must be a floating point tensor \[B, N, 3\], got shape \(2, 3\) and d"
    ):
        check_tensor("points", torch.zeros(2, 3), ("B", "N", 3))
    with pytest.raises(ValueError, match=r"distances must be .* \[B, N, N\], got shape \(2, 4, 5\)"):
        check_tensor("distances", torch.zeros(2, 4, 5), ("B", "N", "N"))
    for wrong in (torch.zeros(4), torch.zeros(4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"counts must be an integer tensor \[4\], got shape \(4,\) and dtype "):
            check_tensor("counts", wrong, (4,), kind="integer")


def test_same_device() -> None:
    here, elsewhere = torch.zeros(1), torch.zeros(1, device="meta")
    check_same_device(boxes=here, scores=here)
    with pytest.raises(ValueError, match="must lie on one device, got boxes on cpu, scores on meta"):
        check_same_device(boxes=here, scores=elsewhere)
