"""The options of the training commands, made from the fields of ``RunConfig``: one place says what each means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..shown import shown
from ..train.config import RunConfig, field_type
from ..train.config_file import read_yaml
from .streams import fail

_FILES = ("config", "output", "overwrite")


def with_options(
    command: Callable[..., None], leave_out: Sequence[str] = ("resizer",), rename: dict[str, str] | None = None
) -> Callable[..., None]:
    """``command(values, config, output, overwrite)`` as a typer command that has an option for every field.

    An option that is not given is not among the values: config.yaml's, the data's own, or the default holds.

    Args:
        command: takes the values that were given, by field, and the three options every training has.
        leave_out: fields without an option.
        rename: options that are named otherwise than their fields.
    """

    def call(**arguments: Any) -> None:
        files = {name: arguments.pop(name) for name in _FILES}
        values = {name: value for name, value in arguments.items() if value is not None}
        try:
            given = {name: _parse(name, value) for name, value in values.items()}
        except ValueError as error:
            fail(command.__name__.lstrip("_"), error)
        command(given, **files)

    parameters = [
        _parameter(entry, (rename or {}).get(entry.name))
        for entry in fields(RunConfig)
        if entry.metadata["group"] and entry.name not in leave_out
    ]
    parameters += [
        _make("config", Path | None, typer.Option(help="YAML file with any of the options; a run's config.yaml.")),
        _make(
            "output",
            Path | None,
            typer.Option(help="Folder of the run, in which the same command goes on.", show_default="runs/DATE-TIME"),
        ),
        _make("overwrite", bool, typer.Option("--overwrite", help="Replace a former run's files there."), False),
    ]
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def configuration(command: str, values: dict[str, Any], config: Path | None) -> RunConfig:
    """The configuration of a command line: its values over those of the file over the defaults.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming what is wrong.
    """
    found = {} if config is None else read_yaml(config)
    if found.get("command", command) != command:
        raise ValueError(f"config: {config} is of the command {shown(found['command'])}; expected one of `{command}`")
    return RunConfig.make(found | values | {"command": command})


def _parameter(entry: Field[Any], name: str | None) -> inspect.Parameter:
    option = "--" + (name or entry.name).replace("_", "-")
    kind: Any = field_type(entry.name)
    default = entry.default
    assert default is not MISSING
    listed = isinstance(default, tuple)
    text = entry.metadata["help"]
    if listed:
        text += " Separated by commas."
    if entry.metadata["known"] and not listed:
        text += f" [{', '.join(entry.metadata['known'])}]"
    if kind is bool:
        return _make(
            entry.name,
            bool | None,
            typer.Option(
                f"{option}/--no-{option[2:]}",
                help=text,
                rich_help_panel=entry.metadata["group"],
                show_default="yes" if default else "no",
            ),
        )
    plain = kind if not listed and entry.name != "batch_size" else str
    told: Any = ",".join(map(str, default)) if listed else False if default is None else str(default)
    return _make(
        entry.name,
        plain | None,
        typer.Option(option, help=text, rich_help_panel=entry.metadata["group"], show_default=told),
    )


def _make(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _parse(name: str, value: Any) -> Any:
    """A text with commas as a tuple of the field's type; anything else as it is."""
    entry = next(entry for entry in fields(RunConfig) if entry.name == name)
    kind = field_type(name)
    if name == "batch_size":
        try:
            return int(value)
        except ValueError:
            return value
    if not isinstance(entry.default, tuple):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name}: got {shown(value)}; expected {what} separated by commas") from None
