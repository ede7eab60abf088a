"""Other libraries' resizing as contestants of a case.

PyTorch, torchvision, Pillow, kornia, ResizeRight, resampler, torchlanc and lanczos-triton, each where it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import OURS, Case
from benchmarks.race import Entry, Skipped
from learned_resizer_cuda import resize

# Largest differences that rounding explains, on values in [0, 1]. float32: torch's kernels, and ours where
# it calls them, round coordinates to float32. At 2048 pixels that moves a sample by up to 2048 × 2^-24 =
# 1.2e-4 pixels, and weights by their slope times that: up to 2e-5 of the range over random sizes, 3e-6
# here. Sums add 1e-7.
FLOAT32 = 2e-5
# bfloat16: both results are within half a unit in the last place of the exact one, and values stay below 2.
BFLOAT16 = 2.0**-7
# uint8: peers round between the two passes as well. That half level grows by the second filter's sum of
# absolute weights (1.55 at most), and each side rounds at the end: 0.5 × 1.55 + 0.5 + 0.5 < 2, so whole
# levels differ by one. (They also clip between the passes: the images here stay far enough from 0 and 255
# not to be clipped.)
UINT8_LEVELS = 1.0
# Pillow's own arithmetic, of any bytes: PyTorch's kernels have weights of 16 bits, of which each pass may round a level
# to the other side.
FIXED_LEVELS = 2.0


def image(case: Case, device: torch.device) -> Tensor:
    """Random image of a case: uniform in [0, 1], or for uint8 in [64, 191]; of any byte in Pillow's arithmetic."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, 3, case.in_size, case.in_width or case.in_size)
    dtype = getattr(torch, case.dtype)
    if dtype == torch.uint8:
        levels = (0, 256) if case.op == "resample_fixed" else (64, 192)
        x = torch.randint(*levels, shape, generator=generator, dtype=torch.uint8)
    else:
        x = torch.rand(shape, generator=generator).to(dtype)
    return x.to(device, memory_format=memory_format(case.layout))


def memory_format(layout: str) -> torch.memory_format:
    """torch's name for "NCHW" or "channels_last"."""
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def contestants(case: Case, device: torch.device) -> tuple[Entry, list[Entry | Skipped]]:
    """Ours and its peers for one case of `resize`, in Pillow's arithmetic if the op is `resample_fixed`."""
    x = image(case, device)
    fixed = case.op == "resample_fixed"
    bound = FIXED_LEVELS if fixed else {"float32": FLOAT32, "bfloat16": BFLOAT16, "uint8": UINT8_LEVELS}[case.dtype]
    options = {
        "interpolation": case.interpolation,
        "antialias": case.antialias,
        "parity": "pillow" if fixed else "exact",
    }
    size = (case.out_size, case.out_size)

    def entry(name: str, function: Callable[[Tensor], Tensor]) -> Entry:
        return Entry(name, _runner(case, x, function), list, bound)

    ours = entry(OURS, lambda t: resize(t, size, **options))
    peers: list[Entry | Skipped] = []
    for name, function in _tensor_functions(case, size):
        try:
            function(x)
        except (NotImplementedError, ValueError, RuntimeError, KeyError) as error:
            peers.append(Skipped(name, f"raises {type(error).__name__}: {str(error).splitlines()[0]}"))
        else:
            peers.append(entry(name, function))
    if case.dtype == "bfloat16":
        peers.append(entry("F.interpolate in float32", _through_float32(case, size)))
    peers.extend(_kornia(case, size, entry))
    peers.extend(_padding(case, size, entry))
    peers.extend(_lanczos_triton(case, size, device, entry))
    peers.extend(_pillow(case, x, size))
    return ours, peers


def _runner(case: Case, x: Tensor, function: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    if case.direction == "forward":

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (function(x),)

        return forward
    leaf = x.detach().requires_grad_()
    grad = torch.rand(case.batch, 3, case.out_size, case.out_size, generator=torch.Generator().manual_seed(1)).to(
        x.device, x.dtype, memory_format=memory_format(case.layout)
    )

    def forward_backward() -> tuple[Tensor, ...]:
        y = function(leaf)
        return (y.detach(), *torch.autograd.grad(y, leaf, grad))

    return forward_backward


def _interpolate(case: Case, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    return lambda t: F.interpolate(t, size, mode=case.interpolation, antialias=case.antialias)


def _through_float32(case: Case, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    interpolate = _interpolate(case, size)
    return lambda t: interpolate(t.float()).to(t.dtype)


def _tensor_functions(case: Case, size: tuple[int, int]) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    yield "F.interpolate", _interpolate(case, size)
    try:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2.functional import resize as torchvision_resize
    except ImportError:
        return
    mode = InterpolationMode(case.interpolation)
    yield (
        "torchvision v2",
        lambda t: torchvision_resize(t, list(size), interpolation=mode, antialias=case.antialias),
    )


def _kornia(
    case: Case, size: tuple[int, int], entry: Callable[[str, Callable[[Tensor], Tensor]], Entry]
) -> Iterator[Entry | Skipped]:
    try:
        from kornia.geometry.transform import resize as kornia_resize
    except ImportError:
        return
    if case.interpolation == "lanczos":
        yield Skipped("kornia", "has no lanczos")
    elif case.antialias:
        yield Skipped("kornia", "different function: a Gaussian blur, then interpolation without antialias")
    elif case.dtype == "float32":
        yield entry(
            "kornia",
            lambda t: kornia_resize(t, size, interpolation=case.interpolation, align_corners=False),
        )


def _padding(
    case: Case, size: tuple[int, int], entry: Callable[[str, Callable[[Tensor], Tensor]], Entry]
) -> Iterator[Entry]:
    """Libraries that pad the image where the others normalise the remaining weights.

    Different functions at the border, which is not compared.
    """
    if case.dtype != "float32" or not case.antialias:
        return
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    if importlib.util.find_spec("resize_right"):
        import resize_right

        method = {"bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3"}[case.interpolation]
        right = getattr(resize_right.interp_methods, method)
        functions["ResizeRight"] = lambda t: resize_right.resize(t, out_shape=size, interp_method=right)
    if importlib.util.find_spec("resampler"):
        import resampler

        filters = {"bilinear": "triangle", "bicubic": resampler.CubicFilter(b=0, c=0.5), "lanczos": "lanczos3"}
        options = {"filter": filters[case.interpolation], "gamma": "identity"}
        functions["resampler"] = lambda t: resampler.resize(t.permute(2, 3, 0, 1), size, **options).permute(2, 3, 0, 1)
    if importlib.util.find_spec("torchlanc") and case.interpolation == "lanczos":
        import torchlanc

        # Its "linear" is a conversion from sRGB to linear light, which "srgb" leaves out.
        functions["torchlanc"] = lambda t: torchlanc.lanczos_resize(t, *size, clamp=False, color_space="srgb")
    for name, function in functions.items():
        yield replace(entry(name, function), border=1 / 8)


def _lanczos_triton(
    case: Case, size: tuple[int, int], device: torch.device, entry: Callable[[str, Callable[[Tensor], Tensor]], Entry]
) -> Iterator[Entry | Skipped]:
    if importlib.util.find_spec("lanczos_triton") is None or case.interpolation != "lanczos" or not case.antialias:
        return
    if device.type != "cuda" or case.direction != "forward" or case.dtype == "uint8" or case.layout != "NCHW":
        yield Skipped("lanczos-triton", "float images on CUDA in NCHW, forward only")
        return
    from lanczos_triton import Resizer

    # With its tables made in advance, as ours are. It returns float32 for every dtype.
    planned = Resizer((case.in_size, case.in_size), size, device=device)
    yield entry("lanczos-triton", lambda t: planned(t).to(t.dtype))


def _pillow(case: Case, x: Tensor, size: tuple[int, int]) -> Iterator[Entry]:
    """Pillow on its own images: float32 planes (mode F) or RGB images of uint8 in HWC."""
    if case.direction != "forward" or not case.antialias or x.device.type != "cpu":
        return
    try:
        from PIL import Image
    except ImportError:
        return
    resampling = Image.Resampling[case.interpolation.upper()]
    if case.dtype == "float32" and case.layout == "NCHW":
        images = [Image.fromarray(plane) for plane in x.flatten(0, 1).numpy()]
        bound = FLOAT32
    elif case.dtype == "uint8" and case.layout == "channels_last":
        images = [Image.fromarray(np.ascontiguousarray(picture)) for picture in x.permute(0, 2, 3, 1).numpy()]
        bound = 0.0 if case.op == "resample_fixed" else UINT8_LEVELS
    else:
        return

    def run() -> list[Image.Image]:
        return [picture.resize((size[1], size[0]), resampling) for picture in images]

    def outputs(pictures: list[Image.Image]) -> list[Tensor]:
        arrays = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
        if case.dtype == "uint8":
            return [arrays.permute(0, 3, 1, 2)]
        return [arrays.unflatten(0, (case.batch, 3))]

    yield Entry("Pillow", run, outputs, bound)
