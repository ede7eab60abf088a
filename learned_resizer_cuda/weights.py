"""A trained learned resizer in one safetensors file: its weights, and the arguments that rebuild it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .atomic import atomic_bytes

if TYPE_CHECKING:
    from .reference import Resizer
    from .resizer import FusedResizer

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
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, resizer: Resizer) -> ResizerConfig:
        """The arguments that a ``FusedResizer`` or ``reference.Resizer`` was made with."""
        mean, std = (
            None if value is None else tuple(value.double().tolist())
            for value in (resizer.image_mean, resizer.image_std)
        )
        return cls(
            size=resizer.size,
            in_channels=resizer.in_channels,
            num_filters=resizer.num_filters,
            num_blocks=resizer.num_blocks,
            interpolation=resizer.interpolation,
            antialias=resizer.antialias,
            negative_slope=resizer.negative_slope,
            mean=mean,
            std=std,
        )

    @classmethod
    def from_json(cls, values: Any) -> ResizerConfig:
        """The arguments out of what JSON made of ``asdict``.

        Raises:
            KeyError, TypeError, ValueError: it is something else, or asks for implausibly large a module.
        """
        if not isinstance(values, dict):
            raise TypeError(f"got a JSON {type(values).__name__}; expected the arguments of FusedResizer by name")
        lists = {name: tuple(values[name]) for name in ("mean", "std") if values.get(name) is not None}
        config = cls(**values | {"size": tuple(values["size"])} | lists)
        if max(*config.size, config.in_channels, config.num_filters, config.num_blocks) > _LIMIT:
            raise ValueError(f"implausible arguments {values}")
        return config

    def arguments(self) -> dict[str, Any]:
        """By name, as the constructors take them."""
        return asdict(self)

    def build(self) -> FusedResizer:
        """A ``FusedResizer`` with random weights."""
        from .resizer import FusedResizer

        return FusedResizer(**self.arguments())


def save_resizer(resizer: nn.Module, config: ResizerConfig, path: Path, notes: dict[str, str] | None = None) -> None:
    """Writes the weights, running statistics included, with ``config`` in the file's metadata; atomically.

    Args:
        resizer: a ``FusedResizer`` or ``reference.Resizer`` (their state dicts are the same).
        config: the arguments it was built with.
        path: the file to write; its folder exists.
        notes: more metadata, for a reader's eye only.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in resizer.state_dict().items()}
    # FusedResizer's output is one function of its weights, so the notes must never shadow the two that rebuild it
    metadata = (notes or {}) | {"format": FORMAT, "resizer": json.dumps(config.arguments())}
    atomic_bytes(path, save(state, metadata))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: those of safetensors are parts of the mapped file, and change when it does
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return state, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def load_resizer(path: Path) -> tuple[FusedResizer, ResizerConfig]:
    """Reads what ``save_resizer`` wrote; nothing in the file is executed.

    Returns:
        The resizer in eval mode on the CPU, float32, and the arguments it was built with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file, was not written by ``save_resizer``, or its weights do not
            fit its arguments; says which.
    """
    state, metadata = load_state(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} holds no learned resizer: its format is {metadata.get('format')!r}, expected {FORMAT!r} as "
            "written by `learned-resizer train`"
        )
    try:
        config = ResizerConfig.from_json(json.loads(metadata["resizer"]))
        resizer = config.build()
        resizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a learned resizer: {error}") from error
    return resizer.eval(), config
