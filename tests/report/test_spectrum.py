"""Power spectra of known signals and filters, and the figure of a resizer's gain."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda import resize
from learned_resizer_cuda.report.figures import spectrum
from learned_resizer_cuda.report.figures.spectrum import band_gain, high_frequency_gain, power_density, radial_spectrum


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(side: int, cycles: tuple[float, float], amplitude: float = 1.0) -> Tensor:
    """A plane wave (1, 1, side, side) with these cycles per side."""
    at = torch.arange(side, dtype=torch.float64) / side
    return amplitude * torch.cos(2 * math.pi * (cycles[0] * at[:, None] + cycles[1] * at[None, :]))[None, None]


@pytest.mark.parametrize("shape", [(400, 2, 16, 16), (400, 2, 15, 15), (400, 2, 24, 20), (200, 2, 40, 40)])
def test_white_noise_is_flat_at_its_variance(shape: tuple[int, ...]) -> None:
    """Whatever the number of pixels."""
    frequencies, power = radial_spectrum(3 * noise(*shape))
    # A periodogram's value has a standard deviation equal to its mean. A ring has at least the 12 values of radius 2,
    # half of them conjugates of the others; Hann's window makes (35/18)² of them worth one. Four standard deviations.
    independent = shape[0] * shape[1] * 12 / 2 / (35 / 18) ** 2
    assert float((power / 9 - 1).abs().max()) < 4 / math.sqrt(independent)
    spacing = 1 / min(shape[2:])
    assert frequencies.dtype == power.dtype == torch.float64
    assert frequencies.tolist() == pytest.approx([ring * spacing for ring in range(2, len(frequencies) + 2)])
    assert 0.5 - spacing < float(frequencies[-1]) <= 0.5


def test_parseval() -> None:
    """The mean density over all frequencies is the windowed image's power."""
    images = noise(2, 3, 20, 27) + 5
    window = torch.outer(torch.hann_window(20, dtype=torch.float64), torch.hann_window(27, dtype=torch.float64))
    centred = images - (images * window).sum((2, 3), keepdim=True) / window.sum()
    power = (centred * window).square().sum((2, 3)).mean() / window.square().sum()
    # float64 sums of 540 terms
    assert float(power_density(images).mean()) == pytest.approx(float(power), rel=1e-12)


@pytest.mark.parametrize("cycles", [(0, 5), (5, 0), (3, 4), (16, 0), (9, 12)])
def test_wave_peaks_in_its_ring(cycles: tuple[int, int]) -> None:
    frequencies, power = radial_spectrum(wave(32, cycles))
    radius = math.hypot(*cycles) / 32
    # (9, 12) has radius 15, of 16 rings; a ring reaches half a ring from its centre.
    assert float(frequencies[power.argmax()]) == pytest.approx(radius)
    far = power[(frequencies - radius).abs() > 2.5 / 32]
    # Hann's window spreads a whole number of cycles over the direct neighbours only, here in both directions.
    assert float(far.max()) < 1e-20


def test_brightness_and_amplitude() -> None:
    images = noise(2, 1, 16, 16)
    _, power = radial_spectrum(images)
    _, brighter = radial_spectrum(2 * images + 100)
    # Adding and subtracting 100 costs 100·eps of values near 1; squared power of rings near 1
    assert torch.allclose(brighter, 4 * power, rtol=1e-11, atol=0)


def test_bad_images() -> None:
    for images in (torch.zeros(1, 1, 3, 8), torch.zeros(0, 1, 8, 8), torch.zeros(8, 8), torch.zeros(1, 1, 8, 8).int()):
        with pytest.raises(ValueError, match="images: got"):
            radial_spectrum(images)


def fourier_resize(images: Tensor, side: int) -> Tensor:
    """The ideal low-pass resize of periodic square images: the low frequencies only."""
    old = images.shape[-1]
    middle = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
    first = old // 2 - side // 2
    cut = middle[..., first : first + side, first : first + side]
    return torch.fft.ifft2(torch.fft.ifftshift(cut, dim=(-2, -1))).real * (side / old) ** 2


def test_ideal_resize_lies_on_the_inputs_curve() -> None:
    images = noise(16, 3, 96, 96)
    small = fourier_resize(images, 32)
    frequencies, power = radial_spectrum(small)
    axis, input_power = spectrum._rings(power_density(images), (3.0, 3.0))
    assert torch.allclose(axis[: len(frequencies)], frequencies) and float(axis[-1]) == pytest.approx(1.5)
    # Hann's window, which has low frequencies only, spreads every frequency by one neighbour in each direction: except
    # for the two rings at the edge, the spectra agree to the rounding of sums of 96² terms in float64.
    assert float((power / input_power[: len(power)] - 1)[:-2].abs().max()) < 1e-9


def test_gain_of_known_filters() -> None:
    base = noise(4, 1, 32, 32)
    assert high_frequency_gain({"bilinear": base, "learned": 10 * base}) == pytest.approx(
        {"bilinear": 0.0, "learned": 20.0}
    )
    low, high = wave(32, (4, 0)), wave(32, (0, 12))
    outputs = {"bilinear": low + high, "learned": low + 2 * high}
    # The amplitude is doubled above and unchanged below; the waves' lines are narrower than the bands.
    assert high_frequency_gain(outputs)["learned"] == pytest.approx(20 * math.log10(2))
    assert band_gain(outputs, (0, 0.25))["learned"] == pytest.approx(0.0, abs=1e-9)


def test_order_of_the_fixed_filters() -> None:
    """On white noise a sharper filter keeps more of the upper half."""
    images = noise(4, 1, 64, 64).float()
    gains = high_frequency_gain({name: resize(images, 16, interpolation=name) for name in spectrum_names()})
    assert 0 == gains["bilinear"] < gains["bicubic"] < gains["lanczos"]


def spectrum_names() -> tuple[str, ...]:
    return ("bilinear", "bicubic", "lanczos")


def test_bad_outputs() -> None:
    images = noise(1, 1, 16, 16)
    with pytest.raises(ValueError, match="reference: got 'bilinear'; expected one of learned"):
        high_frequency_gain({"learned": images})
    with pytest.raises(ValueError, match=r"outputs: got sizes \[\(8, 8\), \(16, 16\)\]"):
        high_frequency_gain({"bilinear": images, "learned": images[..., :8, :8]})
    with pytest.raises(ValueError, match="band: got"):
        band_gain({"bilinear": images}, (0.0, 0.01))


@pytest.mark.parametrize("in_size", [(48, 48), (40, 64), (8, 8)], ids=["down", "not square", "up"])
def test_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_size: tuple[int, int]) -> None:
    pytest.importorskip("matplotlib", reason="figures need the [train] extra")
    figures: list = []
    monkeypatch.setattr(spectrum, "save_figure", lambda figure, path: figures.append(figure))
    images = noise(2, 3, *in_size).float()
    outputs = {name: resize(images, 16, interpolation=name) for name in spectrum_names()}
    outputs["learned"] = 2 * outputs["bilinear"]
    spectrum.save_spectrum(images, outputs, tmp_path / "spectrum.png")
    power, gain = figures[0].axes
    lines = {line.get_label(): line for line in gain.lines}
    assert list(lines)[-1] == "learned +6.0 dB" and lines["bilinear +0.0 dB"].get_ydata() == pytest.approx(0)
    assert lines["learned +6.0 dB"].get_ydata() == pytest.approx(20 * math.log10(2))  # whatever the frequency
    (nyquist,) = [line for line in power.lines if set(line.get_xdata()) == {0.5}]
    assert nyquist is not None
    at = next(line for line in power.lines if line.get_label().startswith("input")).get_xdata()
    assert max(at) <= 0.5 * min(in_size) / 16 + 1e-9


@pytest.mark.parametrize("size", [(32, 32), (31, 20), (96, 95), (100, 40)])
def test_density_below_is_that_of_the_ideal_resize(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole transform's low frequencies, in the units of the smaller grid; 0 where the image has none."""
    monkeypatch.setattr(spectrum, "_PIECE", 1000)  # several pieces of ten rows
    image = noise(3, 96, 95)
    found = spectrum.power_density_below(image, size)
    whole = power_density(image[None])
    scale = 96 / size[0] * 95 / size[1]
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = ((at + side // 2) % side - side // 2 for at, side in zip((row, column), size, strict=True))
            if not (-48 <= y < 48 and abs(x) <= 47):
                assert found[row, column] == 0
            # float64 sums of 96 · 95 terms, and a mean that was removed before or after
            elif (row, column) != (0, 0):
                assert float(found[row, column]) == pytest.approx(float(whole[y, x]) / scale, rel=1e-9, abs=1e-20)
