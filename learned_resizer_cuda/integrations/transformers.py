"""Hugging Face image processors that resize with this package: ``accelerate``.

A processor's class gets a subclass, whose ``resize`` stands between the model's classes and ``TorchvisionBackend``:
a model's own ``resize`` still runs, and its ``super().resize(...)`` ends here.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.resample import DTYPES
from ..resize import check_parity, resize

try:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tvF1
    from torchvision.transforms.v2 import functional as tvF
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.image_utils import pil_torch_interpolation_mapping
except ImportError as error:
    raise ImportError(
        "learned_resizer_cuda.integrations.transformers needs transformers>=5.11 (4.x has other methods), torchvision "
        'and Pillow: pip install "learned-resizer-cuda[transformers]"'
    ) from error

P = TypeVar("P")

# What resizes past the method that is replaced.
_PAST = (F.interpolate, tvF1.resize, tvF.resize, TorchvisionBackend.resize)


def accelerate(processor: P, *, parity: str = "pillow") -> P:
    """Replace a Hugging Face image processor's resize by this package's.

    The object stays what it is: its class, by ``isinstance`` and by name, what it saves, its copies and pickles.
    Output sizes, cropping, rescaling and normalisation stay the processor's. ``LANCZOS`` is lanczos on every device;
    ``BOX`` and ``HAMMING``, which torchvision has for PIL images only, work as well. On a CPU the gain is in the pixels:
    torchvision's resize of bytes is faster there.

    Args:
        processor: a torch-backed image or video processor, or a processor with one or both of them
            (``AutoProcessor`` of a vision-language model), on which it is changed in place.
        parity: for uint8 images, as in ``resize``: ``"pillow"``, the default, gives the bytes of the processor's
            Pillow-backed twin under Pillow 13, ``"pillow-12"`` those under Pillow up to 12; ``"exact"`` rounds once.
            Floating-point images are always resized exactly. Other dtypes (maps of labels, boolean masks), and
            torchvision's ``InterpolationMode.NEAREST``, which rounds coordinates down, stay with torchvision.

    Returns:
        ``processor``. Accelerated again, it takes the new ``parity``.

    Raises:
        TypeError: if ``processor`` is not an image processor and has none, if it is backed by Pillow or NumPy, or if
            its class also resizes past ``TorchvisionBackend.resize``, where it would be half replaced.
        ValueError: for an unknown ``parity``.
    """
    check_parity(parity)
    classes = [(part, _accelerated(_checked(name, part), parity)) for name, part in _parts(processor).items()]
    for part, accelerated in classes:
        part.__class__ = accelerated
    return processor


class _Resize(TorchvisionBackend):
    """``TorchvisionBackend`` with this package's resize."""

    # The processor's class. Any, here and below: mypy finds classes with __hash__ methods not hashable.
    _kind: Any
    _parity: str

    def resize(self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any) -> Tensor:
        """``(..., C, H, W)`` → ``(..., C, *size)``; see ``TorchvisionBackend.resize``."""
        mode = InterpolationMode(pil_torch_interpolation_mapping.get(resample, resample) or "bilinear")
        if mode == InterpolationMode.NEAREST or image.dtype not in DTYPES:
            return super().resize(image, size, resample=resample, antialias=antialias, **kwargs)
        # transformers' rules of the size, on a tensor without pixels.
        shape = torch.empty(image.shape, device="meta")
        height, width = super().resize(shape, size, resample=InterpolationMode.NEAREST, **kwargs).shape[-2:]
        return resize(
            image,
            (height, width),
            interpolation=mode.value.removesuffix("-exact"),
            antialias=antialias,
            parity=self._parity if image.dtype == torch.uint8 else "exact",
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class cannot be found by its name, which is the processor's.
        return _restored, (self._kind, self._parity), self.__dict__


@functools.cache
def _accelerated(kind: type[Any], parity: str) -> type[_Resize]:
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    bases = (_Resize,) if kind is TorchvisionBackend else (kind, _Resize)
    return type(kind.__name__, bases, {**names, "_kind": kind, "_parity": parity})


def _restored(kind: Any, parity: str) -> _Resize:
    """A processor without its attributes, to unpickle or copy one."""
    accelerated = _accelerated(kind, parity)
    return accelerated.__new__(accelerated)


def _parts(processor: Any) -> dict[str, Any]:
    """Image and video processors in ``processor``, by their names in messages."""
    if isinstance(processor, BaseImageProcessor):
        return {"processor": processor}
    names = ("image_processor", "video_processor")
    parts = {f"processor.{name}": part for name in names if (part := getattr(processor, name, None)) is not None}
    if not parts:
        raise TypeError(
            f"processor: got {type(processor).__name__}; expected a Hugging Face image processor, or an object with "
            "one as its image_processor"
        )
    return parts


def _checked(name: str, part: Any) -> Any:
    """The class of a processor that can be accelerated."""
    kind = type(part)
    if isinstance(part, _Resize):
        return part._kind
    if isinstance(part, TorchvisionBackend):
        if (method := _own_resize(kind)) is None:
            return kind
        reason = f"whose {method} resizes by itself; expected a class that leaves it to TorchvisionBackend.resize"
    elif isinstance(part, PilBackend):
        reason = 'which resizes with Pillow; expected a torch-backed one: from_pretrained(..., backend="torchvision")'
    else:
        reason = "which is not torch-backed; expected a subclass of transformers' TorchvisionBackend"
    raise TypeError(f"{name}: got {kind.__name__}, {reason}")


def _own_resize(kind: type[Any]) -> str | None:
    """A function reached from a call that resizes past ``TorchvisionBackend.resize``."""
    todo: list[Any] = ["__call__"]
    seen = set()
    while todo:
        reached = todo.pop()
        if reached in seen:
            continue
        seen.add(reached)
        # By name, a method of whichever classes define it; else a function beside them.
        methods: list[Any] = (
            [vars(base).get(reached) for base in kind.__mro__] if isinstance(reached, str) else [reached]
        )
        for function in map(inspect.unwrap, methods):
            if not isinstance(function, FunctionType):
                continue
            for code in _codes(function.__code__):
                todo += code.co_names
                for value in _globals(code, function.__globals__):
                    if any(value is past for past in _PAST) and function.__module__ != TorchvisionBackend.__module__:
                        return function.__qualname__
                    if isinstance(value, FunctionType) and value.__module__ == function.__module__:
                        todo.append(value)
    return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """What a function reads from its module's ``names``, and attributes of that."""
    value = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            value = names.get(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            value = getattr(value, instruction.argval, None)
        elif instruction.opname not in ("EXTENDED_ARG", "PUSH_NULL"):
            value = None
        yield value
