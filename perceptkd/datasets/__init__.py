"""Data sets: the seeded wrapper, nuScenes and its info files, the simulated world.

Nothing is imported here: the processes that write a world need no mmdet3d.
"""
