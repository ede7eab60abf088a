"""The arms of the comparison: what stands in front of the network, and for how long it trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..resize import Resize, resize
from .config import LONG_FACTOR, RunConfig
from .networks import SmallCNN
from .weights import ResizerConfig


class BlindResizer(nn.Module):
    """The control that separates capacity from information: a learned resizer that sees no fine detail.

    The image is reduced to the output size by bilinear filtering and enlarged again; the resizer gets that. It
    has the learned arm's parameters and cost, but only what the bilinear arm sees.

    Args:
        resizer: the learned resizer.
        size: output side in pixels.
    """

    def __init__(self, resizer: nn.Module, size: int) -> None:
        super().__init__()
        self.resizer, self.size = resizer, size

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, size, size)."""
        with torch.no_grad():
            blurred = resize(resize(images, self.size), images.shape[-2:])
        return self.resizer(blurred)


def resizer_config(config: RunConfig, in_channels: int) -> ResizerConfig:
    """The arguments of the learned resizer in this run."""
    return ResizerConfig(
        size=(config.size, config.size),
        in_channels=in_channels,
        num_filters=config.num_filters,
        num_blocks=config.num_blocks,
        interpolation=config.interpolation,
    )


def build_arm(
    arm: str, config: RunConfig, seed: int, in_channels: int, num_classes: int
) -> tuple[nn.Module, nn.Module]:
    """The resizer and the network of one arm, freshly initialised.

    Determinism: for a seed, the network starts from the same weights in every arm, and the learned and the
    blind resizer from the same weights. The caller's random state is left as it was.

    Returns:
        The resizer, (B, in_channels, canvas, canvas) → (B, in_channels, size, size), and the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallCNN(in_channels, num_classes)
        torch.manual_seed(seed)
        resizer: nn.Module
        if arm in ("learned", "blind"):
            resizer = resizer_config(config, in_channels).build()
            if arm == "blind":
                resizer = BlindResizer(resizer, config.size)
        else:
            resizer = Resize(config.size, interpolation=arm.removesuffix("-long"))
    return resizer, network


def long_steps(config: RunConfig, learned_seconds: float | None, seconds_per_step: float | None) -> int:
    """Steps of ``bicubic-long``: at least ``LONG_FACTOR`` times the others', and at least as much training time
    as the learned arm had.

    Where ``LONG_FACTOR`` is time enough, the number follows from the configuration alone. Else it is, with a tenth
    to spare, rounded up to a whole multiple of that: a step so coarse that two runs on one machine agree on it,
    though their clocks do not. ``config.long_steps`` settles it for good.

    Args:
        learned_seconds: training time of the learned arm, None where it did not run.
        seconds_per_step: measured on a fixed filter, None where none ran.
    """
    if config.long_steps is not None:
        return config.long_steps
    factor = LONG_FACTOR
    if learned_seconds is not None and seconds_per_step is not None:
        needed = learned_seconds / (seconds_per_step * config.steps)
        if needed > factor:
            factor = LONG_FACTOR * math.ceil(1.1 * needed / LONG_FACTOR)
    return factor * config.steps
