"""What tells the samples of a teacher cache apart, and what its outputs depend on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import BaseDataElement, InstanceData

from perceptkd.core.cache_key import build_fingerprint, sample_keys
from perceptkd.core.errors import InputError

MODEL = {"type": "perceptkd.ToyDetector"}


def test_long_names_are_hashed_and_nameless_samples_refused(batch: Any) -> None:
    batch["data_samples"][0].set_metainfo({"token": "ä" * 100, "view": "v" * 500})
    first, second = sample_keys(batch)
    assert len(first.sample) == len(first.view) == 64
    assert (second.sample, second.view) == ("0-1", None)
    for sample in batch["data_samples"]:
        sample.set_metainfo({"img_id": None, "token": None})
    with pytest.raises(ValueError, match="needs one of token,"):
        sample_keys(batch)


def test_the_content_of_a_sample_is_all_that_its_outputs_depend_on() -> None:
    def content(points: torch.Tensor, *, matrix: float = 1.0, x: float = 0.0, path: str = "a", **more: Any) -> int:
        metainfo = {
            "token": "t",
            "lidar2cam": np.eye(4) * matrix,
            "lidar_path": path,
            "box_type_3d": LiDARInstance3DBoxes,
        }
        sample = Det3DDataSample(metainfo={**metainfo, **more})
        boxes = LiDARInstance3DBoxes(torch.tensor([[x, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]]))
        sample.gt_instances_3d = InstanceData(bboxes_3d=boxes)
        (key,) = sample_keys({"inputs": {"points": [points]}, "data_samples": [sample]})
        return key.content

    points = torch.randn(70_000, 5)
    before = content(points)
    assert content(points.clone(), path="b") == before
    for column in range(5):
        changed = points.clone()
        changed[12_345, column] += 1
        assert content(changed) != before
    assert content(points, matrix=2.0) != before
    assert content(points, x=1.0) != before
    assert content(points, view="0-1-0", img_path=["b"]) == before
    assert content(points, text="a red car") != before
    assert len({content(points, text=text) for text in (["a", "bc"], ["ab", "c"])}) == 2
    texts = ["a", "b"], ["b", "a"], np.array(["a", "c"]), np.array(["a", "d"], dtype=object), {"a", "e"}, {"a", "f"}
    assert len({before, *(content(points, text=text) for text in texts)}) == 1 + len(texts)
    numbers = ["1"], [1.0], np.array(["2"]), [2], [None, 1], [1, None], {1, 2}, {1, 3}
    assert len({before, *(content(points, value=value) for value in numbers)}) == 1 + len(numbers)
    assert content(points, value=[[1, 2], [3, 4]]) == content(points, value=np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert content(points, text={"a", "b", "c"}) == content(points, text={"c", "b", "a"})
    nested = [content(points, cameras={"front": ["a", {"angle": angle}]}) for angle in (1.0, 2.0)]
    assert len({before, *nested}) == 3


def content_of(value: Any) -> int:
    sample = BaseDataElement(metainfo={"img_id": 0})
    (key,) = sample_keys({"inputs": [value], "data_samples": [sample]})
    return key.content


def test_inputs_may_be_text_bytes_and_nested() -> None:
    values = ["a red car", "a blue car", b"abc", {"text": ["a"], "image": torch.ones(2)}, {"text": ["a"]}, [1, 2.5]]
    assert len({content_of(value) for value in values}) == len(values)
    assert [content_of(value) for value in values] == [content_of(value) for value in values]
    with pytest.raises(InputError, match="cannot tell inputs apart that are of type object"):
        content_of(object())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model": {**MODEL, "channels": 5}}, "teacher"),
        ({"norm": "train"}, "teacher"),
        ({"forward_mode": "tensor"}, "teacher"),
        ({"precision": "bf16"}, "precision"),
        ({"checkpoint": "weights"}, "checkpoint"),
        ({"checkpoint": None}, "checkpoint"),
    ],
)
def test_every_input_of_the_fingerprint_changes_it(tmp_path: Path, change: dict, part: str) -> None:
    path = tmp_path / "teacher.pth"
    found = []
    for each in ({}, change):
        path.write_bytes(b"other" if each.get("checkpoint") else b"weights")
        options = {"model": MODEL, "checkpoint": path, **each}
        found.append(build_fingerprint(**{**options, "checkpoint": path if options["checkpoint"] else None}))
    assert [name for name in found[0] if found[0][name] != found[1][name]] == [part]
