"""Contract 10, first half: a weight is a number or a schedule over progress."""

from typing import Any

import pytest

from perceptkd.core.errors import InputError
from perceptkd.core.weight import build_weight


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (3, [3, 3, 3, 3, 3]),
        ({"type": "constant", "value": 2.0}, [2, 2, 2, 2, 2]),
        ({"type": "warmup", "value": 4.0, "end": 0.5}, [0, 2, 4, 4, 4]),
        ({"type": "linear", "value": 4.0}, [4, 3, 2, 1, 0]),
        ({"type": "linear", "value": 4.0, "begin": 0.5, "final": 2.0}, [4, 4, 4, 3, 2]),
        ({"type": "cosine", "value": 2.0}, [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0]),
        ({"type": "stop", "value": 5.0, "at": 0.5}, [5, 5, 0, 0, 0]),
    ],
)
def test_contract_10_weights_are_numbers_or_schedules(spec: Any, expected: list[float]) -> None:
    weight = build_weight(spec)
    assert [weight(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(expected)


def test_contract_10_only_a_weight_that_never_trains_is_always_zero() -> None:
    assert build_weight(0).always_zero
    assert build_weight({"type": "linear", "value": 0.0}).always_zero
    for spec in (1, {"type": "linear", "value": 0.0, "final": 1.0}, {"type": "stop", "value": 1.0, "at": 0.0}):
        assert not build_weight(spec).always_zero


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "sine", "value": 1.0}, r"type=constant \| warmup \| linear \| cosine \| stop"),
        ({"value": 1.0}, "type="),
        ({"type": "stop", "value": 1.0}, "at"),
        ({"type": "constant", "value": None}, r"'value': None.* does not fit"),
        (None, r"a number or a schedule.*got None\. 0 switches a term off"),
        ("1", "a number or a schedule.*got '1'"),
        (-1.0, "not negative"),
        (float("nan"), "finite"),
    ],
)
def test_contract_10_an_unreadable_weight_says_what_fits(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_weight(spec)
