"""The KITTI object evaluation: AP and orientation similarity as the official C++ code computes them, on arrays.

The official code (``evaluate_object`` of the KITTI object devkit) compares all boxes of all frames anew at each of 41
scores. Here the overlaps are found once, only for boxes of the same frame that touch, and numba repeats the official
assignment on those pairs.

The rules, for one class, difficulty and kind of overlap ('bbox', 'bev' or '3d'):

- An annotated box of the class counts if its occlusion and truncation are within the difficulty's limits and its image
  box is higher than the least height; else it is ignored, as are those of the neighbouring class (Van for Car,
  Person_sitting for Pedestrian). Ignored ones may take a prediction, which is then neither right nor wrong, and are
  never missed.
- A predicted box whose image box is lower than the least height is ignored, whatever its class: it may be taken, also
  by annotated boxes of other classes, and is never wrong.
- Annotated boxes choose in the order of the label file, among what none took before and overlaps them by more than the
  class's limit. To find the scores to evaluate, each takes the highest score; to count at one of these scores, the
  largest overlap that is not ignored, else the first that is. Of equals the first of the result file is taken.
- A prediction that nothing took is wrong, unless more of its image box than the limit lies in a DontCare region. (The
  official code compares DontCare with every kind of box; in KITTI it has none but the image box.)
- The scores are those of right predictions whose recall comes nearest to 0, 1/40, ..., 1, in steps. The precision at
  each becomes the largest from there on. AP40 is the mean of the last 40, AP11 that of every fourth of the 41.

With n < 41 counted boxes there are n scores only and the rest of the curve is 0: a perfect detector gets an AP40 of
100 (n - 1) / 40. mmdet3d 1.4 does the same, but asks for a CUDA device, intersects in float32, and reports orientation
similarity as soon as one prediction has an orientation; officially all must have one. Where nothing is right or wrong
at a score, both divide 0 by 0; here the precision is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_files import DONT_CARE
from perceptkd.evaluation.kitti_boxes import TYPES, KittiTable
from perceptkd.evaluation.kitti_overlaps import Pairs, find_pairs, shares_in_regions

EVALUATED = ("Car", "Pedestrian", "Cyclist")
KINDS = ("bbox", "bev", "3d")
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
NO_ORIENTATION = -10.0
NUM_POSITIONS = 41

_HIGH = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
_LOW = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
#: Overlaps that a match exceeds, by kind and class: the official ones, and mmdet3d's second set.
LIMITS = {
    "strict": {"bbox": _HIGH, "bev": _HIGH, "3d": _HIGH},
    "loose": {"bbox": _HIGH, "bev": _LOW, "3d": _LOW},
}

_COUNTED, _IGNORED, _OTHER = 0, 1, 2


@dataclass(frozen=True)
class Difficulty:
    """Limits of what counts: the image box is higher than the height [px], the others are at most theirs."""

    min_height_px: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = {
    "easy": Difficulty(40, 0, 0.15),
    "moderate": Difficulty(25, 1, 0.3),
    "hard": Difficulty(25, 2, 0.5),
}


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class, difficulty and kind of overlap.

    Attributes:
        precision: At recall 0, 1/40, ..., 1, [41].
        similarity: Orientation similarity, [41]; None for other overlaps than 'bbox', or without orientations.
        num_truth: Annotated boxes that count.
    """

    precision: np.ndarray
    similarity: np.ndarray | None
    num_truth: int


def ap11(values: np.ndarray) -> float:
    """Mean [%] of a curve [41] at the 11 recalls 0, 0.1, ..., 1."""
    return float(values[::4].sum() / 11 * 100)


def ap40(values: np.ndarray) -> float:
    """Mean [%] of a curve [41] at the 40 recalls 1/40, ..., 1.

    >>> ap40(np.ones(41))
    100.0
    """
    return float(values[1:].sum() / 40 * 100)


def evaluate(
    predictions: KittiTable,
    truth: KittiTable,
    *,
    classes: Sequence[str] = EVALUATED,
    limits: Mapping[str, Mapping[str, Mapping[str, float]]] = LIMITS,
) -> dict[tuple[str, str, str, str], Curve]:
    """Scores predictions.

    Args:
        predictions: Of any types, finite. Within a frame the order decides between equals.
        truth: Annotated boxes, those of DontCare included.
        classes: What is evaluated, of Car, Pedestrian and Cyclist.
        limits: Sets of overlaps that a match exceeds, by kind and class.

    Returns:
        Curves by (set of limits, class, difficulty, kind of overlap).
    """
    if not classes or not set(classes) <= set(EVALUATED):
        raise InputError(f"KITTI evaluates {', '.join(EVALUATED)}, or some of them; not {list(classes)}")
    predictions = predictions[np.argsort(predictions.frame, kind="stable")]
    truth = truth[np.argsort(truth.frame, kind="stable")]
    is_region = truth.label == TYPES.index(DONT_CARE)
    region_shares = shares_in_regions(predictions, truth[is_region])
    truth = truth[~is_region]
    pairs = find_pairs(predictions, truth)
    has_orientation = not (predictions.alpha == NO_ORIENTATION).any()
    turn = truth.alpha[pairs["bbox"].truth] - predictions.alpha[pairs["bbox"].detection]
    similarity = (1 + np.cos(turn)) / 2

    curves = {}
    for name in classes:
        for difficulty, rules in DIFFICULTIES.items():
            truth_state = _truth_states(truth, name, rules)
            states = _prediction_states(predictions, name, rules)
            for kind in KINDS:
                found = pairs[kind]
                is_possible = (truth_state[found.truth] != _OTHER) & (states[found.detection] != _OTHER)
                for set_name, minimum in limits.items():
                    limit = minimum[kind][name]
                    may_be_wrong = states == _COUNTED
                    if kind == "bbox":
                        may_be_wrong &= region_shares <= limit
                    kept = is_possible & (found.overlap > limit)
                    curves[set_name, name, difficulty, kind] = _curve(
                        found.select(kept),
                        similarity[kept] if kind == "bbox" and has_orientation else None,
                        truth_state,
                        states,
                        predictions.score,
                        may_be_wrong,
                    )
    return curves


def _truth_states(truth: KittiTable, name: str, rules: Difficulty) -> np.ndarray:
    is_of_class = truth.label == TYPES.index(name)
    is_near_class = is_of_class | (truth.label == TYPES.index(NEIGHBOURS.get(name, name)))
    is_within = (
        (truth.bbox[:, 3] - truth.bbox[:, 1] > rules.min_height_px)
        & (truth.occlusion <= rules.max_occlusion)
        & (truth.truncation <= rules.max_truncation)
    )
    return np.where(is_of_class & is_within, _COUNTED, np.where(is_near_class, _IGNORED, _OTHER))


def _prediction_states(predictions: KittiTable, name: str, rules: Difficulty) -> np.ndarray:
    is_low = np.abs(predictions.bbox[:, 3] - predictions.bbox[:, 1]) < rules.min_height_px
    return np.where(is_low, _IGNORED, np.where(predictions.label == TYPES.index(name), _COUNTED, _OTHER))


def _curve(
    pairs: Pairs,
    similarity: np.ndarray | None,
    truth_state: np.ndarray,
    states: np.ndarray,
    scores: np.ndarray,
    may_be_wrong: np.ndarray,
) -> Curve:
    """The curve of one class, difficulty and limit, from the pairs above the limit and their similarities."""
    num_truth = int((truth_state == _COUNTED).sum())
    right = np.sort(_scores_of_right(pairs, truth_state, states, scores))[::-1]
    thresholds = _sample_scores(right, num_truth)
    pair_similarity = np.zeros(len(pairs.truth)) if similarity is None else similarity
    num_right, num_taken, similar = _count(
        pairs, pair_similarity, truth_state, states, scores, may_be_wrong, thresholds
    )
    alarms = np.sort(scores[may_be_wrong])
    num_wrong = len(alarms) - np.searchsorted(alarms, thresholds, side="left") - num_taken
    judged = np.maximum(num_right + num_wrong, 1)
    return Curve(
        precision=_from_there_on(num_right / judged),
        similarity=None if similarity is None else _from_there_on(similar / judged),
        num_truth=num_truth,
    )


def _from_there_on(values: np.ndarray) -> np.ndarray:
    """The largest of each value and those behind it, and 0 up to the 41 positions."""
    curve = np.zeros(NUM_POSITIONS)
    curve[: len(values)] = np.maximum.accumulate(values[::-1])[::-1]
    return curve


@njit(cache=True, nogil=True)
def _scores_of_right(pairs: Pairs, truth_state: np.ndarray, states: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores of right predictions, when each annotated box takes the highest score."""
    is_taken = np.zeros(len(scores), np.bool_)
    right = np.empty(len(pairs.truth), np.float64)
    count = pair = 0
    while pair < len(pairs.truth):
        row, best = pairs.truth[pair], -1
        while pair < len(pairs.truth) and pairs.truth[pair] == row:
            j = pairs.detection[pair]
            if not is_taken[j] and (best < 0 or scores[j] > scores[best]):
                best = j
            pair += 1
        if best >= 0:
            is_taken[best] = True
            if truth_state[row] == _COUNTED and states[best] == _COUNTED:
                right[count] = scores[best]
                count += 1
    return right[:count]


@njit(cache=True, nogil=True)
def _sample_scores(scores: np.ndarray, num_truth: int) -> np.ndarray:
    """Those of the falling scores whose recalls are nearest to 0, 1/40, ..., 1; the last one always."""
    sampled = np.empty(len(scores), np.float64)
    count, recall = 0, 0.0
    for i in range(len(scores)):
        own, following = (i + 1) / num_truth, (i + 2) / num_truth
        if i == len(scores) - 1 or following - recall >= recall - own:
            sampled[count] = scores[i]
            count += 1
            recall += 1 / (NUM_POSITIONS - 1)
    return sampled[:count]


@njit(cache=True, nogil=True)
def _count(
    pairs: Pairs,
    similarity: np.ndarray,
    truth_state: np.ndarray,
    states: np.ndarray,
    scores: np.ndarray,
    may_be_wrong: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each threshold: right predictions, predictions taken of those that may be wrong, summed similarity of right.

    Each annotated box takes the largest overlap that is not ignored, else the first that is.
    """
    num_right = np.zeros(len(thresholds), np.int64)
    num_taken = np.zeros(len(thresholds), np.int64)
    similar = np.zeros(len(thresholds), np.float64)
    is_taken = np.empty(len(scores), np.bool_)
    for t in range(len(thresholds)):
        is_taken[:] = False
        pair = 0
        while pair < len(pairs.truth):
            row, best = pairs.truth[pair], -1
            while pair < len(pairs.truth) and pairs.truth[pair] == row:
                j = pairs.detection[pair]
                if not is_taken[j] and scores[j] >= thresholds[t]:
                    is_better = best < 0
                    if not is_better and states[j] == _COUNTED:
                        is_ignored = states[pairs.detection[best]] == _IGNORED
                        is_better = is_ignored or pairs.overlap[pair] > pairs.overlap[best]
                    if is_better:
                        best = pair
                pair += 1
            if best < 0:
                continue
            j = pairs.detection[best]
            is_taken[j] = True
            num_taken[t] += may_be_wrong[j]
            if truth_state[row] == _COUNTED and states[j] == _COUNTED:
                num_right[t] += 1
                similar[t] += similarity[best]
    return num_right, num_taken, similar
