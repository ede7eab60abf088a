"""The README and the other pages: their code runs, their links lead somewhere, their options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learned_resizer_cuda.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"), ids=["use", "different sizes", "own network", "in place of"])
def test_python_of_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).splitlines()
    calls = [line.split("#")[0].split("&&")[-1].split() for line in lines]
    return [call for call in calls if call and call[0] == "learned-resizer"]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_options_of_the_readme_exist(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its help must not be folded.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    try:
        code = main([command[1], "--help"])
    except SystemExit as end:
        code = end.code
    text = capsys.readouterr().out
    assert code == 0
    for option in (word for word in command[2:] if word.startswith("--")):
        assert option in text


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
    assert second.endswith('pip install ".[test]" && pytest -n 2')
