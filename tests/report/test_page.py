"""The report: one file that loads nothing, escapes everything and is never half written."""

from __future__ import annotations

import base64
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from learned_resizer_cuda.report.page import Picture, save_page
from learned_resizer_cuda.report.tables import Table

# A PNG of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = "<script>alert('\"&')</script>"
EMPTY = {"meta", "img"}
TABLE = Table(["resizer"], [["bilinear"]])


class Page(HTMLParser):
    """The elements and texts of a page, which must nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))


def everything(folder: Path) -> dict[str, Any]:
    (folder / "curves.png").write_bytes(PNG)
    return {
        "title": NASTY,
        "tables": [
            Table([NASTY, "accuracy, %"], [["bilinear", "50.0"], [NASTY, "60.0 ± 1.0"]], NASTY, bold=[1]),
            Table(["epoch"], [["0"]]),
        ],
        "verdicts": [NASTY],
        "notes": [NASTY],
        "pictures": [Picture(folder / "curves.png", NASTY)],
        "environment": NASTY,
        "configuration": f"seed: 0\nname: {NASTY}\n",
    }


def test_page(tmp_path: Path) -> None:
    path = save_page(tmp_path, **everything(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object"} & set(names)
    for place in ("title", "h1", "p", "th", "caption", "figcaption"):
        assert (place, NASTY) in page.texts
    assert ("pre", f"seed: 0\nname: {NASTY}\n") in page.texts
    assert [text for place, text in page.texts if place == "td"] == ["50.0", "60.0 ± 1.0"]
    assert [attributes for tag, attributes in page.tags if tag == "tr"] == [{}, {}, {"class": "bold"}, {}, {}]
    # A verdict, a note and the environment; the verdict stands out.
    assert [attributes for tag, attributes in page.tags if tag == "p"] == [{"class": "strong"}, {}, {}]
    assert page.texts.count(("p", NASTY)) == 3


def test_nothing_is_loaded(tmp_path: Path) -> None:
    text = save_page(tmp_path, **everything(tmp_path)).read_text(encoding="utf-8")
    page = Page(text)
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    head, data = str(image["src"]).split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == PNG and image["alt"] == NASTY
    assert not [name for _, attributes in page.tags for name in attributes if name == "href" or name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "://" not in text


def test_report_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_page(tmp_path, "first", [TABLE])
    with pytest.raises(FileNotFoundError):
        save_page(tmp_path, "second", [TABLE], pictures=[Picture(tmp_path / "missing.png", "")])

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_page(tmp_path, "third", [TABLE])
    assert "<h1>first</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    save_page(tmp_path, "fourth", [TABLE])
    assert "<h1>fourth</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_bad_parts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows: got 1 cells in row 1; expected 2"):
        Table(["a", "b"], [["1", "2"], ["1"]])
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="is not a PNG"):
        save_page(tmp_path, "run", [TABLE], pictures=[Picture(tmp_path / "x.png", "")])
