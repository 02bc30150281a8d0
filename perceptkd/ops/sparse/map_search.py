"""The searches behind kernel maps: which cells a kernel joins, in torch, and on CPU in numba.

Keys are sorted, so the sources of one kernel cell rise with its targets: where torch looks each of them up, numba walks
along both.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from perceptkd.ops.row_threads import share_rows
from perceptkd.ops.sparse.gather_plan import Pairs
from perceptkd.ops.sparse.geometry import Geometry
from perceptkd.ops.sparse.keys import INT64_MAX

_ROWS_WORTH_A_THREAD = 1 << 14
_AXES = 3
#: Grids longer than this and than the number of voxels do without tables of positions, which would be mostly unused.
_TABLE_ROWS = 1 << 16


def neighbour_pairs(keys: Tensor, starts: Sequence[int], width: int, step: int, count: int) -> list[Pairs]:
    """Rows that meet at the first cells of a submanifold kernel.

    Args:
        keys: int64 [N], increasing; grid rows are so far apart that no neighbour's key wraps into the next.
        starts: from a target's key to that at the first cell of each row of the kernel.
        width: cells of a row of the kernel.
        step: from a key to that at the next cell of the row.
        count: cells to look at, row after row.

    Returns:
        Per cell, int32 (source rows, target rows), both increasing.
    """
    if keys.device.type != "cpu":
        return _neighbour_pairs_torch(keys, starts, width, step, count)
    rows = np.empty((2, count, len(keys)), np.int32)
    counts = np.zeros(count, np.int64)
    array, offsets = keys.numpy(), np.array(starts, np.int64)

    def search(first: int, last: int) -> None:
        _neighbour_pairs_numba(array, offsets, first, last, width, step, rows, counts)

    share_rows(search, len(starts), smallest_share=1 + len(starts) * _ROWS_WORTH_A_THREAD // max(1, len(keys)))
    found = torch.from_numpy(rows)
    return [(found[0, cell, :size], found[1, cell, :size]) for cell, size in enumerate(counts.tolist())]


def _neighbour_pairs_torch(keys: Tensor, starts: Sequence[int], width: int, step: int, count: int) -> list[Pairs]:
    """The same for any device. The lower bound of a key + 1 is that of the key, plus one where the key was found."""
    padded = torch.cat([keys, keys.new_tensor([INT64_MAX])])
    found: list[Pairs] = []
    for start in starts:
        query = keys + start
        place = torch.searchsorted(padded, query)
        for _ in range(min(width, count - len(found))):
            rows = torch.nonzero(padded.index_select(0, place) == query).squeeze(1)
            found.append((place.index_select(0, rows).int(), rows.int()))
            for _ in range(step):
                place, query = place + (padded.index_select(0, place) == query), query + 1
    return found


@njit(cache=True, nogil=True)
def _neighbour_pairs_numba(
    keys: np.ndarray,
    starts: np.ndarray,
    first: int,
    last: int,
    width: int,
    step: int,
    rows: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fills rows and counts of the kernel's rows ``first`` to ``last``."""
    size = keys.shape[0]
    for kernel_row in range(first, last):
        base = kernel_row * width
        cells = min(width, counts.shape[0] - base)
        low = 0
        for target in range(size):
            query = keys[target] + starts[kernel_row]
            while low < size and keys[low] < query:
                low += 1
            place = low
            for cell in range(base, base + cells):
                while place < size and keys[place] < query:
                    place += 1
                if place < size and keys[place] == query:
                    rows[0, cell, counts[cell]] = place
                    rows[1, cell, counts[cell]] = target
                    counts[cell] += 1
                query += step


def reached_keys(coordinates: Tensor, geometry: Geometry, shape: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
    """Output cells that input cells reach, one kernel cell after another.

    Args:
        coordinates: int32 [N, D + 1], sorted.
        geometry: strided or transposed.
        shape: the output's grid.

    Returns:
        int32 [P] input rows, int64 [P] keys of output cells, and how many pairs each kernel cell has.
    """
    if coordinates.device.type != "cpu":
        return _reached_keys_torch(coordinates, geometry, shape)
    array = coordinates.numpy()
    extents = (array[:, 1:].max(0, initial=-1) + 1).tolist()
    if sum(extents) > _TABLE_ROWS + len(array):
        return _reached_keys_torch(coordinates, geometry, shape)
    missing = _AXES - len(shape)  # further axes, of one cell
    columns = np.concatenate((array[:, :1], np.zeros((len(array), missing), array.dtype), array[:, 1:]), axis=1)
    tables = [np.zeros((1, 1), np.int64)] * missing
    tables += [_position_table(extents[axis], geometry, axis, length) for axis, length in enumerate(shape)]
    table_z, table_y, table_x = tables
    lengths = np.array([1] * missing + list(shape))
    rows, keys = np.empty((geometry.volume, len(array)), np.int32), np.empty((geometry.volume, len(array)), np.int64)
    counts = np.zeros(geometry.volume, np.int64)
    _reached_keys_numba(columns, table_z, table_y, table_x, lengths, rows, keys, counts)
    parts = [
        (torch.from_numpy(rows[cell, :size]), torch.from_numpy(keys[cell, :size])) for cell, size in enumerate(counts)
    ]
    return torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts]), counts.tolist()


def _position_table(extent: int, geometry: Geometry, axis: int, length: int) -> np.ndarray:
    """int64 [extent, kernel size]: where each input position goes along one axis, -1 for nowhere."""
    positions = torch.arange(extent)
    outputs = [_output_positions(positions, geometry, axis, cell, length) for cell in range(geometry.kernel_size[axis])]
    return torch.stack([torch.where(is_valid, output, -1) for output, is_valid in outputs], dim=1).numpy()


def _reached_keys_torch(
    coordinates: Tensor, geometry: Geometry, shape: Sequence[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """The same for any device, axis by axis."""
    columns = coordinates.long().unbind(1)
    rows = torch.arange(len(coordinates), device=coordinates.device)
    reached = [(rows, columns[0])]
    for axis, length in enumerate(shape):
        reached = [
            _advance(rows, keys, columns[axis + 1], geometry, axis, cell, length)
            for rows, keys in reached
            for cell in range(geometry.kernel_size[axis])
        ]
    all_rows, all_keys = (torch.cat(part) for part in zip(*reached))
    return all_rows.int(), all_keys, [len(rows) for rows, _ in reached]


def _advance(
    rows: Tensor, keys: Tensor, column: Tensor, geometry: Geometry, axis: int, cell: int, length: int
) -> tuple[Tensor, Tensor]:
    """Extends partial output keys by one axis and drops the rows that reach no output cell at this kernel cell."""
    output, is_valid = _output_positions(column.index_select(0, rows), geometry, axis, cell, length)
    kept = torch.nonzero(is_valid).squeeze(1)
    return rows.index_select(0, kept), keys.index_select(0, kept) * length + output.index_select(0, kept)


def _output_positions(position: Tensor, geometry: Geometry, axis: int, cell: int, length: int) -> tuple[Tensor, Tensor]:
    """Where a kernel cell takes input positions along one axis, and whether it takes them anywhere."""
    shift = cell * geometry.dilation[axis]
    padding, stride = geometry.padding[axis], geometry.stride[axis]
    if geometry.kind == "transposed":
        output = position * stride - padding + shift
        return output, (output >= 0) & (output < length)
    reach = position + padding - shift
    output = torch.div(reach, stride, rounding_mode="floor")
    return output, (reach >= 0) & (output < length) & (output * stride == reach)


@njit(cache=True, nogil=True)
def _reached_keys_numba(
    columns: np.ndarray,
    table_z: np.ndarray,
    table_y: np.ndarray,
    table_x: np.ndarray,
    lengths: np.ndarray,
    rows: np.ndarray,
    keys: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fills rows, keys and counts of every kernel cell, by the position tables of the axes and the output's grid."""
    for row in range(columns.shape[0]):
        sample, z, y, x = columns[row]
        for cell_z in range(table_z.shape[1]):
            if table_z[z, cell_z] < 0:
                continue
            plane = sample * lengths[0] + table_z[z, cell_z]
            for cell_y in range(table_y.shape[1]):
                if table_y[y, cell_y] < 0:
                    continue
                line = plane * lengths[1] + table_y[y, cell_y]
                for cell_x in range(table_x.shape[1]):
                    if table_x[x, cell_x] >= 0:
                        cell = (cell_z * table_y.shape[1] + cell_y) * table_x.shape[1] + cell_x
                        rows[cell, counts[cell]] = row
                        keys[cell, counts[cell]] = line * lengths[2] + table_x[x, cell_x]
                        counts[cell] += 1
