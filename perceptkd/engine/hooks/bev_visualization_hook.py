"""Pictures of what a BEV detector predicts in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from perceptkd.core.errors import InputError
from perceptkd.registry import HOOKS


@HOOKS.register_module()
class BEVVisualizationHook(Hook):
    """Draws the predictions of a test over the truth, as PNG files; ``tools/test.py --show-dir`` switches it on.

    ``<sample>_bev.png`` is the scene from above, as far as the model sees, ``<sample>_cameras.png`` all images. They
    show every sensor of the data set, whichever of them the model reads. The arguments are named as those of mmdet3d's
    ``Det3DVisualizationHook``.

    Args:
        draw: Whether to draw at all.
        interval: Draw the samples of the first of every ``interval`` batches.
        score_thr: Predictions with a lower score are left out.
        test_out_dir: Folder of the pictures, under the run's log directory unless it is absolute.
    """

    def __init__(
        self, *, draw: bool = False, interval: int = 1, score_thr: float = 0.3, test_out_dir: str = "pictures"
    ) -> None:
        if interval < 1:
            raise InputError(f"BEVVisualizationHook draws every interval-th batch: {interval=} must be 1 or more")
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.test_out_dir = test_out_dir

    def before_test(self, runner: Runner) -> None:
        """Say where the pictures are."""
        if self.draw:
            runner.logger.info(f"Pictures go to {self._folder(runner)}")

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the samples of a batch."""
        if self.draw and batch_idx % self.interval == 0:
            for sample in outputs or ():
                self._draw(runner, sample)

    def _draw(self, runner: Runner, sample: Any) -> None:
        from perceptkd.visualization import draw_bev, draw_cameras
        from perceptkd.visualization.bev import area_of, forward_axis
        from perceptkd.visualization.boxes import TRUTH
        from perceptkd.visualization.frames import read_cameras, read_points, truth_of

        dataset = runner.test_dataloader.dataset
        info = record_of(dataset, sample)
        truth, (images, calibration) = truth_of(sample), read_cameras(info)
        boxes = {} if truth is None else {TRUTH: truth}
        boxes["predicted"] = sample.pred_instances_3d
        path = self._folder(runner) / f"{sample.sample_idx:06d}"
        options = {"class_names": dataset.metainfo["classes"], "score_threshold": self.score_thr}
        bev_options = {
            "title": f"sample {sample.token}",
            "area_m": area_of(runner.cfg.get("model", {})),
            "forward": forward_axis(dataset.metainfo),
            **options,
        }
        draw_bev(f"{path}_bev.png", read_points(info), boxes, **bev_options)
        if images:
            draw_cameras(f"{path}_cameras.png", images, boxes, calibration, **options)

    def _folder(self, runner: Runner) -> Path:
        return Path(runner.work_dir, runner.timestamp, self.test_out_dir)


def record_of(dataset: Any, sample: Any) -> Mapping[str, Any]:
    """The data set's record of a tested sample.

    Raises:
        InputError: The sample is not one of a BEV detector's, or the data set numbers its samples in another way.
    """
    if "pred_instances_3d" not in sample or "token" not in sample:
        raise InputError(
            "perceptkd.BEVVisualizationHook draws 3D boxes on samples of perceptkd.PackBEVInputs, which these are not; "
            "for an mmdet detector use default_hooks.visualization.type=mmdet.DetVisualizationHook and "
            "visualizer.type=mmdet.DetLocalVisualizer"
        )
    info = dataset.get_data_info(sample.sample_idx)
    if info["token"] != sample.token:
        raise InputError(
            f"sample {sample.token} is not number {sample.sample_idx} of the test data: several data sets are joined "
            "there; draw them one at a time"
        )
    return info
