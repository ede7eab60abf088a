"""Page that shows images as several resizers make them, side by side.

The page holds each panel's pixels as PNGs and its spectrum as grey PNGs of decibels. Its script computes differences,
PSNR and readouts from exactly these pixels.
"""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from ..resize import resize
from .figures.spectrum import HIGH, LOW, band_power, decibel, power_density, power_density_below

LEAST_SIDE = 8
"""Smallest side of a panel: smaller ones have no lower and upper half of frequencies."""
LARGEST_ORIGINAL = 1 << 20
"""Pixels of an original that is embedded as it is; larger ones are shown reduced."""
_NOISE = 1 / 12
"""Power density of the noise of rounding to whole levels: its variance."""
_FLOOR = 10 * math.log10(_NOISE)


class Panel(NamedTuple):
    """An image by one resizer: uint8 (C, h, w), grey or RGB."""

    name: str
    pixels: Tensor
    note: str = ""


class Shown(NamedTuple):
    """A panel as the page holds it.

    Attributes:
        name, note: for readers.
        pixels, spectrum: data URLs of PNGs.
        checksum: Adler-32 of the RGB bytes, by which the page notices a browser that alters pixels.
        bands: power in the lower and upper half of the frequencies over the original's, in dB; None if unknown.
        is_original: whether it is not a panel to compare with, because it has another size.
    """

    name: str
    note: str
    pixels: str
    spectrum: str
    checksum: int
    bands: tuple[float, float] | None = None
    is_original: bool = False


class Comparison(NamedTuple):
    """One image's part of the page; spectra from ``low`` to ``high`` dB."""

    name: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    notes: Sequence[str]
    low: float
    high: float
    shown: Sequence[Shown]


def compare(name: str, original: Tensor, panels: Sequence[Panel], notes: Sequence[str] = ()) -> Comparison:
    """Encodes and measures an image's panels.

    Args:
        name: of the image.
        original: uint8 (C, H, W), grey or RGB.
        panels: at least one; all of one size, with sides of at least ``LEAST_SIDE``.
        notes: sentences about this image.
    """
    height, width = panels[0].pixels.shape[1:]
    spectra = [power_density(panel.pixels[None].double()) for panel in panels]
    held = power_density_below(original, (height, width))
    high = max(1.0, *(decibel(float(density.max()), 1.0) for density in (held, *spectra)))
    shrinks = original.shape[1] >= height and original.shape[2] >= width
    small, note = _reduced(original)
    shown = [_show(Panel("original", small, note), held, high)._replace(is_original=True)]
    for panel, density in zip(panels, spectra, strict=True):
        bands = (_gain(density, held, LOW), _gain(density, held, HIGH)) if shrinks else None
        shown.append(_show(panel, density, high)._replace(bands=bands))
    return Comparison(name, (height, width), (original.shape[1], original.shape[2]), notes, _FLOOR, high, shown)


def render_page(title: str, comparisons: Sequence[Comparison], learned: str = "") -> str:
    """HTML of the page, which loads nothing, by its own policy too.

    Args:
        title: of the page.
        comparisons: at least one.
        learned: a sentence about the trained resizer, if there is one.
    """
    from matplotlib import colormaps

    here = Path(__file__)
    template, css, js = (
        here.with_name(f"comparison.{suffix}").read_text(encoding="utf-8") for suffix in ("html.j2", "css", "js")
    )
    palette = colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(template)
    return page.render(
        title=title,
        comparisons=comparisons,
        learned=learned,
        palette=base64.b64encode(palette.tobytes()).decode("ascii"),
        css=Markup(css),
        js=Markup(js),
        hashes={"css": _hash(css), "js": _hash(js)},
    )


def _gain(density: Tensor, held: Tensor, band: tuple[float, float]) -> float:
    """Power in a band over the original's, in dB.

    Neither power counts as less than rounding noise.
    """
    return decibel(*(max(band_power(values, band), _NOISE) for values in (density, held)))


def _show(panel: Panel, density: Tensor, high: float) -> Shown:
    level = (10 * density.clamp(min=torch.finfo(torch.float64).tiny).log10() - _FLOOR) / (high - _FLOOR)
    spectrum = torch.fft.fftshift((level * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8))
    rgb = panel.pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Shown(panel.name, panel.note, _png(panel.pixels), _png(spectrum[None]), zlib.adler32(rgb.tobytes()))


def _reduced(original: Tensor) -> tuple[Tensor, str]:
    """The original, averaged over squares if it is large, and its caption."""
    height, width = original.shape[1:]
    factor = math.ceil(math.sqrt(height * width / LARGEST_ORIGINAL))
    if factor == 1:
        return original, f"{height}×{width} pixels"
    size = max(1, height // factor), max(1, width // factor)
    return resize(original, size, interpolation="box"), f"{height}×{width} pixels, shown at {size[0]}×{size[1]}"


def _png(planes: Tensor) -> str:
    from PIL import Image

    encoded = BytesIO()
    array = planes.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(encoded, "PNG")
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def _hash(body: str) -> str:
    """Source expression of a Content-Security-Policy for an inline element."""
    return f"sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode('ascii')}"
