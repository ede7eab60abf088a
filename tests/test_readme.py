"""The README and the other pages: their code runs, their links lead somewhere, their options exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"), ids=["use"])
def test_python_of_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).splitlines()
    calls = [line.split("#")[0].split("&&")[-1].split() for line in lines]
    return [call for call in calls if call and call[0] == "learned-resizer"]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_options_of_the_readme_exist(command: list[str]) -> None:
    module = [sys.executable, "-m", "learned_resizer_cuda", command[1], "--help"]
    done = subprocess.run(module, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    for option in (word for word in command[2:] if word.startswith("--")):
        assert option in done.stdout


def _environment() -> dict[str, str]:
    # The subprocess has to find the same package, and its help must not be folded.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "200", "TERM": "dumb"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_the_two_commands_are_there() -> None:
    """A new user's way in: install and train, install and test."""
    first, second = next(block for block in blocks("bash") if "venv" in block).strip().splitlines()
    assert first.endswith('pip install ".[train]" && learned-resizer train')
    assert second.endswith('pip install ".[test]" && pytest')
