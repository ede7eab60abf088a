"""The README and the documentation's pages: their code runs, their links lead somewhere, their options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learned_resizer_cuda import __version__
from learned_resizer_cuda.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
FILES = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in FILES}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[name], flags=re.DOTALL | re.MULTILINE)


def python_of(name: str) -> str:
    """A page's Python, which may go on from block to block. Included scripts are tested as scripts."""
    return "\n".join(block for block in blocks(name, "python") if not block.startswith("--8<--"))


@pytest.mark.parametrize("name", sorted(name for name in PAGES if python_of(name)))
def test_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(name), name, "exec"), {})


def commands() -> list[tuple[str, ...]]:
    """Calls of `learned-resizer` on all pages, each once."""
    lines = "".join(block.replace("\\\n", " ") for name in sorted(PAGES) for block in blocks(name, "bash")).splitlines()
    calls = [line.split("#")[0].split("&&")[-1].split() for line in lines]
    return sorted({tuple(call) for call in calls if call and call[0] == "learned-resizer"})


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_options_of_the_pages_exist(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[name])
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not ((ROOT / name).parent / target).exists()]
    assert not missing


def test_the_two_commands_are_there() -> None:
    """A new user's way in: install and train, install and test."""
    first, second = next(block for block in blocks("README.md", "bash") if "venv" in block).strip().splitlines()
    assert first.endswith('pip install ".[train]" && learned-resizer train')
    assert second.endswith('pip install ".[test]" && pytest -n 2')


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", text, re.M) == [__version__]
    assert f"\n## [{__version__}]" in PAGES["CHANGELOG.md"]
