"""The base of errors about what a user gave us, and how their messages list things."""

from collections.abc import Sequence


class InputError(ValueError):
    """Data, a config or an option that cannot be used; the message says what is wrong and how to put it right.

    Commands print the message alone, without a traceback.
    """


def list_some(names: Sequence[str], *, limit: int = 8, separator: str = ", ") -> str:
    """The first names, and how many more there are.

    >>> list_some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more
