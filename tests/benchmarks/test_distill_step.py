"""benchmarks/distill_step.py measures a teacher that runs and one that is read from a store of the same fingerprint."""

from pathlib import Path

import distill_step
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope


@pytest.mark.slow
def test_every_row_can_be_measured(tiny_world: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    config = Config.fromfile(distill_step.CONFIG)
    data = {"data_root": str(tiny_world), "ann_file": "nuscenes_infos_mini_train.pkl"}
    config.merge_from_dict({"train_dataloader": {"dataset": {"dataset": data}}})
    init_default_scope(config.default_scope)
    rows = distill_step.rows_of(config, 1, pairs=1)
    times, memory = rows[:4], {row["name"].split(",")[0].removeprefix("peak memory of a "): row for row in rows[4:]}
    assert [row["name"].split(",")[0] for row in times] == [
        distill_step.DISTILLED,
        distill_step.STUDENT,
        distill_step.TEACHER,
        distill_step.CACHED,
    ]
    assert {row["unit"] for row in times} == {"ms"}
    assert {row["unit"] for row in memory.values()} == {"MiB"}
    assert all(row["ours"] > 0 for row in rows)
    peaks = {kind: row["ours"] for kind, row in memory.items()}
    assert peaks[distill_step.TEACHER] < peaks[distill_step.STUDENT] < peaks[distill_step.DISTILLED]
    assert peaks[distill_step.CACHED] < peaks[distill_step.DISTILLED]
