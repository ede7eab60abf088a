"""Image power spectra before and after resizers: frequencies kept, lost or boosted.

A power density is power per unit area of the frequency plane, in (cycles per pixel)². White noise of variance v has
density v at every frequency, whatever the number of pixels, and the density's integral over the plane, of area 1, is
the variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .style import arm_colours, finish_axes, legend_below, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOW, HIGH = (0.0, 0.25), (0.25, 0.5)
"""The lower and upper half of the frequencies that an image can hold, in cycles per pixel."""
_LEAST_SIDE = 4
_PIECE = 1 << 20  # pixels
# In cycles per side. Nearer to 0 lies the window's main lobe, from which the mean is removed.
_LOBE = 1.5


def power_density(images: Tensor) -> Tensor:
    """Power density at the discrete Fourier frequencies, averaged over images and channels.

    The mean of each channel is removed, then the channel is windowed:
    ``P(f) = |Σ_x w(x) (u(x) - m) exp(-2πi f·x)|² / Σ_x w(x)²``, where w is the product of periodic Hann windows of both
    sides and m the mean under w (Welch 1967, one segment). Without the window, the jump from one border to the opposite
    one would look like high frequencies.

    Args:
        images: floating-point (N, C, h, w), N and C at least 1, sides of at least 4 pixels, in any value range.

    Returns:
        float64 (h, w) on the CPU, frequencies in the order of ``torch.fft.fft2``.

    Raises:
        ValueError: the images have another shape or dtype.
    """
    if (
        images.dim() != 4
        or not images.is_floating_point()
        or min(images.shape) < 1
        or min(images.shape[2:]) < _LEAST_SIDE
    ):
        raise ValueError(
            f"images: got {images.dtype} {tuple(images.shape)}; expected floating-point (N, C, h, w), "
            f"N and C at least 1, h and w at least {_LEAST_SIDE}"
        )
    height, width = images.shape[2:]
    window = torch.outer(torch.hann_window(height, dtype=torch.float64), torch.hann_window(width, dtype=torch.float64))
    total = torch.zeros(height, width, dtype=torch.float64)
    # One image at a time: complex128 copies of all could take gigabytes.
    for image in images:
        channels = image.detach().double().cpu()
        mean = (channels * window).sum((1, 2), keepdim=True) / window.sum()
        total += torch.fft.fft2((channels - mean) * window).abs().square().sum(0)
    return total / (images.shape[0] * images.shape[1] * window.square().sum())


def power_density_below(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Power density of an image at the frequencies of its resized version.

    ``P(f / s) / s²``, s input pixels per output pixel, with P as of ``power_density``: the spectrum that an ideal
    low-pass resize to ``size`` would have. Frequencies that the image lacks, since it is smaller, have power 0. Takes
    memory for (H, w) complex numbers, so that photographs of any size can be measured.

    Args:
        image: uint8 or floating-point (C, H, W).
        size: output (height, width).

    Returns:
        float64 (height, width) on the CPU, frequencies in the order of ``torch.fft.fft2``.
    """
    windows = [torch.hann_window(side, dtype=torch.float64) for side in image.shape[1:]]
    # By pairs of frequency numbers: where they stand in the image's transform, and where in the result
    (rows, to_rows), (columns, to_columns) = (
        _common_frequencies(side, other) for side, other in zip(image.shape[1:], size, strict=True)
    )
    of_window = torch.outer(torch.fft.fft(windows[0])[rows], torch.fft.fft(windows[1])[columns])
    power = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for plane in image:
        pieces = plane.split(max(1, _PIECE // plane.shape[1]))
        half = torch.cat([torch.fft.fft(piece.double() * windows[1])[:, columns] for piece in pieces])
        transform = torch.fft.fft(half * windows[0][:, None], dim=0)[rows]
        # The transform is linear: removing the mean from the image removes that multiple of the window's transform
        power += (transform - transform[0, 0] / of_window[0, 0] * of_window).abs().square()
    density = torch.zeros(size, dtype=torch.float64)
    density[to_rows[:, None], to_columns] = power
    scale = (image.shape[1] / size[0]) * (image.shape[2] / size[1])
    energy = float(windows[0].square().sum() * windows[1].square().sum())
    return density / (image.shape[0] * energy * scale)


def _common_frequencies(side: int, other: int) -> tuple[Tensor, Tensor]:
    """Places of the lower frequencies, 0 first, in transforms of two lengths."""
    least = min(side, other)
    numbers = (torch.fft.fftfreq(least, dtype=torch.float64) * least).round().long()
    return numbers % side, numbers % other


def radial_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power density by distance from frequency 0, averaged over rings.

    Rings are as wide as the distance between the transform's frequencies, 1/min(h, w). The first is around
    2/min(h, w): nearer to 0 lies the main lobe of the window, where removing the mean has removed power. The last is at
    or just below 0.5.

    Args:
        images: as for ``power_density``.

    Returns:
        The rings' centres in cycles per pixel (bins,) and power densities (bins,), both float64. Deterministic.

    Raises:
        ValueError: as ``power_density``.
    """
    return _rings(power_density(images), (1.0, 1.0))


def high_frequency_gain(outputs: Mapping[str, Tensor], reference: str = "bilinear") -> dict[str, float]:
    """Each output's power in ``HIGH`` over the reference's, in dB; see ``band_gain``."""
    return band_gain(outputs, HIGH, reference)


def band_gain(
    outputs: Mapping[str, Tensor], band: tuple[float, float], reference: str = "bilinear"
) -> dict[str, float]:
    """Each output's power in a frequency band over the reference's, in dB.

    A learned resizer may scale its whole output, which raises all bands equally. Its boost of high frequencies is the
    gain in ``HIGH`` minus the gain in ``LOW``.

    Args:
        outputs: images as for ``power_density`` by the resizer's name, all of one size.
        band: lowest and highest frequency in cycles per pixel, both included. Frequencies in the main lobe of the
            window are left out, as in ``radial_spectrum``.
        reference: a name in ``outputs``; its gain is 0.

    Raises:
        ValueError: the reference is missing, sizes differ, the band holds no frequency, or as ``power_density``.
    """
    if reference not in outputs:
        raise ValueError(f"reference: got {reference!r}; expected one of {', '.join(outputs) or 'none'}")
    _common_size(outputs)
    power = {name: band_power(power_density(values), band) for name, values in outputs.items()}
    return {name: decibel(value, power[reference]) for name, value in power.items()}


def band_power(density: Tensor, band: tuple[float, float]) -> float:
    """Mean of a ``power_density`` over a frequency band, as in ``band_gain``.

    Raises:
        ValueError: the band holds no frequency.
    """
    height, width = density.shape
    radius = _radius((height, width), (1.0, 1.0))
    inside = (radius >= max(band[0], _LOBE / min(height, width))) & (radius <= band[1])
    if not inside.any():
        raise ValueError(f"band: got {band}; expected one that holds frequencies of {height}x{width} pixels")
    return float(density[inside].mean())


def save_spectrum(
    images: Tensor | None, outputs: Mapping[str, Tensor], path: Path, reference: str = "bilinear"
) -> None:
    """Draw the input's and outputs' radial power spectra, and gains in dB.

    Frequencies are in cycles per output pixel, so that the output's Nyquist frequency is 0.5. With s input pixels per
    output pixel, the input's density on that axis is ``P(f / s) / s²``; an ideal low-pass resize follows it up to 0.5.

    Args:
        images: the input, floating-point (N, C, H, W). None, for images of several sizes, leaves out its line.
        outputs: floating-point (N, C, h, w) by the resizer's name, all of one size.
        path: the PNG to write.
        reference: the output that gains are relative to.

    Raises:
        ValueError: as ``band_gain``.
    """
    gains = high_frequency_gain(outputs, reference)
    height, width = _common_size(outputs)
    step = (1.0, 1.0) if images is None else (images.shape[-2] / height, images.shape[-1] / width)
    colours = arm_colours(("input", *outputs))
    spectra = {name: radial_spectrum(values) for name, values in outputs.items()}
    figure = new_figure(13, 5.2)
    power, gain = figure.subplots(1, 2)
    if images is not None:
        power.plot(
            *_rings(power_density(images), step),
            color=colours["input"],
            label=f"input {images.shape[-2]}×{images.shape[-1]}",
            linewidth=2,
            linestyle=":",
        )
    for name, (frequencies, values) in spectra.items():
        order = 3 if name == "learned" else 2
        look: dict[str, Any] = {"color": colours[name], "label": name, "linewidth": 2, "zorder": order}
        power.plot(frequencies, values, **look)
        ratio = [decibel(float(a), float(b)) for a, b in zip(values, spectra[reference][1], strict=True)]
        gain.plot(frequencies, ratio, **look | {"label": f"{name} {gains[name]:+.1f} dB".replace("-", "−")})
    power.set_xscale("log")
    power.set_yscale("log")
    _mark_nyquist(power, max(0.5 * min(step), 0.5))
    finish_axes(power, "Power spectrum", "frequency, cycles per output pixel", "power density")
    legend_below(figure, power)
    gain.axvspan(*HIGH, color="0.95", zorder=0)
    gain.set_xlim(0, 0.5)
    title = f"Gain over {reference}"
    finish_axes(gain, title, "frequency, cycles per output pixel", "power density, dB")
    gain.legend(title="mean power in the shaded half", fontsize=10, frameon=False, loc="upper left")
    # Room for the legend: "best" would put it over the lines.
    low, high = gain.get_ylim()
    gain.set_ylim(low, high + 0.12 * (len(outputs) / 2 + 1) * (high - low))
    save_figure(figure, path)


def _mark_nyquist(axes: Axes, right: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.axvline(0.5, color="0.35", linewidth=1)
    if right > 0.55:
        axes.axvspan(0.5, right, color="0.95", zorder=0)
    # On the right, above the input's falling line, or where the axis ends at 0.5, on the left at the bottom.
    x, y, horizontal, vertical = (0.515, 0.97, "left", "top") if right > 0.55 else (0.485, 0.03, "right", "bottom")
    where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "rotation": 90, "ha": horizontal, "va": vertical}
    axes.text(x, y, "output's Nyquist", color="0.35", **where)
    low = axes.get_xlim()[0]
    ticks = [tick for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= right]
    axes.set_xlim(low, right * 1.05)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


def _rings(density: Tensor, step: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Rings' centres and mean densities, on a ``step`` times coarser grid's axis."""
    radius = _radius((density.shape[0], density.shape[1]), step)
    # Both grids cover the same area, so their frequencies are equally spaced on this axis.
    spacing = max(step[0] / density.shape[0], step[1] / density.shape[1])
    ring = (radius / spacing).round().long()
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
    counts = sums.index_add(0, ring.flatten(), torch.ones(ring.numel(), dtype=torch.float64))
    sums.index_add_(0, ring.flatten(), density.flatten())
    # Beyond the Nyquist frequency of the coarser axis, the square's sides cut rings off.
    last = int(0.5 * min(step) / spacing + 1e-9)
    rings = torch.arange(math.ceil(_LOBE), last + 1)
    return rings.double() * spacing, sums[rings] / counts[rings] / (step[0] * step[1])


def _radius(shape: tuple[int, int], step: tuple[float, float]) -> Tensor:
    """FFT frequencies' distance (height, width) from 0, in cycles per coarse pixel."""
    vertical, horizontal = (
        torch.fft.fftfreq(side, dtype=torch.float64) * factor for side, factor in zip(shape, step, strict=True)
    )
    return torch.hypot(vertical[:, None], horizontal[None, :])


def decibel(power: float, reference: float) -> float:
    """10 log10 of a ratio of powers, finite for 0 too."""
    tiny = torch.finfo(torch.float64).tiny
    return 10 * math.log10(max(power, tiny) / max(reference, tiny))


def _common_size(outputs: Mapping[str, Tensor]) -> tuple[int, int]:
    sizes = {tuple(values.shape[-2:]) for values in outputs.values()}
    if len(sizes) != 1:
        raise ValueError(f"outputs: got sizes {sorted(sizes)}; expected one size")
    height, width = sizes.pop()
    return height, width
