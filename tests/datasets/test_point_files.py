"""Clouds of every format: what comes out, and what is said about files that cannot be read."""

import sys
from pathlib import Path

import numpy as np
import pytest

from perceptkd.core.errors import InputError
from perceptkd.datasets.point_files import read_cloud
from perceptkd.optional import MissingDependencyError

PLY_HEADER = "ply\nformat ascii 1.0\nelement vertex {count}\n{properties}end_header\n"
PCD_HEADER = """VERSION 0.7
FIELDS x y z intensity ring
SIZE 4 4 4 4 2
TYPE F F F F U
COUNT 1 1 1 1 1
WIDTH {count}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {count}
DATA {kind}
"""


@pytest.fixture
def points() -> np.ndarray:
    """Five points with an intensity, exact in float32."""
    return np.random.default_rng(0).integers(-100, 100, (5, 4)).astype(np.float32) / 8


@pytest.fixture
def open3d() -> None:
    """Skips without open3d, or without the libraries of the system that it needs."""
    pytest.importorskip("open3d", exc_type=ImportError)


def write_ply(path: Path, rows: np.ndarray, names: str) -> None:
    properties = "".join(f"property float {name}\n" for name in names.split())
    lines = "\n".join(" ".join(map(str, row)) for row in rows.tolist())
    path.write_text(PLY_HEADER.format(count=len(rows), properties=properties) + lines + "\n")


def write_pcd(path: Path, rows: np.ndarray, *, kind: str) -> None:
    header = PCD_HEADER.format(count=len(rows), kind=kind)
    if kind == "ascii":
        path.write_text(header + "".join(" ".join(map(str, row)) + " 7\n" for row in rows.tolist()))
        return
    packed = np.zeros(len(rows), dtype=[("xyzi", "<f4", 4), ("ring", "<u2")])
    packed["xyzi"] = rows
    path.write_bytes(header.encode() + packed.tobytes())


def test_npy(points, tmp_path):
    np.save(tmp_path / "a.npy", points.astype(np.float64))
    assert np.array_equal(read_cloud(tmp_path / "a.npy"), points)
    np.save(tmp_path / "b.npy", points[:, :3])
    assert np.array_equal(read_cloud(tmp_path / "b.npy"), np.pad(points[:, :3], ((0, 0), (0, 1))))


@pytest.mark.parametrize("columns", [3, 4, 5])
def test_bin(points, tmp_path, columns):
    wide = np.pad(points, ((0, 0), (0, 1)), constant_values=9.0)[:, :columns]
    wide.tofile(tmp_path / "a.bin")
    expected = np.pad(wide[:, :4], ((0, 0), (0, max(0, 4 - columns))))
    assert np.array_equal(read_cloud(tmp_path / "a.bin", bin_columns=columns), expected)


def test_bin_of_another_number_of_columns_is_noticed(points, tmp_path):
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match=r"a.bin: 80 bytes are no whole number of points of 3 float32 values"):
        read_cloud(tmp_path / "a.bin", bin_columns=3)


@pytest.mark.parametrize("names", ["x y z intensity", "x y z scalar_Intensity", "x y z reflectance"])
def test_ply_with_an_intensity_by_any_name(points, tmp_path, names):
    write_ply(tmp_path / "a.ply", points, names)
    assert np.array_equal(read_cloud(tmp_path / "a.ply"), points)


def test_ply_in_another_order_and_without_intensity(points, tmp_path):
    write_ply(tmp_path / "a.ply", points[:, [2, 0, 3, 1]], "z x confidence y")
    assert np.array_equal(read_cloud(tmp_path / "a.ply")[:, :3], points[:, :3])
    assert (read_cloud(tmp_path / "a.ply")[:, 3] == 0).all()


def test_a_cut_ply_is_an_error_and_no_cloud_with_zeros(points, tmp_path):
    write_ply(tmp_path / "a.ply", points, "x y z intensity")
    content = (tmp_path / "a.ply").read_text()
    (tmp_path / "a.ply").write_text(content[: content.rindex("\n", 0, -1)])
    with pytest.raises(InputError, match=r"a.ply is truncated .*row 4"):
        read_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("kind", ["ascii", "binary"])
@pytest.mark.usefixtures("open3d")
def test_pcd(points, tmp_path, kind):
    points[2, :3] = np.nan  # an organised cloud has such rows
    write_pcd(tmp_path / "a.pcd", points, kind=kind)
    assert np.array_equal(read_cloud(tmp_path / "a.pcd"), points, equal_nan=True)


@pytest.mark.usefixtures("open3d")
def test_a_cut_pcd(points, tmp_path):
    write_pcd(tmp_path / "a.pcd", points, kind="binary")
    (tmp_path / "a.pcd").write_bytes((tmp_path / "a.pcd").read_bytes()[:-5])
    with pytest.raises(InputError, match=r"a.pcd is truncated"):
        read_cloud(tmp_path / "a.pcd")


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las(points, tmp_path, suffix):
    laspy = pytest.importorskip("laspy")
    cloud = laspy.create(point_format=0)
    cloud.header.scales, cloud.header.offsets = [0.001] * 3, [600_000, 5_000_000, 0]
    cloud.x, cloud.y, cloud.z = (points[:, :3] + np.array([600_000.0, 5_000_000.0, 0.0])).T
    cloud.intensity = np.arange(5) * 10_000
    cloud.write(tmp_path / f"a{suffix}")
    found = read_cloud(tmp_path / f"a{suffix}")
    assert np.allclose(found[:, :3] - [600_000, 5_000_000, 0], points[:, :3], atol=1e-3)
    assert found[:, 3].tolist() == [0, 10_000, 20_000, 30_000, 40_000]


def test_a_cut_las(points, tmp_path):
    laspy = pytest.importorskip("laspy")
    cloud = laspy.create(point_format=0)
    cloud.x = cloud.y = cloud.z = points[:, 0]
    cloud.write(tmp_path / "a.las")
    content = (tmp_path / "a.las").read_bytes()
    for size in (0, 100, len(content) - 30):
        (tmp_path / "a.las").write_bytes(content[:size])
        with pytest.raises(InputError, match=r"a.las cannot be read"):
            read_cloud(tmp_path / "a.las")


@pytest.mark.parametrize("module", ["laspy", "open3d"])
def test_a_missing_library_is_one_line_with_the_command(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"^{module} is not installed: pip install [^\n]+$"):
        read_cloud(tmp_path / ("a.las" if module == "laspy" else "a.pcd"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), r"\[N, >= 3\], this one has shape \(4,\)"),
        (np.zeros((4, 2)), r"shape \(4, 2\)"),
        (np.zeros((4, 3), dtype="<U2"), "dtype <U2"),
        (np.zeros(4, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")]), "a plain array"),
    ],
)
def test_arrays_that_are_no_cloud(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_cloud(tmp_path / "a.npy")


def test_a_cut_array(points, tmp_path):
    np.save(tmp_path / "a.npy", points)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-3])
    with pytest.raises(InputError, match=r"a.npy is truncated or no plain array"):
        read_cloud(tmp_path / "a.npy")


def test_other_files(tmp_path):
    with pytest.raises(InputError, match=r"a.txt: clouds are read from .pcd, .ply"):
        read_cloud(tmp_path / "a.txt")
