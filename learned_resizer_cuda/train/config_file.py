"""Reader of untrusted YAML configuration files, bounded in time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..shown import shorten

LARGEST = 64 << 10
"""Bytes of a file; a file with every option has some 1,000."""


class _PlainLoader(yaml.SafeLoader):
    """Safe loader without aliases, which can turn a few lines into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor}; expected its value instead", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is larger than ``LARGEST``, is not YAML, has aliases or deep nesting, or is not
            a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config: no such file: {path}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"config: cannot read {path}: {error.strerror}") from error
    if len(data) > LARGEST:
        raise ValueError(f"config: {path} has more than {LARGEST:,} bytes; expected a few lines of options")
    try:
        values = yaml.load(data.decode("utf-8"), _PlainLoader)
    except Exception as error:  # malformed values may also raise IndexError or KeyError
        raise ValueError(f"config: {path} is not a YAML file of options: {_reason(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} holds a {type(values).__name__}; expected names with values")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {shorten(str(error.problem), 120)}"
    return shorten(str(error).partition("\n")[0], 120)
