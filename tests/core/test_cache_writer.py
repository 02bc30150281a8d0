"""What a teacher cache takes in, and that it gives back the same."""

import os
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perceptkd.core import cache_shard
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.cache import CacheError, TeacherCache
from perceptkd.core.cache_key import SampleKey, sample_keys
from perceptkd.core.cache_writer import TeacherCacheWriter, write_cache
from perceptkd.core.tap import Tap, TapSpec, parse_tap

KEYS = [SampleKey("a", None, 0), SampleKey("b", None, 0)]
NECK = TapSpec("neck")
Output = namedtuple("Output", "map")


def write(folder: Path, *values: Any, keys: list[SampleKey] = KEYS, spec: TapSpec = NECK, **options: Any) -> None:
    """One batch of the given samples per value of the tap."""
    with TeacherCacheWriter(folder, {}, **options) as writer:
        for number, value in enumerate(values):
            writer.add(keys[2 * number : 2 * number + 2], {"t": Tap(spec, [value])})


def test_taps_whose_names_differ_in_signs_alone_are_kept_apart(tmp_path: Path) -> None:
    specs = [parse_tap(name) for name in ("neck[1]", "neck[-1]", "head['a b']", "head['a_b']")]
    taps = {str(spec): Tap(spec, [torch.full((2, 3), float(value))]) for value, spec in enumerate(specs)}
    with TeacherCacheWriter(tmp_path, {}) as writer:
        writer.add(KEYS, taps)
    cache = TeacherCache(tmp_path)
    assert all(torch.equal(cache.read(KEYS, tap.spec).float(), tap.value) for tap in taps.values())


def test_samples_views_and_contents_are_told_apart(tmp_path: Path) -> None:
    keys = [SampleKey(*parts) for parts in (("a", "0-0-0", 7), ("a", "0-1-0", 9), ("b", "0-0-0", 7), ("a", "0-0-0", 8))]
    values = torch.randn(2, 2, 3)
    write(tmp_path, *values, keys=keys, dtype="float32")
    cache = TeacherCache(tmp_path)
    assert torch.equal(cache.read(keys, NECK), values.flatten(0, 1))
    with pytest.raises(CacheError, match=r"not with these inputs as in view '0-2-0' \(seed-epoch-index\): it was writ"):
        cache.read([SampleKey("a", "0-2-0", 6)], NECK)
    with pytest.raises(CacheError, match="has sample 'a', but not with these inputs: it was written"):
        cache.read([SampleKey("a", None, 6)], NECK)
    with pytest.raises(CacheError, match=r"no sample 'c' as in view '0-2-0' \(seed-epoch-index\)\. Run tools/cache_t"):
        cache.read([SampleKey("c", "0-2-0", 6)], NECK)
    with pytest.raises(CacheError, match="from other inputs for sample 'b' as in view '0-0-0'"):
        cache.read([SampleKey("b", "0-0-0", 8)], NECK)


def test_a_sample_that_is_there_is_not_stored_again(tmp_path: Path) -> None:
    """Nor in another view with the same inputs, for which the teacher does not run; a training may read any view."""
    metas = [{"token": token, "view": f"0-{epoch}-0"} for epoch, token in enumerate("aab")]
    batches = [{"inputs": [torch.zeros(1)], "data_samples": [SimpleNamespace(metainfo=meta)]} for meta in metas]
    runs = []

    def collect(batch: Any) -> Any:
        runs.append(batch)
        return {"t": Tap(NECK, [torch.zeros(1, 3)])}

    assert write_cache(collect, batches, TeacherCacheWriter(tmp_path, {})) == len(runs) == 2
    cache = TeacherCache(tmp_path)
    assert len(cache) == 2
    metas[0]["view"] = "5-7-0"
    assert torch.equal(cache.read(sample_keys(batches[0]), NECK), torch.zeros(1, 3).half())


@pytest.mark.parametrize("value", [torch.arange(2), torch.tensor([True, False]), torch.randn(2, 1, 2, 1, 2, 1)])
def test_numbers_of_every_kind_and_shape_are_given_back(tmp_path: Path, value: torch.Tensor) -> None:
    """Behind three bytes, where numbers of more bytes are not aligned."""
    write(tmp_path, {"mask": torch.ones(2, 3, dtype=torch.bool), "a": [value, (value, value)]}, dtype="float32")
    found = TeacherCache(tmp_path).read(KEYS, NECK)
    assert found["mask"].all()
    assert isinstance(found["a"][1], tuple)
    assert all(torch.equal(each, value) and each.dtype == value.dtype for each in (found["a"][0], *found["a"][1]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4), r"gives \(3, 4\) for 2 samples: only outputs with one row per sample.*tap another place"),
        (torch.full((2, 1), 1e6), "not finite in torch.float16; use dtype='float32'"),
        (object(), "A object in a tapped output cannot be cached: tap a tensor in it"),
        ({0: torch.zeros(2)}, "A dict whose keys are not text in a tapped output cannot be cached"),
        ([Output(torch.zeros(2))], "A Output in a tapped output cannot be cached"),
    ],
)
def test_what_cannot_be_cached_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        write(tmp_path, value)


def test_an_output_that_changes_its_nesting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="'neck' is nested in another way than in the samples before"):
        write(tmp_path, [torch.zeros(2)], [torch.zeros(2)] * 2, keys=KEYS + KEYS)


def test_maps_of_several_sizes_are_read_one_by_one(tmp_path: Path) -> None:
    keys = [SampleKey(name, None, 0) for name in "abcd"]
    write(tmp_path, torch.ones(2, 1, 3, 3), torch.ones(2, 1, 4, 4), keys=keys)
    cache = TeacherCache(tmp_path)
    assert [len(cache.read([key], NECK)[0, 0]) for key in keys] == [3, 3, 4, 4]
    with pytest.raises(CacheError, match=r"of 'neck' differs in shape within a batch.*batch_size=1"):
        cache.read(keys, NECK)


def test_an_empty_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"Nothing was written to the teacher cache .*: the data set is empty"):
        write(tmp_path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = TeacherCacheWriter(tmp_path, {})
    with pytest.raises(
        CacheError, match=r"Another process writes the teacher cache .*: wait until it ends, or .*--out"
    ):
        TeacherCacheWriter(tmp_path, {})
    first.add(KEYS, {"t": Tap(NECK, [torch.zeros(2)])})
    first.close()
    with pytest.raises(CacheError, match="dtype") as refused:  # whose traceback keeps the writer alive
        TeacherCacheWriter(tmp_path, {}, dtype="float32")
    with pytest.raises(RuntimeError, match="stop") as stopped, TeacherCacheWriter(tmp_path, {}):
        raise RuntimeError("stop")
    TeacherCacheWriter(tmp_path, {}).close()
    assert refused.value is not stopped.value


def test_a_store_of_many_shards_keeps_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_shard, "MAX_OPEN", 3)
    keys = [SampleKey(str(number), "0-0-0", number) for number in range(20)]
    values = torch.randn(10, 2, 3)
    write(tmp_path, *values, keys=keys, dtype="float32", shard_bytes=1)
    assert len(list(tmp_path.glob("*.bin"))) == 10
    store = TeacherCache(tmp_path)
    before = len(os.listdir("/dev/fd"))
    assert torch.equal(store.read(keys, NECK), values.flatten(0, 1))
    assert torch.equal(store.read(keys[::-3], NECK), values.flatten(0, 1).flip(0)[::3])
    assert len(os.listdir("/dev/fd")) == before + 3


@pytest.mark.parametrize("layout", ["yx", "xy"])
def test_a_foreground_store_keeps_the_cells_about_the_boxes(tmp_path: Path, layout: str) -> None:
    """A car 4 m long and 2 m wide on a map of 1 m cells, and 2.4 m around it: 9 by 7 cells."""
    bev_map = torch.randn(2, 3, 20, 30)  # y, x
    value = bev_map if layout == "yx" else bev_map.transpose(2, 3).contiguous()
    spec = TapSpec("neck", layout=layout, extent=(0.0, 0.0, 30.0, 20.0))
    vector = Tap(TapSpec("score"), [torch.randn(2, 7)], "teacher")
    samples = [sample_with_boxes([(15.5, 10.5, 4.0, 2.0, 0.0)]), sample_with_boxes([])]
    with TeacherCacheWriter(tmp_path, {}, dtype="float32", reach=BoxReach(margin_m=2.4, cells=0)) as writer:
        writer.add(KEYS, {"map": Tap(spec, [{"a": value}], "teacher"), "score": vector}, samples)
    store = TeacherCache(tmp_path)
    read = store.read(KEYS[::-1], spec)["a"].flip(0)
    found = read if layout == "yx" else read.transpose(2, 3)
    rows, columns = slice(10 - 3, 10 + 4), slice(15 - 4, 15 + 5)
    expected = torch.zeros_like(bev_map)
    expected[0, :, rows, columns] = bev_map[0, :, rows, columns]
    assert torch.equal(found, expected)
    assert torch.equal(store.read(KEYS, vector.spec), vector.value)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.bin")) == 7 * 9 * (3 * 4 + 4) + 2 * 7 * 4


def sample_with_boxes(boxes: list[tuple[float, ...]]) -> Any:
    bev = torch.tensor(boxes).view(-1, 5)
    return SimpleNamespace(gt_instances_3d=SimpleNamespace(bboxes_3d=SimpleNamespace(bev=bev)))


def test_a_foreground_store_needs_boxes_and_one_size(tmp_path: Path) -> None:
    """Without any box a shard has no bytes, and is read as zeros."""
    spec = TapSpec("neck", layout="yx", extent=(0.0, 0.0, 2.0, 2.0))
    small, large = ({"map": Tap(spec, [torch.ones(1, 1, size, size)], "teacher")} for size in (2, 4))
    with TeacherCacheWriter(tmp_path, {}, reach=BoxReach()) as writer:
        with pytest.raises(CacheError, match="needs the samples with their boxes"):
            writer.add(KEYS[:1], small)
        writer.add(KEYS[:1], small, [sample_with_boxes([])])
        with pytest.raises(CacheError, match=r"has \[4, 4\] cells, others \[2, 2\].*--whole-maps"):
            writer.add(KEYS[1:], large, [sample_with_boxes([])])
    assert torch.equal(TeacherCache(tmp_path).read(KEYS[:1], spec), torch.zeros(1, 1, 2, 2).half())
    with pytest.raises(CacheError, match=r"holds reach \{.*\}, not None"):
        TeacherCacheWriter(tmp_path, {})


def test_an_fp16_store_is_read_under_bf16_autocast(tmp_path: Path) -> None:
    write(tmp_path, torch.ones(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TeacherCache(tmp_path).read(KEYS, NECK).float(), torch.ones(2, 3))
