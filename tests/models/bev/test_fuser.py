"""Fusers."""

import pytest
import torch

from perceptkd.models.bev.fuser import ChannelAttentionFuser, PassThrough


def test_pass_through_hands_on_the_very_map() -> None:
    value = torch.randn(1, 4, 3, 3)
    assert PassThrough()([value]) is value


def test_pass_through_refuses_two_sensors() -> None:
    with pytest.raises(ValueError, match="one sensor"):
        PassThrough()([torch.zeros(1), torch.zeros(1)])


def test_attention_weighs_channels_by_their_mean() -> None:
    fuser = ChannelAttentionFuser([3, 5], 4).eval()
    maps = [torch.randn(2, 3, 6, 7), torch.randn(2, 5, 6, 7)]
    joined = torch.cat(maps, dim=1)
    weights = torch.sigmoid(fuser.attention[1](joined.mean(dim=(2, 3), keepdim=True)))
    torch.testing.assert_close(fuser(maps), fuser.mix(joined * weights))
    assert fuser(maps).shape == (2, 4, 6, 7)
