"""Standard output and error that take every text, whatever the encoding of the terminal or pipe behind them."""

from __future__ import annotations

import codecs
import sys
from typing import NoReturn

_ERRORS = "learned_resizer_cuda"
_PLAIN = {"−": "-", "–": "-", "±": "+/-", "×": "x", "→": "->", "…": "...", "²": "2", "≥": ">=", "≤": "<="}


def take_every_text() -> None:
    """Lets the process's output replace what its encoding lacks, instead of raising UnicodeEncodeError.

    Signs that figures are printed with become their usual substitutes; anything else, and bytes of file names that
    are not UTF-8, a backslash escape.
    """
    codecs.register_error(_ERRORS, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where closed, and whatever a program puts in their place
            stream.reconfigure(errors=_ERRORS)


def fail(command: str, error: BaseException | str, code: int = 2) -> NoReturn:
    """Ends the program with one line on standard error that says why."""
    raise SystemExit(complain(command, error, code))


def complain(command: str, error: BaseException | str, code: int = 2) -> int:
    """Prints that line and returns the exit code."""
    name = f"learned-resizer {command}".strip()
    print(f"{name}: {error}", file=sys.stderr)
    return code


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(sign) or _escape(sign) for sign in text)
    return plain, error.end


def _escape(sign: str) -> str:
    code = ord(sign)
    # The bytes of a file name that is not UTF-8 come as lone surrogates (os.fsdecode)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("ascii", "backslashreplace").decode()
