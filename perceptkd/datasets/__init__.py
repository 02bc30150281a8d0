"""Data sets: the seeded wrapper, info files, the simulated world."""

from perceptkd.datasets import nuscenes, seeded  # noqa: F401  (registers the data sets)
