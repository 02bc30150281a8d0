"""Box files: every mistake is named with its file and line."""

import pytest

from perceptkd.core.errors import InputError
from perceptkd.datasets.box_table import Box, read_boxes

HEADER = "frame,class,x,y,z,length,width,height,yaw"
ROW = "drive/001,car,1,2,0.5,4,2,1.5,0.25"


def table(tmp_path, *lines: str, name: str = "boxes.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_of_several_files_in_order(tmp_path):
    first = table(tmp_path, HEADER, ROW, ROW.replace("car", "bus"))
    second = table(tmp_path, "class,frame,yaw,x,y,z,height,width,length", "van, a ,-1,1,2,3,4,5,6", name="b.csv")
    assert read_boxes([first, second]) == [
        Box("drive/001", "car", (1.0, 2.0, 0.5, 4.0, 2.0, 1.5, 0.25)),
        Box("drive/001", "bus", (1.0, 2.0, 0.5, 4.0, 2.0, 1.5, 0.25)),
        Box("a", "van", (1.0, 2.0, 3.0, 6.0, 5.0, 4.0, -1.0)),
    ]


def test_what_a_spreadsheet_writes(tmp_path):
    (tmp_path / "boxes.csv").write_bytes(b"\xef\xbb\xbf" + f'{HEADER}\r\n"{ROW}'.replace(",car", '",car').encode())
    assert read_boxes([tmp_path / "boxes.csv"])[0].frame == "drive/001"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,car,1,2,3,4,2,1.5", "8 fields, not 9"),
        (ROW + ",7", "10 fields, not 9"),
        ("a,car,1,2,3,4,2,1.5,x", "yaw is no number: 'x'"),
        ("a,car,,2,3,4,2,1.5,0", "x is no number: ''"),
        ("a,car,1,nan,3,4,2,1.5,0", "y is not finite: 'nan'"),
        ("a,car,1,2,inf,4,2,1.5,0", "z is not finite: 'inf'"),
        ("a,car,1,2,3,4,0,1.5,0", "length, width and height are positive, not 0"),
        ("a,car,1,2,3,4,2,-1.5,0", "length, width and height are positive, not -1.5"),
        ("a,car,1,2,3,4,2,1.5,90", "yaw is in radians, within one turn; 90 looks like degrees"),
        ("a,tram,1,2,3,4,2,1.5,0", r"the class 'tram' is none of \['car', 'bus'\]"),
        (",car,1,2,3,4,2,1.5,0", "the frame is empty"),
        ("a,,1,2,3,4,2,1.5,0", "the class is empty"),
        (ROW, "the same box as in .*boxes.csv, line 2"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(tmp_path, row, message):
    path = table(tmp_path, HEADER, ROW, ROW.replace("1,2", "9,2"), row)
    with pytest.raises(InputError, match=rf"boxes.csv, line 4: {message}"):
        read_boxes([path], classes=["car", "bus"])


@pytest.mark.parametrize("header", ["frame,class,x,y,z,l,w,h,yaw", HEADER + ",score", HEADER + ",x", ROW, ""])
def test_another_header(tmp_path, header):
    with pytest.raises(InputError, match=f"line 1: the header is {HEADER}; this one is"):
        read_boxes([table(tmp_path, header, ROW)])


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no box file .*gone.csv"):
        read_boxes([tmp_path / "gone.csv"])
    (tmp_path / "boxes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"boxes.csv is no CSV file in UTF-8"):
        read_boxes([tmp_path / "boxes.csv"])
    with pytest.raises(InputError, match=r"boxes.csv is no CSV file in UTF-8"):
        read_boxes([table(tmp_path, HEADER, '"drive/001,car')])


def test_a_file_without_rows_has_no_boxes(tmp_path):
    assert read_boxes([table(tmp_path, HEADER)]) == []
