"""Hugging Face image processors that resize with this package: ``accelerate``.

A processor's class gets a subclass, whose ``resize`` stands between the model's classes and ``TorchvisionBackend``:
a model's own ``resize`` still runs, and its ``super().resize(...)`` ends here.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ops.resample import DTYPES
from ..resize import check_parity, resize

try:
    from torchvision.transforms import InterpolationMode
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.image_utils import pil_torch_interpolation_mapping
except ImportError as error:
    raise ImportError(
        "learned_resizer_cuda.integrations.transformers needs transformers>=5.11 (4.x has other methods), torchvision "
        'and Pillow: pip install "learned-resizer-cuda[transformers]"'
    ) from error

__all__ = ["accelerate"]

P = TypeVar("P")

# What resizes past the method that is replaced, and methods that do so with a network's outputs.
_PAST = re.compile(r"\b(tvF|F|functional)\.(resize|interpolate)\(|\bTorchvisionBackend\.resize\(")
_OF_OUTPUTS = re.compile("post_process|merge|unpad|logits")


def accelerate(processor: P, *, parity: str = "pillow") -> P:
    """Replace a Hugging Face image processor's resize by this package's.

    The object stays what it is: its class, by ``isinstance`` and by name, what it saves, its copies and pickles.
    Output sizes, cropping, rescaling and normalisation stay the processor's. ``LANCZOS`` is lanczos on every device;
    ``BOX`` and ``HAMMING``, which torchvision has for PIL images only, work as well. On a CPU torchvision's resize of
    bytes is faster; the gain there is in the pixels.

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

    Examples:
        >>> import torch
        >>> from transformers import CLIPImageProcessor
        >>> from learned_resizer_cuda.integrations.transformers import accelerate
        >>> processor = accelerate(CLIPImageProcessor())
        >>> isinstance(processor, CLIPImageProcessor)
        True
        >>> photo = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)  # or on a GPU
        >>> processor(photo, return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 224, 224])
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
    """A function of the model's classes that resizes past ``TorchvisionBackend.resize``."""
    for base in kind.__mro__[: kind.__mro__.index(TorchvisionBackend)]:
        for name, method in vars(base).items():
            if not inspect.isfunction(method) or _OF_OUTPUTS.search(name):
                continue
            named = (method.__globals__.get(other) for other in method.__code__.co_names)
            beside = [other for other in named if inspect.isfunction(other) and other.__module__ == base.__module__]
            for function in (method, *beside):
                if _PAST.search(_source(function)):
                    return function.__qualname__
    return None


def _source(function: Any) -> str:
    """A function's source; empty for one typed into an interpreter."""
    try:
        return inspect.getsource(function)
    except OSError:
        return ""
