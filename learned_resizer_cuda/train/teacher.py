"""The teacher of distillation: the network itself, kept in the run's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ..damaged import reading
from .config import RunConfig
from .network_file import load_weights, read_labels, save_weights
from .networks import build_network, trained_outputs
from .pretrained import PACKAGES, output_names

TEACHER = "teacher.safetensors"


def keep_teacher(config: RunConfig, folder: Path, in_channels: int) -> None:
    """Writes the teacher's weights and output names, unless they are there.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: the network cannot be built (``networks.build_network``), or
            its weights have no outputs to compare.
    """
    if (folder / TEACHER).exists():
        return
    count = 0 if config.distill_features else trained_outputs(config.model, config.weights)
    network = build_network(config.model, in_channels, count, config.pretrained, config.weights)
    if not count and not config.distill_features:
        raise ValueError(
            f"distill_features: got False for {config.weights or config.model}, whose network has no classes; expected "
            "True"
        )
    if count and config.loss == "cosine" and not hasattr(network, "forward_head"):
        raise ValueError(f"loss: got cosine for {config.model}; expected kl: features are those of timm's networks")
    known = config.pretrained or config.weights in PACKAGES
    save_weights(network, folder / TEACHER, output_names(count, known))


def load_teacher(config: RunConfig, folder: Path, in_channels: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The teacher in evaluation mode, frozen, and the names of its outputs.

    Raises:
        DamagedFileError: its file cannot be read.
    """
    path = folder / TEACHER
    with reading(path, "delete it, then the run's command writes it again"):
        names = read_labels(path)
        network = build_network(config.model, in_channels, len(names))
        load_weights(network, path)
    return network.eval().requires_grad_(False), tuple(names)


def from_teacher(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with its networks starting from the teacher's file."""
    return replace(config, pretrained=False, weights=str(folder / TEACHER))
