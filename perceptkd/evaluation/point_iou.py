"""Intersection over union of point-wise segmentation, from confusion matrices of integers, which add up exactly.

Shapes: N points, K classes.
"""

from collections.abc import Sequence

import numpy as np

from perceptkd.core.errors import InputError


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int, ignore_index: int) -> np.ndarray:
    """Counts how often a point of one class was given another.

    A prediction of ``ignore_index`` beyond the classes says "none of them" (Cylinder3D's 20th output): the point counts
    as missed, and as nobody's false alarm. mmdet3d's ``seg_eval`` counts it as a point of the next class instead.

    Args:
        labels: True classes [N]; ``ignore_index`` marks points that do not count.
        predicted: Predicted classes [N].
        num_classes: K.
        ignore_index: A class of its own, or one of the K that is not evaluated.

    Returns:
        [K, K + 1] int64: true class, then predicted class, the last column for "none of them".

    Raises:
        InputError: A label or a prediction is neither a class nor ``ignore_index``, or the sizes differ.

    >>> confusion_matrix(np.array([0, 1, 1, 9]), np.array([0, 0, 1, 1]), num_classes=2, ignore_index=9).tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    labels, predicted = np.asarray(labels).ravel(), np.asarray(predicted).ravel()
    if labels.shape != predicted.shape:
        raise InputError(
            f"{len(predicted)} points were predicted and {len(labels)} have labels: points must not be dropped or "
            "sampled on the way to the model in the test pipeline"
        )
    for name, values in (("labels", labels), ("predictions", predicted)):
        strange = np.unique(values[((values < 0) | (values >= num_classes)) & (values != ignore_index)])
        if len(strange):
            raise InputError(
                f"{name} {strange[:5].tolist()} are no classes (0 to {num_classes - 1}) and not the ignore_index "
                f"{ignore_index}: check the data set's label mapping and the model's num_classes"
            )
    counted = labels != ignore_index
    column = np.where((predicted >= 0) & (predicted < num_classes), predicted, num_classes)
    cell = labels[counted].astype(np.int64) * (num_classes + 1) + column[counted]
    return np.bincount(cell, minlength=num_classes * (num_classes + 1)).reshape(num_classes, num_classes + 1)


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """Correct points over points of the class or predicted as it, by class [K]; NaN for a class with neither.

    >>> intersection_over_union(np.array([[3, 1, 0], [1, 2, 1]])).round(3).tolist()
    [0.6, 0.4]
    """
    correct = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(axis=1) + confusion.sum(axis=0)[: len(confusion)] - correct
    return np.divide(correct, union, out=np.full(len(correct), np.nan), where=union > 0)


def summarise(confusion: np.ndarray, *, classes: Sequence[str], ignore_index: int) -> dict[str, float]:
    """The figures of one confusion matrix, under the names that :class:`PointIoUMetric` reports.

    A class that nothing is and nothing was predicted as is left out of the means, as mmdet3d's ``seg_eval`` does.

    Raises:
        InputError: No point has a label.
    """
    if not confusion.any():
        raise InputError("no point has a label that counts: there is nothing to evaluate")
    iou = intersection_over_union(confusion)
    if 0 <= ignore_index < len(iou):
        iou[ignore_index] = np.nan
    points = confusion.sum(axis=1)
    recall = np.diagonal(confusion)[points > 0] / points[points > 0]
    means = {
        "mIoU": np.nanmean(iou),
        "accuracy": np.diagonal(confusion).sum() / points.sum(),
        "class_accuracy": recall.mean(),
        "num_present": np.count_nonzero(~np.isnan(iou)),
    }
    by_class = {f"{name}_IoU": value for name, value in zip(classes, iou, strict=True) if not np.isnan(value)}
    return {name: float(value) for name, value in (means | by_class).items()}
