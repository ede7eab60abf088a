"""The page of a comparison: its pixels, spectra and figures against numpy, and its safety."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("matplotlib", reason="the page's colours need the [train] extra")

from learned_resizer_cuda.report import comparison
from learned_resizer_cuda.report.comparison import Panel, compare, render_page
from tests.helpers.comparison_pages import sections
from tests.helpers.image_files import pattern

NASTY = "</script><script>alert('\"&')</script>"


def planes(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


def example(channels: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray], str]:
    """An image, panels that no filter made, and their page."""
    original = pattern(41, 60, channels)
    random = np.random.default_rng(1)
    panels = {
        "noise": random.integers(0, 256, (20, 30, channels), np.uint8),
        "smooth": pattern(20, 30, channels),
        "flat": np.full((20, 30, channels), 7, np.uint8),
    }
    made = [Panel(name, planes(array), f"note of {name}") for name, array in panels.items()]
    return original, panels, render_page("title", [compare("a.png", planes(original), made, ["A note."])])


def density(array: np.ndarray) -> np.ndarray:
    """Power density (h, w) by numpy, frequencies as of fft2."""
    window = np.outer(*(np.hanning(side + 1)[:-1] for side in array.shape[:2]))[..., None]
    values = array.astype(np.float64)
    mean = (values * window).sum((0, 1)) / window.sum()
    power = np.abs(np.fft.fft2((values - mean) * window, axes=(0, 1))) ** 2
    return power.mean(-1) / (window**2).sum()


def held(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Power density of a larger image at a smaller one's frequencies and units."""
    rows, columns = (np.round(np.fft.fftfreq(side) * side).astype(int) for side in size)
    return density(array)[np.ix_(rows, columns)] / (array.shape[0] / size[0] * array.shape[1] / size[1])


def levels(power: np.ndarray, section: dict[str, str]) -> np.ndarray:
    low, high = float(section["low"]), float(section["high"])
    decibels = 10 * np.log10(np.maximum(power, 1e-300))
    return np.clip(np.fft.fftshift((decibels - low) / (high - low)) * 255, 0, 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_spectra(channels: int) -> None:
    original, panels, page = example(channels)
    ((section, read),) = sections(page)
    assert list(read) == ["original", *panels] and section["heading"] == "a.png" and "A note." in section["text"]
    assert "41×60 pixels, resized to 20×30" in section["text"]
    for name, array in {"original": original, **panels}.items():
        assert np.array_equal(read[name].pixels.reshape(array.shape), array)
        rgb = np.broadcast_to(array, (*array.shape[:2], 3))
        assert read[name].checksum == zlib.adler32(rgb.tobytes())
        power = held(array, (20, 30)) if name == "original" else density(array)
        # rounded to the nearest level; float64's noise may decide a tie
        assert np.abs(read[name].spectrum - levels(power, section)).max() <= 0.501
    strongest = max(density(array).max() for array in panels.values())
    assert float(section["high"]) == pytest.approx(10 * math.log10(max(strongest, held(original, (20, 30)).max())))
    # a flat image has no power beyond rounding noise, which is the floor
    assert read["flat"].spectrum.max() == 0 and np.median(read["noise"].spectrum) > 128
    assert float(section["low"]) == pytest.approx(10 * math.log10(1 / 12))


def test_bands() -> None:
    original, panels, page = example()
    ((_, read),) = sections(page)
    radius = np.hypot(np.fft.fftfreq(20)[:, None], np.fft.fftfreq(30)[None])
    halves = ((radius >= 1.5 / 20) & (radius <= 0.25), (radius >= 0.25) & (radius <= 0.5))
    for name in ("noise", "smooth"):
        coarse, fine = (
            10 * math.log10(density(panels[name])[half].mean() / held(original, (20, 30))[half].mean())
            for half in halves
        )
        assert f"coarse {coarse:+.1f}, fine {fine:+.1f} dB".replace("-", "−") in read[name].caption
        assert f"note of {name}" in read[name].caption
    assert "coarse" not in read["original"].caption
    floor = 10 * math.log10(1 / 12 / held(original, (20, 30))[halves[0]].mean())
    assert f"coarse {floor:+.1f}, fine".replace("-", "−") in read["flat"].caption


def test_no_bands_where_a_side_grows() -> None:
    """The original has no power beyond its own Nyquist frequency to compare with."""
    original = pattern(16, 60)
    page = render_page("title", [compare("a", planes(original), [Panel("p", planes(pattern(20, 30)))])])
    ((_, read),) = sections(page)
    assert "coarse" not in read["p"].caption
    beyond = np.fft.fftshift(np.abs(np.fft.fftfreq(20)) > 0.401)
    assert read["original"].spectrum[beyond].max() == 0 and read["original"].spectrum[~beyond].max() > 0
    # 0.4 cycles per pixel of 20 rows is the original's own limit
    assert beyond.sum() == 3


def test_large_original_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "LARGEST_ORIGINAL", 42 * 60 // 5)
    original = pattern(42, 60)
    page = render_page("title", [compare("a", planes(original), [Panel("p", planes(pattern(20, 30)))])])
    ((section, read),) = sections(page)
    assert "original 42×60 pixels, shown at 14×20" in read["original"].caption
    mean = original.reshape(14, 3, 20, 3, 3).mean((1, 3))
    # rounded to the nearest level, of float32 sums
    assert np.abs(read["original"].pixels - mean).max() <= 0.501
    # The spectrum is the whole original's
    assert np.abs(read["original"].spectrum - levels(held(original, (20, 30)), section)).max() <= 0.501


class Tags(HTMLParser):
    """Elements with their attributes, and all text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_page() -> str:
    panel = Panel(NASTY, planes(pattern(20, 30)), NASTY)
    return render_page(NASTY, [compare(NASTY, planes(pattern()), [panel], [NASTY])] * 2, learned=NASTY)


def test_everything_is_escaped() -> None:
    page = Tags(nasty_page())
    assert [tag for tag, _ in page.tags].count("script") == 1
    # title and heading; option, heading and note; two names and captions; the sentence on the learned resizer
    assert page.text.count(NASTY) == 2 + 2 * 3 + 2 * 2 + 1
    assert sum(attributes.get("data-name") == NASTY for _, attributes in page.tags) == 2


def test_nothing_is_loaded_and_nothing_else_runs() -> None:
    page = nasty_page()
    policy = next(
        str(attributes["content"])
        for tag, attributes in Tags(page).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    bodies = {kind: re.findall(f"<{kind}>(.*?)</{kind}>", page, re.S) for kind in ("style", "script")}
    hashes = {
        kind: base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for kind, (body,) in bodies.items()
    }
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )
    attributes = [(name, value) for _, found in Tags(page).tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name in ("href", "style") or name.startswith("on")]
    assert all(str(value).startswith("data:image/png;base64,") for name, value in attributes if name == "src")
    assert "://" not in page and "url(" not in page and "@import" not in page


def test_same_input_same_page() -> None:
    assert example()[2] == example()[2]
