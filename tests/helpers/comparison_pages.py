"""Pages of `learned-resizer compare`, read back by other means than made."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image


def decoded(url: str) -> np.ndarray:
    """The pixels of a PNG's data URL."""
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    with Image.open(BytesIO(base64.b64decode(data))) as image:
        assert image.mode in ("L", "RGB") and not image.info, "a profile or gamma would change what browsers show"
        return np.array(image)


@dataclass(frozen=True)
class ReadPanel:
    """A panel of the page: pixels, spectrum's levels, checksum and caption."""

    pixels: np.ndarray
    spectrum: np.ndarray
    checksum: int
    caption: str


def sections(page: str) -> list[tuple[dict[str, str], dict[str, ReadPanel]]]:
    """Each picture's attributes and heading, and its panels by name."""
    found = []
    for attributes, body in re.findall(r'<section class="picture"(.*?)>(.*?)</section>', page, re.S):
        values = dict(re.findall(r'data-(\w+)="(.*?)"', attributes))
        values["heading"] = html.unescape(re.findall(r"<h2>(.*?)</h2>", body)[0])
        values["text"] = html.unescape(re.findall(r"<p>(.*?)</p>", body, re.S)[0])
        panels = {}
        for figure, inner in re.findall(r"<figure(.*?)>(.*?)</figure>", body, re.S):
            marks = dict(re.findall(r'data-(\w+)="(.*?)"', figure))
            pixels, spectrum = map(decoded, re.findall(r'src="(.*?)"', inner))
            caption = html.unescape(re.sub(r"<[^>]*>", "", inner))
            panels[html.unescape(marks["name"])] = ReadPanel(
                pixels, spectrum, int(marks["checksum"]), " ".join(caption.split())
            )
        found.append((values, panels))
    return found
