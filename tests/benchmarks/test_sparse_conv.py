"""benchmarks/sparse_conv.py times nothing whose output or gradients are not spconv's."""

import pytest
import sparse_conv
import torch


def test_outcomes_that_differ_end_the_run() -> None:
    right = torch.tensor([1.0, -2.0])
    sparse_conv.check_same(lambda: [right, right], lambda: [right, right])
    with pytest.raises(SystemExit, match="results differ by"):
        sparse_conv.check_same(lambda: [right, right + 1], lambda: [right, right])
    with pytest.raises(SystemExit, match="results differ by"):
        sparse_conv.check_same(lambda: [right * torch.nan], lambda: [right])


def test_spconv_is_asked_on_one_thread() -> None:
    threads = torch.get_num_threads()
    assert sparse_conv.on_one_thread(lambda: [torch.tensor(torch.get_num_threads())]) == [torch.tensor(1)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("with_peer", [False, True])
def test_every_row_can_be_measured(with_peer: bool) -> None:
    spconv = sparse_conv.load_spconv() if with_peer else None
    if with_peer and spconv is None:
        pytest.skip("spconv is not installed")
    cells = sparse_conv.occupied_cells((torch.rand(500, 3) * torch.tensor([4.0, 4.0, 2.0])).numpy())
    rows = sparse_conv.map_rows(cells, spconv, 1)
    for dtype in (torch.float32, torch.bfloat16):
        rows += sparse_conv.layer_rows(cells, 8, dtype, spconv, 1)
    rows += sparse_conv.encoder_rows(cells, spconv, 1)
    assert len({row["name"] for row in rows}) == len(rows) == 8
    assert all((row["peer"] is not None) == with_peer for row in rows)
    assert ("ours folds" in rows[-1]["note"]) == with_peer
