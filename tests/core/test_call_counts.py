"""Contract 2: a teacher that stops early never loses a call without a word."""

from typing import Any

import pytest

from perceptkd.core import teacher as teacher_module
from perceptkd.core.tap import TapError


@pytest.mark.parametrize("now", [1, 3])
def test_contract_02_a_recheck_refuses_more_calls_and_fewer_calls_than_before(
    distill_model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch, now: int
) -> None:
    monkeypatch.setattr(teacher_module, "RECHECK_EVERY", 2)
    taps = {"feature": "neck", "score": "bbox_head.score"}
    holder = distill_model(distiller={"teacher_taps": taps}).distillers.teachers["teacher"]
    head = holder.model.bbox_head
    holder.collect(batch)  # two levels, two calls
    head.forward = lambda levels: [head.score(levels[0]) for _ in range(now)]
    with pytest.raises(TapError, match=rf"'bbox_head.score': 2.* before.*'bbox_head.score': {now}.* now.*stop_early=F"):
        holder.collect(batch)


def test_contract_02_a_recheck_that_finds_the_same_calls_lets_the_teacher_stop_again(
    distill_model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "RECHECK_EVERY", 2)
    holder = distill_model(distiller={"teacher_taps": {"feature": "backbone"}}).distillers.teachers["teacher"]
    for finished in (1, 2, 2, 3):
        holder.collect(batch)
        assert len(holder.model.calls) == finished
