"""Headless Chromium for tests of pages, as a context manager."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing_browser() -> str | None:
    """Why no browser can be driven here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright, which drives the browser, is not installed"
    if not any(map(shutil.which, NAMES)):
        return f"no browser here: none of {', '.join(NAMES)}"
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser of the machine's own; not to be used in a running asyncio loop."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)))
    # Chromium's sandbox refuses to run as root
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=sandbox)
        try:
            yield browser
        finally:
            browser.close()
