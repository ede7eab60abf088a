"""Inception-v2, the one of the paper's four task networks that timm lacks.

It is the batch-normalised Inception of Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", ICML 2015 (arXiv 1502.03167), with the widths and biases of its published
implementations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Widths(NamedTuple):
    """Output channels of a block's branches.

    A block without ``conv1`` has stride 2 and a max pool.
    """

    conv1: int
    reduce3: int
    conv3: int
    reduce_double3: int
    double3: int
    pool: int


_BLOCKS = {
    "3a": _Widths(64, 64, 64, 64, 96, 32),
    "3b": _Widths(64, 64, 96, 64, 96, 64),
    "3c": _Widths(0, 128, 160, 64, 96, 0),
    "4a": _Widths(224, 64, 96, 96, 128, 128),
    "4b": _Widths(192, 96, 128, 96, 128, 128),
    "4c": _Widths(160, 128, 160, 128, 160, 128),
    "4d": _Widths(96, 128, 192, 160, 192, 128),
    "4e": _Widths(0, 128, 192, 192, 256, 0),
    "5a": _Widths(352, 192, 320, 160, 224, 128),
    "5b": _Widths(352, 192, 320, 192, 224, 128),
}
_MAX_POOL = ("5b",)  # besides the two blocks of stride 2; the others average


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    # The bias has no effect before a batch norm, but the published network has it: 11,295,240 parameters.
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _max_pool(stride: int) -> nn.MaxPool2d:
    # Padded like the 3×3 convolutions beside it: without padding, odd sides would come out a pixel smaller.
    return nn.MaxPool2d(3, stride, padding=1)


class _Block(nn.Module):
    """Up to four parallel branches, concatenated along the channels."""

    def __init__(self, in_channels: int, widths: _Widths, max_pool: bool) -> None:
        super().__init__()
        stride = 1 if widths.conv1 else 2
        self.branches = nn.ModuleList()
        if widths.conv1:
            self.branches.append(_conv(in_channels, widths.conv1, 1))
        self.branches.append(
            nn.Sequential(_conv(in_channels, widths.reduce3, 1), _conv(widths.reduce3, widths.conv3, 3, stride))
        )
        self.branches.append(
            nn.Sequential(
                _conv(in_channels, widths.reduce_double3, 1),
                _conv(widths.reduce_double3, widths.double3, 3),
                _conv(widths.double3, widths.double3, 3, stride),
            )
        )
        pool: nn.Module = _max_pool(stride) if max_pool or stride == 2 else nn.AvgPool2d(3, 1, padding=1)
        self.branches.append(nn.Sequential(pool, _conv(in_channels, widths.pool, 1)) if widths.pool else pool)
        self.out_channels = widths.conv1 + widths.conv3 + widths.double3 + (widths.pool or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class InceptionV2(nn.Module):
    """Inception-v2 (BN-Inception): 11,295,240 parameters with 3 channels and 1,000 classes.

    Initial weights are torch's defaults and depend only on its global random generator.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(in_channels, 64, 7, 2), _max_pool(2), _conv(64, 64, 1), _conv(64, 192, 3), _max_pool(2)
        )
        channels = 192
        self.blocks = nn.Sequential()
        for name, widths in _BLOCKS.items():
            block = _Block(channels, widths, name in _MAX_POOL)
            self.blocks.add_module(name, block)
            channels = block.out_channels
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) → logits (B, num_classes).

        Images may have any size (224×224 in the paper; the last blocks work at 1/32 of it). In training mode, sides up
        to 32 leave one pixel, for which batch norm needs B of at least 2.
        """
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))
