"""``use_in``: this package's resampling in a pipeline of torchvision's or timm's transforms."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ..resize import check_parity
from . import v1, v2

_Pipeline = TypeVar("_Pipeline")

# Names of what resizes, besides subclasses of what can be replaced.
_RESIZES = re.compile("resiz|TfPreprocess", re.IGNORECASE)


def use_in(transform: _Pipeline, *, parity: str = "pillow") -> _Pipeline:
    """A copy of a pipeline in which this package resizes.

    PIL images are resized by Pillow as before, to the same bytes. The copy also takes uint8 tensors ``(C, H, W)`` on
    any device; where the installed Pillow is 13, the bytes of an image without alpha give what the image gives. (A
    tensor's channels are independent; Pillow multiplies colours by alpha.) torchvision's ``ToTensor`` and timm's
    ``MaybeToTensor`` scale tensors to [0, 1] as they do images. Random transforms draw the same numbers as before. The
    other transforms stay: those that take no tensors, like timm's RandAugment, still do not.

    Args:
        transform: a transform, or transforms in ``Compose``, ``nn.Sequential``, lists, tuples, dictionaries or
            attributes of other transforms; what ``timm.data.create_transform`` or the ``transforms()`` of torchvision's
            weights return. Replaced are ``Resize``, ``RandomResizedCrop``, ``ScaleJitter``, ``RandomShortestSize``,
            ``RandomResize`` and the presets of torchvision; ``RandomResizedCropAndInterpolation``, ``ResizeKeepRatio``,
            ``ResizeToSequence`` and ``RandomResizedCropToSequence`` of timm 1.0.16 or later. Functions are not looked
            into.
        parity: arithmetic for uint8 tensors, as in ``learned_resizer_cuda.resize``: ``"pillow-12"`` for the bytes of
            older Pillows.

    Returns:
        The copy. Deep copies, pickles and prints like the original.

    Raises:
        TypeError: if something resizes, judging by its class or name, and cannot be replaced, which it names; or if
            there is no transform.
        ValueError: for an unknown ``parity``.

    Examples:
        A tensor gives what the PIL image gives:

        >>> import torch
        >>> from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor
        >>> from torchvision.transforms.functional import to_pil_image
        >>> from learned_resizer_cuda import transforms
        >>> original = Compose([Resize(32), CenterCrop(24), ToTensor()])
        >>> pipeline = transforms.use_in(original)
        >>> photo = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)  # or on a GPU
        >>> torch.equal(pipeline(photo), original(to_pil_image(photo)))
        True

        What cannot be replaced is named:

        >>> from torchvision.transforms.functional import resize
        >>> transforms.use_in(Compose([resize, ToTensor()]))
        Traceback (most recent call last):
            ...
        TypeError: transform: got torchvision.transforms.functional.resize, which resizes and cannot be replaced; ...
    """
    check_parity(parity)
    transform = copy.deepcopy(transform)
    parts = list(_callables(transform, set()))
    resizes, conversions = v1.RESIZES | v2.RESIZES, v1.CONVERSIONS | v2.CONVERSIONS
    if any(type(part).__module__.startswith("timm.") for part in parts):
        from . import timm

        resizes, conversions = resizes | timm.RESIZES, conversions | timm.CONVERSIONS
    known = f"{', '.join(sorted({kind.__name__ for kind in resizes}))} of torchvision or timm"
    if not parts:
        raise TypeError(f"transform: got {transform!r}; expected transforms, with {known}")
    for part in parts:
        kind = type(part)
        if kind in resizes:
            part.__class__, part.parity = resizes[kind], parity
        elif kind in conversions:
            part.__class__ = conversions[kind]
        elif not _is_ours(kind):
            name = getattr(part, "__name__", kind.__name__)
            if isinstance(part, tuple(resizes)) or _RESIZES.search(name):
                name = f"{part.__module__}.{name}"
                raise TypeError(f"transform: got {name}, which resizes and cannot be replaced; expected {known}")
    return transform


def _is_ours(kind: type) -> bool:
    package = __name__.partition(".")[0]
    return any(base.__module__.partition(".")[0] == package for base in kind.__mro__)


def _callables(value: Any, seen: set[int]) -> Iterator[Any]:
    """Transforms and functions in a pipeline, at any depth."""
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (list, tuple, set)):
        inner = value
    elif callable(value):
        yield value
        inner = vars(value).values() if hasattr(value, "__dict__") else ()
        if isinstance(value, functools.partial):
            inner = (value.func, value.args, value.keywords)
    for item in inner:
        yield from _callables(item, seen)
