"""The KITTI object evaluation once more: the official rules one after the other, box by box, in plain Python.

Nothing here is shared with perceptkd. Boxes come from the lines of label and result files, rotated ones are intersected
by shapely.
"""

from dataclasses import dataclass
from functools import cache
from math import cos, sin

from shapely.geometry import Polygon

MIN_HEIGHT = {"easy": 40, "moderate": 25, "hard": 25}
MAX_OCCLUSION = {"easy": 0, "moderate": 1, "hard": 2}
MAX_TRUNCATION = {"easy": 0.15, "moderate": 0.3, "hard": 0.5}


@dataclass(frozen=True)
class Thing:
    """One line of a label file (15 columns) or of a result file (16)."""

    type: str
    truncation: float
    occlusion: int
    alpha: float
    left: float
    top: float
    right: float
    bottom: float
    height: float
    width: float
    length: float
    x: float
    y: float
    z: float
    rotation_y: float
    score: float = 0.0


def parse(text: str) -> list[Thing]:
    things = []
    for line in text.splitlines():
        name, truncation, occlusion, *numbers = line.split()
        things.append(Thing(name.lower(), float(truncation), int(occlusion), *map(float, numbers)))
    return things


def image_overlap(first: Thing, second: Thing, *, of_first: bool = False) -> float:
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    if width <= 0 or height <= 0:
        return 0.0
    first_area = (first.right - first.left) * (first.bottom - first.top)
    second_area = (second.right - second.left) * (second.bottom - second.top)
    return width * height / (first_area if of_first else first_area + second_area - width * height)


def footprint(thing: Thing) -> Polygon:
    corners = []
    for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        a, b = along * thing.length / 2, across * thing.width / 2
        turn = thing.rotation_y
        corners.append((thing.x + a * cos(turn) + b * sin(turn), thing.z - a * sin(turn) + b * cos(turn)))
    return Polygon(corners)


@cache
def ground_overlap(first: Thing, second: Thing) -> float:
    one, other = footprint(first), footprint(second)
    return one.intersection(other).area / one.union(other).area


@cache
def space_overlap(first: Thing, second: Thing) -> float:
    lowest = min(first.y, second.y)
    highest = max(first.y - first.height, second.y - second.height)
    shared = footprint(first).intersection(footprint(second)).area * max(0.0, lowest - highest)
    volumes = [thing.length * thing.height * thing.width for thing in (first, second)]
    return shared / (sum(volumes) - shared)


OVERLAPS = {"bbox": image_overlap, "bev": ground_overlap, "3d": space_overlap}


def truth_use(thing: Thing, name: str, difficulty: str) -> str:
    """'counted', 'ignored' or 'other'."""
    if thing.type == name:
        is_hard = thing.occlusion > MAX_OCCLUSION[difficulty]
        is_hard = is_hard or thing.truncation > MAX_TRUNCATION[difficulty]
        is_hard = is_hard or thing.bottom - thing.top <= MIN_HEIGHT[difficulty]
        return "ignored" if is_hard else "counted"
    if (name, thing.type) in (("car", "van"), ("pedestrian", "person_sitting")):
        return "ignored"
    return "other"


def detection_use(thing: Thing, name: str, difficulty: str) -> str:
    if abs(thing.bottom - thing.top) < MIN_HEIGHT[difficulty]:
        return "ignored"
    return "counted" if thing.type == name else "other"


class Frame:
    """A frame with the uses of its boxes for one class and difficulty, and all their overlaps."""

    def __init__(self, truth: list[Thing], detections: list[Thing], name: str, difficulty: str, kind: str) -> None:
        self.truth, self.detections = truth, detections
        self.truth_uses = [truth_use(thing, name, difficulty) for thing in truth]
        self.uses = [detection_use(thing, name, difficulty) for thing in detections]
        self.regions = [thing for thing in truth if thing.type == "dontcare"] if kind == "bbox" else []
        self.overlaps = {
            (i, j): OVERLAPS[kind](detections[j], truth[i])
            for i in range(len(truth))
            for j in range(len(detections))
            if self.truth_uses[i] != "other" and self.uses[j] != "other"
        }

    def candidates(self, i: int, limit: float, taken: set[int]) -> list[int]:
        """Which detections an annotated box may take, in the order of the file."""
        if self.truth_uses[i] == "other":
            return []
        free = [j for j in range(len(self.detections)) if j not in taken and self.uses[j] != "other"]
        return [j for j in free if self.overlaps[i, j] > limit]

    def right_scores(self, limit: float) -> list[float]:
        """Scores of right detections when the highest score is taken."""
        taken: set[int] = set()
        found = []
        for i in range(len(self.truth)):
            candidates = self.candidates(i, limit, taken)
            if not candidates:
                continue
            best = candidates[0]
            for j in candidates:
                if self.detections[j].score > self.detections[best].score:
                    best = j
            taken.add(best)
            if self.truth_uses[i] == "counted" and self.uses[best] == "counted":
                found.append(self.detections[best].score)
        return found

    def count(self, limit: float, threshold: float) -> tuple[int, int, float]:
        """Right and wrong detections with at least this score, and the similarity of the right ones' orientations."""
        taken = {j for j, thing in enumerate(self.detections) if thing.score < threshold}
        right, similarity = 0, 0.0
        for i in range(len(self.truth)):
            candidates = self.candidates(i, limit, taken)
            counted = [j for j in candidates if self.uses[j] == "counted"]
            if counted:
                best = max(counted, key=lambda j: self.overlaps[i, j])  # the first of equals
            elif candidates:
                best = candidates[0]
            else:
                continue
            taken.add(best)
            if self.truth_uses[i] == "counted" and self.uses[best] == "counted":
                right += 1
                similarity += (1 + cos(self.truth[i].alpha - self.detections[best].alpha)) / 2
        wrong = 0
        for j, thing in enumerate(self.detections):
            if j in taken or self.uses[j] != "counted":
                continue
            if not any(image_overlap(thing, region, of_first=True) > limit for region in self.regions):
                wrong += 1
        return right, wrong, similarity


def sample_scores(scores: list[float], num_truth: int) -> list[float]:
    """The scores at which the recall is nearest to 0, 1/40, 2/40, ..."""
    scores = sorted(scores, reverse=True)
    sampled = []
    recall = 0.0
    for i, score in enumerate(scores):
        is_last = i == len(scores) - 1
        left = (i + 1) / num_truth
        right = left if is_last else (i + 2) / num_truth
        if right - recall < recall - left and not is_last:
            continue
        sampled.append(score)
        recall += 1 / 40
    return sampled


def evaluate(
    frames: list[tuple[list[Thing], list[Thing]]], name: str, difficulty: str, kind: str, limit: float
) -> tuple[list[float], list[float], int]:
    """Precision and orientation similarity at 41 recalls, and how many annotated boxes count."""
    prepared = [Frame(truth, detections, name.lower(), difficulty, kind) for truth, detections in frames]
    num_truth = sum(frame.truth_uses.count("counted") for frame in prepared)
    scores = sample_scores([score for frame in prepared for score in frame.right_scores(limit)], num_truth)
    precision, similarity = [0.0] * 41, [0.0] * 41
    for position, threshold in enumerate(scores):
        right, wrong, similar = (sum(column) for column in zip(*(f.count(limit, threshold) for f in prepared)))
        if right + wrong:
            precision[position] = right / (right + wrong)
            similarity[position] = similar / (right + wrong)
    for position in range(len(scores)):
        precision[position] = max(precision[position:])
        similarity[position] = max(similarity[position:])
    return precision, similarity, num_truth
