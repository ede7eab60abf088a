"""Learned image resizer and differentiable resampling for PyTorch.

``resize`` and ``Resize`` resample images with six filters, ``resize_batch`` images of any sizes to one batch;
``FusedResizer`` is the learned resizer of Talebi & Milanfar (ICCV 2021) to train in front of a vision network.
"""

from . import waiting

# libgomp reads its settings as torch loads it, and no line of a command runs before this one.
if waiting.is_command():
    waiting.limit_spinning()

# isort: split
from . import export, reference
from ._version import __version__
from .backend import use_backend
from .info import info
from .losses import EMDLoss, SigmoidCrossEntropyLoss
from .resize import Resize, resize
from .resize_batch import resize_batch
from .resizer import FusedResizer

__all__ = [
    "EMDLoss",
    "FusedResizer",
    "Resize",
    "SigmoidCrossEntropyLoss",
    "__version__",
    "export",
    "info",
    "reference",
    "resize",
    "resize_batch",
    "use_backend",
]
