"""A trained learned resizer in one safetensors file: its weights, and the arguments that rebuild it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from ..resizer import FusedResizer

FORMAT = "learned-resizer/1"
_LIMIT = 4096
"""Largest filter and block counts accepted from a file: a forged header must not ask for all memory."""


@dataclass(frozen=True)
class ResizerConfig:
    """The arguments of ``FusedResizer`` that decide what a trained one computes.

    ``size`` is the output size (height, width) it was trained for; another one may be asked of it later.
    """

    size: tuple[int, int]
    in_channels: int = 3
    num_filters: int = 16
    num_blocks: int = 1
    interpolation: str = "bilinear"
    antialias: bool = True
    negative_slope: float = 0.2

    def build(self) -> FusedResizer:
        """A ``FusedResizer`` with random weights."""
        from ..resizer import FusedResizer

        values = asdict(self)
        return FusedResizer(values.pop("size"), **values)


def save_resizer(resizer: nn.Module, config: ResizerConfig, path: Path, notes: dict[str, str] | None = None) -> None:
    """Writes the weights, running statistics included, with ``config`` in the file's metadata.

    Args:
        resizer: a ``FusedResizer`` or ``reference.Resizer`` (their state dicts are the same).
        config: the arguments it was built with.
        path: the file to write; its folder exists.
        notes: more metadata, for a reader's eye only.
    """
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in resizer.state_dict().items()}
    # FusedResizer's output is one function of its weights, so the notes must never shadow the two that rebuild it
    save_file(state, path, metadata=(notes or {}) | {"format": FORMAT, "resizer": json.dumps(asdict(config))})


def load_resizer(path: Path) -> tuple[FusedResizer, ResizerConfig]:
    """Reads what ``save_resizer`` wrote; nothing in the file is executed.

    Returns:
        The resizer in eval mode on the CPU, float32, and the arguments it was built with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file, was not written by ``save_resizer``, or its weights do not
            fit its arguments; says which.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} holds no learned resizer: its format is {metadata.get('format')!r}, expected {FORMAT!r} as "
            "written by `learned-resizer train`"
        )
    try:
        values = json.loads(metadata["resizer"])
        config = ResizerConfig(**values | {"size": tuple(values["size"])})
        if max(*config.size, config.in_channels, config.num_filters, config.num_blocks) > _LIMIT:
            raise ValueError(f"implausible arguments {values}")
        resizer = config.build()
        resizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a learned resizer: {error}") from error
    return resizer.eval(), config
