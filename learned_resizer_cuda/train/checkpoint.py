"""Checkpoints from which a stage's killed training continues as if uninterrupted.

The unit is a round, the steps between two checkpoints. The random state is set from the round's number at its start,
so dropout needs no saved generator; batches are a function of their step (``data.source``); the checkpoint is replaced
atomically at the end of the round.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..atomic import atomic_write
from ..damaged import reading

_PRIME = 1_000_003


def seed_round(seed: int, number: int, rank: int) -> None:
    """Sets torch's random state for a round.

    Args:
        seed: of the stage.
        number: of the round.
        rank: of the process: each draws its own dropout masks, as it does its own images.
    """
    torch.manual_seed(((seed * _PRIME + number) * _PRIME + rank) % 2**63)  # torch takes no more bits


def save_checkpoint(path: Path, parts: Mapping[str, Any], **values: Any) -> None:
    """Replaces a checkpoint atomically.

    Args:
        path: the file; its folder exists.
        parts: objects with a ``state_dict``, by name.
        values: numbers and tensors that ``load_checkpoint`` returns.

    Raises:
        OSError: the file cannot be written; the former checkpoint stays as it was.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    atomic_write(path, lambda file: torch.save(states | values, file))


def load_checkpoint(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Restores ``parts`` from a checkpoint of ``save_checkpoint``.

    Returns:
        The ``values`` it was saved with.

    Raises:
        DamagedFileError: the file is missing, differs by a bit from what was saved, or lacks one of ``parts``.
    """
    with reading(path, "delete it, then the same command trains that stage from its start"):
        # torch does not compare checksums, and would load a weight that has changed on the disk
        with zipfile.ZipFile(path) as file:
            if (name := file.testzip()) is not None:
                raise ValueError(f"{name} has another checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if missing := parts.keys() - checkpoint.keys():
            raise ValueError(f"without {', '.join(sorted(missing))}")
    for name, part in parts.items():
        part.load_state_dict(checkpoint.pop(name))
    return checkpoint
