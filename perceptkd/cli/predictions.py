"""Frames of a validation set with what trained models predict on them, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from perceptkd.core.source import load_config
from perceptkd.visualization.frames import Frame, read_cameras, truth_of


class Frames:
    """The validation set of a configuration, with all sensors: student and teacher look at the same samples.

    Args:
        config_path: Configuration whose ``val_dataloader`` names the frames and whose ``test_pipeline`` loads every
            sensor.

    Attributes:
        class_names: Names of the labels.
        area_m: Edges of what the student sees ``(x0, y0, x1, y1)``, in metres.
    """

    def __init__(self, config_path: str) -> None:
        from mmengine.registry import DATASETS

        import perceptkd.registry  # noqa: F401  (patches what the datasets import)
        from perceptkd.engine.student import student_config
        from perceptkd.visualization.bev import area_of

        config = load_config(config_path)
        init_default_scope(config.get("default_scope", "mmdet3d"))
        self._dataset = DATASETS.build({**config.val_dataloader.dataset, "pipeline": config.test_pipeline})
        self.class_names: Sequence[str] = self._dataset.metainfo["classes"]
        self.area_m = area_of(student_config(config).model)

    def __getitem__(self, index: int) -> Frame:
        sample = self._dataset[index]
        images, calibration = read_cameras(self._dataset.get_data_info(index))
        return Frame(sample["inputs"]["points"], truth_of(sample["data_samples"]), images, calibration)

    def busiest(self, count: int) -> list[int]:
        """Indices of the frames with the most annotated boxes, at most one in every ten neighbours."""
        boxes = [len(self._dataset.get_data_info(index).get("instances", [])) for index in range(len(self._dataset))]
        chosen: list[int] = []
        for index in np.argsort(boxes)[::-1]:
            if all(abs(int(index) - other) >= 10 for other in chosen):
                chosen.append(int(index))
        return sorted(chosen[:count])

    def predict(self, work_dir: Path, checkpoint: Path | str, indices: Sequence[int]) -> list[Any]:
        """What the model of a run predicts on some frames.

        Args:
            work_dir: Folder of the run, with its config.
            checkpoint: The run's weights.
            indices: Which frames.

        Returns:
            One ``InstanceData`` with ``bboxes_3d``, ``scores_3d`` and ``labels_3d`` per index.
        """
        from mmengine.registry import MODELS

        from perceptkd.engine.checkpoints import load_student
        from perceptkd.engine.student import student_config

        config = student_config(Config.fromfile(str(next(work_dir.glob("*.py")))))
        model = MODELS.build(config.model)
        load_student(model, checkpoint)
        model.eval()
        found = []
        with torch.no_grad():
            for index in indices:
                (sample,) = model.test_step(pseudo_collate([self._dataset[index]]))
                found.append(sample.pred_instances_3d)
        return found
