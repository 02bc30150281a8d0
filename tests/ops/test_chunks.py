"""Cutting work into parts that fit a limit."""

from hypothesis import given
from hypothesis import strategies as st

from perceptkd.ops.chunks import chunk


@given(count=st.integers(0, 200), each=st.integers(1, 50), limit=st.integers(1, 500))
def test_slices_cover_everything_once_and_fit(count: int, each: int, limit: int) -> None:
    parts = chunk(count, each, limit)
    covered = [item for part in parts for item in range(part.start, part.stop)]
    assert covered == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert all(size * each <= limit or size == 1 for size in sizes)
    # no part could have taken one more
    assert all((size + 1) * each > limit for size in sizes[:-1])
