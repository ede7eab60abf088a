"""The command `learned-resizer`: finds the subcommand and imports that one only.

`info` needs the core dependencies alone; every other command is a typer command of the [train] extra.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .._version import __version__
from .stopping import Stopped, stoppable
from .streams import complain, take_every_text

# name: (module of this package whose function of that name is the command, its line in the help)
COMMANDS = {
    "train": ("train", "train the learned resizer in front of a network, beside fixed filters"),
    "evaluate": ("evaluate", "test what a run trained, on its own or on other images"),
    "transfer": ("transfer", "put a trained resizer in front of another network and tune both"),
    "ablate": ("ablate", "train the learned resizer with several numbers of blocks and filters"),
    "resize": ("resize", "resize image files and folders"),
    "info": ("", "show versions, what is built, and which backend each op takes here"),
}

# What the [train] extra brings, as imported.
TRAIN_MODULES = {
    "lightning",
    "timm",
    "torchmetrics",
    "torchvision",
    "PIL",
    "matplotlib",
    "typer",
    "rich",
    "safetensors",
    "yaml",
    "huggingface_hub",
    "mlxtend",
    "skimage",
    "sklearn",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit code of `info`, of the help, of usage errors (2: unknown command or missing extra) and of a signal
        (128 + its number, 130 for Ctrl-C). Other commands end by raising SystemExit with theirs, and all of them with
        1 where standard output could not be written (``take_every_text``).
    """
    with take_every_text():
        return _command(list(sys.argv[1:] if argv is None else argv))


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"learned-resizer {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "info":
        return _info(rest)
    if name not in COMMANDS:
        return complain("", f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}")
    try:
        with stoppable():
            return _typer(name, rest)
    except Stopped as stopped:
        return complain(name, stopped, stopped.code)


def _info(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print("usage: learned-resizer info [--json]\n\n" + COMMANDS["info"][1])
        return 0
    if arguments not in ([], ["--json"]):
        return complain("info", f"takes no argument but --json, got {' '.join(arguments)!r}")
    from ..info import format_info, info

    found = info()
    if arguments:
        import json

        print(json.dumps(found, indent=2))
    else:
        print(format_info(found))
    return 0


def _typer(name: str, arguments: list[str]) -> int:
    try:
        import typer

        command = getattr(importlib.import_module(f"learned_resizer_cuda.cli.{COMMANDS[name][0]}"), name)
        from .help import GroupedHelp

        # Plain help: the rich one cuts long options, and takes "[bilinear, bicubic]" for markup.
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, cls=GroupedHelp)(command)
        app(args=arguments, prog_name=f"learned-resizer {name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        # Any other missing module is a fault to be shown whole.
        if missing not in TRAIN_MODULES:
            raise
        return complain("", f'{name} needs {missing}: pip install "learned-resizer-cuda[train]"')
    return 0


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: learned-resizer [--help] [--version] COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *lines,
            "",
            "learned-resizer COMMAND --help shows the arguments of one.",
        ]
    )
