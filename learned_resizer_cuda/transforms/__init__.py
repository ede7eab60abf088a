"""torchvision's transforms with this package's resampling: ``Resize``, ``use_in`` and ``functional.resize``.

Needs torchvision, which the package itself does not import.
"""

import importlib

try:
    importlib.import_module("torchvision")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is missing; learned_resizer_cuda.transforms needs torchvision: "
        "pip install torchvision, or pip install 'learned-resizer-cuda[train]'",
        name=error.name,
    ) from error

# isort: split
from . import functional
from .pipeline import use_in
from .v2 import Resize

__all__ = ["Resize", "functional", "use_in"]
