"""Public names: what the ``__all__`` of the modules that users import name, and those classes' methods.

Read from the source, by griffe, as the documentation is: importing transformers would take seconds in every process of
``pytest -n``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import griffe

PACKAGE = "learned_resizer_cuda"
MODULES = (
    PACKAGE,
    f"{PACKAGE}.data",
    f"{PACKAGE}.integrations.transformers",
    f"{PACKAGE}.sync_batch_norm",
    f"{PACKAGE}.transforms",
)
"""Modules that users import; others follow from their ``__all__``."""

CALLED_BY_OTHERS = {"extra_repr", "transform"}
"""Methods without an underscore that torch and torchvision call."""

OPTIONS = {"returns_multiple_items": False, "returns_named_value": False}
"""Options of the google parser, those of mkdocs.yml: a Returns section is one text."""


class PublicName(NamedTuple):
    """Function, class or method that users call."""

    module: str  # from which it is imported
    name: str  # in it, dotted for a method
    source: griffe.Class | griffe.Function

    def load(self) -> Any:
        """The object itself, imported as users do."""
        return pkgutil.resolve_name(f"{self.module}:{self.name}")

    def sections(self) -> list[griffe.DocstringSection]:
        """Sections of its docstring."""
        assert self.source.docstring is not None
        return self.source.docstring.parse("google", **OPTIONS)


@cache
def public_names() -> dict[str, PublicName]:
    """Public names by the dotted names under which users import them."""
    package = griffe.load(PACKAGE, try_relative_path=False)
    return {f"{found.module}.{found.name}": found for module in MODULES for found in _names_of(package, module)}


def _names_of(package: Any, path: str) -> Iterator[PublicName]:
    module = _object(package, path)
    for name in module.exports:
        # Not its member of that name: `resize` is also the module that has the function.
        found = _object(package, module.imports.get(name, f"{path}.{name}"))
        if found.is_module:
            yield from _names_of(package, found.path)
        elif found.is_class or found.is_function:
            yield PublicName(path, name, found)
        if found.is_class:
            methods = (other for other in found.members.values() if other.is_function)
            for method in methods:
                if not method.name.startswith("_") and method.name not in CALLED_BY_OTHERS:
                    yield PublicName(path, f"{name}.{method.name}", method)


def _object(package: Any, path: str) -> Any:
    inside = path.removeprefix(PACKAGE).removeprefix(".")
    found = package[inside] if inside else package
    return found.final_target if found.is_alias else found
