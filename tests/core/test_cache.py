"""The offline teacher store: written once, resumed when interrupted, refused when it is not this teacher's."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache import CacheError, TeacherCache, flatten, unflatten
from perceptkd.core.cache_key import SampleKey, build_fingerprint, sample_keys
from perceptkd.core.cache_writer import TeacherCacheWriter, write_cache
from perceptkd.core.tap import Tap, TapSpec, parse_tap

MODEL = {"type": "perceptkd.ToyDetector", "bev_geometry": {"layout": "yx", "extent": (0.0, 0.0, 1.0, 1.0)}}
TAPS = {"feature": "neck[1]", "score": "bbox_head[0]"}


@pytest.fixture
def checkpoint(toy: Any, tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "teacher.pth"
    torch.save(toy().state_dict(), path)
    return path


def make_model(checkpoint: Path, **teacher: Any) -> DistillModel:
    torch.manual_seed(0)
    return DistillModel(
        {"type": "perceptkd.ToyDetector", "bev_geometry": MODEL["bev_geometry"]},
        teachers={"teacher": {"config": MODEL, "checkpoint": str(checkpoint), **teacher}},
        distillers=[{"type": "perceptkd.ToyDistiller", "teacher_taps": TAPS}],
    )


def make_writer(folder: Path, checkpoint: Path, data: str = "toys", **kwargs: Any) -> TeacherCacheWriter:
    fingerprint = {**build_fingerprint(model=MODEL, checkpoint=checkpoint), "data": data}
    return TeacherCacheWriter(folder, fingerprint, **{"dtype": "float32", "samples_per_shard": 2, **kwargs})


@pytest.fixture
def batches(batch_of: Any) -> list[dict[str, Any]]:
    return [batch_of(size=2, seed=seed) for seed in range(3)]


@pytest.fixture
def store(tmp_path: Path, checkpoint: Path, batches: Any) -> Path:
    """A whole store of the toy teacher over six samples."""
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    assert write_cache(teacher.collect, batches, make_writer(tmp_path / "store", checkpoint)) == 6
    return tmp_path / "store"


def test_a_cached_teacher_gives_the_losses_of_the_teacher(store: Path, checkpoint: Path, batches: Any) -> None:
    online = make_model(checkpoint)
    cached = make_model(checkpoint, role="cached", cache=str(store))
    assert cached.distillers.teachers["teacher"].model is None
    for batch in reversed(batches):
        expected, found = (model(RawBatch(batch, True), mode="loss") for model in (online, cached))
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_taps_are_read_in_any_order_with_nesting_and_geometry(store: Path, checkpoint: Path, batches: Any) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    expected = [teacher.collect(batch)["toydistiller/feature"].value for batch in batches]
    cached = make_model(checkpoint, role="cached", cache=str(store)).distillers.teachers["teacher"]
    mixed = {key: [batches[2][key][1], batches[0][key][0]] for key in ("inputs", "data_samples")}
    tap = cached.collect(mixed)["toydistiller/feature"]
    assert torch.equal(tap.value, torch.stack([expected[2][1], expected[0][0]]))
    assert (tap.layout, tap.extent) == ("yx", (0.0, 0.0, 1.0, 1.0))
    nested = ([{"heat": torch.zeros(1), "box": torch.ones(1)}], torch.ones(2))
    structure, leaves = flatten(nested)
    assert unflatten(json.loads(json.dumps(structure)), leaves) == nested


def test_the_store_is_plain_memory_mapped_numpy_without_pickle(store: Path) -> None:
    names = sorted(path.name for path in store.iterdir())
    assert names[:2] == ["index.npy", "manifest.json"]
    assert names[2:4] == ["shard-00000.0.neck_1.0.npy", "shard-00000.1.bbox_head_0.0.npy"]
    assert len(names) == 2 + 3 * 2
    for path in store.glob("*.npy"):
        np.load(path, allow_pickle=False, mmap_mode="r")


def test_an_interrupted_writer_is_resumed_without_running_what_is_there(
    tmp_path: Path, checkpoint: Path, batches: Any
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    runs = []

    def collect(batch: Any) -> Any:
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(batch)
        return teacher.collect(batch)

    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        write_cache(collect, batches, make_writer(folder, checkpoint))
    with pytest.raises(CacheError, match="is incomplete: write it again, and it continues"):
        TeacherCache(folder)
    runs.clear()
    assert write_cache(collect, batches, make_writer(folder, checkpoint)) == 2
    assert len(runs) == 1
    resumed = TeacherCache(folder)
    assert len(resumed) == 6
    spec = resumed.stored_tap(TapSpec("neck", (1,)))
    for batch in batches:
        assert torch.equal(resumed.read(sample_keys(batch), spec), teacher.collect(batch)["toydistiller/feature"].value)
    assert write_cache(collect, batches, make_writer(folder, checkpoint)) == 0  # and again there is nothing to do


def test_contract_14_a_failing_disk_leaves_nothing_half_written(
    tmp_path: Path, checkpoint: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    writer = make_writer(tmp_path / "store", checkpoint)
    writer.add(sample_keys(batches[0]), teacher.collect(batches[0]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}

    def full(file: Any, arr: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        writer.add(sample_keys(batches[1]), teacher.collect(batches[1]))
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {**MODEL, "channels": 5}}, "teacher: stored"),
        ({"forward_mode": "tensor"}, "teacher: stored"),
        ({"precision": "fp32"}, "teacher: stored"),
        ({"checkpoint": "other.pth"}, "checkpoint: stored"),
    ],
)
def test_a_store_of_another_teacher_is_refused_with_the_reason(
    store: Path, checkpoint: Path, toy: Any, change: dict, reason: str
) -> None:
    if "checkpoint" in change:
        checkpoint = checkpoint.with_name("other.pth")
        torch.save(toy().state_dict(), checkpoint)
    options = {key: value for key, value in change.items() if key != "checkpoint"}
    with pytest.raises(CacheError, match=rf"is stale or of another teacher \({reason}"):
        make_model(checkpoint, role="cached", cache=str(store), **options)


def test_a_store_of_other_versions_or_data_is_refused_with_the_reason(
    store: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="data: stored 'toys', now 'games'"):
        make_writer(store, checkpoint, data="games")
    with pytest.raises(CacheError, match="holds dtype float32, not float16"):
        make_writer(store, checkpoint, dtype="float16")
    monkeypatch.setattr("perceptkd.__version__", "9.9.9")
    with pytest.raises(CacheError, match=r"versions: stored 'perceptkd 0.*now 'perceptkd 9\.9\.9"):
        make_model(checkpoint, role="cached", cache=str(store))


def test_samples_taps_and_augmentations_that_are_not_stored_are_named(
    store: Path, checkpoint: Path, batches: Any, batch_of: Any
) -> None:
    model = make_model(checkpoint, role="cached", cache=str(store))
    with pytest.raises(CacheError, match="has no sample '9-0'"):
        model(RawBatch(batch_of(seed=9), True), mode="loss")
    batches[0]["inputs"][1] = batches[0]["inputs"][1].flip(-1)  # another augmentation of a stored sample
    with pytest.raises(CacheError, match=r"from other inputs for sample '0-1'.*pipeline"):
        model(RawBatch(batches[0], True), mode="loss")
    with pytest.raises(CacheError, match=r"no tap 'backbone'; it has neck\[1\], bbox_head\[0\]"):
        TeacherCache(store).stored_tap(TapSpec("backbone"))
    with pytest.raises(CacheError, match="There is no teacher cache at"):
        TeacherCache(store / "nowhere")


def test_taps_whose_names_differ_in_signs_alone_are_kept_apart(tmp_path: Path) -> None:
    specs = [parse_tap(name) for name in ("neck[1]", "neck[-1]", "head['a b']", "head['a_b']")]
    taps = {str(spec): Tap(spec, [torch.full((2, 3), float(value))]) for value, spec in enumerate(specs)}
    keys = [SampleKey("a", None, 0), SampleKey("b", None, 0)]
    writer = TeacherCacheWriter(tmp_path, {}, dtype="float32")
    writer.add(keys, taps)
    writer.close()
    cache = TeacherCache(tmp_path)
    assert all(torch.equal(cache.read(keys, tap.spec), tap.value) for tap in taps.values())


def test_views_keep_the_augmentations_of_one_sample_apart(tmp_path: Path, checkpoint: Path, batches: Any) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    views = []
    for view, shift in (("0-0", 0.0), ("0-1", 1.0)):
        images = [image + shift for image in batches[0]["inputs"]]
        samples = [sample.clone() for sample in batches[0]["data_samples"]]
        for sample in samples:
            sample.set_metainfo({"view": view})
        views.append({"inputs": images, "data_samples": samples})
    write_cache(teacher.collect, views, make_writer(tmp_path / "store", checkpoint))
    cached = make_model(checkpoint, role="cached", cache=str(tmp_path / "store")).distillers.teachers["teacher"]
    for batch in views:
        expected, found = (side.collect(batch)["toydistiller/feature"].value for side in (teacher, cached))
        assert torch.equal(expected, found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4), r"gives \(3, 4\) for 2 samples: only outputs with one row per sample"),
        (torch.full((2, 1), 1e6), "not finite in torch.float16; use dtype='float32'"),
        (object(), "A object in a tapped output cannot be cached"),
    ],
)
def test_what_cannot_be_cached_is_refused(tmp_path: Path, checkpoint: Path, value: Any, message: str) -> None:
    writer = make_writer(tmp_path / "store", checkpoint, dtype="float16")
    with pytest.raises(CacheError, match=message):
        writer.add([SampleKey("a", None, 0), SampleKey("b", None, 0)], {"t": Tap(TapSpec("neck"), [value])})


def test_long_names_are_hashed_and_nameless_samples_refused(batch: Any) -> None:
    batch["data_samples"][0].set_metainfo({"token": "x" * 500})
    first, second = sample_keys(batch)
    assert len(first.sample) == 64
    assert second.sample == "0-1"
    for sample in batch["data_samples"]:
        sample.set_metainfo({"img_id": None, "token": None})
    with pytest.raises(ValueError, match="needs one of token,"):
        sample_keys(batch)


def test_the_content_of_a_sample_is_all_that_its_outputs_depend_on() -> None:
    def content(points: torch.Tensor, *, matrix: float = 1.0, x: float = 0.0, path: str = "a") -> int:
        sample = Det3DDataSample(metainfo={"token": "t", "lidar2cam": np.eye(4) * matrix, "lidar_path": path})
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


@pytest.mark.parametrize("layout", ["yx", "xy"])
def test_a_foreground_store_keeps_the_cells_about_the_boxes(tmp_path: Path, layout: str) -> None:
    """A car 4 m long and 2 m wide on a map of 1 m cells, and 2.4 m around it: 9 by 7 cells."""
    bev_map = torch.randn(2, 3, 20, 30)  # y, x
    value = bev_map if layout == "yx" else bev_map.transpose(2, 3).contiguous()
    spec = TapSpec("neck", layout=layout, extent=(0.0, 0.0, 30.0, 20.0))
    vector = Tap(TapSpec("score"), [torch.randn(2, 7)], "teacher")
    keys = [SampleKey(str(number), None, number) for number in range(2)]
    samples = [sample_with_boxes([(15.5, 10.5, 4.0, 2.0, 0.0)]), sample_with_boxes([])]
    reach = BoxReach(margin_m=2.4, cells=0)
    writer = TeacherCacheWriter(tmp_path, {}, dtype="float32", reach=reach)
    writer.add(keys, {"map": Tap(spec, [{"a": value}], "teacher"), "score": vector}, samples)
    writer.close()
    store = TeacherCache(tmp_path)
    read = store.read(keys[::-1], spec)["a"].flip(0)
    found = read if layout == "yx" else read.transpose(2, 3)
    rows, columns = slice(10 - 3, 10 + 4), slice(15 - 4, 15 + 5)
    expected = torch.zeros_like(bev_map)
    expected[0, :, rows, columns] = bev_map[0, :, rows, columns]
    assert torch.equal(found, expected)
    assert torch.equal(store.read(keys, vector.spec), vector.value)
    stored = sum(np.load(path).nbytes for path in tmp_path.glob("shard-*.0.*.npy"))
    assert stored == 7 * 9 * (3 * 4 + 4)


def sample_with_boxes(boxes: list[tuple[float, ...]]) -> Any:
    bev = torch.tensor(boxes).view(-1, 5)
    return SimpleNamespace(gt_instances_3d=SimpleNamespace(bboxes_3d=SimpleNamespace(bev=bev)))


def test_a_foreground_store_without_boxes_and_one_of_whole_maps_are_told_apart(tmp_path: Path) -> None:
    tap = Tap(TapSpec("neck", layout="yx", extent=(0.0, 0.0, 2.0, 2.0)), [torch.zeros(1, 1, 2, 2)], "teacher")
    keys = [SampleKey("a", None, 0)]
    writer = TeacherCacheWriter(tmp_path, {}, reach=BoxReach())
    with pytest.raises(CacheError, match="needs the samples with their boxes"):
        writer.add(keys, {"map": tap})
    writer.add(keys, {"map": tap}, [sample_with_boxes([])])
    writer.close()
    with pytest.raises(CacheError, match=r"holds reach \{.*\}, not None"):
        TeacherCacheWriter(tmp_path, {})


def test_an_fp16_store_is_read_under_bf16_autocast(tmp_path: Path) -> None:
    tap, keys = Tap(TapSpec("neck"), [torch.ones(2, 3)], "teacher"), [SampleKey(name, None, 0) for name in "ab"]
    writer = TeacherCacheWriter(tmp_path, {}, dtype="float16")
    writer.add(keys, {"map": tap})
    writer.close()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TeacherCache(tmp_path).read(keys, tap.spec).float(), tap.value)
