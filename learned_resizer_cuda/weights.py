"""Trained resizers in safetensors files: weights, and arguments that rebuild the module.

Files are untrusted. Names, dtypes and shapes are compared with the module's before a tensor is read or the module is
built, so a file's claims cost no memory. Knows no class of resizer: the caller passes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .atomic import atomic_bytes
from .resize import check_size
from .shown import shorten, shown

_Resizer = TypeVar("_Resizer", bound=nn.Module)

FORMAT = "learned-resizer/1"
LONGEST_JSON = 2**20
"""Longest arguments that are parsed, in characters."""
_LARGEST = 4096
"""Longest output side accepted from a file; the weights limit all other arguments."""
_LONGEST_HEADER = 2**23
"""Bytes. A resizer of 4,096 blocks takes 4.8 million; parsing takes 14 times the header's size in memory."""
_LARGEST_FILE = 2**30
"""Bytes of a resizer's file. A sparse file takes no disk space, however large its tensors."""
_FLOATS = ("F64", "F32", "F16", "BF16")
_INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")


@dataclass(frozen=True)
class ResizerConfig:
    """Arguments of ``FusedResizer`` that determine its function.

    ``size`` is the output size (height, width) of training; a call may use another.
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
    def of(cls, resizer: Any) -> ResizerConfig:
        """Arguments that a ``FusedResizer`` or ``reference.Resizer`` was constructed with."""
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
    def from_json(cls, text: str) -> ResizerConfig:
        """Parse the JSON of ``arguments()``.

        Raises:
            TypeError, ValueError, RecursionError: the text is something else, or the size is implausibly large.
        """
        if len(text) > LONGEST_JSON:
            raise ValueError(f"got more than {LONGEST_JSON:,} characters; expected the arguments of FusedResizer")
        values = json.loads(text)
        if not isinstance(values, dict) or "size" not in values:
            found = "no 'size'" if isinstance(values, dict) else f"a JSON {type(values).__name__}"
            raise ValueError(f"got {found}; expected the arguments of FusedResizer by name")
        # Written by huggingface_hub's mixin; it only affects the weights before training
        values.pop("zero_init", None)
        lists = {name: tuple(values[name]) for name in ("mean", "std") if values.get(name) is not None}
        size = check_size(values["size"])
        if max(size) > _LARGEST:
            raise ValueError(f"size: got {size}; expected sides of at most {_LARGEST}")
        return cls(**values | {"size": size} | lists)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the constructors."""
        return asdict(self)


class StateMismatchError(ValueError):
    """The tensors of a file do not match the module's."""


class WeightsFile:
    """A safetensors file. The constructor reads its header, ``read`` its tensors.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a readable safetensors file.

    Attributes:
        size: in bytes: header and tensors, nothing else.
        notes: its metadata.
        tensors: dtype, as the format names it, and shape, by name.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        if not path.is_file():
            raise ValueError(f"{path} is a folder, pipe or device; expected a safetensors file")
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                length = int.from_bytes(file.read(8), "little")
                if length > _LONGEST_HEADER:
                    raise ValueError(
                        f"{path} is not a readable safetensors file: got a header of {length:,} bytes; expected at "
                        f"most {_LONGEST_HEADER:,}"
                    )
                # By file descriptor, since safetensors refuses paths that are not UTF-8. For NumPy, since torch maps
                # the whole file into memory
                with safe_open(f"/dev/fd/{file.fileno()}", framework="np") as header:
                    slices = {name: header.get_slice(name) for name in header.keys()}  # noqa: SIM118
                    self.tensors = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
                    self.notes: dict[str, str] = header.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {shorten(str(error), 300)}") from None

    def read(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the tensors, on the CPU, in the dtypes of the file.

        Args:
            expected: a state dict, may be on the meta device. Names, shapes and kinds of dtype (floating-point or
                integer) must match.

        Raises:
            StateMismatchError: they do not; names the first few differences. No tensor was read.
            ValueError: the file has changed since its header was read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if found := self._differences(expected):
            more = [f"{len(found) - 3} more differences"] if len(found) > 3 else []
            raise StateMismatchError("; ".join(found[:3] + more))
        try:
            with self.path.open("rb") as file:
                state = load(file.read(self.size))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is not a readable safetensors file: {shorten(str(error), 300)}") from None
        # Copied into memory aligned by torch: a matrix product's order of summation may depend on it
        return {name: value.clone() for name, value in state.items()}

    def _differences(self, expected: Mapping[str, Tensor]) -> list[str]:
        found = []
        for name, like in expected.items():
            if name not in self.tensors:
                found.append(f"{name}: missing")
                continue
            dtype, shape = self.tensors[name]
            kind, kinds = ("floating-point", _FLOATS) if like.is_floating_point() else ("integers", _INTEGERS)
            if shape != list(like.shape) or dtype not in kinds:
                found.append(f"{name}: got {dtype} {shorten(str(shape), 60)}, expected {kind} {list(like.shape)}")
        return found + [f"{shorten(repr(name), 60)}: unexpected" for name in self.tensors if name not in expected]


def save_resizer(resizer: nn.Module, config: ResizerConfig, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write a resizer's weights and running statistics atomically, with ``config`` as metadata.

    Args:
        resizer: a ``FusedResizer`` or ``reference.Resizer`` (their state dicts are the same).
        config: its arguments.
        path: of the file, in an existing folder.
        notes: more metadata, for readers only.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in resizer.state_dict().items()}
    # Last, so that notes cannot replace the two entries that rebuild the module
    metadata = (notes or {}) | {"format": FORMAT, "resizer": json.dumps(config.arguments())}
    atomic_bytes(path, save(state, metadata))


def load_resizer(cls: type[_Resizer], path: Path) -> tuple[_Resizer, ResizerConfig]:
    """Read a file of ``save_resizer``; nothing in it is executed.

    Args:
        cls: ``FusedResizer`` or a subclass.
        path: of the file.

    Returns:
        The resizer in eval mode on the CPU, float32, and its arguments.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a safetensors file, was not written by ``save_resizer``, or its weights do not fit
            its arguments or are not finite; says which.
    """
    file = WeightsFile(path)
    if file.notes.get("format") != FORMAT:
        raise ValueError(
            f"{path} holds no learned resizer: its format is {shown(file.notes.get('format'))}, expected "
            f"{FORMAT!r} as written by `learned-resizer train`"
        )
    with explaining(f"{path} does not describe a learned resizer"):
        config = ResizerConfig.from_json(file.notes.get("resizer", ""))
        return restore(cls, config, file), config


def restore(cls: type[_Resizer], config: ResizerConfig, file: WeightsFile, *, keep_dtype: bool = False) -> _Resizer:
    """Build a resizer with a file's weights, in eval mode, on CPU.

    Args:
        cls: ``FusedResizer`` or a subclass.
        config: its arguments.
        file: its weights and running statistics.
        keep_dtype: keep the file's dtypes instead of converting to float32.

    Raises:
        ValueError: the file's tensors do not match the arguments or are not finite, or a running variance is below 0;
            names them.
        TypeError, OverflowError, RuntimeError: ``cls`` refuses an argument.
    """
    blocks = len({name.split(".")[1] for name in file.tensors if name.startswith("blocks.")})
    if config.num_blocks != blocks:
        raise ValueError(f"num_blocks: got {config.num_blocks!r}; expected {blocks}, the blocks that the file holds")
    if file.size > _LARGEST_FILE:
        raise ValueError(f"got tensors of {file.size:,} bytes; expected a resizer of at most {_LARGEST_FILE:,}")
    with torch.device("meta"):  # no memory for tensors, however large
        expected = cls(**config.arguments()).state_dict()
    state = file.read(expected)
    resizer = cls(**config.arguments())
    if keep_dtype:
        resizer.to(state["conv1.weight"].dtype).load_state_dict(state, assign=True)
    else:
        resizer.load_state_dict(state)
    for name, value in resizer.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{name}: got values that are infinite or NaN; expected finite ones")
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(f"{name}: got {float(value.min()):g}; expected variances of at least 0")
    return resizer.eval()


@contextlib.contextmanager
def explaining(what: str) -> Iterator[None]:
    """Turns errors about a file's content into ``ValueError``, ``what`` before the reason."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        # `from None`: the error's text may be a megabyte of the file
        raise ValueError(f"{what}: {shorten(str(error), 300)}") from None
