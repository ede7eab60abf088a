"""A stage's models: a resizer or filter, and the network behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..damaged import reading
from ..data.source import NATIVE, MixedImages
from ..ops.regions import regions
from ..resize import Resize, resize
from ..resize_batch import resize_batch
from ..resizer import FusedResizer
from ..weights import ResizerConfig, load_resizer
from .config import RunConfig
from .networks import build_network
from .protocol import Front, Stage
from .run_folder import remedy


class BlindResizer(nn.Module):
    """Learned resizer blind to fine detail: the control separating capacity from information.

    The image is reduced to the output size by a fixed filter and enlarged again before the resizer sees it. So it has
    the learned arm's parameters and cost, but only the information of the fixed filter's arm.

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
        through = partial(resize, interpolation=self.interpolation, antialias=self.antialias)
        with torch.no_grad():
            blurred = through(through(images, self.size), images.shape[-2:])
        return self.resizer(blurred)


class Networks(nn.Module):
    """Several networks behind one resizer."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Images (B, C, h, w) → the outputs of each network."""
        return tuple(network(images) for network in self.networks)


class MixedFront(nn.Module):
    """The module in front of the network for images of any sizes.

    Bytes go to the resizer, which normalises them, each box and flip with them.

    Args:
        resizer: images (C, H_i, W_i), ``boxes`` and ``flip`` → (B, C, size, size).
    """

    def __init__(self, resizer: nn.Module) -> None:
        super().__init__()
        self.resizer = resizer

    def forward(self, images: MixedImages) -> Tensor:
        """B images → (B, C, size, size)."""
        return self.resizer(images.images, boxes=images.boxes, flip=images.flip)


class MixedFilter(nn.Module):
    """Fixed filter of uint8 images of any sizes, normalised.

    Args:
        size: output side in pixels.
        mean, std: of each channel.
        interpolation, antialias: the filter.
    """

    dtype: Tensor

    def __init__(
        self, size: int, mean: Sequence[float], std: Sequence[float], interpolation: str, antialias: bool
    ) -> None:
        super().__init__()
        self.size, self.mean, self.std = size, mean, std
        self.interpolation, self.antialias = interpolation, antialias
        self.register_buffer("dtype", torch.zeros(()), persistent=False)  # that of the network

    def forward(self, images: Sequence[Tensor], *, boxes: Tensor, flip: Tensor) -> Tensor:
        """Images (C, H_i, W_i) → (B, C, size, size)."""
        return resize_batch(
            images,
            self.size,
            boxes=boxes,
            flip=flip,
            mean=self.mean,
            std=self.std,
            dtype=self.dtype.dtype,
            interpolation=self.interpolation,
            antialias=self.antialias,
        )


class MixedBlindResizer(nn.Module):
    """``BlindResizer`` for images of any sizes.

    Args:
        resizer: the learned resizer.
        through: the filter, which also crops, mirrors and normalises.
    """

    def __init__(self, resizer: nn.Module, through: MixedFilter) -> None:
        super().__init__()
        self.resizer, self.through = resizer, through

    def forward(self, images: Sequence[Tensor], *, boxes: Tensor, flip: Tensor) -> Tensor:
        """Images (C, H_i, W_i) → (B, C, size, size)."""
        through = partial(resize, interpolation=self.through.interpolation, antialias=self.through.antialias)
        with torch.no_grad():
            small = self.through(images, boxes=boxes, flip=flip)
            places = regions([image.shape[1:] for image in images], boxes, flip)
            blurred = [through(one, (r.height, r.width)) for one, r in zip(small, places, strict=True)]
        return self.resizer(blurred)


def resizer_config(config: RunConfig, front: Front, in_channels: int) -> ResizerConfig:
    """Arguments of a stage's learned resizer.

    In a transfer those of the first transferred one.
    """
    if config.command == "transfer":
        first = next(iter(config.resizers.values()))
        return replace(load_resizer(FusedResizer, Path(first))[1], size=(config.size, config.size))
    return ResizerConfig(
        size=(config.size, config.size),
        in_channels=in_channels,
        num_filters=front.num_filters,
        num_blocks=front.num_blocks,
        interpolation=front.interpolation,
        antialias=config.antialias,
    )


def build_front(config: RunConfig, front: Front, in_channels: int) -> nn.Module:
    """The module in front of the network.

    Shapes: (B, in_channels, H, W) → (B, in_channels, size, size).

    Raises:
        FileNotFoundError, ValueError: the resizer's file cannot be read, or does not fit the images.
    """
    if front.kind == "fixed":
        return Resize(config.size, interpolation=front.interpolation, antialias=config.antialias)
    if front.kind == "file":
        assert front.file is not None
        resizer, found = load_resizer(FusedResizer, Path(front.file))
        if found.in_channels != in_channels:
            raise ValueError(
                f"resizer: got {front.file} for images of {found.in_channels} channels; expected {in_channels}"
            )
        resizer.size = (config.size, config.size)
        return resizer
    arguments = resizer_config(config, front, in_channels).arguments()
    learned: nn.Module = FusedResizer(**arguments, zero_init=config.zero_init)
    if front.kind == "blind":
        learned = BlindResizer(learned, config.size, config.baseline, config.antialias)
    return learned


def check_normalisation(config: RunConfig, resizer: ResizerConfig, file: str) -> None:
    """Checks that a run normalises images as a transferred resizer's training did.

    Args:
        config: of the run.
        resizer: the arguments in the resizer's file.
        file: its path.

    Raises:
        ValueError: it does not.
    """
    run, trained = (config.mean, config.std) if config.normalize else (None, None), (resizer.mean, resizer.std)
    if [*map(_float32, run)] != [*map(_float32, trained)]:
        raise ValueError(
            f"normalize, mean, std: got {_shown(*run)}; expected {_shown(*trained)}, as {file} was trained with"
        )


def _float32(values: Sequence[float] | None) -> list[float] | None:
    """The values as they come back from a file of ``save_pretrained``."""
    return None if values is None else torch.tensor(values, dtype=torch.float32).tolist()


def _shown(mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    if mean is None or std is None:
        return "normalize False"
    terms = (", ".join(f"{value:g}" for value in values) for values in (mean, std))
    return "normalize True, mean {}, std {}".format(*terms)


def build_models(
    stage: Stage, config: RunConfig, in_channels: int, outputs: Sequence[int], *, kept: bool = False
) -> tuple[nn.Module, nn.Module]:
    """The resizer and the network of a stage, freshly initialised.

    ``outputs`` are the classes or bins of each of ``config.members``; several networks are one module. Trained weights
    are not read for a network that starts from another stage's, nor for one that is ``kept``, complete in a file of the
    run.

    Determinism: for a seed, the network starts from the same weights in every arm, and so do the learned and the blind
    resizer. The caller's random state stays as it was.
    """
    fresh = stage.start is None and not kept
    networks = []
    with torch.random.fork_rng(devices=[]):
        for member, count in zip(config.members, outputs, strict=True):
            torch.manual_seed(stage.seed)
            pretrained, weights = config.pretrained and fresh, config.weights if fresh else None
            segments = member.task == "segmentation"
            networks.append(build_network(member.model, in_channels, count, pretrained, weights, segments=segments))
        torch.manual_seed(stage.seed)
        resizer = build_front(config, stage.front, in_channels)
    network = Networks(networks) if config.models else networks[0]
    if config.freeze:
        network.eval().requires_grad_(False)
    if stage.input_size == NATIVE:
        resizer = for_mixed_sizes(resizer, config, in_channels)
    return resizer, network


def for_mixed_sizes(front: nn.Module, config: RunConfig, in_channels: int) -> MixedFront:
    """A front for uint8 images of any sizes; changes a learned resizer."""
    unit = ([0.0] * in_channels, [1.0] * in_channels)
    mean, std = (config.mean, config.std) if config.normalize else unit
    if isinstance(front, Resize):
        return MixedFront(MixedFilter(config.size, mean, std, front.interpolation, front.antialias))
    resizer = learned_part(front)
    resizer.image_mean, resizer.image_std = torch.tensor(mean), torch.tensor(std)
    if isinstance(front, BlindResizer):
        through = MixedFilter(config.size, mean, std, front.interpolation, front.antialias)
        return MixedFront(MixedBlindResizer(resizer, through))
    return MixedFront(resizer)


def build_kept(
    stage: Stage, config: RunConfig, in_channels: int, outputs: Sequence[int], resizer: Path
) -> tuple[nn.Module, nn.Module]:
    """The models of a complete stage, to be filled with its weights.

    Needs nothing outside the run: not the file of a transferred resizer, nor pretrained weights.

    Args:
        outputs: see ``build_models``.
        resizer: the learned resizer's file in the stage's folder.

    Raises:
        DamagedFileError: it cannot be read.
    """
    front = stage.front
    if front.kind in ("learned", "file"):
        with reading(resizer, remedy(resizer.parent)):
            load_resizer(FusedResizer, resizer)
        front = replace(front, kind="file", file=str(resizer))
    return build_models(replace(stage, front=front), config, in_channels, outputs, kept=True)


def learned_part(resizer: nn.Module) -> nn.Module:
    """The part whose weights are saved: the learned resizer within."""
    while isinstance(resizer, (BlindResizer, MixedBlindResizer, MixedFront)):
        resizer = resizer.resizer
    return resizer
