"""Point clouds of any usual format, as x, y, z in metres and an intensity.

=============  =====================================  ==========================================
suffix         read by                                intensity
=============  =====================================  ==========================================
.pcd           open3d                                 a field named as in ``INTENSITY_FIELDS``
.ply           plyfile, which mmdet3d installs        a field named as in ``INTENSITY_FIELDS``
.las, .laz     laspy (.laz: and lazrs)                the intensity of the points, 0 to 65535
.npy           numpy, a plain array [N, C]            the fourth column
.bin           float32 values, C to a point           the fourth column
=============  =====================================  ==========================================

An intensity is handed on as it is stored, and 0 where there is none.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from perceptkd.core.errors import InputError
from perceptkd.optional import require

SUFFIXES = (".pcd", ".ply", ".las", ".laz", ".npy", ".bin")
INTENSITY_FIELDS = ("intensity", "intensities", "scalar_intensity", "reflectance", "reflectivity", "i")
OPEN3D_LIBRARIES = "the system's libusb-1.0 and libGL: apt-get install libusb-1.0-0 libgl1"
NUM_FEATURES = 4


def read_cloud(path: str | Path, *, bin_columns: int = 4) -> np.ndarray:
    """Reads a cloud.

    Args:
        path: A file with one of ``SUFFIXES``.
        bin_columns: Values to a point in a .bin file: 4 in KITTI's, 5 in nuScenes'.

    Returns:
        float64 [N, 4] of x, y, z [m] and intensity; N may be 0, and values may be NaN.

    Raises:
        InputError: The file is cut, or not what its suffix says.
        MissingDependencyError: The library that reads it is not installed.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".las": _read_las, ".laz": _read_las, ".pcd": _read_pcd, ".ply": _read_ply}
    suffix = path.suffix.lower()
    if suffix == ".bin":
        return _with_intensity(_read_bin(path, bin_columns))
    if suffix not in readers:
        raise InputError(f"{path}: clouds are read from {', '.join(SUFFIXES)} files")
    return _with_intensity(readers[suffix](path))


def _with_intensity(points: np.ndarray) -> np.ndarray:
    """The first four columns as float64; a fourth one of zeros where there are three."""
    points = np.asarray(points[:, :NUM_FEATURES], dtype=np.float64)
    return np.pad(points, ((0, 0), (0, NUM_FEATURES - points.shape[1])))


def _read_bin(path: Path, columns: int) -> np.ndarray:
    if columns < 3:
        raise InputError(f"a point of a .bin file has x, y and z at least, not {columns} values")
    size = path.stat().st_size
    if size % (4 * columns):
        raise InputError(
            f"{path}: {size} bytes are no whole number of points of {columns} float32 values: it is cut, or has "
            "another number of columns"
        )
    return np.fromfile(path, dtype=np.float32).reshape(-1, columns)


def _read_npy(path: Path) -> np.ndarray:
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is truncated or no plain array: {error}") from error
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: a cloud is a plain array of numbers [N, >= 3], this one has shape {points.shape} and dtype "
            f"{points.dtype}"
        )
    return points


def _read_las(path: Path) -> np.ndarray:
    laspy = require("laspy", extra="las")
    try:
        cloud = laspy.read(path)
    except (laspy.LaspyException, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error} (.laz files need lazrs: pip install lazrs)") from error
    return np.column_stack([cloud.xyz, np.asarray(cloud.intensity, dtype=np.float64)])


def _read_pcd(path: Path) -> np.ndarray:
    open3d = require("open3d", libraries=OPEN3D_LIBRARIES)
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        fields = {name: value.numpy() for name, value in open3d.t.io.read_point_cloud(str(path)).point.items()}
    if "positions" not in fields:
        raise InputError(f"{path} is truncated or has no x, y and z: open3d finds no points in it")
    return np.column_stack([fields["positions"], *_intensity(fields)])


def _read_ply(path: Path) -> np.ndarray:
    # not open3d, which reads a cut file without an error and fills what is missing with zeros
    plyfile = require("plyfile")
    try:
        vertices = plyfile.PlyData.read(str(path))["vertex"].data
        fields = {name: vertices[name] for name in vertices.dtype.names}
        return np.column_stack([fields["x"], fields["y"], fields["z"], *_intensity(fields)])
    except (plyfile.PlyParseError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is truncated or has no x, y and z: {error}") from error


def _intensity(fields: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The column of the intensity, if there is one."""
    return [value for name, value in fields.items() if name.lower() in INTENSITY_FIELDS][:1]
