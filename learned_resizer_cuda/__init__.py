"""Learned image resizer and differentiable resampling for PyTorch.

``resize`` and ``Resize`` resample images with bilinear, bicubic or lanczos filters; ``FusedResizer`` is the
learned resizer of Talebi & Milanfar (ICCV 2021) to train in front of a vision network.
"""

from ._version import __version__
from .backend import use_backend
from .resize import Resize, resize

__all__ = ["Resize", "__version__", "resize", "use_backend"]
