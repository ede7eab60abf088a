"""Untrusted values in error messages: short, and harmless to a terminal."""

from __future__ import annotations

from pathlib import Path

from .substitutes import printable


def shown(value: object) -> str:
    """A value on one line of at most 80 characters."""
    try:
        if not isinstance(value, tuple):
            return shorten(repr(value))
        rest = f" and {len(value) - 8} more" if len(value) > 8 else ""
        return shorten(", ".join(map(str, value[:8])), 80 - len(rest)) + rest
    except ValueError:  # from Python
        return "an integer of more than 4,300 digits"


def shorten(text: str, longest: int = 80) -> str:
    """A text on one line, without its middle if it is long."""
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]}…{text[-longest // 4 :]}"
    return one_line(text)


def shown_path(path: str | Path) -> str:
    """A whole path on one line; non-UTF-8 bytes as ``\\xff``."""
    return one_line(printable(str(path), "utf-8"))


def one_line(text: str) -> str:
    """A text with escapes for line ends and for control characters."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
