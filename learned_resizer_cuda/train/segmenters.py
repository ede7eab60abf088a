"""Networks for segmentation: images to a map of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .presets import LRASPP

UNET = "small_unet"
HEAD_WIDTH = 64
"""Channels of the head behind an encoder of timm."""


class SmallUNet(nn.Module):
    """A small U-Net with 107,000 parameters (Ronneberger, Fischer & Brox, MICCAI 2015).

    Three levels of 16, 32 and 64 channels, two 3×3 convolutions on the way down and one on the way up, each with batch
    norm and ReLU.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits of a pixel.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (16, 32, 64)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, width), _convolution(width, width))
            for before, width in zip((in_channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(_convolution(low + high, low) for low, high in ((32, 64), (16, 32)))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) → logits (B, num_classes, H, W).

        H and W are at least 4.
        """
        maps: list[Tensor] = []
        x = images
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            maps.append(x)
        for block, skip in zip(self.up, reversed(maps[:-1]), strict=True):
            # To the skip's size: an odd side loses a pixel on its way down
            x = block(torch.cat([skip, functional.interpolate(x, skip.shape[2:], mode="nearest")], 1))
        return self.head(x)


class EncoderWithHead(nn.Module):
    """A network of timm with a small head on its feature maps.

    Of each resolution the last map is projected to ``HEAD_WIDTH`` channels by a 1×1 convolution and added to the
    others at the largest one's size, as in a feature pyramid; a 3×3 convolution follows, and the logits.

    Args:
        encoder: of timm, without its last layer.
        name: of the encoder, for messages.
        num_classes: number of logits of a pixel.

    Raises:
        ValueError: the encoder does not give its feature maps.
    """

    def __init__(self, encoder: nn.Module, name: str, num_classes: int) -> None:
        super().__init__()
        found: Any = encoder
        if not hasattr(found, "forward_intermediates"):
            raise ValueError(
                f"model: got {name!r}, which has no forward_intermediates; expected {UNET}, {LRASPP}, or a network of "
                "timm that gives its feature maps"
            )
        last = {info["reduction"]: (index, info["num_chs"]) for index, info in enumerate(found.feature_info)}
        self.indices = [index for index, _ in last.values()]
        self.encoder = encoder
        self.lateral = nn.ModuleList(nn.Conv2d(channels, HEAD_WIDTH, 1) for _, channels in last.values())
        self.head = nn.Sequential(_convolution(HEAD_WIDTH, HEAD_WIDTH), nn.Conv2d(HEAD_WIDTH, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) → logits (B, num_classes, h, w).

        h and w are those of the encoder's largest map.
        """
        encoder: Any = self.encoder
        maps = encoder.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        size = max((x.shape[2:] for x in maps), key=lambda sides: sides[0] * sides[1])
        projected = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        same = [functional.interpolate(x, size, mode="bilinear", align_corners=False) for x in projected]
        return self.head(torch.stack(same).sum(0))


class Lraspp(nn.Module):
    """torchvision's LR-ASPP on MobileNetV3-Large (Howard et al., ICCV 2019).

    Args:
        in_channels: channels of the images; 3 if pretrained.
        num_classes: number of logits of a pixel.
        pretrained: start the backbone from ImageNet's weights (needs a download).

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """

    def __init__(self, in_channels: int, num_classes: int, pretrained: bool) -> None:
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large

        super().__init__()
        backbone = "DEFAULT" if pretrained else None
        self.network = lraspp_mobilenet_v3_large(weights_backbone=backbone, num_classes=num_classes)
        first = self.network.backbone["0"][0]
        if first.in_channels != in_channels:
            if pretrained:
                raise ValueError(
                    f"pretrained: got True for {LRASPP} and images of {in_channels} channels; expected 3 channels"
                )
            self.network.backbone["0"][0] = nn.Conv2d(in_channels, first.out_channels, 3, 2, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) → logits (B, num_classes, H, W)."""
        return self.network(images)["out"]


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution with batch norm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
