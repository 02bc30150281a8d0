"""What a simulated scene is made from: its specification and the random streams derived from it."""

import zlib
from dataclasses import dataclass

import numpy as np

WORLD_VERSION = "2"
"""Changes whenever the same specification would give other bytes; stored in every result."""

WEATHERS = ("clear", "overcast", "rain", "night", "glare", "fog")
MIN_DURATION_S = 21.0


@dataclass(frozen=True)
class WorldSpec:
    """All that determines a scene; two equal specifications give the same bytes.

    Args:
        seed: World seed, one per data set split.
        scene_name: Name of the scene, e.g. an official nuScenes one; another name is another street.
        num_keyframes: Annotated frames, at 2 Hz.
        image_size: (width, height) of the cameras in pixels.
        sweeps_between: LiDAR sweeps between two key frames; 9 gives nuScenes' 20 Hz.
        keyframe_interval_s: Seconds between key frames.
        weather: One of ``WEATHERS`` to override the seeded choice.
    """

    seed: int = 0
    scene_name: str = "scene-0061"
    num_keyframes: int = 40
    image_size: tuple[int, int] = (800, 450)
    sweeps_between: int = 9
    keyframe_interval_s: float = 0.5
    weather: str | None = None

    def __post_init__(self) -> None:
        if self.num_keyframes < 1 or self.sweeps_between < 0 or self.keyframe_interval_s <= 0:
            raise ValueError(f"a scene needs key frames, sweeps_between >= 0 and a positive interval, got {self}")
        if self.weather is not None and self.weather not in WEATHERS:
            raise ValueError(f"weather {self.weather!r} is unknown; choose one of {', '.join(WEATHERS)}")
        if min(self.image_size) < 16:
            raise ValueError(f"image_size must be (width, height) of at least 16 pixels, got {self.image_size}")

    @property
    def duration_s(self) -> float:
        """Seconds the world is built for: up to nuScenes' 40 key frames they are the same."""
        return max(MIN_DURATION_S, (self.num_keyframes - 1) * self.keyframe_interval_s + 1.0)

    def stream(self, purpose: str) -> np.random.Generator:
        """Independent random stream for one purpose, so that a change of one part leaves the others alone."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self._entropy(purpose))))

    def noise_key(self, purpose: str, t: float) -> int:
        """64-bit key of the counter-based noise of one sensor reading at ``t`` seconds."""
        words = np.random.SeedSequence([*self._entropy(purpose), round(t * 1e6)]).generate_state(1, np.uint64)
        return int(words[0])

    def _entropy(self, purpose: str) -> list[int]:
        return [self.seed, zlib.crc32(self.scene_name.encode()), zlib.crc32(purpose.encode())]
