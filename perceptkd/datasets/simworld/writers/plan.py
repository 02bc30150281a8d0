"""What a simulated data set consists of: scene names by split, seeds and sizes, and the manifest that records them."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuscenes.utils.splits import create_splits_scenes

from perceptkd.datasets.simworld.spec import WORLD_VERSION, WorldSpec

MANIFEST = "world.json"
MINI, TRAINVAL = "v1.0-mini", "v1.0-trainval"
#: Splits of a world by their names in KITTI and SemanticKITTI.
KITTI_SPLITS = {"train": "train", "val": "tune", "test": "report"}
MAX_SWEEPS = 9


class WorldError(RuntimeError):
    """A data set cannot be written as asked; the message says what to do."""


@dataclass(frozen=True)
class WorldPlan:
    """All that determines a simulated data set, byte for byte.

    Args:
        version: 'v1.0-mini' or 'v1.0-trainval' of nuScenes, or another format's name.
        splits: Scene names by split.
        seed: Seed of the world; every custom split draws its own from it.
        num_keyframes: Key frames per scene.
        image_size: (width, height) in pixels.
        sweeps: LiDAR sweeps between two key frames.
    """

    version: str
    splits: Mapping[str, tuple[str, ...]]
    seed: int = 0
    num_keyframes: int = 40
    image_size: tuple[int, int] = (800, 450)
    sweeps: int = MAX_SWEEPS

    def __post_init__(self) -> None:
        if not 0 <= self.sweeps <= MAX_SWEEPS:
            raise WorldError(f"sweeps must be 0 to {MAX_SWEEPS} between two key frames, got {self.sweeps}")
        if self.num_keyframes < 1:
            raise WorldError(f"a scene needs at least one key frame, got {self.num_keyframes}")
        if not any(self.splits.values()):
            raise WorldError("the data set would have no scene")

    def scenes(self) -> dict[str, WorldSpec]:
        """The specification of every scene by name, in the order of the names."""
        specs = {
            name: WorldSpec(
                seed=self.seed_of(split),
                scene_name=name,
                num_keyframes=self.num_keyframes,
                image_size=self.image_size,
                sweeps_between=self.sweeps,
            )
            for split, names in self.splits.items()
            for name in names
        }
        return dict(sorted(specs.items()))

    def seed_of(self, split: str) -> int:
        """The seed of a split's scenes: the world's own in the mini version, another for each split elsewhere."""
        return self.seed if self.version == MINI else zlib.crc32(f"{self.seed}/{split}".encode())

    def manifest(self) -> dict[str, Any]:
        """The content of world.json, less what is known at the end only."""
        return {
            "world_version": WORLD_VERSION,
            "version": self.version,
            "seed": self.seed,
            "seeds": {split: self.seed_of(split) for split in self.splits},
            "splits": {split: list(names) for split, names in self.splits.items()},
            "num_keyframes": self.num_keyframes,
            "image_size": list(self.image_size),
            "sweeps": self.sweeps,
        }


def plan_mini(num_scenes: int | None = None, **sizes: Any) -> WorldPlan:
    """The ten official scene names of v1.0-mini, or the first of them; the second one is of mini_val.

    >>> {split: len(names) for split, names in plan_mini().splits.items()}
    {'mini_train': 8, 'mini_val': 2}
    """
    official = create_splits_scenes()
    names = sorted(official["mini_train"] + official["mini_val"])
    if num_scenes is not None and not 1 <= num_scenes <= len(names):
        raise WorldError(f"{MINI} has 1 to {len(names)} scenes, got {num_scenes}; use {TRAINVAL} for more")
    chosen = set(names[:num_scenes])
    splits = {split: tuple(n for n in sorted(official[split]) if n in chosen) for split in ("mini_train", "mini_val")}
    return WorldPlan(MINI, splits, **sizes)


def plan_trainval(counts: Mapping[str, int], **sizes: Any) -> WorldPlan:
    """Official train names for split ``train`` and val names, shared out in order, for every other split.

    >>> plan_trainval({"train": 2, "tune": 1, "report": 1}).splits["report"]
    ('scene-0012',)
    """
    official = create_splits_scenes()
    available = {"train": sorted(official["train"]), "val": sorted(official["val"])}
    splits, used = {}, 0
    for split, count in counts.items():
        source = "train" if split == "train" else "val"
        start = 0 if source == "train" else used
        names = tuple(available[source][start : start + count])
        if count < 1 or len(names) < count:
            raise WorldError(
                f"split {split}={count}: there are {len(available[source])} {source} names, {start} in use"
            )
        used += count if source == "val" else 0
        splits[split] = names
    return WorldPlan(TRAINVAL, splits, **sizes)


def plan_kitti(version: str, counts: Mapping[str, int], **sizes: Any) -> WorldPlan:
    """Any number of scenes per split, for formats with KITTI's splits, which know no names of scenes.

    >>> plan_kitti("kitti", {"train": 2, "tune": 1}, num_keyframes=1).splits["train"]
    ('train-0000', 'train-0001')
    """
    unknown = set(counts) - set(KITTI_SPLITS.values())
    if unknown:
        names = ", ".join(f"{split} ({name})" for name, split in KITTI_SPLITS.items())
        raise WorldError(f"{version} has no place for split {', '.join(sorted(unknown))}: its splits are {names}")
    for split, count in counts.items():
        if count < 1:
            raise WorldError(f"split {split}={count}: a split has one scene or more, or is left out")
    splits = {split: tuple(f"{split}-{index:04d}" for index in range(count)) for split, count in counts.items()}
    return WorldPlan(version, splits, **sizes)


def kitti_scenes(plan: WorldPlan) -> list[str]:
    """The names of the scenes of all splits, those of train first, then those of tune and report."""
    return [scene for split in KITTI_SPLITS.values() for scene in plan.splits.get(split, ())]


def read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of the data set in ``root``; None where there is no data set yet."""
    path = root / MANIFEST
    if path.is_file():
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise WorldError(f"{path} is no JSON ({error}): delete {root}, or write to another folder") from error
    if root.is_dir() and any(root.iterdir()):
        raise WorldError(
            f"{root} is not empty and has no {MANIFEST}, so it is not ours to write to: choose another --out"
        )
    return None


def check_same_world(found: Mapping[str, Any], plan: WorldPlan, root: Path) -> None:
    """Raises if the data set in ``root`` is another one than ``plan``."""
    wanted = plan.manifest()
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        differences = "; ".join(f"{name} is {found.get(name)}, asked for {wanted[name]}" for name in other)
        raise WorldError(
            f"{root} holds another world ({differences}): choose another --out, the same options, or --overwrite"
        )
