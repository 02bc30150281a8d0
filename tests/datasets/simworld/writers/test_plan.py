"""Which scenes a data set has, and what counts as the same data set."""

import json

import pytest
from nuscenes.utils.splits import create_splits_scenes

from perceptkd.datasets.simworld import WORLD_VERSION
from perceptkd.datasets.simworld.writers.plan import (
    WorldError,
    WorldPlan,
    check_same_world,
    plan_kitti,
    plan_mini,
    plan_trainval,
    read_manifest,
)


def test_mini_has_the_ten_official_scenes():
    splits = plan_mini().splits
    official = create_splits_scenes()
    assert {split: sorted(names) for split, names in splits.items()} == {
        split: sorted(official[split]) for split in ("mini_train", "mini_val")
    }


def test_two_scenes_are_one_of_each_split():
    assert plan_mini(2).splits == {"mini_train": ("scene-0061",), "mini_val": ("scene-0103",)}
    assert list(plan_mini(2).scenes()) == ["scene-0061", "scene-0103"]


def test_trainval_names_are_official_and_disjoint():
    splits = plan_trainval({"train": 16, "tune": 6, "report": 6}).splits
    official = create_splits_scenes()
    assert [len(names) for names in splits.values()] == [16, 6, 6]
    assert set(splits["train"]) <= set(official["train"])
    assert set(splits["tune"] + splits["report"]) <= set(official["val"])
    assert not set(splits["tune"]) & set(splits["report"])


def test_every_split_has_a_seed_of_its_own_and_mini_the_given_one():
    plan = plan_trainval({"train": 1, "tune": 1, "report": 1}, seed=3)
    assert len({plan.seed_of(split) for split in plan.splits}) == 3
    assert plan.seed_of("tune") != plan_trainval({"tune": 1}, seed=4).seed_of("tune")
    assert {spec.seed for spec in plan_mini(seed=3).scenes().values()} == {3}


def test_a_split_s_scenes_do_not_depend_on_the_other_splits_seeds():
    small, large = plan_trainval({"train": 2, "tune": 1}), plan_trainval({"train": 4, "tune": 1})
    assert small.scenes().items() <= large.scenes().items()
    few, many = plan_kitti("kitti", {"train": 2, "tune": 1}), plan_kitti("kitti", {"train": 3, "tune": 200})
    assert few.scenes().items() <= many.scenes().items()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan_mini(0), "1 to 10 scenes, got 0"),
        (lambda: plan_mini(11), "1 to 10 scenes, got 11; use v1.0-trainval"),
        (lambda: plan_trainval({"tune": 151}), "there are 150 val names, 0 in use"),
        (lambda: plan_trainval({"tune": 100, "report": 60}), "report=60: there are 150 val names, 100 in use"),
        (lambda: plan_trainval({"train": 0}), "train=0"),
        (lambda: plan_kitti("kitti", {"train": 2, "tune": 0}), "tune=0: a split has one scene or more"),
        (lambda: plan_mini(sweeps=10), "sweeps must be 0 to 9"),
        (lambda: plan_mini(num_keyframes=0), "at least one key frame"),
        (lambda: WorldPlan("v1.0-mini", {}), "no scene"),
    ],
)
def test_impossible_plans(make, message):
    with pytest.raises(WorldError, match=message):
        make()


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_keyframes": 3}, {"image_size": (16, 16)}, {"sweeps": 1}], ids=lambda c: next(iter(c))
)
def test_another_world_is_told_apart(tmp_path, change):
    found = json.loads(json.dumps(plan_mini(2).manifest()))
    check_same_world(found, plan_mini(2), tmp_path)
    with pytest.raises(
        WorldError, match=rf"holds another world \({next(iter(change))}.* is .*, asked for .*--overwrite"
    ):
        check_same_world(found, plan_mini(2, **change), tmp_path)


def test_another_version_of_the_generator_is_told_apart(tmp_path):
    found = plan_mini(2).manifest() | {"world_version": "older"}
    with pytest.raises(WorldError, match=f"world_version is older, asked for {WORLD_VERSION}"):
        check_same_world(found, plan_mini(2), tmp_path)


def test_foreign_folders_are_left_alone(tmp_path):
    assert read_manifest(tmp_path / "absent") is None
    assert read_manifest(tmp_path) is None
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(WorldError, match=r"is not empty and has no world.json"):
        read_manifest(tmp_path)


def test_broken_manifest(tmp_path):
    (tmp_path / "world.json").write_text('{"seed": ')
    with pytest.raises(WorldError, match="is no JSON"):
        read_manifest(tmp_path)
