"""Counter-based random numbers: a pure function of (key, index), whatever the order of evaluation."""

import numpy as np

from .kernel import inlined_kernel

_SCALE = 1.0 / (1 << 53)


@inlined_kernel
def mix_bits(key: np.uint64, index: np.uint64) -> np.uint64:
    """64 well mixed bits (the finaliser of SplitMix64)."""
    z = key + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined_kernel
def uniform(key: np.uint64, index: np.uint64) -> float:
    """Uniform in [0, 1)."""
    return (mix_bits(key, index) >> np.uint64(11)) * _SCALE


@inlined_kernel
def normal(key: np.uint64, index: np.uint64) -> float:
    """About standard normal: the sum of four 16-bit uniforms, scaled."""
    bits = mix_bits(key, index)
    mask = np.uint64(0xFFFF)
    total = (
        (bits & mask) + ((bits >> np.uint64(16)) & mask) + ((bits >> np.uint64(32)) & mask) + (bits >> np.uint64(48))
    )
    return (np.float64(total) / 65535.0 - 2.0) * 1.7320508075688772
