"""The models of a stage: what stands in front, and the network behind it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..resize import Resize, resize
from ..resizer import FusedResizer
from .config import RunConfig
from .folder import TRANSFERRED
from .networks import build_network
from .stages import Front, Stage
from .weights import ResizerConfig, load_resizer


class BlindResizer(nn.Module):
    """The control that separates capacity from information: a learned resizer that sees no fine detail.

    The image is reduced to the output size by a fixed filter and enlarged again; the resizer gets that. It
    has the learned arm's parameters and cost, but only what the fixed filter's arm sees.

    Args:
        resizer: the learned resizer.
        size: output side in pixels.
        interpolation, antialias: the filter.
    """

    def __init__(self, resizer: nn.Module, size: int, interpolation: str = "bilinear", antialias: bool = True) -> None:
        super().__init__()
        self.resizer, self.size = resizer, size
        self.interpolation, self.antialias = interpolation, antialias

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, size, size)."""
        sampling = {"interpolation": self.interpolation, "antialias": self.antialias}
        with torch.no_grad():
            small = resize(images, self.size, interpolation=self.interpolation, antialias=self.antialias)
            # Enlarged in the image's own dtype; whether to antialias does not matter upwards.
            blurred = resize(small, images.shape[-2:], **sampling)  # type: ignore[arg-type]
        return self.resizer(blurred)


def resizer_config(config: RunConfig, front: Front, in_channels: int) -> ResizerConfig:
    """The arguments of the learned resizer of a stage."""
    return ResizerConfig(
        size=(config.size, config.size),
        in_channels=in_channels,
        num_filters=front.num_filters,
        num_blocks=front.num_blocks,
        interpolation=front.interpolation,
        antialias=config.antialias,
    )


def build_front(config: RunConfig, front: Front, in_channels: int, folder: Path) -> nn.Module:
    """What stands in front of the network: (B, in_channels, H, W) → (B, in_channels, size, size).

    Args:
        config, front: what it is.
        in_channels: of the images.
        folder: of the run, which holds a transferred resizer.

    Raises:
        FileNotFoundError, ValueError: the resizer's file cannot be read, or does not fit the images.
    """
    if front.kind == "fixed":
        return Resize(config.size, interpolation=front.interpolation, antialias=config.antialias)
    if front.kind == "file":
        resizer, found = load_resizer(folder / TRANSFERRED)
        if found.in_channels != in_channels:
            raise ValueError(
                f"resizer: got {config.resizer} for images of {found.in_channels} channels; expected {in_channels}"
            )
        resizer.size = (config.size, config.size)
        return resizer
    arguments = resizer_config(config, front, in_channels).arguments()
    learned: nn.Module = FusedResizer(**arguments, zero_init=config.zero_init)
    if front.kind == "blind":
        learned = BlindResizer(learned, config.size, config.baseline, config.antialias)
    return learned


def build_models(
    stage: Stage, config: RunConfig, in_channels: int, num_outputs: int, folder: Path
) -> tuple[nn.Module, nn.Module]:
    """The resizer and the network of a stage, freshly initialised.

    Determinism: for a seed, the network starts from the same weights in every arm, and the learned and the
    blind resizer from the same weights. The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        network = build_network(config.model, in_channels, num_outputs, pretrained=config.pretrained)
        torch.manual_seed(stage.seed)
        resizer = build_front(config, stage.front, in_channels, folder)
    return resizer, network


def learned_part(resizer: nn.Module) -> nn.Module:
    """The learned resizer itself, whose weights are kept: what a blind one feeds."""
    return resizer.resizer if isinstance(resizer, BlindResizer) else resizer
