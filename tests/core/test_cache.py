"""The offline teacher store: written once, resumed when interrupted, refused when it is not this teacher's."""

import importlib.metadata
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perceptkd.atomic import WriteError
from perceptkd.core import DistillModel
from perceptkd.core.batch import RawBatch
from perceptkd.core.cache import CacheError, TeacherCache, flatten, unflatten
from perceptkd.core.cache_key import build_fingerprint, sample_keys
from perceptkd.core.cache_shard import read_indices
from perceptkd.core.cache_writer import TeacherCacheWriter, write_cache
from perceptkd.core.tap import TapSpec, parse_tap

MODEL = {"type": "perceptkd.ToyDetector", "bev_geometry": {"layout": "yx", "extent": (0.0, 0.0, 1.0, 1.0)}}
TAPS = {"feature": "neck[1]", "score": "bbox_head[0]"}


@pytest.fixture
def checkpoint(toy: Any, tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "teacher.pth"
    torch.save(toy().state_dict(), path)
    return path


def make_model(checkpoint: Path, dry_batch: Any = None, **teacher: Any) -> DistillModel:
    torch.manual_seed(0)
    return DistillModel(
        {"type": "perceptkd.ToyDetector", "bev_geometry": MODEL["bev_geometry"]},
        teachers={"teacher": {"config": MODEL, "checkpoint": str(checkpoint), **teacher}},
        distillers=[{"type": "perceptkd.ToyDistiller", "teacher_taps": TAPS}],
        dry_batch=dry_batch,
    )


def make_writer(folder: Path, checkpoint: Path, **kwargs: Any) -> TeacherCacheWriter:
    """It writes a shard per batch of two."""
    fingerprint = build_fingerprint(model=MODEL, checkpoint=checkpoint)
    return TeacherCacheWriter(folder, fingerprint, **{"dtype": "float32", "shard_bytes": 1000, **kwargs})


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


def test_a_step_knows_the_classes_of_a_cached_teacher(tmp_path: Path, checkpoint: Path, batches: Any) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    folder = tmp_path / "store"
    write_cache(teacher.collect, batches[:1], make_writer(folder, checkpoint, classes=[("car",), ["bus", "van"]]))
    model = make_model(checkpoint, role="cached", cache=str(folder))
    steps: list[Any] = []
    model.distillers["toydistiller"].loss = lambda student, teacher, step: (
        steps.append(step) or {"feature": student["feature"].value.mean()}
    )
    model(RawBatch(batches[0], True), mode="loss")
    assert steps[0].stored_classes == {"teacher": [["car"], ["bus", "van"]]}
    with pytest.raises(CacheError, match=r"holds classes \[\['car'\], \['bus', 'van'\]\], not None"):
        make_writer(folder, checkpoint)


def test_the_store_is_plain_numpy_of_few_files(store: Path) -> None:
    """A sample has 4 x 4 x 4 values of one tap and 8 x 8 of the other, one behind the other."""
    shards = [f"shard-0000{number}.{kind}" for number in range(3) for kind in ("bin", "npy")]
    assert sorted(path.name for path in store.iterdir()) == ["lock", "manifest.json", *shards]
    assert (store / shards[0]).stat().st_size == 2 * 2 * 64 * 4
    places = np.load(store / shards[1], allow_pickle=False)["arrays"]
    assert places["offset"].tolist() == [[0, 256], [512, 768]]
    assert places["shape"][0].tolist() == [[4, 4, 4, -1, -1], [1, 8, 8, -1, -1]]
    assert (places["dtype"] == b"<f4").all()


@pytest.fixture
def interrupted() -> Any:
    """Makes a ``collect`` that is interrupted after some batches."""

    def make(collect: Any, after: int) -> Any:
        runs: list[Any] = []

        def run(batch: Any) -> Any:
            if len(runs) == after:
                raise KeyboardInterrupt
            runs.append(batch)
            return collect(batch)

        return run, runs

    return make


@pytest.mark.parametrize("shard_bytes", [1000, 10**6])
def test_an_interrupted_writer_is_resumed_without_running_what_is_there(
    tmp_path: Path, checkpoint: Path, batches: Any, interrupted: Any, shard_bytes: int
) -> None:
    """What was computed is there even where the interrupted shard was not full."""
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    folder = tmp_path / "store"
    collect, _ = interrupted(teacher.collect, after=2)
    with pytest.raises(KeyboardInterrupt):
        write_cache(collect, batches, make_writer(folder, checkpoint, shard_bytes=shard_bytes))
    with pytest.raises(CacheError, match=r"is incomplete: run the tools/cache_teacher\.py that wrote it again"):
        TeacherCache(folder)
    collect, runs = interrupted(teacher.collect, after=2)
    assert write_cache(collect, batches, make_writer(folder, checkpoint)) == 2
    assert len(runs) == 1
    resumed = TeacherCache(folder)
    assert len(resumed) == 6
    spec = resumed.stored_tap(TapSpec("neck", (1,)))
    for batch in batches:
        assert torch.equal(resumed.read(sample_keys(batch), spec), teacher.collect(batch)["toydistiller/feature"].value)
    assert write_cache(collect, batches, make_writer(folder, checkpoint)) == 0  # and again there is nothing to do
    assert len(TeacherCache(folder)) == 6


def test_a_store_is_incomplete_while_it_is_extended(
    store: Path, checkpoint: Path, batch_of: Any, interrupted: Any
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    collect, _ = interrupted(teacher.collect, after=1)
    with pytest.raises(KeyboardInterrupt):
        write_cache(collect, [batch_of(seed=seed) for seed in (3, 4)], make_writer(store, checkpoint))
    with pytest.raises(CacheError, match="is incomplete"):
        TeacherCache(store)


def test_samples_of_other_inputs_are_added_beside_those_that_are_there(
    store: Path, checkpoint: Path, batches: Any
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    flipped = {**batches[0], "inputs": [image.flip(-1) for image in batches[0]["inputs"]]}
    assert write_cache(teacher.collect, [flipped], make_writer(store, checkpoint)) == 2
    cached = make_model(checkpoint, role="cached", cache=str(store)).distillers.teachers["teacher"]
    for batch in (batches[0], flipped):
        expected, found = (side.collect(batch)["toydistiller/feature"].value for side in (teacher, cached))
        assert torch.equal(expected, found)


def test_contract_14_a_failing_disk_leaves_nothing_half_written(
    tmp_path: Path, checkpoint: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    writer = make_writer(tmp_path / "store", checkpoint)
    writer.add(sample_keys(batches[0]), teacher.collect(batches[0]))
    before = stored_samples(tmp_path / "store")

    def full(file: Any, arr: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(WriteError, match=r"cannot write .*shard-00001.npy: No space left.*free some space and resume"):
        writer.add(sample_keys(batches[1]), teacher.collect(batches[1]))
    with pytest.raises(WriteError):
        writer.close()
    monkeypatch.undo()
    assert stored_samples(tmp_path / "store") == before == 2
    assert not list((tmp_path / "store").glob("*.tmp"))
    assert write_cache(teacher.collect, batches, make_writer(tmp_path / "store", checkpoint)) == 4


def stored_samples(folder: Path) -> int:
    return sum(len(rows) for rows in read_indices(folder).values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {**MODEL, "channels": 5}}, "teacher: stored"),
        ({"forward_mode": "tensor"}, "teacher: stored"),
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


@pytest.mark.parametrize("library", ["perceptkd", "torch", "onedl-mmengine", "mmdet3d"])
def test_a_store_of_other_versions_is_refused_with_the_reason(
    store: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9" if name == library else version(name))
    with pytest.raises(CacheError, match=rf"versions: stored '.*{library} \d.*now '.*{library} 9\.9\.9"):
        make_model(checkpoint, role="cached", cache=str(store))


@pytest.mark.parametrize("written", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("option", "autocast", "reads"),
    [
        ("student", False, "fp32"),
        ("student", True, "bf16"),
        ("fp32", True, "fp32"),
        ("bf16", False, "bf16"),
    ],
)
def test_a_store_of_another_precision_is_refused_when_it_is_read(
    tmp_path: Path, checkpoint: Path, batches: Any, written: str, option: str, autocast: bool, reads: str
) -> None:
    teacher = make_model(checkpoint).distillers.teachers["teacher"]
    fingerprint = build_fingerprint(model=MODEL, checkpoint=checkpoint, precision=written)
    write_cache(teacher.collect, batches, TeacherCacheWriter(tmp_path / "store", fingerprint))
    model = make_model(checkpoint, role="cached", cache=str(tmp_path / "store"), precision=option)
    expectation = pytest.raises(
        CacheError, match=f"was computed in {written}, and this training computes its teacher in {reads}"
    )
    with nullcontext() if written == reads else expectation, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(RawBatch(batches[0], True), mode="loss")


def test_a_writer_refuses_a_store_of_something_else_before_anything_runs(store: Path, checkpoint: Path) -> None:
    with pytest.raises(CacheError, match="holds dtype float32, not float16"):
        make_writer(store, checkpoint, dtype="float16")
    with pytest.raises(CacheError, match="precision: stored 'fp32', now 'bf16'"):
        TeacherCacheWriter(store, build_fingerprint(model=MODEL, checkpoint=checkpoint, precision="bf16"))
    with pytest.raises(CacheError, match=r"holds neck\[1\], bbox_head\[0\], not neck\[0\] \(they differ in neck\[1\]"):
        make_writer(store, checkpoint, taps=[TapSpec("neck", (0,))])
    taps = make_model(checkpoint).distillers.teachers["teacher"].specs.values()
    make_writer(store, checkpoint, taps=taps, dtype="float32").close()
    with pytest.raises(CacheError, match="they differ in neck"):
        make_writer(store, checkpoint, taps=[parse_tap({"path": str(tap), "layout": "xy"}) for tap in taps])
    (store / "manifest.json").unlink()
    with pytest.raises(CacheError, match=r"holds shards of a teacher cache without manifest\.json: delete it"):
        make_writer(store, checkpoint)


def test_a_dry_pass_takes_the_shapes_of_a_stored_sample(tmp_path: Path, toy: Any, batches: Any, batch_of: Any) -> None:
    """The student's 4 channels are adapted to the teacher's 6; the dry batch itself is not stored."""
    checkpoint, model = tmp_path / "wide.pth", {**MODEL, "channels": 6}
    torch.save(toy(channels=6).state_dict(), checkpoint)
    online = make_model(checkpoint, dry_batch=batch_of(seed=9), config=model)
    fingerprint = build_fingerprint(model=model, checkpoint=checkpoint)
    with TeacherCacheWriter(tmp_path / "store", fingerprint, dtype="float32") as writer:
        write_cache(online.distillers.teachers["teacher"].collect, batches, writer)
    options = {"role": "cached", "cache": str(tmp_path / "store"), "config": model}
    cached = make_model(checkpoint, dry_batch=batch_of(seed=9), **options)
    assert "Conv2d(4, 6" in repr(cached.distillers)
    assert repr(cached.distillers) == repr(online.distillers)


@pytest.mark.parametrize("left", [None, 0, -1])
def test_a_shard_that_is_missing_or_cut_off_is_named(store: Path, checkpoint: Path, left: int | None) -> None:
    shard = store / "shard-00001.bin"
    content = shard.read_bytes()
    shard.unlink()
    if left is not None:
        shard.write_bytes(content[:left])
    with pytest.raises(CacheError, match=r"shard-00001\.bin is missing or cut off: copy or write the cache again"):
        make_model(checkpoint, role="cached", cache=str(store))
    (store / "shard-00001.npy").unlink()
    with pytest.raises(CacheError, match="has 4 of its 6 samples: copy or write the cache again"):
        make_model(checkpoint, role="cached", cache=str(store))


def test_a_closed_writer_writes_no_more(store: Path, checkpoint: Path, batches: Any, batch_of: Any) -> None:
    taps = make_model(checkpoint).distillers.teachers["teacher"].collect(batches[0])
    writer = make_writer(store, checkpoint)
    writer.close()
    with pytest.raises(CacheError, match="is closed: others may write there now"):
        writer.add(sample_keys(batch_of(seed=9, size=2)), taps)


def test_what_is_added_is_stored_as_it_was_then(tmp_path: Path, checkpoint: Path, batches: Any) -> None:
    """A layer that works in place changes an output that was not cloned."""
    taps = make_model(checkpoint).distillers.teachers["teacher"].collect(batches[0])
    feature = next(tap for tap in taps.values() if str(tap.spec) == "neck[1]")
    with make_writer(tmp_path / "store", checkpoint, shard_bytes=10**9) as writer:
        writer.add(sample_keys(batches[0]), taps)
        expected = feature.value.clone()
        feature.value.fill_(9)
    read = TeacherCache(tmp_path / "store").read(sample_keys(batches[0]), feature.spec)
    assert torch.equal(read, expected)


def test_the_config_may_add_to_the_geometry_of_a_stored_tap_but_not_contradict_it(store: Path) -> None:
    cache = TeacherCache(store)
    added = cache.stored_tap(parse_tap({"path": "neck[1]", "stride": (8, 16)}))
    assert (added.layout, added.extent, added.stride) == ("yx", (0.0, 0.0, 1.0, 1.0), (8, 16))
    with pytest.raises(CacheError, match=r"layout: stored yx, now xy; extent: stored \[0.0, .*, now \[0.0, 0.0, 2.0"):
        cache.stored_tap(parse_tap({"path": "neck[1]", "layout": "xy", "extent": (0.0, 0.0, 2.0, 2.0)}))


def test_samples_taps_and_augmentations_that_are_not_stored_are_named(
    store: Path, checkpoint: Path, batches: Any, batch_of: Any
) -> None:
    model = make_model(checkpoint, role="cached", cache=str(store))
    with pytest.raises(CacheError, match="has no sample '9-0'"):
        model(RawBatch(batch_of(seed=9), True), mode="loss")
    batches[0]["inputs"][1] = batches[0]["inputs"][1].flip(-1)  # another augmentation of a stored sample
    with pytest.raises(CacheError, match=r"from other inputs for sample '0-1'.*pipeline"):
        model(RawBatch(batches[0], True), mode="loss")
    batches[0]["data_samples"][1].set_metainfo({"view": "0-5-1"})
    expected = (
        r"has sample '0-1', but not with these inputs as in view '0-5-1' .*fewer epochs, .*pipeline or calibration"
    )
    with pytest.raises(CacheError, match=expected):
        model(RawBatch(batches[0], True), mode="loss")
    with pytest.raises(CacheError, match=r"no tap 'backbone'; it has neck\[1\], bbox_head\[0\]"):
        TeacherCache(store).stored_tap(TapSpec("backbone"))
    with pytest.raises(CacheError, match="There is no teacher cache at"):
        TeacherCache(store / "nowhere")
