"""Data sets: the seeded wrapper, info files, the simulated world."""

from perceptkd.datasets import seeded  # noqa: F401  (registers SeededDataset)
