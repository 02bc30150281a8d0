"""A narrower student starts from the teacher's weights for the channels it has."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptkd.core.channels import ChannelTrace
from perceptkd.core.errors import InputError
from perceptkd.core.slicing import kept_channels, slice_weights
from perceptkd.core.source import ModelSource, build_model, read_model_source
from perceptkd.models.compact import shrink
from perceptkd.ops.sparse import SparseConv3d, SparseTensor, SubMConv3d


@dataclass
class Upstream:
    """A detector of mmdet3d on a range of seconds.

    Attributes:
        config: Of mmdet3d.
        low, high: The range, in metres.
        grid: Cells that the range has, (x, y).
        columns: Features of a point.
        box_columns: Numbers of a box.
    """

    config: str
    low: list[float]
    high: list[float]
    grid: list[int]
    columns: int = 4
    box_columns: int = 7


NUSCENES = {"columns": 5, "box_columns": 9}
UPSTREAM = {
    "pointpillars": Upstream(
        "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", [0, -7.68, -3], [15.36, 7.68, 1], [96, 96]
    ),
    "pointpillars_fpn": Upstream(
        "pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py", [-8, -8, -5], [8, 8, 3], [64, 64], box_columns=9
    ),
    "second": Upstream("second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py", [0, -4.8, -3], [9.6, 4.8, 1], [192, 192]),
    "centerpoint_pillar": Upstream(
        "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
        [-9.6, -9.6, -5],
        [9.6, 9.6, 3],
        [96, 96],
        **NUSCENES,
    ),
    "centerpoint_voxel": Upstream(
        "centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
        [-6.4, -6.4, -5],
        [6.4, 6.4, 3],
        [128, 128],
        **NUSCENES,
    ),
    "point_rcnn": Upstream("point_rcnn/point-rcnn_8xb2_kitti-3d-3class.py", [0, -10, -3], [20, 10, 1], []),
}


def read(detector: Upstream) -> dict[str, Any]:
    """Its model dict, on its range."""
    model = read_model_source(f"mmdet3d::{detector.config}").model
    low, high, grid = detector.low, detector.high, detector.grid
    model["data_preprocessor"].get("voxel_layer", {})["point_cloud_range"] = low + high
    parts = {key.removeprefix("pts_"): value for key, value in model.items()}
    if "middle_encoder" in parts:
        scatters = parts["middle_encoder"]["type"] == "PointPillarsScatter"
        parts["middle_encoder"].update(
            {"output_shape": grid[::-1]} if scatters else {"sparse_shape": [41, *grid[::-1]]}
        )
    if "in_channels" in parts.get("voxel_encoder", {}):
        parts["voxel_encoder"]["point_cloud_range"] = low + high
    if model["type"] == "CenterPoint":
        parts["bbox_head"]["bbox_coder"].update(pc_range=low[:2], max_num=8)
        model["train_cfg"]["pts"].update(grid_size=[*grid, 1], point_cloud_range=low + high)
        model["test_cfg"]["pts"].update(pc_range=low[:2])
    elif model["type"] != "PointRCNN":
        test_cfg = model["test_cfg"].get("pts", model["test_cfg"])
        test_cfg.update(nms_pre=8)  # while channels are followed all boxes have the same score
    if model["type"] == "PointRCNN":  # as few points and proposals as keep all of its layers busy
        model["backbone"]["num_points"] = (256, 128, 64, 32)
        model["test_cfg"]["rpn"]["nms_cfg"].update(nms_pre=64, nms_post=16)
        model["roi_head"]["bbox_roi_extractor"]["roi_layer"]["num_sampled_points"] = 64
        model["roi_head"]["bbox_head"].update(num_points=(32, 8, -1))
    return model


def randomize(model: nn.Module) -> None:
    """Statistics, scales and shifts as training leaves them: none is 0 or 1."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.3, 0.3)


def out_axis(module: nn.Module) -> int | None:
    """Of the output channels in the weight of a layer."""
    if isinstance(module, nn.ConvTranspose2d):
        return 1
    return 0 if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | SubMConv3d | SparseConv3d) else None


def group(name: str, width: int) -> str:
    """The same for layers whose outputs are added, or read by the same head."""
    if re.search(r"encoder_layers.*\.conv2$|encoder_layer\d\.\d\.0$|conv_input", name):
        return f"residual stream of {width}"
    return re.sub(r"(lateral_convs|fpn_convs)\.\d", r"\1", name)


def norm_of(modules: dict[str, nn.Module], name: str) -> nn.Module | None:
    """The batch norm behind a layer, as mmcv and mmdet3d name it; some layers of PointRCNN have none."""
    path, _, last = name.rpartition(".")
    names = [last.replace("conv", "bn"), "norm", str(int(last) + 1) if last.isdigit() else "bn"]
    return next((modules[f"{path}.{n}"] for n in names if isinstance(modules.get(f"{path}.{n}"), _BatchNorm)), None)


def kill_channels(teacher: nn.Module, student: nn.Module) -> None:
    """Zero as many channels of every layer of the teacher as the student lacks, others in every group."""
    modules, twins = dict(teacher.named_modules()), dict(student.named_modules())
    dead_of: dict[str, Tensor] = {}
    for name, module in modules.items():
        axis = out_axis(module)
        if axis is None or module.weight.shape[axis] == twins[name].weight.shape[axis]:
            continue
        full, left = module.weight.shape[axis], twins[name].weight.shape[axis]
        dead = dead_of.setdefault(group(name, full), torch.randperm(full)[left:])
        module.weight.data.index_fill_(axis, dead, 0.0)
        norm = norm_of(modules, name)
        for tensor in (module.bias, *(norm.parameters() if norm else ())):
            if tensor is not None:
                tensor.data[dead] = 0.0


@torch.no_grad()
def predictions(model: nn.Module, batch: Any, names: list[str]) -> list[Tensor]:
    """What the named layers return on a batch."""
    found: list[Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda m, i, output: found.append(output)) for name in names
    ]
    model.eval()._run_forward(model.data_preprocessor(copy.deepcopy(batch), False), mode="predict")
    for hook in hooks:
        hook.remove()
    return found


def last_layers(teacher: nn.Module, student: nn.Module) -> list[str]:
    """Those that predict: as wide in the student."""
    twins = dict(student.named_modules())
    axes = {name: out_axis(module) for name, module in teacher.named_modules()}
    return [
        name
        for name, axis in axes.items()
        if axis is not None and teacher.get_submodule(name).weight.shape[axis] == twins[name].weight.shape[axis]
    ]


@pytest.mark.parametrize(
    ("name", "compression", "importance"),
    [
        ("pointpillars", 16, "l1"),
        ("pointpillars_fpn", 2, "l1"),
        ("centerpoint_voxel", 4, "bn_scale"),
        pytest.param("second", 2, "l1", marks=pytest.mark.slow),
        pytest.param("centerpoint_pillar", 4, "l1", marks=pytest.mark.slow),
        pytest.param("centerpoint_voxel", 2, "l1", marks=pytest.mark.slow),
        pytest.param("point_rcnn", 8, "l1", marks=pytest.mark.slow),
    ],
)
def test_a_student_without_the_dead_channels_of_its_teacher_predicts_the_same(
    name: str, compression: float, importance: str, scene: Callable
) -> None:
    detector = UPSTREAM[name]
    model = read(detector)
    teacher = build_model(ModelSource(model, "mmdet3d"))
    student = build_model(ModelSource(shrink(model, compression), "mmdet3d"))
    randomize(teacher)
    kill_channels(teacher, student)
    batch = scene(detector.low, detector.high, detector.columns, detector.box_columns, 3)
    if name == "point_rcnn":
        batch["inputs"]["points"] = [points[:1024] for points in batch["inputs"]["points"]]
    student.load_state_dict(slice_weights(teacher.eval(), student, batch, importance=importance))
    names = last_layers(teacher, student)
    expected, found = predictions(teacher, batch, names), predictions(student, batch, names)
    assert len(expected) == len(found) >= len(names) > 0
    for first, second in zip(expected, found):
        assert first.std() > 0
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4 * float(first.abs().max()))


class Detector(BaseModel):
    """What a test calls its layers with: ``inputs`` [B, C, H, W], or a sparse tensor."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs: Any, mode: str = "tensor") -> Any:
        return self.head(self.stem(inputs))


class Joined(Detector):
    """Two branches that are added to the stem or concatenated, and a head that reads two levels."""

    def __init__(self, width: int, beside: int, added: int | None = None, classes: int = 3) -> None:
        super().__init__(
            stem=nn.Conv2d(2, width, 3, padding=1),
            branch=nn.Sequential(nn.Conv2d(width, added or width, 1), nn.BatchNorm2d(added or width)),
            beside=nn.Linear(width, beside),
            up=nn.ConvTranspose2d(width + beside, beside, 2, 2),
            down=nn.Conv2d(beside, beside, 2, 2),
            head=nn.Conv2d(beside, classes, 1),
        )

    def forward(self, inputs: Tensor, mode: str = "tensor") -> list[Tensor]:
        stem = self.stem(inputs)
        added = (self.branch(stem) + stem).relu_()
        beside = self.beside(stem.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        fine = self.up(torch.cat([added, beside], dim=1))
        return [self.head(fine), self.head(self.down(fine))]


def images() -> dict[str, Tensor]:
    return {"inputs": torch.rand(2, 2, 4, 4)}


def test_sums_concatenations_and_heads_of_several_levels_are_followed() -> None:
    teacher, student = Joined(6, 5).eval(), Joined(4, 3)
    trace = ChannelTrace(teacher, student)
    with trace.following():
        teacher(**images())
    numbers, roots = {name: layer.outputs for name, layer in trace.layers.items()}, trace.roots()
    assert torch.equal(roots[numbers["branch.0"]], roots[numbers["stem"]])
    assert torch.equal(roots[numbers["up"]], roots[numbers["down"]])
    assert roots.unique().numel() == 6 + 5 + 5
    assert torch.equal(trace.layers["up"].inputs, torch.cat([numbers["branch.0"], numbers["beside"]]))
    assert torch.equal(trace.norms["branch.1"], numbers["branch.0"])
    kept = kept_channels(trace)
    assert torch.equal(kept[numbers["branch.0"]], kept[numbers["stem"]])
    assert [int(kept[numbers[name]].sum()) for name in ("stem", "beside", "up")] == [4, 3, 3]


def test_dead_channels_of_every_kind_of_layer_can_be_left_out() -> None:
    teacher, student = Joined(6, 5).eval(), Joined(4, 3).eval()
    dead = {"stem": [1, 4], "branch": [1, 4], "beside": [0, 3], "up": [2, 4], "down": [2, 4]}
    randomize(teacher)
    for name, channels in dead.items():
        for value in teacher.get_submodule(name).state_dict(keep_vars=True).values():
            if value.ndim and value.requires_grad:
                value.data.index_fill_(1 if name == "up" and value.ndim > 1 else 0, torch.tensor(channels), 0.0)
    student.load_state_dict(slice_weights(teacher, student, images()))
    batch = images()
    for expected, found in zip(teacher(**batch), student(**batch)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("importance", "channels"), [("l1", [1, 3]), ("bn_scale", [0, 3]), ("first", [0, 1])])
def test_the_most_important_channels_are_kept_in_the_teachers_order(importance: str, channels: list[int]) -> None:
    def detector(width: int) -> Detector:
        stem = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))
        return Detector(stem=stem, head=nn.Conv2d(width, 1, 1)).eval()

    teacher, student = detector(4), detector(2)
    teacher.stem[0].weight.data[:] = torch.tensor([1.0, 3.0, 0.5, -4.0])[:, None, None, None]
    teacher.stem[1].weight.data[:] = torch.tensor([-9.0, 2.0, 1.0, 3.0])
    state = slice_weights(teacher, student, images(), importance=importance)
    for name in ("stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.running_var"):
        assert torch.equal(state[name], teacher.state_dict()[name][channels])
    assert torch.equal(state["head.weight"], teacher.head.weight[:, channels])
    assert torch.equal(state["head.bias"], teacher.head.bias)


def test_sparse_convolutions_of_one_cell_are_sliced_as_they_compute() -> None:
    def detector(width: int) -> Detector:
        stem = nn.Sequential(SubMConv3d(2, width, 3), SubMConv3d(width, width, 1))
        return Detector(stem=stem, head=SparseConv3d(width, 3, 1))

    teacher, student = detector(5).eval(), detector(3)
    for layer in teacher.stem:
        matrix = layer.weight.view(layer.in_channels, 5) if layer.is_pointwise else layer.weight.movedim(0, -1)
        matrix.data[..., [0, 2]] = 0.0
        layer.bias.data[[0, 2]] = 0.0
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 1, 1]], dtype=torch.int32)
    batch = {"inputs": SparseTensor(torch.rand(3, 2), coordinates, (4, 4, 4), 1)}
    student.load_state_dict(slice_weights(teacher, student, batch))
    torch.testing.assert_close(student(**batch).features, teacher(**batch).features)


def test_a_student_that_is_as_wide_gets_the_teachers_weights() -> None:
    teacher, student = Joined(6, 5).eval(), Joined(6, 5)
    state = slice_weights(teacher, student, images())
    assert state.keys() == teacher.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in teacher.state_dict().items())


def test_following_leaves_the_teacher_as_it_was() -> None:
    teacher, batch = Joined(6, 5).eval(), images()
    before, expected = copy.deepcopy(teacher.state_dict()), teacher(**batch)
    slice_weights(teacher, Joined(4, 3), batch)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(torch.equal(*pair) for pair in zip(teacher(**batch), expected))


class Shuffled(Detector):
    """Exchanges channels in a part of the map, which no choice of channels can follow."""

    def forward(self, inputs: Tensor, mode: str = "tensor") -> Tensor:
        features = self.stem(inputs)
        return self.head(torch.cat([features[..., :2], features.flip(1)[..., 2:]], dim=-1))


def two_layers(kind: type[Detector], width: int, **unused: nn.Module) -> Detector:
    return kind(stem=nn.Conv2d(2, width, 1), head=nn.Conv2d(width, 1, 1), **unused).eval()


@pytest.mark.parametrize(
    ("teacher", "student", "options", "message"),
    [
        (Joined(4, 3), Joined(6, 3), {}, "'stem' has 4 channels in the teacher, but 6 in the student"),
        (
            Joined(6, 3),
            Joined(4, 3, classes=2),
            {},
            "'head' has 3 channels in the teacher and 2 in the student, but no layer reads",
        ),
        (Joined(6, 3), Joined(4, 3, added=5), {}, "5 channels of 'branch.0' do not fit those they are added to"),
        (Joined(6, 3), Joined(4, 3), {"importance": "size"}, "must be one of l1, bn_scale, first; got 'size'"),
        (Joined(6, 3), Joined(4, 3), {"importance": "bn_scale"}, "needs BatchNorm behind every layer"),
        (two_layers(Shuffled, 4), two_layers(Shuffled, 2), {}, "Channels are mixed outside of layers"),
        (
            two_layers(Detector, 4, unused=nn.Conv2d(4, 4, 1)),
            two_layers(Detector, 2, unused=nn.Conv2d(2, 2, 1)),
            {},
            "'unused' has 4 channels in the teacher and 2 in the student, but no layer.*run on the dry batch",
        ),
        (
            Detector(stem=nn.Conv2d(2, 4, 1), head=nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1))),
            Detector(stem=nn.Conv2d(2, 2, 1), head=nn.Sequential(nn.GroupNorm(2, 2), nn.Conv2d(2, 1, 1))),
            {},
            "'stem' has 4 channels in the teacher.*of Linear, convolutions and BatchNorm",
        ),
        (two_layers(Detector, 4), two_layers(Detector, 2, more=nn.Linear(1, 1)), {}, "more.weight is not there"),
        (
            Detector(stem=nn.Conv2d(2, 4, 1, groups=2), head=nn.Conv2d(4, 1, 1)),
            Detector(stem=nn.Conv2d(2, 2, 1, groups=2), head=nn.Conv2d(2, 1, 1)),
            {},
            "'stem' is a grouped convolution",
        ),
    ],
)
def test_what_cannot_be_sliced_is_named(teacher: Any, student: Any, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        slice_weights(teacher.eval(), student, images(), **options)
