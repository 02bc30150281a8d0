"""Small networks with the module names of OpenPCDet's public source, written anew as references for its converters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def norm2d(channels: int, eps: float = 1e-3) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=eps)


class BEVBackbone(nn.Module):
    """``backbone_2d``: blocks that begin with a padding layer, and deblocks; strides below 1 are convolutions."""

    def __init__(
        self, channels: int, layers: Sequence[int], strides: Sequence[int], widths: Sequence[int], ups: Sequence[float],
        up_widths: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for count, stride, width, up, up_width in zip(layers, strides, widths, ups, up_widths):
            first = [nn.ZeroPad2d(1), nn.Conv2d(channels, width, 3, stride, bias=False), norm2d(width), nn.ReLU()]
            rest = [(nn.Conv2d(width, width, 3, padding=1, bias=False), norm2d(width), nn.ReLU()) for _ in range(count)]
            self.blocks.append(nn.Sequential(*first, *(layer for each in rest for layer in each)))
            size = round(up) if up >= 1 else round(1 / up)
            kind = nn.ConvTranspose2d if up >= 1 else nn.Conv2d
            self.deblocks.append(
                nn.Sequential(kind(width, up_width, size, stride=size, bias=False), norm2d(up_width), nn.ReLU())
            )
            channels = width

    def forward(self, value: Tensor) -> Tensor:
        found = []
        for block, deblock in zip(self.blocks, self.deblocks):
            value = block(value)
            found.append(deblock(value))
        return torch.cat(found, dim=1)


class PillarVFE(nn.Module):
    """``vfe``: points and their offsets to the mean and to the centre of the pillar, one linear layer and a max."""

    def __init__(self, features: int, width: int, size: Sequence[float], low: Sequence[float]) -> None:
        super().__init__()
        layer = nn.Module()
        layer.linear = nn.Linear(features + 6, width, bias=False)
        layer.norm = nn.BatchNorm1d(width, eps=1e-3)
        self.pfn_layers = nn.ModuleList([layer])
        self.size, self.low = torch.tensor(size), torch.tensor(low)

    def forward(self, voxels: Tensor, counts: Tensor, coordinates: Tensor) -> Tensor:
        centre = (coordinates[:, [3, 2, 1]] + 0.5) * self.size + self.low
        mean = voxels[..., :3].sum(dim=1) / counts[:, None]
        points = torch.cat([voxels, voxels[..., :3] - mean[:, None], voxels[..., :3] - centre[:, None]], dim=-1)
        points = points * (torch.arange(voxels.shape[1]) < counts[:, None])[..., None]
        layer = self.pfn_layers[0]
        return layer.norm(layer.linear(points).transpose(1, 2)).relu().amax(dim=2)


class AnchorHead(nn.Module):
    """``dense_head`` of PointPillar and SECOND."""

    def __init__(self, channels: int, classes: int, rotations: int = 2) -> None:
        super().__init__()
        anchors = classes * rotations
        self.conv_cls = nn.Conv2d(channels, anchors * classes, 1)
        self.conv_box = nn.Conv2d(channels, anchors * 7, 1)
        self.conv_dir_cls = nn.Conv2d(channels, anchors * 2, 1)


class CentreHead(nn.Module):
    """``dense_head`` of CenterPoint, with a bias before every norm."""

    def __init__(self, channels: int, width: int, classes: Sequence[int], outputs: dict[str, int]) -> None:
        super().__init__()
        self.shared_conv = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), norm2d(width, 1e-5), nn.ReLU())
        self.heads_list = nn.ModuleList()
        for count in classes:
            branches = nn.ModuleDict()
            for name, size in {**outputs, "hm": count}.items():
                hidden = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), norm2d(width, 1e-5), nn.ReLU())
                branches[name] = nn.Sequential(hidden, nn.Conv2d(width, size, 3, padding=1))
            self.heads_list.append(branches)

    def forward(self, value: Tensor) -> list[dict[str, Tensor]]:
        value = self.shared_conv(value)
        return [{name: branch(value) for name, branch in branches.items()} for branches in self.heads_list]


def sparse_backbone(channels: int, widths: Sequence[int], out_width: int, *, residual: bool) -> nn.Module:
    """``backbone_3d`` on spconv: conv_input, conv1 to conv4, conv_out; residual blocks have a bias before norms."""
    import spconv.pytorch as spconv

    def norm(width: int) -> nn.BatchNorm1d:
        return nn.BatchNorm1d(width, eps=1e-3)

    class Residual(spconv.SparseModule):
        def __init__(self, width: int, key: str) -> None:
            super().__init__()
            self.conv1 = spconv.SubMConv3d(width, width, 3, padding=1, bias=True, indice_key=key)
            self.bn1 = norm(width)
            self.conv2 = spconv.SubMConv3d(width, width, 3, padding=1, bias=True, indice_key=key)
            self.bn2 = norm(width)

        def forward(self, value: Any) -> Any:
            inner = _with_bias(self.conv1, value)
            inner = _with_bias(self.conv2, inner.replace_feature(self.bn1(inner.features).relu()))
            return inner.replace_feature((self.bn2(inner.features) + value.features).relu())

    def layer(conv: nn.Module, width: int) -> nn.Module:
        return spconv.SparseSequential(conv, norm(width), nn.ReLU())

    def subm(before: int, width: int, key: str) -> nn.Module:
        return layer(spconv.SubMConv3d(before, width, 3, padding=1, bias=False, indice_key=key), width)

    def down(before: int, width: int, padding: Any) -> nn.Module:
        return layer(spconv.SparseConv3d(before, width, 3, stride=2, padding=padding, bias=False), width)

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_input = subm(channels, widths[0], "subm1")
            for stage, width in enumerate(widths, 1):
                before = widths[max(stage - 2, 0)]
                parts = [] if stage == 1 else [down(before, width, (0, 1, 1) if stage == 4 else 1)]
                if residual:
                    parts += [Residual(width, f"res{stage}") for _ in range(2)]
                else:
                    parts += [subm(width, width, f"subm{stage}") for _ in range(1 if stage == 1 else 2)]
                setattr(self, f"conv{stage}", spconv.SparseSequential(*parts))
            out = spconv.SparseConv3d(widths[-1], out_width, (3, 1, 1), stride=(2, 1, 1), bias=False)
            self.conv_out = layer(out, out_width)

        def forward(self, features: Tensor, coordinates: Tensor, shape: Sequence[int], batch_size: int) -> Tensor:
            value = spconv.SparseConvTensor(features, coordinates, list(shape), batch_size)
            for name in ("conv_input", "conv1", "conv2", "conv3", "conv4", "conv_out"):
                value = getattr(self, name)(value)
            return value.dense().flatten(1, 2)

    return Backbone()


def _with_bias(conv: nn.Module, value: Any) -> Any:
    """The convolution, whose bias spconv cannot add on a CPU."""
    bias, conv.bias = conv.bias, None
    made = conv(value)
    conv.bias = bias
    return made.replace_feature(made.features + bias)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics and weights of a trained network, and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (each.running_mean, -0.5, 0.5), (each.running_var, 0.5, 2.0), (each.weight.data, 0.5, 1.5),
                (each.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()
