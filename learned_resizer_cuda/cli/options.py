"""Command-line options of the training commands, made from the fields of ``RunConfig``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..shown import shown
from ..train.config import RunConfig, field_type, field_words
from ..train.config_file import read_yaml
from .streams import fail

_FIELDS = {entry.name: entry for entry in fields(RunConfig)}


def with_options(*leave_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a typer command with an option for every field.

    The command is called as ``command(values, config, output, overwrite)``. ``values`` holds, by field, only the
    options that were given: config.yaml, the settings of the data and the defaults fill in the others.

    Args:
        leave_out: fields without an option.
    """
    parameters = [
        _parameter(entry) for entry in fields(RunConfig) if entry.metadata["group"] and entry.name not in leave_out
    ]
    files = [
        _keyword("config", Path | None, typer.Option(help="YAML file with any of the options; a run's config.yaml.")),
        _keyword(
            "output",
            Path | None,
            typer.Option(help="Folder of the run; the same command resumes there.", show_default="runs/DATE-TIME"),
        ),
        _keyword(
            "overwrite", bool, typer.Option("--overwrite", help="Replace the files of a former run there."), False
        ),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(**arguments: Any) -> None:
            given = {name: value for name, value in arguments.items() if name in _FIELDS and value is not None}
            try:
                values = {name: _parse(name, value) for name, value in given.items()}
            except ValueError as error:
                fail(command.__name__, error)
            command(values, **{parameter.name: arguments[parameter.name] for parameter in files})

        call.__doc__ = command.__doc__
        call.__signature__ = inspect.Signature([*parameters, *files])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*parameters, *files]}
        return call

    return decorate


def configuration(command: str, values: dict[str, Any], config: Path | None) -> RunConfig:
    """The configuration of a command line, over its file, over the defaults.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming the argument, its value and what was expected.
    """
    found = {} if config is None else read_yaml(config)
    if found.get("command", command) != command:
        raise ValueError(f"config: {config} is of the command {shown(found['command'])}; expected one of `{command}`")
    return RunConfig.make(found | values | {"command": command})


def _parameter(entry: Field[Any]) -> inspect.Parameter:
    option, kind, default = "--" + entry.name.replace("_", "-"), field_type(entry.name), entry.default
    text, choices = entry.metadata["help"], entry.metadata["bounds"].get("choices")
    shown_default: Any = False if default is None else str(default)
    if isinstance(default, tuple):
        kind, text, shown_default = str, f"{text} Separated by commas.", ",".join(map(str, default))
    elif choices:
        text += f" [{', '.join(choices)}]"
    if kind is bool:
        option, shown_default = f"{option}/--no-{option[2:]}", "yes" if default else "no"
    elif entry.name == "batch_size":
        kind = str  # a number or auto
    return _keyword(
        entry.name,
        kind | None,
        typer.Option(option, help=text, rich_help_panel=entry.metadata["group"], show_default=shown_default),
    )


def _keyword(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _parse(name: str, value: Any) -> Any:
    """An option's value as ``RunConfig`` takes it; commas separate a tuple's."""
    kind, words = field_type(name), field_words(name)
    if isinstance(_FIELDS[name].default, tuple):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        try:
            return tuple(part if part in words else kind(part) for part in parts)
        except ValueError:
            what = " or ".join(("whole numbers" if kind is int else "numbers", *words))
            raise ValueError(f"{name}: got {shown(value)}; expected {what} separated by commas") from None
    if name == "batch_size" and value.lstrip("-").isdecimal():
        return int(value)
    return value
