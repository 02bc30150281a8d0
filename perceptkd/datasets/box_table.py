"""The box file of a data set of your own: one row of a CSV file per box.

    frame,class,x,y,z,length,width,height,yaw
    drive1/000012,car,12.4,-3.1,0.2,4.5,1.9,1.6,1.57

``frame`` is the path of the cloud below its folder, without suffix. ``x, y, z`` is the centre of the box (not of its
bottom) in the frame of the cloud, in metres; length lies along the heading. ``yaw`` is the heading in radians, 0 along
+x and counter-clockwise seen from above, so that pi / 2 is +y. The columns may stand in any order; no others are known.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from perceptkd.core.errors import InputError

NUMBERS = ("x", "y", "z", "length", "width", "height", "yaw")
COLUMNS = ("frame", "class", *NUMBERS)


class Box(NamedTuple):
    """One row.

    Attributes:
        frame: The cloud it belongs to.
        name: Of its class.
        values: x, y and z of the centre, length, width, height [m], yaw [rad].
    """

    frame: str
    name: str
    values: tuple[float, ...]


def read_boxes(paths: Iterable[str | Path], *, classes: Sequence[str] | None = None) -> list[Box]:
    """Reads and checks box files.

    Args:
        paths: CSV files.
        classes: The names that may occur; any if None.

    Returns:
        All rows, in order.

    Raises:
        InputError: Names the file and the line of the first row that is wrong.
    """
    seen: dict[Box, str] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"there is no box file {path}")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin UTF-8 with a mark
                reader = csv.DictReader(file, strict=True)
                _check_header(path, reader.fieldnames)
                for row in reader:
                    place = f"{path}, line {reader.line_num}"
                    box = _parse(row, place=place, classes=classes)
                    if box in seen:
                        raise InputError(f"{place}: the same box as in {seen[box]}")
                    seen[box] = place
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    return list(seen)


def _check_header(path: Path, header: Sequence[str] | None) -> None:
    header = list(header or [])
    wrong = [*(name for name in COLUMNS if name not in header), *(name for name in header if name not in COLUMNS)]
    if wrong or len(header) != len(COLUMNS):
        raise InputError(f"{path}, line 1: the header is {','.join(COLUMNS)}; this one is {','.join(header)}")


def _parse(row: Mapping[str | None, str | None], *, place: str, classes: Sequence[str] | None) -> Box:
    if None in row or None in row.values():
        count = sum(value is not None for value in row.values()) + len(row.get(None) or [None]) - 1
        raise InputError(f"{place}: {count} fields, not {len(COLUMNS)}")
    frame, name = str(row["frame"]).strip(), str(row["class"]).strip()
    if not frame or not name:
        raise InputError(f"{place}: the {'frame' if not frame else 'class'} is empty")
    if classes is not None and name not in classes:
        raise InputError(f"{place}: the class {name!r} is none of {list(classes)}")
    values = tuple(_number(str(row[column]), f"{place}: {column}") for column in NUMBERS)
    smallest = min(values[3:6])
    if smallest <= 0:
        raise InputError(f"{place}: length, width and height are positive, not {smallest:g}")
    if abs(values[6]) > 2 * math.pi + 1e-3:
        raise InputError(f"{place}: yaw is in radians, within one turn; {values[6]:g} looks like degrees")
    return Box(frame, name, values)


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{place} is no number: {text!r}") from None
    if not math.isfinite(value):
        raise InputError(f"{place} is not finite: {text!r}")
    return value
