"""A network's weights and output names in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..atomic import atomic_bytes
from ..damaged import reading
from ..weights import WeightsFile
from .run_folder import remedy

LABELS = "labels"
"""Key of the names of a network's outputs, in its file."""


def save_weights(module: nn.Module, path: Path, labels: Sequence[str]) -> None:
    """Writes a state dict and the outputs' names as safetensors, atomically."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    atomic_bytes(path, save(state, {LABELS: json.dumps(list(labels))}))


def load_weights(module: nn.Module, path: Path, labels: Sequence[str] | None = None) -> None:
    """Reads what ``save_weights`` or ``save_resizer`` wrote.

    Raises:
        DamagedFileError: the file cannot be read.
        ValueError: its outputs are not ``labels``.
        StateMismatchError: it belongs to another module.
    """
    with reading(path, remedy(path.parent)):
        file = WeightsFile(path)
        trained = list(json.loads(file.notes[LABELS])) if LABELS in file.notes else None
    if labels is not None and trained is not None and trained != list(labels):
        # Equally many other names would load, and be silently wrong.
        changed = sorted({*trained} ^ {*labels}) or list(labels)
        raise ValueError(
            f"data: got {len(labels)} classes or bins; expected the {len(trained)} that {path} was trained for; they "
            f"differ in {', '.join(changed[:5])}"
        )
    module.load_state_dict(file.read(module.state_dict()))


def read_labels(path: Path) -> list[str]:
    """The names of a network's outputs in its file.

    Raises:
        Exception: of any kind, if the file is another or damaged.
    """
    return list(json.loads(WeightsFile(path).notes[LABELS]))
