"""Bounds the memory of intermediates: work is cut into parts of about as many elements as fit a limit."""


def chunk(count: int, elements_each: int, limit: int) -> list[slice]:
    """Slices that cover ``range(count)``, of as many items as stay within the limit, but at least one.

    Args:
        count: number of items.
        elements_each: size of an item's intermediates.
        limit: size that the intermediates of a slice may have together.

    Returns:
        The slices; one empty slice for no items, so that what is computed for it still has the right shape.

    >>> chunk(5, elements_each=3, limit=7)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> chunk(0, elements_each=3, limit=7)
    [slice(0, 0, None)]
    """
    step = max(1, limit // max(1, elements_each))
    return [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]
