"""A sample of the model zoo on our ops, every kind of model in it; benchmarks/zoo.py measures all families."""

import pytest
from zoo import Outcome, examine
from zoo_cases import EXCLUDED, LIBRARIES, cases, families

SAMPLE = {
    "mmdet": [
        *("retinanet", "fcos", "gfl", "atss", "yolox"),  # one stage
        *("faster_rcnn", "cascade_rcnn", "dcn", "carafe"),  # two stages
        *("detr", "deformable_detr"),
        *("mask_rcnn", "mask2former", "yolact"),
    ],
    "mmdet3d": [
        *("pointpillars", "second", "centerpoint", "cylinder3d", "minkunet"),  # pillars and voxels
        *("votenet", "3dssd", "pointnet2"),  # points
        *("mvxnet", "fcos3d", "smoke"),  # fusion, one camera
    ],
    "mmseg": ["fcn", "pspnet", "segformer", "ocrnet"],
}
NAMES = [f"{library}/{family}" for library, chosen in SAMPLE.items() for family in chosen]
CASES = {case.name: case for library in LIBRARIES for case in cases(library)}


@pytest.mark.parametrize("name", NAMES)
def test_builds_trains_and_predicts(name: str) -> None:
    assert examine(CASES[name]) == Outcome(builds=True, trains=True, predicts=True)


def test_a_fault_is_told_and_ends_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table must be able to say no."""
    import zoo

    def broken(*args: object) -> None:
        raise RuntimeError("no such op\nand more")

    monkeypatch.setattr(zoo, "train_once", broken)
    found = examine(CASES["mmdet/retinanet"])
    assert found == Outcome(builds=True, trains=False, predicts=False, fault="RuntimeError: no such op")


def test_every_exclusion_has_a_reason_and_a_folder() -> None:
    for library in LIBRARIES:
        assert all(EXCLUDED[library].values())
        assert EXCLUDED[library].keys() <= set(families(library))
