"""Hooks of mkdocs: formulas as MathML, files from outside docs/, and the commands' own help."""

from __future__ import annotations

import html
import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from learned_resizer_cuda.cli.main import main

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/results/cpu.md", "benchmarks/results/cpu.png")
"""Files of the repository that are pages of the site, too. Links to them are right in both places."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
_HELP = re.compile(r"<!-- help:(\w*) -->")


def on_files(files: Any, config: Any) -> Any:
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lead on the site, and the help of commands where a page asks for it."""
    name = page.file.src_uri
    if name in OUTSIDE:
        markdown = markdown.replace("](docs/", "](" + "../" * name.count("/"))
    else:
        outside = "../" * (name.count("/") + 1)
        markdown = re.sub(rf"\]\({re.escape(outside)}(?!\.)", f"]({outside[3:]}", markdown)
    return _HELP.sub(lambda match: f"```text\n{_help(match[1])}\n```", markdown)


def on_page_content(content: str, **_: Any) -> str:
    return _FORMULA.sub(_mathml, content)


def _help(command: str) -> str:
    words = [command, "--help"] if command else ["--help"]
    text = io.StringIO()
    # In this process: each command imports torch.
    with mock.patch.dict(os.environ, COLUMNS="100", TERM="dumb"), redirect_stdout(text), suppress(SystemExit):
        main(words)
    return text.getvalue().strip()


def _mathml(match: re.Match[str]) -> str:
    tag, text = match.groups()
    latex = html.unescape(text).strip()[2:-2]
    # The converter makes \lvert an operator, with an operator's space around it.
    latex = latex.replace(r"\lvert", r"\left|").replace(r"\rvert", r"\right|")
    # And it puts a formula's number right after it.
    latex = latex.replace(r"\tag", r"\qquad \tag")
    return f'<{tag} class="formula">{convert(latex, display="block" if tag == "div" else "inline")}</{tag}>'
