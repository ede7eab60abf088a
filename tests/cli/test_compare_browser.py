"""The page of `learned-resizer compare` in a browser: what people see, click and read."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from PIL import Image

from tests.helpers.browser import chromium, missing_browser
from tests.helpers.comparison_pages import ReadPanel, sections
from tests.helpers.failures import command
from tests.helpers.image_files import pattern

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

if reason := missing_browser():
    pytest.skip(reason, allow_module_level=True)

READY = "main[aria-busy=false]"
PANELS = 8
HEIGHT, WIDTH = 20, 32


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a colour picture and a grey one."""
    folder = tmp_path_factory.mktemp("page")
    Image.fromarray(pattern(40, 64)).save(folder / "colour.png")
    Image.fromarray(pattern(48, 40, 1)[..., 0]).save(folder / "grey.png")
    code, printed = command(
        "compare", folder / "colour.png", folder / "grey.png", "--output", folder / "a page? <b>#1.html"
    )
    assert code == 0, printed
    return folder / "a page? <b>#1.html"


@pytest.fixture(scope="module")
def panels(path: Path) -> list[ReadPanel]:
    """The first picture's panels, as they stand in the file."""
    return list(sections(path.read_text(encoding="utf-8"))[0][1].values())


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Page]:
    """The page, opened; it must not report an error nor ask for anything but itself."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    yield page
    context.close()
    assert errors == [] and {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert [url for url in requests if url.startswith("file:")] == [path.as_uri()]


def canvases(page: Page) -> Locator:
    return page.locator("section:not([hidden]) canvas")


def drawn(page: Page) -> list[np.ndarray]:
    """All panels' pixels on the screen, without the mark under the pointer."""
    page.mouse.move(2, 2)
    urls = canvases(page).evaluate_all("all => all.map(canvas => canvas.toDataURL())")
    found = []
    for url in urls:
        rgba = decoded_rgba(url)
        assert (rgba[..., 3] == 255).all(), "a panel is not filled"
        found.append(rgba[..., :3])
    return found


def decoded_rgba(url: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        return np.array(image.convert("RGBA"))


def enlarged(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, 0).repeat(factor, 1)


def factor_of(page: Page) -> int:
    return int(page.locator("#factor").inner_text().split(" ")[0])


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Waits for what an event causes later; the page's policy forbids playwright's own way, which is eval."""
    for _ in range(500):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("nothing happened in ten seconds")


def captions(page: Page, part: str) -> list[str]:
    return page.locator(f"section:not([hidden]) .{part}").all_inner_texts()


def point(page: Page, panel: int, row: float, column: float) -> tuple[float, float]:
    """Place on the screen of a panel's pixel, with the whole picture shown."""
    box = canvases(page).nth(panel).bounding_box()
    assert box is not None
    return box["x"] + box["width"] * column / WIDTH, box["y"] + box["height"] * row / HEIGHT


def view(page: Page, name: str) -> None:
    page.get_by_label(name, exact=True).check(force=True)


def test_panels_are_whole_pixels(page: Page, panels: list[ReadPanel]) -> None:
    screen = drawn(page)
    factor = factor_of(page)
    assert len(screen) == len(panels) == PANELS and factor == round(240 / WIDTH)
    for shown, panel in list(zip(screen, panels, strict=True))[1:]:
        assert np.array_equal(shown, enlarged(panel.pixels, factor))
    # The original has twice the pixels on the same area: every other screen pixel's share is not whole
    assert screen[0].shape == screen[1].shape
    centres = screen[0][factor // 4 :: factor, factor // 4 :: factor]
    assert np.array_equal(centres, panels[0].pixels[::2, ::2])
    assert page.locator("#altered").is_hidden()


def test_wheel_zooms_all_panels_about_the_pointer(page: Page, panels: list[ReadPanel]) -> None:
    before = factor_of(page)
    x, y = point(page, 3, 5.5, 20.5)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -100)
    until(page, lambda: factor_of(page) == 16)
    factor = 16
    assert before == 8
    # The pixel under the pointer stays under it: at (5.5, 20.5) of the panel
    left, top = round(20.5 * before - 20.5 * factor), round(5.5 * before - 5.5 * factor)
    for shown, panel in list(zip(drawn(page), panels, strict=True))[1:]:
        height, width = shown.shape[:2]
        assert (height, width) == (HEIGHT * before, WIDTH * before)
        assert np.array_equal(shown, enlarged(panel.pixels, factor)[-top : -top + height, -left : -left + width])
    page.mouse.move(x, y)
    page.mouse.wheel(0, 100)
    page.mouse.wheel(0, 100)
    until(page, lambda: factor_of(page) == 8)
    assert page.locator("#whole").is_disabled() and page.locator("#out").is_disabled()


def test_wheel_scrolls_the_page_at_the_end_of_the_zoom(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 400})
    page.mouse.move(*point(page, 1, 5, 5))
    page.mouse.wheel(0, 200)
    until(page, lambda: page.evaluate("scrollY") > 0)


def test_drag_and_buttons_move_all_panels(page: Page, panels: list[ReadPanel]) -> None:
    before = factor_of(page)
    page.get_by_label("zoom in").click()
    factor = factor_of(page)
    assert factor == 12
    x, y = point(page, 2, 10, 16)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 24, y + 12, steps=3)
    page.mouse.up()
    left, top = 16 * (factor - before) + 24, 10 * (factor - before) - 12
    for shown, panel in list(zip(drawn(page), panels, strict=True))[1:]:
        height, width = shown.shape[:2]
        assert np.array_equal(shown, enlarged(panel.pixels, factor)[top : top + height, left : left + width])
    # A drag is not a click
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "bilinear"
    # No further than the picture's border
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y - 150)
    page.mouse.up()
    shown = drawn(page)[1]
    assert np.array_equal(shown, enlarged(panels[1].pixels, factor)[-shown.shape[0] :, -shown.shape[1] :])


def test_click_makes_the_reference(page: Page, panels: list[ReadPanel]) -> None:
    view(page, "difference")
    canvases(page).nth(6).click()
    reference = panels[6].pixels.astype(int)
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "lanczos"
    shown = dict(enumerate(drawn(page)))
    factor = factor_of(page)
    figures = captions(page, "figures")
    for number in (1, 3, 7):
        gap = panels[number].pixels.astype(int) - reference
        assert np.array_equal(shown[number], enlarged(np.clip(128 + 4 * gap, 0, 255), factor))
        psnr = 10 * np.log10(255**2 / (gap**2).mean())
        assert figures[number] == f"PSNR {psnr:.2f} dB, max {np.abs(gap).max()}"
    assert np.array_equal(shown[6], enlarged(panels[6].pixels, factor)) and figures[6] == "shown as it is"
    page.locator("#kind").select_option("absolute")
    page.locator("#gain").select_option("16")
    gap = panels[1].pixels.astype(int) - reference
    assert np.array_equal(drawn(page)[1], enlarged(np.clip(16 * np.abs(gap), 0, 255), factor))
    assert "16 × |panel − lanczos|" in page.locator("#legend").inner_text()
    # The original has another size
    canvases(page).nth(0).click()
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "lanczos"
    # By the keyboard too
    page.get_by_role("button", name="box").press("Enter")
    assert page.get_by_role("button", name="box").get_attribute("aria-pressed") == "true"
    assert "|panel − box|" in page.locator("#legend").inner_text()


def test_readout(page: Page, panels: list[ReadPanel]) -> None:
    page.mouse.move(*point(page, 4, 6.5, 9.5))
    assert page.locator("#where").inner_text() == "row 6, column 9"
    found = captions(page, "values")
    assert found[1:] == [" ".join(map(str, panel.pixels[6, 9])) for panel in panels[1:]]
    assert found[0] == " ".join(map(str, panels[0].pixels[13, 19]))  # at the middle of its four pixels
    view(page, "difference")
    page.mouse.move(*point(page, 4, 6.5, 9.5))
    gap = panels[1].pixels[6, 9].astype(int) - panels[3].pixels[6, 9]
    assert captions(page, "values")[1] == " ".join(f"{d:+d}" if d else "0" for d in gap).replace("-", "−")
    assert captions(page, "values")[3] == " ".join(map(str, panels[3].pixels[6, 9]))
    page.mouse.move(2, 2)
    assert page.locator("#where").inner_text() == "" and "".join(captions(page, "values")).strip() == ""


def test_spectrum(page: Page, panels: list[ReadPanel], path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the page's colours need the [train] extra")
    palette = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    view(page, "spectrum")
    factor = factor_of(page)
    for shown, panel in zip(drawn(page), panels, strict=True):
        assert np.array_equal(shown, enlarged(palette[panel.spectrum], factor))
    page.mouse.move(*point(page, 2, 12.5, 8.5))
    assert page.locator("#where").inner_text() == "0.100 down, −0.250 across, in cycles per pixel"
    section, _ = sections(path.read_text(encoding="utf-8"))[0]
    low, high = float(section["low"]), float(section["high"])
    for text, panel in zip(captions(page, "values"), panels, strict=True):
        power = low + (high - low) * panel.spectrum[12, 8] / 255
        assert text.removeprefix("≤ ") == f"{power:.1f} dB".replace("-", "−")
    assert f"−10.8 dB{high:.1f} dB" in page.locator("#legend").inner_text().replace(" dB ", " dB")


def test_keys(page: Page, panels: list[ReadPanel]) -> None:
    canvas = canvases(page).nth(5)
    canvas.focus()
    page.keyboard.press("ArrowRight")  # marks the middle first
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert page.locator("#where").inner_text() == "row 0, column 17"
    assert captions(page, "values")[5] == " ".join(map(str, panels[5].pixels[0, 17]))
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert factor_of(page) == 16
    page.keyboard.press("-")
    assert factor_of(page) == 12
    page.keyboard.press("0")
    assert factor_of(page) == 8
    page.keyboard.press("Enter")
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "bicubic"


def test_pictures(page: Page, path: Path) -> None:
    """The chooser takes arrow keys, and the reference stays."""
    canvases(page).nth(1).click()
    page.locator("#picture").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(READY)
    page.wait_for_selector("h2:visible >> text=grey.png")
    assert page.locator("section:visible").count() == 1
    assert page.locator("section:visible figure[data-reference]").get_attribute("data-name") == "nearest"
    grey = list(sections(path.read_text(encoding="utf-8"))[1][1].values())
    factor = factor_of(page)
    for shown, panel in list(zip(drawn(page), grey, strict=True))[1:]:
        assert np.array_equal(shown, enlarged(panel.pixels[..., None].repeat(3, 2), factor))


def test_phone(browser: Browser, path: Path, panels: list[ReadPanel]) -> None:
    """No sideways scroll at 390 pixels in any view; two fingers zoom, a tap makes the reference."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    for name in ("image", "difference", "spectrum"):
        view(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        boxes = [canvases(page).nth(number).bounding_box() for number in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"], "two panels beside each other"  # type: ignore[index]
    view(page, "image")
    factor = factor_of(page)
    assert canvases(page).first.evaluate("canvas => canvas.width") == factor * WIDTH
    box = canvases(page).nth(1).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = context.new_cdp_session(page)
    for kind, gap in (("touchStart", 20), ("touchMove", 24), ("touchMove", 36), ("touchEnd", 0)):
        points = [{"x": x - gap, "y": y, "id": 0}, {"x": x + gap, "y": y, "id": 1}] if gap else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until(page, lambda: factor_of(page) > factor)
    assert page.evaluate("visualViewport.scale") == 1, "the page itself does not zoom"
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "bilinear"
    canvases(page).nth(1).tap()
    assert page.locator("figure[data-reference]").first.get_attribute("data-name") == "nearest"
    context.close()


def test_whole_picture_that_does_not_fit_is_smoothed(browser: Browser, tmp_path: Path) -> None:
    Image.fromarray(pattern(400, 400)).save(tmp_path / "a.png")
    assert command("compare", tmp_path / "a.png", "--size", "400", "--output", tmp_path / "page.html")[0] == 0
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(READY)
    assert page.locator("#factor").inner_text() == "96 %, smoothed"
    page.get_by_label("zoom in").click()
    shown = drawn(page)[3]
    ((_, read),) = sections((tmp_path / "page.html").read_text(encoding="utf-8"))
    start = (400 - shown.shape[0]) // 2
    assert factor_of(page) == 1 and shown.shape == (384, 384, 3)
    assert np.array_equal(shown, read["bilinear"].pixels[start : start + 384, start : start + 384])
    page.close()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_scheme(browser: Browser, path: Path, scheme: str, dark: bool) -> None:
    """Text and ground follow the browser's scheme and keep a contrast of at least 4.5 (WCAG AA)."""
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground < 0.1) == dark
    for selector in (
        "h1",
        "section p",
        "figcaption .figures",
        "figcaption .values",
        "dd",
        "figure[data-reference] .name",
    ):
        text = luminance(page, selector, "color")
        low, high = sorted((ground, text))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    context.close()


def luminance(page: Page, selector: str, what: str) -> float:
    """Relative luminance by WCAG of a colour of an element."""
    colour = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{what}")
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_altered_pixels_are_told(browser: Browser, path: Path, tmp_path: Path) -> None:
    """Some browsers add noise to the pixels that a page reads; here the checksum is wrong instead."""
    text = re.sub(r'data-checksum="\d+"', 'data-checksum="1"', path.read_text(encoding="utf-8"), count=1)
    (tmp_path / "altered.html").write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "altered.html").as_uri())
    page.wait_for_selector(READY)
    assert page.locator("#altered").is_visible()
    page.close()


def test_without_scripts(browser: Browser, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("img.pixels").count() == 2 * PANELS and page.locator("img.pixels").last.is_visible()
    assert page.locator("noscript p").is_visible() and page.locator("#bar").is_hidden()
    context.close()
