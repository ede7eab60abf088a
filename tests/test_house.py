"""Rules of the house: imports run one way, without a circle; docstrings begin with a short line.

Imports run cli → report → train → data → library. Lazy and typing-only ones count.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import learned_resizer_cuda

PACKAGE = Path(learned_resizer_cuda.__file__).parent
LAYERS = ("data", "train", "report", "cli")
"""Folders above the library, each of which may import those before it."""


def modules() -> dict[str, Path]:
    """Files of the package by their dotted names."""
    files = {path.relative_to(PACKAGE.parent).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports anywhere in it."""
    found = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return found & known.keys() - {name}


def layer(name: str) -> int:
    folder = name.split(".")[1:2]
    return LAYERS.index(folder[0]) + 1 if folder and folder[0] in LAYERS else 0


GRAPH = {name: imports(name, path, modules()) for name, path in modules().items()}


def test_no_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, naming the files of a circle


def test_arrows_run_down() -> None:
    up = [
        (name, other)
        for name, others in GRAPH.items()
        for other in others
        if layer(other) > layer(name) and name != "learned_resizer_cuda.__main__"
    ]
    assert up == [] and sum(map(len, GRAPH.values())) > 300


def test_docstrings_begin_with_a_short_line() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    long = []
    for path in modules().values():
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
        first = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
        long += [(path.name, line) for line in first if len(line.split()) > 12]
    assert long == []
