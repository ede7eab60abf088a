"""Substitutes for characters that an output's encoding lacks."""

from __future__ import annotations

import codecs

ERRORS = "learned_resizer_cuda"
"""Name of the error handler, for ``errors=`` of a text stream."""

_PLAIN = {"−": "-", "–": "-", "±": "+/-", "×": "x", "→": "->", "…": "...", "²": "2", "≥": ">=", "≤": "<="}


def printable(text: str, encoding: str) -> str:
    """``text`` as a stream of that encoding shows it, to align columns."""
    return text.encode(encoding, ERRORS).decode(encoding)


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(sign) or _escape(sign) for sign in text)
    return plain, error.end


def _escape(sign: str) -> str:
    code = ord(sign)
    # Bytes of a file name that are not UTF-8 are lone surrogates (os.fsdecode)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else sign.encode("ascii", "backslashreplace").decode()


codecs.register_error(ERRORS, _substitute)
