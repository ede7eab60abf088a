"""The documentation site: it builds without a warning, alone in the world, and has every public name.

In Chromium, its pages load nothing from elsewhere and fit a phone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .helpers.browser import chromium, missing_browser
from .helpers.public_names import public_names

ROOT = Path(__file__).resolve().parent.parent
LOOKED_AT = ("index", "start", "math", "results", "reference/resizer", "reference/command-line", "examples")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as strictly as in CI."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


class Loads(HTMLParser):
    """What a browser loads for a page: scripts, styles, pictures, fonts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        address = found.get("href") if tag == "link" and found.get("rel") != "canonical" else found.get("src")
        if address:
            self.addresses.add(address)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    remote = {address for page in pages for address in Loads(page).addresses if re.match(r"(https?:)?//", address)}
    assert remote == set()
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text("utf-8")), style


def test_every_public_name_has_its_page(site: Path) -> None:
    table = dict(
        re.findall(
            r"^\| `([\w.]+)` \|.*\]\((\w+)\.md\) \|$", (ROOT / "docs/reference/index.md").read_text("utf-8"), re.M
        )
    )
    known = public_names()
    assert sorted(table) == sorted(name for name, found in known.items() if "." not in found.name)
    for name, found in known.items():
        page = next(table[top] for top in table if name == top or name.startswith(f"{top}."))
        text = (site / "reference" / f"{page}.html").read_text("utf-8")
        assert f'id="{found.source.path}"' in text, name
    assert (site / "reference" / "resize.html").read_text("utf-8").count("&gt;&gt;&gt;") > 20


def test_formulas_are_mathml_without_a_rest_of_latex(site: Path) -> None:
    formulas = re.findall(r"<math.*?</math>", (site / "math.html").read_text("utf-8"), re.S)
    assert len(formulas) > 150
    assert [formula for formula in formulas if "\\" in re.sub("<[^>]*>", "", formula)] == []


def test_the_commands_help_is_on_its_page(site: Path) -> None:
    text = (site / "reference" / "command-line.html").read_text("utf-8")
    for command in ("train", "evaluate", "transfer", "ablate", "resize", "compare"):
        assert re.search(rf"Usage: learned-resizer {command}\b", text), command
    assert "help:" not in text


@pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser()))
def test_pages_in_a_browser(site: Path) -> None:
    """On a desktop and a phone, light and dark: no error, no request to elsewhere, no page wider than the screen."""
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("request", lambda request, said=said: said.append(request.url))
            for name in LOOKED_AT:
                page.goto((site / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
                assert page.locator("h1").count() == 1
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 600) == (scheme == "light")
            # From a folder, not a server, the search finds no index.
            assert [
                text for text in said if not text.startswith(("file:", "data:", "blob:")) and "NOT_FOUND" not in text
            ] == []
