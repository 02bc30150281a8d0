"""The weights of a teacher cut down to the channels of a narrower student of the same layers.

This is the teacher-guided initialisation of SparseKD (Yang et al., NeurIPS 2022, "Towards Efficient 3D Object Detection
with Knowledge Distillation"). Of each layer the student gets whole channels of the teacher, and its next layer reads
just these. Channels that the teacher does not use (weights, scale and shift of 0) cost nothing to leave out.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from perceptkd.core.channels import NONE, ChannelTrace
from perceptkd.core.errors import InputError, list_some
from perceptkd.ops.sparse.conv import SparseConvolution

#: What makes a channel important: the L1 norm of its weights (SparseKD's "OFA", there over the kept inputs alone), the
#: size of its scale in BatchNorm, or its place ("FNAV2", which SparseKD's configs use).
IMPORTANCES = ("l1", "bn_scale", "first")
WHAT_FITS = "Only numbers of channels may differ, of Linear, convolutions and BatchNorm that run on the dry batch"


def slice_weights(teacher: Any, student: nn.Module, batch: Any, *, importance: str = "l1") -> dict[str, Tensor]:
    """The teacher's weights for the channels that the student has.

    Args:
        teacher: A trained detector, in eval mode.
        student: The same layers with fewer channels.
        batch: A raw batch that reaches all layers; its values do not matter.
        importance: One of ``IMPORTANCES``: a layer keeps its most important channels, in the teacher's order.

    Returns:
        The student's state dict, on the CPU.

    Raises:
        InputError: The two do not correspond, or something between layers cannot be followed; the keys are named.
    """
    trace = ChannelTrace(teacher, student)
    with trace.following():
        teacher._run_forward(teacher.data_preprocessor(copy.deepcopy(batch), False), mode="predict")
    state, wanted = cut_weights(trace, kept_channels(trace, importance)), student.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape) if key in state else 'not there'} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key not in state or state[key].shape != value.shape
    ]
    if wrong:
        listed = list_some(wrong, separator="; ")
        raise InputError(f"The teacher's weights do not fit the student: {listed}. {WHAT_FITS}")
    return {key: state[key] for key in wanted}


def kept_channels(trace: ChannelTrace, importance: str = "l1") -> Tensor:
    """Which channels the student has: of each layer as many as are there, the most important ones.

    Returns:
        bool [numbers + 1] by number; the last one is that of ``NONE``, and True.
    """
    roots, scores = trace.roots(), _scores(trace, importance)
    scores = torch.zeros_like(scores).index_add_(0, roots, scores)
    decided = torch.zeros(len(roots), dtype=torch.int8)  # 1 is kept, -1 is left out
    narrowed = [(name, layer) for name, layer in trace.layers.items() if layer.narrowed]
    for name, layer in sorted(narrowed, key=lambda item: len(item[1].outputs)):
        own = roots[layer.outputs]
        free = own[decided[own] == 0]
        wanted = layer.width - int((decided[own] == 1).sum())
        if not 0 <= wanted <= len(free):
            raise InputError(f"The student's {layer.width} channels of '{name}' do not fit those they are added to")
        ranked = free[scores[free].argsort(descending=True, stable=True)]
        decided[ranked[:wanted]], decided[ranked[wanted:]] = 1, -1
    return torch.cat([decided[roots] == 1, torch.tensor([True])])


def cut_weights(trace: ChannelTrace, kept: Tensor) -> dict[str, Tensor]:
    """The teacher's state dict, with the channels that are kept alone.

    Args:
        trace: Of one forward.
        kept: See :func:`kept_channels`.
    """
    state = {key: value.detach().cpu() for key, value in trace.teacher.state_dict().items()}
    roots, arrived = trace.roots(), torch.cat([layer.inputs for layer in trace.layers.values()])
    arrived = roots[arrived[arrived != NONE]]
    for name, layer in trace.layers.items():
        outputs, inputs = (kept[numbers].nonzero()[:, 0] for numbers in (layer.outputs, layer.inputs))
        if (len(outputs), len(inputs)) == (len(layer.outputs), len(layer.inputs)):
            continue
        if getattr(layer.module, "groups", 1) != 1:
            raise InputError(f"'{name}' is a grouped convolution, whose channels cannot be chosen one by one")
        if layer.narrowed and not torch.isin(roots[layer.outputs], arrived).any():
            raise InputError(
                f"'{name}' has {len(layer.outputs)} channels in the teacher and {layer.width} in the student, but no "
                f"layer reads them: the two have to predict the same. {WHAT_FITS}"
            )
        weight = layer.weight.detach().cpu().index_select(layer.axes[0], outputs).index_select(layer.axes[1], inputs)
        if isinstance(layer.module, SparseConvolution) and layer.module.is_pointwise:
            weight = weight.reshape(len(outputs), *layer.module.kernel_size, len(inputs))
        state[f"{name}.weight"] = weight
        if layer.module.bias is not None:
            state[f"{name}.bias"] = state[f"{name}.bias"][outputs]
    for name, numbers in trace.norms.items():
        for key in trace.teacher.get_submodule(name).state_dict():
            value = state[f"{name}.{key}"]
            state[f"{name}.{key}"] = value[kept[numbers]] if value.ndim else value
    return state


def _scores(trace: ChannelTrace, importance: str) -> Tensor:
    """float64 [numbers], higher is more important."""
    if importance not in IMPORTANCES:
        raise InputError(f"importance must be one of {', '.join(IMPORTANCES)}; got {importance!r}")
    narrowed = {name: layer for name, layer in trace.layers.items() if layer.narrowed}
    scores = torch.zeros(sum(len(layer.outputs) for layer in narrowed.values()), dtype=torch.float64)
    for layer in narrowed.values():
        if importance == "l1":
            weight = layer.weight.detach().cpu().double().abs().movedim(layer.axes[0], 0)
            scores[layer.outputs] = weight.flatten(1).sum(1)
        elif importance == "first":
            scores[layer.outputs] = -torch.arange(len(layer.outputs), dtype=torch.float64)
    if importance == "bn_scale":
        scaled = torch.zeros(len(scores), dtype=torch.bool)
        for name, numbers in trace.norms.items():
            norm: Any = trace.teacher.get_submodule(name)
            numbered, scale = numbers != NONE, norm.weight.detach().cpu().double().abs()
            scores.index_add_(0, numbers[numbered], scale[numbered])
            scaled[numbers[numbered]] = True
        bare = [name for name, layer in narrowed.items() if not scaled[layer.outputs].all()]
        if bare:
            raise InputError(f"importance='bn_scale' needs BatchNorm behind every layer, not so {', '.join(bare)}")
    return scores
