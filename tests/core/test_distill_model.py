"""DistillModel as MMEngine, mmdet users and checkpoints see it."""

from typing import Any


def test_smoke(distill_model: Any, train_step: Any, batch: Any) -> None:
    model = distill_model()
    logs = train_step(model, batch)
    assert logs["loss"] == logs["loss_cls"] + logs["loss_kd/toydistiller/feature"]
    assert len(model.val_step(batch)) == 2
